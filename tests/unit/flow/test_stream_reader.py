"""Reading the stream of a run, part by part, against a log and a store that are scripted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from durable_core.codec.sse import KEEP_ALIVE, SSEDecoder
from durable_core.codec.stream_events import Final
from durable_core.codec.tokens import verify_token
from durable_core.flow.effects import (
    AwaitStream,
    Effect,
    Flow,
    Log,
    ReadResult,
    ReadStream,
    WakeReason,
)
from durable_core.flow.env import AppConfig
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.stream_reader import (
    Attached,
    LogBatch,
    LogPosition,
    Reader,
    StreamLog,
    next_part,
)
from durable_core.machine.step_ids import hash_step_id
from durable_core.machine.stream_cursor import FINISHED, Cursor, EventId
from durable_core.model.run import Phase
from durable_core.model.stream import (
    ChunkBatch,
    Committed,
    LiveStream,
    OpenAttempt,
    Pushed,
    StoredStream,
    Streamed,
)
from durable_core.platform import SystemIds
from durable_core.ports import StoredResult
from support.harness import FakeClock, request
from support.streams import described

A, B = hash_step_id("a"), hash_step_id("b")
ENV = AppConfig(app="app", clock=FakeClock(5), ids=SystemIds(), secrets=lambda: (b"s" * 32,))
STORED = StoredStream(
    chunks=(), next=None, handoff=None, phase=Phase.ASYNC, epoch=1, is_running=True
)
ATTACHED = Attached(options=ResolvedOptions(key="it"), request=request("/it?x=1"))


class Scripted:
    """A log that has these batches, and is lost when they are used up."""

    def __init__(self, *batches: LogBatch | None, live: LiveStream | None = None) -> None:
        self.batches = list(batches)
        self.live = live
        self.handed_off = False
        self.handoff: str | None = None
        self.handoff_place: LogPosition | None = None
        self.lease_lost = self.is_crowded = self.is_executed = False

    def snapshot(self) -> tuple[LogPosition, LiveStream | None]:
        return LogPosition(0, 0), self.live

    def read(self, place: LogPosition) -> LogBatch | None:
        return self.batches.pop(0) if self.batches else LogBatch((), place.index)

    def read_last(self, index: int, *, redirected: bool) -> Streamed | None:
        return None

    def read_attached(self, index: int, *, redirected: bool) -> LogBatch | None:
        return self.read(LogPosition(0, index))


class World:
    """Answers what a reader asks for, and notes it."""

    def __init__(self, *stored: StoredStream | None, result: StoredResult | None = None) -> None:
        self.stored = list(stored)
        self.result = result
        self.woken = [WakeReason.MORE]
        self.asked: list[Effect] = []

    def run(self, flow: Flow[bytes | None]) -> bytes | None:
        answer: Any = None
        while True:
            try:
                ask = flow.send(answer)
            except StopIteration as stop:
                part: bytes | None = stop.value
                return part
            self.asked.append(ask)
            match ask:
                case ReadStream():
                    answer = self.stored.pop(0) if len(self.stored) > 1 else self.stored[0]
                case ReadResult():
                    answer = self.result
                case AwaitStream():
                    answer = self.woken.pop(0) if len(self.woken) > 1 else self.woken[0]
                case Log():
                    answer = None
                case _:
                    raise AssertionError(ask)

    def parts(self, reader: Reader, count: int) -> list[str]:
        """Return the events of so many parts."""
        decoder, told = SSEDecoder(), []
        for _ in range(count):
            part = self.run(next_part(reader))
            told += ["end"] if part is None else [*map(described, decoder.feed(part))]
        return told


def reader_of(log: StreamLog, **options: Any) -> Reader:
    return Reader(ENV, "r1", log, **options)


def test_metadata_comes_first_and_once() -> None:
    """A connection begins with the run's id, before anything is looked up."""
    world = World(STORED)
    reader = reader_of(Scripted())

    assert ["meta"] == world.parts(reader, 1)
    assert [] == world.asked


