"""What an execution tells other processes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from durable_conformance.store_values import memo, memo_write
from durable_core.flow.effects import StepAttempt
from durable_core.flow.execution import Execution
from durable_core.machine.step_ids import hash_step_id
from durable_core.model.step import Op, OpKind
from durable_core.model.stream import Committed, Pushed, RolledBack, Streamed
from durable_core.ports import ChannelName
from durable_core.stores.sqlite.side_channel import FileChannel
from durable_core.streams.log import RunLog
from durable_core.streams.publisher import Publisher
from durable_core.streams.relay import RemoteWriter, load_event, load_head
from support.executions import execution

A = hash_step_id("a")
INSIDE = StepAttempt("a", A, (1, 1))


class Told:
    """An execution, its outlet, and the channel that it tells."""

    def __init__(self, folder: Path, *, most: int = 10_000) -> None:
        self.channel = FileChannel(str(folder / "live"))
        self.ex: Execution = execution()
        self.ex.stored = True
        self.log = RunLog("r1")
        self.emitter = Publisher(self.ex, self.log)
        self.log.attach_publisher(self.emitter)
        self.pokes = 0
        self.outlet = RemoteWriter(self.channel, self.emitter, itertools.count(1), most, self._poke)

    def _poke(self) -> None:
        self.pokes += 1

    def push(self, text: str) -> None:
        self.emitter.push(INSIDE, text)

    def read(self) -> tuple[ChannelName, int, Sequence[Streamed]]:
        """Return the name of the only file, the last commit as of its beginning, and the rest."""
        [file] = self.channel.listed()
        data = self.channel.read(file.name, 0, 10**6)
        assert data is not None
        head, *lines = data.splitlines()
        return file.name, load_head(head).done, [load_event(line, 1) for line in lines]


def chunk(index: int, text: str) -> Pushed:
    return Pushed(text=text, index=index, op_id=A, attempt=(1, 1))


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def test_what_happens_is_told(told: Told) -> None:
    """First what is open, whenever that was pushed; then each event."""
    told.push("1")
    told.outlet.flush()
    told.push("2")
    told.emitter.roll_back(INSIDE)
    done = replace(memo(3), op=Op(id=A, name="a", kind=OpKind.RUN))
    told.emitter.committed(replace(memo_write(), memos=(done,)))
    told.outlet.flush()
    told.outlet.flush()

    events = [
        chunk(0, "1"),
        chunk(1, "2"),
        RolledBack(op_id=A, attempt=(1, 1)),
        Committed(op_id=A, number=3),
    ]
    assert (ChannelName("r1", 1, 1), 0, events) == told.read()


def test_pushes_write_nothing_themselves(told: Told) -> None:
    """They poke, once for all that comes until the next batch."""
    told.outlet.flush()
    told.push("1")
    told.push("2")
    before = told.read()[2]
    told.outlet.flush()
    told.push("3")

    assert [] == before
    assert 2 == told.pokes
    assert [chunk(0, "1"), chunk(1, "2")] == told.read()[2]


def test_a_run_without_a_record_is_not_told(told: Told) -> None:
    """Nobody else can know of it; once it is stored, what is open is told."""
    told.ex.stored = False
    told.push("1")
    told.outlet.flush()
    before = told.channel.listed()
    told.ex.stored = True
    told.push("2")
    told.outlet.flush()

    assert () == before
    assert [chunk(0, "1"), chunk(1, "2")] == told.read()[2]


def test_who_has_told_too_much_begins_anew(tmp_path: Path) -> None:
    """With what is open then, so that the file stays small."""
    told = Told(tmp_path, most=500)
    for _ in range(20):
        told.push('"some text"')
        told.emitter.roll_back(INSIDE)
        told.outlet.flush()
        [file] = told.channel.listed()
        assert file.size < 1000
    told.push("1")
    told.outlet.flush()

    assert file.name.part > 1
    assert chunk(0, "1") == told.read()[2][-1]


def test_who_has_fallen_behind_begins_anew(tmp_path: Path) -> None:
    """The log keeps so much, for this reader as for others."""
    told = Told(tmp_path, most=10**7)
    told.outlet.flush()
    for _ in range(40):
        told.push(f'"{"x" * 10_000}"')
    told.outlet.flush()

    name, _, events = told.read()
    assert (2, 40) == (name.part, len(events))


def test_what_is_too_large_is_not_told(tmp_path: Path) -> None:
    """Not even tried again with each push."""
    told = Told(tmp_path, most=300)
    told.push("1")
    told.outlet.flush()
    told.push(f'"{"x" * 300}"')
    told.outlet.flush()
    gone = told.channel.listed()
    told.emitter.roll_back(INSIDE)
    told.outlet.flush()

    assert [] == gone
    assert [] == told.channel.listed()


def test_a_file_that_was_swept_is_made_again(told: Told) -> None:
    """With all that is open."""
    told.push("1")
    told.outlet.flush()
    told.channel.remove(ChannelName("r1", 1, 1))
    told.push("2")
    told.outlet.flush()

    assert (ChannelName("r1", 1, 2), 0, [chunk(0, "1"), chunk(1, "2")]) == told.read()


def test_an_end_leaves_nothing(told: Told) -> None:
    """Neither the file, nor a reader of the log; a later execution is not told as this one."""
    told.push("1")
    told.outlet.flush()
    later = Publisher(execution(), told.log)
    later.epoch = 2
    told.log.attach_publisher(later)
    told.outlet.flush()
    same = told.read()
    told.outlet.leave()
    told.outlet.remove()
    told.outlet.remove()

    assert [chunk(0, "1")] == same[2]
    assert () == told.log.wakers
    assert [] == told.channel.listed()
