"""Carrying streams between processes: two, and without their threads unless a test needs these."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_conformance.store_values import commit, created
from durable_core.flow.effects import StepAttempt
from durable_core.machine.step_ids import hash_step_id
from durable_core.model.stream import LiveStream
from durable_core.ports import ChannelName
from durable_core.stores.memory import MemoryStore
from durable_core.stores.sqlite.side_channel import FileChannel
from durable_core.streams.log import RunLog
from durable_core.streams.publisher import Publisher
from durable_core.streams.relay import StreamRelay
from support.executions import execution
from support.harness import until

A = hash_step_id("a")
INSIDE = StepAttempt("a", A, (1, 1))


class Still(StreamRelay):
    """Without a thread: a test calls ``carry``."""

    def _wake_thread(self) -> None:
        """Do nothing."""


def pushing() -> Publisher:
    """Return the stream of a stored run that has pushed something."""
    ex = execution()
    ex.stored = True
    log = RunLog("r1")
    emitter = Publisher(ex, log)
    log.attach_publisher(emitter)
    emitter.push(INSIDE, "1")
    return emitter


def reading() -> RunLog:
    log = RunLog("r1")
    log.follow(lambda: None)
    return log


def texts(live: LiveStream | None) -> tuple[str, ...] | None:
    """Return what is open in the step, None if nothing is known of the run."""
    if live is None:
        return None
    return tuple(live.attempts[1, 1].texts) if live.attempts else ()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "live"


@pytest.fixture
def channel(folder: Path) -> FileChannel:
    return FileChannel(str(folder))


def test_readers_in_another_process_have_what_is_open(channel: FileChannel) -> None:
    """From when they come until the execution ends."""
    here, there, emitter, log = Still(channel, 1000), Still(channel, 1000), pushing(), reading()
    here.share(True, [emitter])
    there.share(True, ())
    there.follow(log)
    here.run_once()
    assert there.run_once()
    first = texts(log.snapshot()[1])
    emitter.push(INSIDE, "2")
    here.run_once()
    there.run_once()
    second = texts(log.snapshot()[1])
    here.withdraw(emitter)
    here.run_once()
    there.run_once()

    assert (("1",), ("1", "2"), None) == (first, second, texts(log.snapshot()[1]))
    assert [] == channel.listed()
    assert () == emitter.log.wakers


def test_nothing_is_told_while_nobody_is_there(channel: FileChannel, folder: Path) -> None:
    """No folder, no thread. When the others have gone it is as before."""
    sharing, emitter = StreamRelay(channel, 1000), pushing()
    sharing.publish(emitter)
    sharing.follow(reading())
    assert "durable-channel" not in {thread.name for thread in threading.enumerate()}
    assert not folder.exists()

    still = Still(channel, 1000)
    still.share(True, [emitter])
    still.run_once()
    told = len(channel.listed())
    still.share(False, ())
    still.run_once()

    assert (1, 0) == (told, len(channel.listed()))
    assert () == emitter.log.wakers


def test_the_last_claim_counts(channel: FileChannel) -> None:
    """What a dead process has left is not read beside what the next one tells."""
    here, there, log = Still(channel, 1000), Still(channel, 1000), reading()
    channel.begin(ChannelName("r1", 3, 7), b'["live",1,0,0]\n')
    there.share(True, ())
    there.follow(log)
    emitter = pushing()
    here.share(True, [emitter])
    here.run_once()
    there.run_once()
    live = log.snapshot()[1]
    channel.remove(ChannelName("r1", 3, 7))
    there.run_once()

    assert live is not None
    assert 3 == live.epoch
    assert ("1",) == texts(log.snapshot()[1])


def test_a_reader_that_leaves_is_not_told(channel: FileChannel) -> None:
    """Nor is the channel looked at for nobody, or for runs of this process."""
    there, log, emitter = Still(channel, 1000), reading(), pushing()
    there.share(True, ())
    there.follow(log)
    looks = [there.run_once()]
    there.follow(emitter.log)
    there.unfollow(log)
    looks.append(there.run_once())

    assert [True, False] == looks


@pytest.mark.parametrize("fault", ["no folder", "damage"])
def test_what_goes_wrong_is_logged_once(
    channel: FileChannel, folder: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Pushes go on, and readers have what is stored."""
    here, there, emitter, log = Still(channel, 1000), Still(channel, 1000), pushing(), reading()
    there.share(True, ())
    there.follow(log)
    if fault == "no folder":
        folder.touch()
    else:
        channel.begin(ChannelName("r1", 1, 9), b"damage\n")
    with caplog.at_level(logging.WARNING, "durable"):
        for _ in range(3):
            here.share(True, [emitter])
            emitter.push(INSIDE, "1")
            here.run_once()
            there.run_once()

    assert None is log.snapshot()[1]
    said = [each.getMessage() for each in caplog.records if "are not seen" in each.getMessage()]
    assert {"no folder": 2, "damage": 1}[fault] == len(said)  # one for each process


@pytest.fixture
def threads(channel: FileChannel) -> Iterator[tuple[StreamRelay, StreamRelay]]:
    here, there = StreamRelay(channel, 1000), StreamRelay(channel, 1000)
    yield here, there
    here.stop()
    there.stop()


def test_threads_carry_what_is_pushed(
    threads: tuple[StreamRelay, StreamRelay], channel: FileChannel
) -> None:
    """They begin when there is something to do, and end when there is not."""
    here, there = threads
    emitter, log = pushing(), reading()
    here.share(True, [emitter])
    there.share(True, ())
    there.follow(log)
    until(lambda: texts(log.snapshot()[1]) == ("1",))
    emitter.push(INSIDE, "2")
    until(lambda: texts(log.snapshot()[1]) == ("1", "2"))
    here.withdraw(emitter)
    until(lambda: log.snapshot()[1] is None)
    there.unfollow(log)
    until(lambda: not any(each.name == "durable-channel" for each in threading.enumerate()))

    assert [] == channel.listed()


def test_stopping_leaves_nothing(
    threads: tuple[StreamRelay, StreamRelay], channel: FileChannel
) -> None:
    """Neither files nor threads."""
    here, _ = threads
    here.share(True, [pushing()])
    until(channel.listed)
    here.stop()

    assert [] == channel.listed()
    assert "durable-channel" not in {thread.name for thread in threading.enumerate()}


def test_what_dead_processes_have_left_is_swept(channel: FileChannel, folder: Path) -> None:
    """Of claims that are over; of unknown runs when it is old. What is live stays."""
    store = MemoryStore()
    commit(store, created("held"))
    channel.begin(ChannelName("held", 1, 1), b"")
    channel.begin(ChannelName("held", 2, 1), b"")
    channel.begin(ChannelName("unknown", 1, 1), b"")
    channel.begin(ChannelName("pruned", 1, 1), b"")
    os.utime(folder / "pruned.1.1", (1, 1))
    StreamRelay(channel, 1000).sweep(store, "app")

    assert {ChannelName("held", 1, 1), ChannelName("unknown", 1, 1)} == {
        file.name for file in channel.listed()
    }


def test_sweeping_survives_a_channel_that_does_not_work(
    folder: Path, channel: FileChannel, caplog: pytest.LogCaptureFixture
) -> None:
    """The keeper has other things to do."""
    folder.touch()
    with caplog.at_level(logging.WARNING, "durable"):
        StreamRelay(channel, 1000).sweep(MemoryStore(), "app")

    assert "are not seen in other processes" in caplog.text
