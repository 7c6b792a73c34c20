"""Carrying streams between processes: two, and without their threads unless a test needs these."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from durable_core.flow.attempt import StepAttempt
from durable_core.machine.step_ids import hash_step_id, op_named
from durable_core.model.step import OpKind
from durable_core.model.stream import LiveStream, Pushed
from durable_core.ports import ChannelWrite
from durable_core.stores.sqlite.live_file import LiveFile
from durable_core.streams.log import RunLog
from durable_core.streams.publisher import Publisher
from durable_core.streams.relay import StreamRelay
from support.executions import execution
from support.harness import until

A = hash_step_id("a")
INSIDE = StepAttempt(op_named("a", OpKind.RUN), (1, 1))


class Still(StreamRelay):
    """Without a thread: a test calls ``run_once``."""

    def _wake_thread(self) -> None:
        """Do nothing."""


def pushing() -> Publisher:
    """Return the stream of a stored run that has pushed something."""
    ex = execution()
    ex.stored = True
    log = RunLog("r1")
    publisher = Publisher(ex, log)
    log.attach_publisher(publisher)
    publisher.push(INSIDE, "1")
    return publisher


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
def path(tmp_path: Path) -> Path:
    return tmp_path / "live"


@pytest.fixture
def here(path: Path) -> Iterator[LiveFile]:
    """The channel, as the process has it that executes."""
    with closing(LiveFile(str(path))) as channel:
        yield channel


@pytest.fixture
def there(path: Path) -> Iterator[LiveFile]:
    """The channel, as another process has it."""
    with closing(LiveFile(str(path))) as channel:
        yield channel


def begin(channel: LiveFile, epoch: int, *events: Pushed) -> None:
    channel.write([ChannelWrite(run_id="r1", epoch=epoch, events=events, done=0)])


def test_readers_in_another_process_have_what_is_open(here: LiveFile, there: LiveFile) -> None:
    """From when they come until the execution ends."""
    one, two, publisher, log = Still(here, 1000), Still(there, 1000), pushing(), reading()
    one.share(True, [publisher])
    two.share(True, ())
    two.follow(log)
    one.run_once()
    assert two.run_once()
    first = texts(log.snapshot()[1])
    publisher.push(INSIDE, "2")
    one.run_once()
    two.run_once()
    second = texts(log.snapshot()[1])
    one.withdraw(publisher)
    one.run_once()
    two.run_once()

    assert (("1",), ("1", "2"), None) == (first, second, texts(log.snapshot()[1]))
    assert [] == there.executions(["r1"])
    assert () == publisher.log.wakers


def test_nothing_is_told_while_nobody_is_there(here: LiveFile, path: Path) -> None:
    """No file, no thread. When the others have gone it is as before."""
    alone, publisher = StreamRelay(here, 1000), pushing()
    alone.publish(publisher)
    alone.follow(reading())
    assert "durable-channel" not in {thread.name for thread in threading.enumerate()}
    assert not path.exists()

    relay = Still(here, 1000)
    relay.share(True, [publisher])
    relay.run_once()
    told = len(here.executions(["r1"]))
    relay.share(False, ())
    relay.run_once()

    assert (1, []) == (told, here.executions(["r1"]))
    assert () == publisher.log.wakers


def test_who_is_shared_again_is_told_again(here: LiveFile) -> None:
    """Even if the relay comes round only after both."""
    relay, publisher = Still(here, 1000), pushing()
    relay.share(True, [publisher])
    relay.run_once()
    relay.share(False, ())
    relay.share(True, [publisher])
    relay.run_once()

    assert 1 == len(here.executions(["r1"]))


def test_the_last_claim_counts(here: LiveFile, there: LiveFile) -> None:
    """What a process writes whose claim is over is not read beside what the next one tells."""
    relay, log = Still(there, 1000), reading()
    relay.share(True, ())
    relay.follow(log)
    begin(here, 3, Pushed(text="3", index=0, op_id=A, attempt=(3, 1)))
    begin(here, 1, Pushed(text="1", index=0, op_id=A, attempt=(1, 1)))
    relay.run_once()
    live = log.snapshot()[1]
    here.remove([("r1", 3)])
    relay.run_once()

    assert live is not None
    assert 3 == live.epoch
    assert ("1",) == texts(log.snapshot()[1])


def test_a_reader_that_leaves_is_not_told(there: LiveFile) -> None:
    """Nor is the channel looked at for nobody, or for runs of this process."""
    relay, log, publisher = Still(there, 1000), reading(), pushing()
    relay.share(True, ())
    relay.follow(log)
    looks = [relay.run_once()]
    relay.follow(publisher.log)
    relay.unfollow(log)
    looks.append(relay.run_once())

    assert [True, False] == looks


def test_a_file_that_is_deleted_is_made_again(here: LiveFile, there: LiveFile, path: Path) -> None:
    """With all that is open, which readers elsewhere go on from."""
    one, two, publisher, log = Still(here, 1000), Still(there, 1000), pushing(), reading()
    one.share(True, [publisher])
    two.share(True, ())
    two.follow(log)
    one.run_once()
    two.run_once()
    path.unlink()
    two.run_once()
    lost = log.snapshot()[1]
    publisher.push(INSIDE, "2")
    one.run_once()
    one.run_once()
    two.run_once()

    assert None is lost
    assert ("1", "2") == texts(log.snapshot()[1])


@pytest.mark.parametrize("fault", ["no file", "a gap"])
def test_what_goes_wrong_is_logged_once(
    here: LiveFile, there: LiveFile, path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Pushes go on, and readers have what is stored."""
    one, two, publisher, log = Still(here, 1000), Still(there, 1000), pushing(), reading()
    two.share(True, ())
    two.follow(log)
    if fault == "no file":
        path.mkdir()
    else:
        begin(here, 9, Pushed(text="9", index=5, op_id=A, attempt=(9, 1)))
    with caplog.at_level(logging.WARNING, "durable"):
        for _ in range(3):
            one.share(True, [publisher])
            publisher.push(INSIDE, "1")
            one.run_once()
            two.run_once()

    assert None is log.snapshot()[1]
    said = [each.getMessage() for each in caplog.records if "are not seen" in each.getMessage()]
    assert {"no file": 2, "a gap": 1}[fault] == len(said)  # one for each process