def test_stored_then_live() -> None:
    """A late reader gets what is stored, then what is live, then what comes."""
    piece = ChunkBatch(number=1, texts=("1",), op_id=A, attempt=(1, 1))
    live = LiveStream(epoch=1, attempts={(1, 2): OpenAttempt(op_id=B, texts=("2",))})
    coming = LogBatch((Committed(op_id=B, number=2),), 1)
    world = World(replace(STORED, chunks=(piece,)))
    reader = reader_of(Scripted(coming, live=live))

    assert ["meta", "a: 1", "commit a", "b: 2", "commit b"] == world.parts(reader, 3)


def test_a_run_that_ends_while_the_store_is_read() -> None:
    """A chunk of the snapshot that is not stored by then is rolled back before the response."""
    live = LiveStream(epoch=1, attempts={(1, 1): OpenAttempt(op_id=A, texts=("1",))})
    ended = replace(STORED, phase=Phase.COMPLETED, is_running=False)
    result = StoredResult(
        phase=Phase.COMPLETED, head='{"status":200,"headers":[]}', body=b"ok", ended_at=1
    )
    world = World(STORED, ended, result=result)
    reader = reader_of(Scripted(live=live))
    told = world.parts(reader, 2)
    reader.check_store = True
    told += world.parts(reader, 2)

    assert ["meta", "a: 1", "rollback a", "200: ok", "end"] == told


def test_a_long_stream_is_caught_up_in_parts() -> None:
    """Where the store has more, the reader asks again from where it is."""
    first = replace(STORED, chunks=(ChunkBatch(number=1, texts=(), op_id=A),), next=(2, 0, 0))
    second = replace(STORED, chunks=(ChunkBatch(number=2, texts=(), op_id=B),))
    world = World(first, second)

    assert ["meta", "commit a", "commit b"] == world.parts(reader_of(Scripted()), 3)
    asked = [ask for ask in world.asked if isinstance(ask, ReadStream)]
    assert 2 == len(asked)


def test_what_was_missed_is_sent_in_parts() -> None:
    """However much it is, however small its chunks: looked up once, and made as it is sent."""
    texts = ("1",) * 5000
    live = LiveStream(epoch=1, attempts={(1, 1): OpenAttempt(op_id=A, texts=texts)})
    coming = LogBatch((Committed(op_id=A, number=1),), 1)
    world = World(STORED)
    reader = reader_of(Scripted(coming, live=live))
    world.run(next_part(reader))
    parts: list[bytes] = []
    while not parts or b"commit" not in parts[-1]:
        part = world.run(next_part(reader))
        assert part is not None
        parts.append(part)

    told = b"".join(parts)
    assert [5000, 1] == [told.count(b"event: inngest.stream"), told.count(b"event: inngest.commit")]
    assert max(map(len, parts)) < 66_000
    assert 1 == sum(isinstance(ask, ReadStream) for ask in world.asked)


def test_news_that_come_while_missed_parts_are_sent() -> None:
    """They are looked for after that, not instead."""
    texts = ("1",) * 1000
    live = LiveStream(epoch=1, attempts={(1, 1): OpenAttempt(op_id=A, texts=texts)})
    piece = ChunkBatch(number=1, texts=texts, op_id=A, attempt=(1, 1))
    log = Scripted(live=live)
    world = World(STORED, replace(STORED, chunks=(piece,)))
    reader = reader_of(log)
    told = world.parts(reader, 2)
    early = len(told)
    reader.check_store, log.live = True, None
    while told[-1] != "commit a":
        told += world.parts(reader, 1)

    assert 1 < early < 1000
    assert ["meta", *["a: 1"] * 1000, "commit a"] == told


def test_a_run_that_has_ended() -> None:
    """All that is stored, the response, the end."""
    ended = replace(
        STORED,
        chunks=(ChunkBatch(number=1, texts=(), op_id=A),),
        phase=Phase.COMPLETED,
        is_running=False,
    )
    result = StoredResult(
        phase=Phase.COMPLETED, head='{"status":200,"headers":[]}', body=b"ok", ended_at=1
    )
    world = World(ended, result=result)

    assert ["meta", "commit a", "200: ok", "end"] == world.parts(reader_of(Scripted()), 3)


