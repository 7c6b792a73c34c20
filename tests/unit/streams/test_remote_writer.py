"""What an execution tells other processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from durable_conformance.store_values import memo, memo_write
from durable_core.flow.attempt import StepAttempt
from durable_core.flow.execution import StoredExecution
from durable_core.machine.step_ids import hash_step_id, op_named
from durable_core.model.step import Op, OpKind
from durable_core.model.stream import Committed, Pushed, RolledBack, Streamed
from durable_core.stores.sqlite.live_file import LiveFile
from durable_core.streams.log import RunLog
from durable_core.streams.publisher import Publisher
from durable_core.streams.relay import RemoteWriter
from support.executions import execution

A = hash_step_id("a")
INSIDE = StepAttempt(op_named("a", OpKind.RUN), (1, 1))


class Told:
    """An execution, its writer, and the channel that it writes to."""

    def __init__(self, channel: LiveFile, *, most: int = 10_000) -> None:
        self.channel = channel
        self.ex: StoredExecution = execution()
        self.ex.stored = True
        self.log = RunLog("r1")
        self.publisher = Publisher(self.ex, self.log)
        self.log.attach_publisher(self.publisher)
        self.wakes = 0
        self.writer = RemoteWriter(self.publisher, most, self._wake)

    def _wake(self) -> None:
        self.wakes += 1

    def push(self, text: str) -> None:
        self.publisher.push(INSIDE, text)

    def flush(self) -> None:
        """Do as the relay does."""
        write = self.writer.next_write()
        if write is not None and self.channel.write([write]) == [False]:
            self.writer.begin_anew()

    def begun(self) -> int:
        """Return the position at which the only execution has begun; 0 if there is none."""
        found = self.channel.executions(["r1"])
        return found[0].begun[1] if found else 0

    def read(self) -> list[Streamed]:
        """Return all that is told of the only execution."""
        [found] = self.channel.executions(["r1"])
        return [event for _, event in self.channel.read(found, 0, 1000)]


def chunk(index: int, text: str) -> Pushed:
    return Pushed(text=text, index=index, op_id=A, attempt=(1, 1))


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[LiveFile]:
    with closing(LiveFile(str(tmp_path / "live"))) as channel:
        yield channel


@pytest.fixture
def told(channel: LiveFile) -> Told:
    return Told(channel)


def test_what_happens_is_told(told: Told) -> None:
    """First what is open, whenever that was pushed; then each event."""
    told.push("1")
    told.flush()
    told.push("2")
    told.publisher.roll_back(INSIDE)
    done = replace(memo(3), op=Op(id=A, name="a", kind=OpKind.RUN))
    told.publisher.committed(memo_write(memos=(done,)))
    told.flush()
    told.flush()

    events = [
        chunk(0, "1"),
        chunk(1, "2"),
        RolledBack(op_id=A, attempt=(1, 1)),
        Committed(op_id=A, number=3),
    ]
    assert events == told.read()


def test_pushes_write_nothing_themselves(told: Told) -> None:
    """They wake the relay, once for all that comes until the next batch."""
    told.flush()
    told.push("1")
    told.push("2")
    before = told.read()
    told.flush()
    told.push("3")

    assert [] == before
    assert 2 == told.wakes
    assert [chunk(0, "1"), chunk(1, "2")] == told.read()


def test_a_run_without_a_record_is_not_told(told: Told) -> None:
    """Nobody else can know of it; once it is stored, what is open is told."""
    told.ex.stored = False
    told.push("1")
    told.flush()
    before = told.begun()
    told.ex.stored = True
    told.push("2")
    told.flush()

    assert 0 == before
    assert [chunk(0, "1"), chunk(1, "2")] == told.read()


def test_who_has_told_a_lot_begins_anew(channel: LiveFile) -> None:
    """With what is open then, so that the file stays small."""
    told = Told(channel, most=100)
    told.flush()
    first = told.begun()
    for _ in range(50):
        told.push('"some text"')
        told.publisher.roll_back(INSIDE)
        told.flush()
        assert len(told.read()) < 30
    told.push("1")
    told.flush()

    assert told.begun() > first
    assert chunk(0, "1") == told.read()[-1]


def test_a_lot_is_told_in_parts(channel: LiveFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is one write, after which the writer has the relay come again."""
    monkeypatch.setattr("durable_core.streams.relay._MOST_WRITTEN", 60_000)
    told = Told(channel, most=10**7)
    told.flush()
    for _ in range(3):
        told.push(f'"{"x" * 70_000}"')
    before, writes = told.wakes, 0
    while (write := told.writer.next_write()) is not None:
        told.channel.write([write])
        writes += 1

    assert 3 == len(told.read())
    assert (3, before + 3) == (writes, told.wakes)


def test_who_has_fallen_behind_begins_anew(channel: LiveFile) -> None:
    """The log keeps so much, for this reader as for others."""
    told = Told(channel, most=10**7)
    told.flush()
    first = told.begun()
    for _ in range(40):
        told.push(f'"{"x" * 10_000}"')
    told.flush()

    assert told.begun() > first
    assert 40 == len(told.read())


def test_what_was_removed_is_told_again(told: Told) -> None:
    """With all that is open."""
    told.push("1")
    told.flush()
    told.channel.prune(-10)
    told.push("2")
    told.flush()
    gone = told.begun()
    told.flush()

    assert 0 == gone
    assert [chunk(0, "1"), chunk(1, "2")] == told.read()


def test_a_later_execution_is_not_told_as_this_one(told: Told) -> None:
    """Its log may have another publisher by the time the relay comes round."""
    told.push("1")
    told.flush()
    later = Publisher(execution(), told.log)
    later.epoch = 2
    told.log.attach_publisher(later)
    told.flush()
    told.writer.leave()

    assert [chunk(0, "1")] == told.read()
    assert () == told.log.wakers
