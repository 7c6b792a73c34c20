"""What one run has streamed of late."""

from __future__ import annotations

import threading

import pytest

from durable_core.codec.stream_events import Final
from durable_core.flow.stream_reader import LogPosition
from durable_core.machine.step_ids import hash_step_id
from durable_core.model.stream import Committed, LiveStream, Pushed
from durable_core.streams.log import LiveAttempt, PrefixView, RunLog

A = hash_step_id("a")


class Source:
    def __init__(self, epoch: int = 1, *, finished: bool = False) -> None:
        self.epoch = epoch
        self.finished = finished
        self.is_remote = False

    def live(self) -> LiveStream:
        return LiveStream(epoch=self.epoch, attempts={})


def nothing() -> None:
    """Wake nobody."""


def outside(index: int) -> Pushed:
    return Pushed(text=str(index), index=index)


def test_nothing_is_kept_for_nobody() -> None:
    """Without a reader events only count."""
    log = RunLog("r1")
    with log.lock:
        log.append(outside(0))
    place, live = log.snapshot()

    assert (LogPosition(0, 1), None) == (place, live)
    assert log.read(LogPosition(0, 0)) is None


def test_readers_follow_from_their_place() -> None:
    """Each gets what comes after it, with the number that an attempt has by then."""
    log, attempt = RunLog("r1"), LiveAttempt(A, (1, 1))
    log.follow(nothing)
    attempt.texts.append("1")
    with log.lock:
        log.append((attempt, 0), 1)
    attempt.number = 7
    batch = log.read(LogPosition(0, 0))
    assert batch is not None
    rest = log.read(LogPosition(0, batch.index))
    assert rest is not None

    assert (Pushed(text="1", index=0, op_id=A, attempt=(1, 1), number=7),) == batch.events
    assert ((), 1) == (rest.events, rest.index)


def test_who_falls_behind_must_catch_up() -> None:
    """What is kept is bounded, however slow a reader is."""
    log = RunLog("r1")
    log.follow(nothing)
    with log.lock:
        for index in range(10_000):
            log.append(Pushed(text="x" * 100, index=index), 100)
    place, _ = log.snapshot()

    assert log.read(LogPosition(0, 0)) is None
    assert log.read(LogPosition(0, place.index - 100)) is not None
    assert len(log._events) * 228 <= 256 * 1024


def test_a_reader_gets_so_much_at_a_time() -> None:
    """A batch is bounded too."""
    log = RunLog("r1")
    log.follow(nothing)
    with log.lock:
        for index in range(300):
            log.append(outside(index))
    batch = log.read(LogPosition(0, 0))
    assert batch is not None

    assert 256 == len(batch.events)


def test_events_go_when_the_last_reader_has_left() -> None:
    """Nothing is kept for those who may come: they begin with the store."""
    log = RunLog("r1")
    log.follow(nothing)
    with log.lock:
        log.append(outside(0))
    log.leave(nothing)

    assert log.read(LogPosition(0, 0)) is None


@pytest.mark.parametrize(
    ("before", "after", "must_catch_up"),
    [
        (Source(1, finished=True), Source(2), False),
        (Source(1, finished=True), Source(3), True),
        (Source(1), Source(2), True),
    ],
    ids=["the next", "another process in between", "the one before has not ended"],
)
def test_a_new_execution(before: Source, after: Source, must_catch_up: bool) -> None:
    """Readers follow it if the log has all that was before it; the attached client has it all."""
    log = RunLog("r1")
    log.follow(nothing)
    log.attach_publisher(before)
    with log.lock:
        log.append(outside(0))
    log.attach_publisher(after)

    assert must_catch_up is (log.read(LogPosition(1, 0)) is None)
    batch = log.read_attached(0, redirected=False)
    assert batch is not None
    assert 1 == len(batch.events)