def test_what_has_failed_is_tried_again(
    here: LiveFile, there: LiveFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with every look, but a second later; with all that is open."""
    one, two, publisher, log = Still(here, 1000), Still(there, 1000), pushing(), reading()
    now = 100.0
    monkeypatch.setattr("durable_core.streams.relay.time.monotonic", lambda: now)
    path.mkdir()
    one.share(True, [publisher])
    one.run_once()
    path.rmdir()
    one.run_once()
    early = path.exists()
    now = 102.0
    one.run_once()
    two.share(True, ())
    two.follow(log)
    two.run_once()

    assert not early
    assert ("1",) == texts(log.snapshot()[1])


def test_what_is_old_is_removed(here: LiveFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead process has left goes when any other streams."""
    begin(here, 1)
    monkeypatch.setattr("durable_core.streams.relay._OLD", -10.0)
    relay = Still(here, 1000)
    relay.share(True, ())
    relay.follow(reading())
    relay.run_once()

    assert [] == here.executions(["r1"])


@pytest.fixture
def threads(here: LiveFile, there: LiveFile) -> Iterator[tuple[StreamRelay, StreamRelay]]:
    one, two = StreamRelay(here, 1000), StreamRelay(there, 1000)
    yield one, two
    one.stop()
    two.stop()


def test_threads_carry_what_is_pushed(
    threads: tuple[StreamRelay, StreamRelay], here: LiveFile
) -> None:
    """They begin when there is something to do, and end when there is not."""
    one, two = threads
    publisher, log = pushing(), reading()
    one.share(True, [publisher])
    two.share(True, ())
    two.follow(log)
    until(lambda: texts(log.snapshot()[1]) == ("1",))
    publisher.push(INSIDE, "2")
    until(lambda: texts(log.snapshot()[1]) == ("1", "2"))
    one.withdraw(publisher)
    until(lambda: log.snapshot()[1] is None)
    two.unfollow(log)
    until(lambda: not any(each.name == "durable-channel" for each in threading.enumerate()))

    assert [] == here.executions(["r1"])


def test_stopping_leaves_nothing(threads: tuple[StreamRelay, StreamRelay], here: LiveFile) -> None:
    """Neither messages nor threads."""
    one, _ = threads
    one.share(True, [pushing()])
    until(lambda: here.executions(["r1"]))
    one.stop()

    assert [] == here.executions(["r1"])
    assert "durable-channel" not in {thread.name for thread in threading.enumerate()}
