"""What another process tells, as its readers here see it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from durable_core.codec.sse import SSEDecoder
from durable_core.codec.stream_events import Chunk, Commit, Rollback, load_stream_event
from durable_core.flow.effects import AwaitStream, ReadStream
from durable_core.flow.stream_reader import LogPosition, Reader, next_part
from durable_core.machine.step_ids import hash_step_id
from durable_core.machine.stream_cursor import Cursor
from durable_core.model.stream import (
    Committed,
    Pushed,
    RolledBack,
    StoredStream,
    Streamed,
)
from durable_core.ports import ChannelWrite
from durable_core.stores.sqlite.live_file import LiveFile
from durable_core.streams.log import RunLog
from durable_core.streams.publisher import Publisher
from durable_core.streams.relay import RemoteReader, RemoteStream
from support.executions import execution
from support.stream_world import Client, World, finish, happenings

A, B = hash_step_id("a"), hash_step_id("b")


def wake() -> None:
    """Wake nobody."""


def followed() -> RunLog:
    log = RunLog("r1")
    log.follow(wake)
    return log


def chunk(index: int, op: str = A, number: int = 1) -> Pushed:
    return Pushed(text=f'"{index}"', index=index, op_id=op, attempt=(1, number))


# -- the stream --------------------------------------------------------------------------------


def test_a_remote_stream_is_what_the_other_process_has() -> None:
    """Open attempts, the last commit, and chunks from outside steps, as they are told."""
    stream = RemoteStream(followed(), 1, 0)
    stream.feed([chunk(0)])
    outside = Pushed(text="7", index=7)
    stream.feed([chunk(1), chunk(0, B, 2), outside])
    first = stream.live()
    stream.feed([Committed(op_id=A, number=3), chunk(0, B, 4)])
    second = stream.live()
    stream.feed([RolledBack(op_id=B, attempt=(1, 2))])
    kept = stream.live()
    stream.feed([RolledBack(op_id=B, attempt=(1, 4))])

    assert ({(1, 1): ('"0"', '"1"'), (1, 2): ('"0"',)}, (outside,), 0, True) == (
        {attempt: tuple(each.texts) for attempt, each in first.attempts.items()},
        first.handler_chunks,
        first.done,
        first.is_remote,
    )
    assert ([(1, 4)], 3) == (list(second.attempts), second.done)
    assert list(second.attempts) == list(kept.attempts)
    assert {} == stream.live().attempts


@pytest.mark.parametrize(
    "events",
    [
        [chunk(1)],
        [chunk(0), chunk(0)],
        [chunk(0, number=2), chunk(0, number=1)],
        [Pushed(text="1", index=3), Pushed(text="1", index=5)],
    ],
)
def test_what_no_execution_tells_is_refused(events: list[Streamed]) -> None:
    """Chunks that are missing or come twice."""
    stream = RemoteStream(followed(), 1, 0)
    with pytest.raises(ValueError, match="missing"):
        stream.feed(events)


# -- the channel -------------------------------------------------------------------------------


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[LiveFile]:
    with closing(LiveFile(str(tmp_path / "live"))) as channel:
        yield channel


def begin(channel: LiveFile, *events: Streamed) -> None:
    assert [True] == channel.write([ChannelWrite(run_id="r1", epoch=1, events=events, done=0)])


def go_on(channel: LiveFile, *events: Streamed) -> None:
    assert [True] == channel.write([ChannelWrite(run_id="r1", epoch=1, events=events)])


def reader_of(channel: LiveFile, log: RunLog) -> RemoteReader:
    [found] = channel.executions(["r1"])
    return RemoteReader(channel, log, found)


def test_readers_follow_the_channel(channel: LiveFile) -> None:
    """They catch up with what is open, and then get each event."""
    log = followed()
    begin(channel, chunk(0))
    reader = reader_of(channel, log)
    reader.advance()
    place, live = log.snapshot()
    go_on(channel, chunk(1))
    reader.advance()
    reader.advance()
    batch = log.read(place)

    assert live is not None
    assert [(1, 1)] == list(live.attempts)
    assert batch is not None
    assert (chunk(1),) == batch.events


def test_a_long_beginning_is_whole_for_its_readers(channel: LiveFile) -> None:
    """However many parts it is read in: else what is not read yet would be taken for void."""
    log = followed()
    begin(channel, *(chunk(index) for index in range(1000)))
    reader_of(channel, log).advance()
    _, live = log.snapshot()

    assert live is not None
    assert 1000 == len(live.attempts[1, 1].texts)


def test_a_gap_costs_what_is_live(channel: LiveFile) -> None:
    """Readers are left with the store, and it is not looked at again."""
    log = followed()
    begin(channel, chunk(0))
    reader = reader_of(channel, log)
    reader.advance()
    go_on(channel, chunk(2))
    with pytest.raises(ValueError, match="missing"):
        reader.advance()
    reader.advance()

    assert reader.broken
    assert (LogPosition(2, 0), None) == log.snapshot()


def test_an_execution_of_this_process_comes_first(channel: LiveFile) -> None:
    """Neither it, nor the client that waits for it, gets anything from elsewhere."""
    log = followed()
    publisher = Publisher(execution(), log)
    begin(channel, chunk(0))
    reader = reader_of(channel, log)
    reader.advance()
    log.attach_publisher(publisher)
    go_on(channel, chunk(1))
    reader.advance()
    reader.drop()
    executed = log.snapshot()
    log.attach()
    publisher.end()
    reader.advance()
    ended = log.source
    log.detach()
    reader.advance()

    assert LogPosition(2, 0) == executed[0]
    assert executed[1] is not None
    assert not executed[1].is_remote
    assert publisher is ended
    live = log.snapshot()[1]
    assert live is not None
    assert ('"0"', '"1"') == tuple(live.attempts[1, 1].texts)


# -- the law -----------------------------------------------------------------------------------


class Elsewhere:
    """A process that reads the world's run, and is told of it through a channel.

    Attributes:
        client: what a client makes of what it gets here.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.client = Client(world, is_near=False)
        self.log = followed()
        self.remote: RemoteStream | None = None
        self.told: list[Streamed] = []
        self.open = 0
        self.epoch = self.seen = 0
        self.reconnect()

    def reconnect(self) -> None:
        """Have the client come again with the last id that it got."""
        cursor = Cursor.load(self.client.last_id)
        self.reader = Reader(execution().env, "r1", self.log, cursor=cursor)
        self.reader.sent_metadata = True
        self.decoder = SSEDecoder(last_event_id=self.client.last_id)

    def begin(self) -> None:
        """The execution tells all that is open, as when it begins, or begins anew."""
        self.lose()
        live = self.world.live()
        self.told = [
            *live.handler_chunks,
            *(
                Pushed(text=text, index=index, op_id=opened.op_id, attempt=attempt)
                for attempt, opened in live.attempts.items()
                for index, text in enumerate(opened.texts)
            ),
        ]
        self.open = len(self.told)
        self.epoch, self.seen = self.world.epoch, len(self.world.log)
        self.remote = RemoteStream(self.log, self.epoch, live.done)

    def tell(self, count: int) -> None:
        """The execution tells some further events, unless it is over."""
        if self.remote is not None and self.epoch == self.world.epoch:
            end = min(len(self.world.log), self.seen + count)
            self.told += map(self.world.event, range(self.seen, end))
            self.seen = end

    def hear(self, count: int) -> None:
        """What was open arrives, and some events more."""
        if self.remote is None:
            return
        count = max(count, self.open)
        arrived, self.told = self.told[:count], self.told[count:]
        self.open = 0
        self.remote.feed(arrived)
        if self.log.source is not self.remote:
            self.log.attach_remote(self.remote)

    def lose(self) -> None:
        """What was told is gone."""
        if self.remote is not None:
            self.log.detach_remote(self.remote)
            self.remote = None

    def look(self) -> None:
        """The keeper has found that the store has changed."""
        self.reader.check_store = True

    def read(self, between: list[tuple[object, ...]], most: int) -> bool:
        """Have the client read one part; things happen before each look at the store."""
        flow = next_part(self.reader)
        answer: object = None
        while True:
            try:
                ask = flow.send(answer)
            except StopIteration as end:
                self._get(end.value)
                return True
            if isinstance(ask, AwaitStream):
                flow.close()
                return False
            assert isinstance(ask, ReadStream)
            for action in between:
                self.world.happen(*action)
            answer = self._stored(ask, most)

    def _stored(self, ask: ReadStream, most: int) -> StoredStream:
        return self.world.read(ask.cursor, most, ask.begin)

    def _get(self, part: bytes) -> None:
        for event in self.decoder.feed(part):
            self.client.tell(_streamed(load_stream_event(event.event, event.data)), event.id)