def test_a_response_that_was_not_kept() -> None:
    """It was sent once and too large: the reader is told so."""
    ended = replace(STORED, phase=Phase.COMPLETED, is_running=False)
    result = StoredResult(phase=Phase.COMPLETED, head="{}", body=None, ended_at=1)
    world = World(ended, result=result)

    [_, told, _] = world.parts(reader_of(Scripted()), 3)
    assert told.startswith("failed 410: ")


def test_a_pruned_run_ends_the_stream() -> None:
    """There is nothing more to say."""
    assert ["meta", "end"] == World(None).parts(reader_of(Scripted()), 2)


def test_keep_alive() -> None:
    """A comment when nothing has come for 15 s; the store is looked at then."""
    world = World(STORED)
    world.woken = [WakeReason.TIME_OUT]
    reader = reader_of(Scripted())
    world.parts(reader, 1)

    assert KEEP_ALIVE == world.run(next_part(reader))
    assert [15_000] == [ask.for_ms for ask in world.asked if isinstance(ask, AwaitStream)]
    assert reader.check_store


def test_stopping_ends_a_waiting_stream() -> None:
    """A client that waits comes again, to another process."""
    world = World(STORED)
    world.woken = [WakeReason.STOPPING]

    assert ["meta", "end"] == world.parts(reader_of(Scripted()), 2)


def test_the_attached_client() -> None:
    """The log alone, redirect_info after the first checkpoint, the response last."""
    log = Scripted(
        LogBatch((Pushed(text="1", index=0, op_id=A, attempt=(1, 1)),), 1),
        LogBatch((Committed(op_id=A, number=1),), 2, redirect=True),
        LogBatch((), 2, final=Final(status=200, body=b"ok")),
    )
    world = World(STORED)
    told = world.parts(reader_of(log, attached=ATTACHED), 5)

    assert ["meta", "a: 1", "commit a", "redirect", "200: ok", "end"] == told
    assert [] == world.asked


def test_the_attached_client_is_let_go() -> None:
    """Its stream ends without a response; what it has missed is told up to that place only."""
    piece = ChunkBatch(number=1, texts=("1",), op_id=A, attempt=(1, 1))
    later = ChunkBatch(number=2, texts=("2",), op_id=B, attempt=(1, 2))
    log = Scripted(None, LogBatch((), 9, finished=True))
    log.handoff = "1.0"
    world = World(replace(STORED, chunks=(piece, later)))

    assert ["meta", "a: 1", "commit a", "end"] == world.parts(reader_of(log, attached=ATTACHED), 3)


def test_a_client_that_is_let_go_is_caught_up_in_parts() -> None:
    """What was open at the handoff has come to an end in the store: its chunks are sent alone."""
    steps = [hash_step_id(name) for name in ("a", "b", "never", "let go")]
    pieces = [
        ChunkBatch(number=number, texts=(str(number),), op_id=op_id, attempt=(1, number))
        for number, op_id in enumerate(steps, 1)
    ]
    log = Scripted(None, None, None, LogBatch((), 9, finished=True))
    log.handoff = f"2.0;{steps[3]}:1.4:1"
    world = World(
        replace(STORED, chunks=(pieces[0],), next=(2, 0, 0)),
        replace(STORED, chunks=(pieces[1],), next=(3, 0, 0)),
        replace(STORED, chunks=(pieces[2],), next=(4, 0, 0)),
        replace(STORED, chunks=(pieces[3],)),
    )

    told = world.parts(reader_of(log, attached=ATTACHED), 5)

    last = f"{steps[3]}: 4"
    assert ["meta", "a: 1", "commit a", "b: 2", "commit b", last, "end"] == told
    begins = [ask.begin for ask in world.asked if isinstance(ask, ReadStream)]
    assert [None, (2, 0, 0), (3, 0, 0), (4, 0, 0)] == begins


