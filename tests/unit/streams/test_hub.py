"""The streams of all runs in this process."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from durable_conformance.store_values import commit, created, memo_write
from durable_core.ports import ChannelWrite
from durable_core.runners.live import ActiveRuns
from durable_core.stores.memory import MemoryStore
from durable_core.stores.sqlite.live_file import LiveFile
from durable_core.streams.hub import StreamHub
from durable_core.streams.publisher import Publisher
from durable_core.streams.relay import StreamRelay
from support.executions import execution
from support.harness import until


class Live:
    """A live run, as far as a registry looks at it."""

    def __init__(self, ex: Any) -> None:
        self.ex = ex


def wake() -> None:
    """Wake nobody."""


def look() -> None:
    """Look at nothing."""


def test_a_log_is_made_by_the_first_push_and_dropped_at_the_end() -> None:
    """An execution that streams nothing costs nothing."""
    streams, ex = StreamHub(ActiveRuns()), execution()
    streams.begin(ex)
    before = len(streams)
    opened = ex.open_stream()
    during = len(streams)
    assert opened is ex.open_stream()
    streams.end(ex)

    assert (0, 1, 0) == (before, during, len(streams))


def test_a_reader_makes_a_live_run_stream() -> None:
    """From then on its commits are told; the log is dropped when the reader has left."""
    live, ex = ActiveRuns(), execution()
    streams = StreamHub(live)
    live[ex.run.id] = Live(ex)  # type: ignore[assignment]
    streams.begin(ex)
    log = streams.join("r1", wake, look)
    streams.committed(memo_write())
    place, source = log.snapshot()
    streams.end(ex)
    kept = len(streams)
    streams.leave(log, wake, look)

    assert isinstance(ex.stream, Publisher)
    assert 1 == place.index
    assert source is not None
    assert (1, 0) == (kept, len(streams))


def test_an_execution_takes_up_the_log_of_those_who_wait() -> None:
    """A reader that came while the run was put away follows it when it goes on."""
    streams, ex = StreamHub(ActiveRuns()), execution()
    log = streams.join("r1", wake, look)
    streams.begin(ex)

    assert isinstance(ex.stream, Publisher)
    assert log is ex.stream.log
    streams.end(ex)
    streams.leave(log, wake, look)
    assert 0 == len(streams)


def test_a_later_execution_has_the_place_of_an_earlier_one() -> None:
    """The end of the earlier one does not silence the later one."""
    streams, old, new = StreamHub(ActiveRuns()), execution(), execution()
    streams.begin(old)
    streams.begin(new)
    old.open_stream()
    stream = new.open_stream()
    streams.end(old)
    assert isinstance(stream, Publisher)
    streams.committed(memo_write())

    assert 1 == stream.log.snapshot()[0].index


def test_readers_look_when_a_run_is_written_that_is_not_live() -> None:
    """Such as the end of a run that could not be resumed; nothing else tells them here."""
    streams, looked = StreamHub(ActiveRuns()), list[int]()

    def note() -> None:
        looked.append(1)

    log = streams.join("r1", wake, note)
    streams.committed(memo_write("r2"))
    before = len(looked)
    streams.committed(memo_write())
    streams.leave(log, wake, note)

    assert (0, 1) == (before, len(looked))


def test_readers_look_when_another_process_has_gone_on() -> None:
    """Once for each change, and only those whose run is executed elsewhere."""
    streams, store, looked = StreamHub(ActiveRuns()), MemoryStore(), list[int]()

    def note() -> None:
        looked.append(1)

    commit(store, created())
    log = streams.join("r1", wake, note)
    streams.poll_others(store, "app")
    streams.poll_others(store, "app")
    first = len(looked)
    commit(store, memo_write())
    streams.poll_others(store, "app")
    second = len(looked)
    ex = execution()
    streams.begin(ex)
    commit(store, memo_write(number=3))
    streams.poll_others(store, "app")
    third = len(looked)
    streams.end(ex)
    streams.leave(log, wake, note)

    assert (1, 2, 2, 0) == (first, second, third, len(streams))


def test_what_a_closed_execution_has_left_behind_opens_nothing() -> None:
    """It takes neither memory, nor the place of the execution that goes on with the run."""
    streams, old, new = StreamHub(ActiveRuns()), execution(), execution()
    streams.begin(old)
    opener = old.stream_opener
    assert opener is not None
    old.close()
    early = opener(old)
    streams.end(old)
    streams.begin(new)
    stream = new.open_stream()
    late = old.open_stream(), opener(old)
    assert isinstance(stream, Publisher)
    streams.committed(memo_write())

    assert (None, (None, None)) == (early, late)
    assert 1 == stream.log.snapshot()[0].index
    new.close()
    streams.end(new)
    assert 0 == len(streams)


def test_a_reader_that_stays_keeps_no_execution() -> None:
    """Only the log is left of a run that has ended, not its steps and its request."""
    streams, ex = StreamHub(ActiveRuns()), execution()
    log = streams.join("r1", wake, look)
    streams.begin(ex)
    streams.end(ex)
    gone = weakref.ref(ex)
    del ex
    gc.collect()

    assert None is gone()
    streams.leave(log, wake, look)


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[LiveFile]:
    with closing(LiveFile(str(tmp_path / "live"))) as channel:
        yield channel


@pytest.fixture
def told(tmp_path: Path) -> Iterator[LiveFile]:
    """The channel, as another process has it."""
    with closing(LiveFile(str(tmp_path / "live"))) as channel:
        yield channel


def test_other_processes_are_told_while_there_are_some(channel: LiveFile, told: LiveFile) -> None:
    """Of executions that stream already and of those that begin to; until they end."""
    streams = StreamHub(ActiveRuns(), StreamRelay(channel, 1000))
    first, second = execution(), execution()
    second.run = replace(second.run, id="r2")
    for ex in (first, second):
        ex.stored = True
        streams.begin(ex)
    first.open_stream()
    streams.share(True)
    second.open_stream()
    until(lambda: 2 == len(told.executions(["r1", "r2"])))
    streams.end(first)
    until(lambda: ["r2"] == [each.run_id for each in told.executions(["r1", "r2"])])
    streams.stop()
    streams.end(second)

    assert [] == told.executions(["r1", "r2"])
    assert 0 == len(streams)


def test_readers_follow_what_others_tell(channel: LiveFile) -> None:
    """As long as there is one of them."""
    channel.write([ChannelWrite(run_id="r1", epoch=3, events=(), done=0)])
    streams = StreamHub(ActiveRuns(), StreamRelay(channel, 1000))
    streams.share(True)
    log = streams.join("r1", wake, look)
    live = until(lambda: log.snapshot()[1])
    streams.leave(log, wake, look)
    until(lambda: log.snapshot()[1] is None)
    streams.stop()

    assert live is not None
    assert (3, True) == (live.epoch, live.is_remote)
    assert 1 == len(channel.executions(["r1"]))


def test_a_store_without_a_channel_has_nobody_to_tell() -> None:
    """Sharing and stopping do nothing."""
    streams = StreamHub(ActiveRuns())
    streams.share(True)
    streams.stop()

    assert 0 == len(streams)