def _streamed(event: object) -> Streamed:
    match event:
        case Chunk(data=data, step_id=op):
            return Pushed(text=json.dumps(data), index=0, op_id=op)
        case Commit(step_id=str() as op):
            return Committed(op_id=op, number=0)
        case Rollback(step_id=str() as op):
            return RolledBack(op_id=op, attempt=(0, 0))
    raise AssertionError(f"an unexpected event: {event}")


actions = st.one_of(
    happenings,
    st.tuples(st.sampled_from(["begin", "lose", "reconnect", "look"])),
    st.tuples(st.just("tell"), st.integers(1, 4)),
    st.tuples(st.just("hear"), st.sampled_from([0, 1, 3, 999])),
    st.tuples(st.just("read"), st.lists(happenings, max_size=4), st.integers(1, 5)),
    st.just(("read", [], 99)),
)


#: The store is ahead of the channel, which then tells of a step that the client knows as over.
_BEHIND: list[tuple[object, ...]] = [
    *(("begin",), ("hear", 999), ("push", A), ("tell", 1), ("read", [], 99), ("look",)),
    *(("read", [("succeed", A), ("commit",)], 1), ("hear", 3)),
]


@settings(max_examples=300)
@example(_BEHIND)
@given(st.lists(actions, min_size=20, max_size=80))
def test_channel_and_store_together_tell_everything_once(program: list[tuple[object, ...]]) -> None:
    """However late and in whatever parts the channel brings what happens, and whether or not it
    is lost, begun anew, or left behind by a process that has died: with what is stored, a client
    has what was committed, once and in order.
    """
    world = World()
    elsewhere = Elsewhere(world)
    for name, *args in program:
        if hasattr(elsewhere, str(name)):
            getattr(elsewhere, str(name))(*args)
        else:
            world.happen(name, *args)
    client = elsewhere.client
    finish(world, [Client(world, is_near=False), elsewhere_cursor(elsewhere)])
    elsewhere.look()
    while elsewhere.read([], 99):
        pass

    assert world.committed == client.kept
    assert {} == client.tentative
    assert [str(index) for index in range(world.saved)] == client.outside[: world.saved]


def elsewhere_cursor(elsewhere: Elsewhere) -> Client:
    """Return a client as far as the reader is."""
    client = Client(elsewhere.world, is_near=False)
    client.cursor = Cursor.load(elsewhere.reader.cursor.dump())
    return client