def test_from_handoff_waits_for_it() -> None:
    """Nothing is told before the handoff, and nothing twice after it."""
    before = replace(STORED, phase=Phase.SYNC)
    piece = ChunkBatch(number=2, texts=("2",), op_id=B, attempt=(1, 2))
    after = replace(STORED, handoff="1.0", chunks=(piece,))
    world = World(before, after)
    log = Scripted()
    reader = reader_of(log, from_handoff=True)
    world.woken = [WakeReason.TIME_OUT, WakeReason.MORE]

    assert [] == world.parts(reader, 1)[1:]
    assert KEEP_ALIVE == world.run(next_part(reader))
    assert ["b: 2", "commit b"] == world.parts(reader, 1)
    cursors = [ask.cursor.done for ask in world.asked if isinstance(ask, ReadStream)]
    assert 1 not in cursors[:1]


def test_from_handoff_of_a_run_that_had_none() -> None:
    """One that has ended has its response left; one whose client read nothing has all."""
    ended = replace(
        STORED,
        phase=Phase.COMPLETED,
        is_running=False,
        chunks=(ChunkBatch(number=1, texts=(), op_id=A),),
    )
    result = StoredResult(
        phase=Phase.COMPLETED, head='{"status":200,"headers":[]}', body=b"ok", ended_at=1
    )
    world = World(ended, result=result)
    told = world.parts(reader_of(Scripted(), from_handoff=True), 2)
    others = World(replace(STORED, chunks=(ChunkBatch(number=1, texts=(), op_id=A),)))

    assert ["meta", "200: ok"] == told
    assert ["meta", "commit a"] == others.parts(reader_of(Scripted(), from_handoff=True), 2)


def test_ids_are_cursors() -> None:
    """The id of each event is where a reader goes on that has seen it."""
    piece = ChunkBatch(number=1, texts=("1", "2"), op_id=A, attempt=(1, 1))
    world = World(replace(STORED, chunks=(piece,)))
    reader = reader_of(Scripted())
    world.parts(reader, 1)
    part = world.run(next_part(reader))
    assert part is not None
    ids = [event.id for event in SSEDecoder().feed(part)]

    resumed = reader_of(Scripted(), cursor=Cursor.load(ids[0]))
    assert ["meta", "a: 2", "commit a"] == world.parts(resumed, 2)
    assert [f"0.0;{A}:1.1:1", f"0.0;{A}:1.1:2", "1.0"] == ids


def test_ids_of_an_attached_client_name_the_run() -> None:
    """From the first event on: its URL would begin another run. The last one says that it is."""
    log = Scripted(
        LogBatch((Pushed(text="1", index=0, op_id=A, attempt=(1, 1)),), 1),
        LogBatch((), 1, final=Final(status=200, body=b"ok")),
    )
    reader = reader_of(log, attached=ATTACHED)
    decoder, ids = SSEDecoder(), list[EventId]()
    world = World(STORED)
    while (part := world.run(next_part(reader))) is not None:
        ids += [EventId.load(event.id) for event in decoder.feed(part)]

    assert {"r1"} == {each.run_id for each in ids}
    assert ["0.0", f"0.0;{A}:1.1:1", None] == [
        None if each.cursor is None else each.cursor.dump() for each in ids
    ]
    now = ENV.clock.now()
    expiry = verify_token(ENV.secrets(), ids[0].token, app=ENV.app, run_id="r1", now=now)
    assert now + ENV.token_ttl == expiry


def test_the_last_id_says_that_all_is_read() -> None:
    """A browser that comes back with it is told to stop."""
    ended = replace(STORED, phase=Phase.COMPLETED, is_running=False)
    result = StoredResult(
        phase=Phase.COMPLETED, head='{"status":200,"headers":[]}', body=b"ok", ended_at=1
    )
    world, reader = World(ended, result=result), reader_of(Scripted())
    world.parts(reader, 1)
    part = world.run(next_part(reader))

    assert part is not None
    assert [FINISHED] == [event.id for event in SSEDecoder().feed(part)]