def test_the_first_checkpoint() -> None:
    """The attached client is told of it between the events before and after."""
    log = RunLog("r1")
    log.follow(nothing)
    with log.lock:
        log.append(Committed(op_id=A, number=1))
        log.checkpointed()
        log.append(outside(0))
        log.checkpointed()
    first = log.read_attached(0, redirected=False)
    rest = log.read_attached(1, redirected=True)
    assert first is not None
    assert rest is not None

    assert (1, True) == (first.index, first.redirect)
    assert ((outside(0),), False) == (rest.events, rest.redirect)


def test_the_end_of_the_attached_client() -> None:
    """At the handoff, whatever follows; or with the response, after all else."""
    log = RunLog("r1")
    log.follow(nothing)
    with log.lock:
        log.append(outside(0))
        log.begin_handoff("0.1")
        log.append(outside(1))
    held = log.read_attached(0, redirected=False)
    log.detach()
    over = log.read_attached(1, redirected=False)
    assert held is not None
    assert over is not None

    assert ((outside(0),), False) == (held.events, held.finished)
    assert ((), True) == (over.events, over.finished)
    assert (True, "0.1") == (log.handed_off, log.handoff)


def test_the_response_comes_last() -> None:
    """Only with the events that are the last; the first response counts."""
    log = RunLog("r1")
    log.follow(nothing)
    with log.lock:
        log.append(outside(0))
    final = Final(status=200)
    log.set_final(final)
    log.set_final(Final(status=500))
    batch = log.read_attached(0, redirected=False)
    assert batch is not None

    assert (1, final) == (len(batch.events), batch.final)


def test_readers_are_woken() -> None:
    """All of them, and none after it has left."""
    log, woken = RunLog("r1"), threading.Event()
    log.follow(woken.set)
    log.wake()
    assert woken.is_set()
    woken.clear()
    log.leave(woken.set)
    log.wake()

    assert not woken.is_set()


def test_a_prefix_of_a_list_that_grows() -> None:
    """It has what the list had, and can be gone through, indexed and sliced as that."""
    texts = ["a", "b", "c"]
    prefix = PrefixView(texts)
    texts.append("d")

    assert (3, ["a", "b", "c"]) == (len(prefix), list(prefix))
    assert ("c", ("b", "c"), ("a",)) == (prefix[-1], prefix[1:], prefix[:1])
    with pytest.raises(IndexError):
        prefix[3]


class Copied(Source):
    def __init__(self, epoch: int = 1) -> None:
        super().__init__(epoch)
        self.is_remote = True


def test_what_another_process_tells_is_taken_while_nobody_executes_the_run() -> None:
    """Readers catch up when it comes and when it goes; an execution here has its place."""
    log, copy, source = RunLog("r1"), Copied(), Source()
    looked: list[int] = []
    log.follow(lambda: looked.append(1))
    taken = log.attach_remote(copy)
    first = log.snapshot()
    log.detach_remote(copy)
    second = log.snapshot()
    log.attach_publisher(source)
    refused = log.attach_remote(copy)
    log.detach_remote(copy)

    assert (True, False) == (taken, refused)
    assert (LogPosition(1, 0), LiveStream(epoch=1, attempts={})) == first
    assert (LogPosition(2, 0), None) == second
    assert (LogPosition(3, 0), source, True) == (log.snapshot()[0], log.source, log.is_executed)
    assert 3 == len(looked)


def test_a_client_that_waits_here_gets_nothing_from_elsewhere() -> None:
    """What its stream is, is what happens here until it is let go."""
    log = RunLog("r1")
    log.attach()
    before = log.attach_remote(Copied())
    log.detach()

    assert (False, True) == (before, log.attach_remote(Copied()))


def test_an_execution_here_after_one_elsewhere_makes_readers_catch_up() -> None:
    """It is not known what has come of all that was open there, whichever claim comes next."""
    log = RunLog("r1")
    log.attach_remote(Copied(1))
    log.attach_publisher(Source(2))

    assert LogPosition(2, 0) == log.snapshot()[0]
