"""What another process tells, as its readers here see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from durable_core.codec.sse import SSEDecoder
from durable_core.codec.stream_events import Chunk, Commit, Rollback, load_stream_event
from durable_core.errors import StoreError
from durable_core.flow.effects import AwaitStream, ReadStream
from durable_core.flow.stream_reader import LogPosition, Reader, next_part
from durable_core.machine.step_ids import hash_step_id
from durable_core.machine.stream_cursor import Cursor
from durable_core.model.stream import (
    Committed,
    LiveStream,
    OpenAttempt,
    Pushed,
    RolledBack,
    StoredStream,
    Streamed,
)
from durable_core.ports import ChannelName
from durable_core.stores.sqlite.side_channel import FileChannel
from durable_core.streams.log import RunLog
from durable_core.streams.publisher import Publisher
from durable_core.streams.relay import RemoteReader, RemoteStream, dump_events, dump_head
from support.executions import execution
from support.stream_world import Client, World, finish, happenings

A, B = hash_step_id("a"), hash_step_id("b")
NAME = ChannelName("r1", 1, 1)


def wake() -> None:
    """Wake nobody."""


def followed() -> RunLog:
    log = RunLog("r1")
    log.follow(wake)
    return log


def chunk(index: int, op: str = A, number: int = 1) -> Pushed:
    return Pushed(text=f'"{index}"', index=index, op_id=op, attempt=(1, number))


def opened(*texts: str, number: int = 1, done: int = 0) -> LiveStream:
    attempts = {(1, number): OpenAttempt(op_id=A, texts=texts)} if texts else {}
    return LiveStream(epoch=1, attempts=attempts, done=done)


# -- the copy ----------------------------------------------------------------------------------


def test_a_copy_is_what_the_other_process_has() -> None:
    """Open attempts, the last commit, and chunks from outside steps, as they are told."""
    copy = RemoteStream(followed(), 1, 100)
    copy.feed(dump_head(opened('"0"')))
    outside = Pushed(text="7", index=7)
    copy.feed(dump_events([chunk(1), chunk(0, B, 2), outside]))
    first = copy.live()
    copy.feed(dump_events([Committed(op_id=A, number=3), chunk(0, B, 4)]))
    second = copy.live()
    copy.feed(dump_events([RolledBack(op_id=B, attempt=(1, 2))]))
    kept = copy.live()
    copy.feed(dump_events([RolledBack(op_id=B, attempt=(1, 4))]))

    assert ({(1, 1): ('"0"', '"1"'), (1, 2): ('"0"',)}, (outside,), 0, True) == (
        {attempt: tuple(each.texts) for attempt, each in first.attempts.items()},
        first.handler_chunks,
        first.done,
        first.is_remote,
    )
    assert ([(1, 4)], 3) == (list(second.attempts), second.done)
    assert list(second.attempts) == list(kept.attempts)
    assert {} == copy.live().attempts


def test_a_line_counts_once_it_is_whole() -> None:
    """However the bytes come; and the beginning, once all of it is there."""
    copy = RemoteStream(followed(), 1, 100)
    data = dump_head(opened('"é"', '"1"'))
    whole = []
    for index in range(len(data)):
        copy.feed(data[index : index + 1])
        whole.append(copy.is_whole)

    assert [len(data) - 1] == [index for index, each in enumerate(whole) if each]
    assert ('"é"', '"1"') == tuple(copy.live().attempts[1, 1].texts)


@pytest.mark.parametrize(
    "data",
    [
        dump_events([chunk(0)]),
        dump_head(opened()) * 2,
        dump_head(opened()) + dump_events([chunk(1)]),
        dump_head(opened('"0"')) + dump_events([chunk(0)]),
        dump_head(opened('"0"', number=2)) + dump_events([chunk(0, number=1)]),
        dump_head(opened()) + dump_events([Pushed(text="1", index=i) for i in (3, 5)]),
        dump_head(opened("1" * 101)),
        dump_head(opened()) + b"x" * 201,
    ],
)
def test_what_no_execution_tells_is_refused(data: bytes) -> None:
    """Chunks that are missing or come twice, more than is allowed, and what is no line."""
    copy = RemoteStream(followed(), 1, 100)
    with pytest.raises(ValueError, match=r"."):
        copy.feed(data)


def test_room_is_given_back() -> None:
    """A commit, a rollback and a later attempt make room for what comes next."""
    copy = RemoteStream(followed(), 1, 10)
    copy.feed(dump_head(opened()))
    for number in range(1, 30):
        copy.feed(dump_events([chunk(0, number=number)]))
    copy.feed(dump_events([Committed(op_id=A, number=1)]))
    for number in range(1, 30):
        attempt = chunk(0, B, number)
        copy.feed(dump_events([attempt, RolledBack(op_id=B, attempt=(1, number))]))

    assert {} == copy.live().attempts


# -- the file ----------------------------------------------------------------------------------


@pytest.fixture
def channel(tmp_path: Path) -> FileChannel:
    return FileChannel(str(tmp_path / "live"))


def advance(channel: FileChannel, inlet: RemoteReader) -> None:
    """Let it read what there is."""
    [file] = channel.listed()
    inlet.advance(file.size)


def inlet_of(channel: FileChannel, log: RunLog) -> RemoteReader:
    [file] = channel.listed()
    return RemoteReader(channel, log, file, 1000)


def test_readers_follow_the_file(channel: FileChannel) -> None:
    """They catch up with its beginning, and then get each event."""
    log = followed()
    channel.begin(NAME, dump_head(opened('"0"')))
    inlet = inlet_of(channel, log)
    advance(channel, inlet)
    place, live = log.snapshot()
    channel.append(NAME, dump_events([chunk(1)]))
    advance(channel, inlet)
    advance(channel, inlet)
    batch = log.read(place)

    assert live is not None
    assert [(1, 1)] == list(live.attempts)
    assert batch is not None
    assert (chunk(1),) == batch.events


def test_a_beginning_that_is_not_whole_has_no_readers_yet(channel: FileChannel) -> None:
    """Else what it has not told so far would be taken for void."""
    log = followed()
    data = dump_head(opened('"0"', '"1"'))
    channel.begin(NAME, data[:-1])
    inlet = inlet_of(channel, log)
    advance(channel, inlet)
    before = log.snapshot()
    channel.append(NAME, data[-1:])
    advance(channel, inlet)

    assert (LogPosition(0, 0), None) == before
    assert None is not log.snapshot()[1]


@pytest.mark.parametrize("damage", [b"\x00\xff\n", b'["commit",1,2]\n', b"[" * 9000 + b"\n"])
def test_a_damaged_file_costs_what_is_live(channel: FileChannel, damage: bytes) -> None:
    """Readers are left with the store, and it is not looked at again."""
    log = followed()
    channel.begin(NAME, dump_head(opened('"0"')))
    inlet = inlet_of(channel, log)
    advance(channel, inlet)
    channel.append(NAME, damage)
    with pytest.raises(ValueError, match=r"."):
        advance(channel, inlet)
    advance(channel, inlet)

    assert inlet.broken
    assert (LogPosition(2, 0), None) == log.snapshot()


def test_a_file_that_has_become_shorter_is_damaged(channel: FileChannel, tmp_path: Path) -> None:
    """Executions only add to theirs."""
    log = followed()
    channel.begin(NAME, dump_head(opened('"0"')))
    inlet = inlet_of(channel, log)
    advance(channel, inlet)
    with next((tmp_path / "live").iterdir()).open("r+b") as file:
        file.truncate(3)
    with pytest.raises(ValueError, match="shorter"):
        advance(channel, inlet)

    assert None is log.snapshot()[1]


def test_a_file_that_cannot_be_read_is_given_up(channel: FileChannel, tmp_path: Path) -> None:
    """As one that is damaged."""
    channel.begin(NAME, dump_head(opened('"0"')))
    inlet = inlet_of(channel, followed())
    path = next((tmp_path / "live").iterdir())
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        inlet.advance(10)

    assert inlet.broken


def test_an_execution_of_this_process_comes_first(channel: FileChannel) -> None:
    """Neither it, nor the client that waits for it, gets anything from elsewhere."""
    log = followed()
    emitter = Publisher(execution(), log)
    channel.begin(NAME, dump_head(opened('"0"')))
    inlet = inlet_of(channel, log)
    advance(channel, inlet)
    log.attach_publisher(emitter)
    channel.append(NAME, dump_events([chunk(1)]))
    advance(channel, inlet)
    inlet.drop()
    executed = log.snapshot()
    log.attach()
    emitter.end()
    advance(channel, inlet)
    ended = log.source
    log.detach()
    advance(channel, inlet)

    assert LogPosition(2, 0) == executed[0]
    assert executed[1] is not None
    assert not executed[1].is_remote
    assert emitter is ended
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
        self.copy: RemoteStream | None = None
        self.told = b""
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
        self.told = dump_head(self.world.live())
        self.epoch, self.seen = self.world.epoch, len(self.world.log)
        self.copy = RemoteStream(self.log, self.epoch, 10**6)

    def tell(self, count: int) -> None:
        """The execution tells some further events, unless it is over."""
        if self.copy is not None and self.epoch == self.world.epoch:
            end = min(len(self.world.log), self.seen + count)
            self.told += dump_events(map(self.world.event, range(self.seen, end)))
            self.seen = end

    def hear(self, count: int) -> None:
        """Some bytes of that arrive."""
        if self.copy is None:
            return
        data, self.told = self.told[:count], self.told[count:]
        self.copy.feed(data)
        if self.log.source is not self.copy and self.copy.is_whole:
            self.log.attach_remote(self.copy)

    def lose(self) -> None:
        """The file is gone."""
        if self.copy is not None:
            self.log.detach_remote(self.copy)
            self.copy = None

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
            answer = self._stored(ask.cursor, most)

    def _stored(self, cursor: Cursor, most: int) -> StoredStream:
        return self.world.read(cursor.done, cursor.outside, most)

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
    st.tuples(st.just("hear"), st.sampled_from([60, 300, 9999, 9999])),
    st.tuples(st.just("read"), st.lists(happenings, max_size=4), st.integers(1, 5)),
    st.just(("read", [], 99)),
)


#: The store is ahead of the channel, which then tells of a step that the client knows as over.
_BEHIND: list[tuple[object, ...]] = [
    *(("begin",), ("hear", 9999), ("push", A), ("tell", 1), ("read", [], 99), ("look",)),
    *(("read", [("succeed", A), ("commit",)], 1), ("hear", 300)),
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
