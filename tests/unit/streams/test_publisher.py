"""The stream of one execution."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest

from durable_conformance.store_values import memo, memo_write
from durable_core.errors import LimitExceededError
from durable_core.flow.attempt import StepAttempt
from durable_core.flow.env import Limits
from durable_core.flow.execution import ExecutionEvent, StoredExecution
from durable_core.flow.stream_reader import LogPosition
from durable_core.machine.step_ids import hash_step_id, op_named
from durable_core.model.step import Memo, Op, OpKind
from durable_core.model.stream import ChunkBatch, Committed, Pushed, RolledBack, Streamed
from durable_core.streams.log import RunLog
from durable_core.streams.publisher import Publisher
from support.executions import execution

A = hash_step_id("a")


def publisher_of(ex: StoredExecution) -> Publisher:
    log = RunLog("r1")
    log.follow(lambda: None)
    publisher = Publisher(ex, log)
    log.attach_publisher(publisher)
    ex.stream = publisher
    return publisher


def inside(number: int = 1) -> StepAttempt:
    return StepAttempt(op_named("a", OpKind.RUN), (1, number))


def done(number: int, *, ok: bool = True) -> Memo:
    return replace(memo(number), op=Op(id=A, name="a", kind=OpKind.RUN), ok=ok)


def told(publisher: Publisher) -> Sequence[Streamed]:
    batch = publisher.log.read(LogPosition(1, 0))
    assert batch is not None
    return batch.events


def test_a_step_pushes_saves_and_commits() -> None:
    """Its chunks go out at once, are saved with its memo, and are durable with the write."""
    publisher = publisher_of(execution())
    attempt = inside()
    publisher.push(attempt, '"x"')
    before = publisher.live()
    attempt.function_ended = True
    pieces, handoff = publisher.unsaved((done(1),))
    publisher.committed(memo_write(memos=(done(1),), chunks=pieces))

    piece = ChunkBatch(number=1, texts=('"x"',), op_id=A, attempt=(1, 1))
    assert ((piece,), None) == (pieces, handoff)
    [(pushing, opened)] = before.attempts.items()
    assert ((1, 1), A, ['"x"']) == (pushing, opened.op_id, list(opened.texts))
    assert {} == publisher.live().attempts
    chunk = Pushed(text='"x"', index=0, op_id=A, attempt=(1, 1), number=1)
    assert (chunk, Committed(op_id=A, number=1)) == told(publisher)


def test_a_failed_attempt_is_rolled_back_once() -> None:
    """Nothing of it is saved; one that is being saved is not rolled back."""
    publisher = publisher_of(execution())
    failed = inside(1)
    publisher.push(failed, "1")
    publisher.roll_back(failed)
    nothing, _ = publisher.unsaved((done(1, ok=False),))
    second = inside(2)
    publisher.push(second, "2")
    publisher.unsaved((done(2),))
    publisher.roll_back(second)

    assert () == nothing
    assert [RolledBack(op_id=A, attempt=(1, 1))] == [
        event for event in told(publisher) if isinstance(event, RolledBack)
    ]


def test_what_a_step_has_left_behind_pushes_nothing() -> None:
    """Neither after its function has ended, nor after its run was closed."""
    ex = execution()
    publisher = publisher_of(ex)
    attempt = inside()
    attempt.function_ended = True
    publisher.push(attempt, "1")
    ex.close()
    publisher.push(inside(2), "2")

    assert () == told(publisher)


def test_outside_steps() -> None:
    """Chunks are saved with the next checkpoint, under the number of the step before."""
    publisher = publisher_of(execution(done(3)))
    publisher.push(None, "1")
    first, _ = publisher.unsaved((done(5),))
    publisher.push(None, "2")
    live = publisher.live().handler_chunks
    publisher.committed(memo_write(memos=(), chunks=first))
    second, _ = publisher.unsaved(())

    assert (ChunkBatch(number=3, texts=("1",), start=0),) == first
    assert (ChunkBatch(number=5, texts=("2",), start=1),) == second
    assert ["1", "2"] == [chunk.text for chunk in live]
    assert ["2"] == [chunk.text for chunk in publisher.live().handler_chunks]


def test_a_replay_pushes_what_is_stored_in_vain() -> None:
    """The first chunks of a replay are those that are stored."""
    publisher = publisher_of(execution(outside=2))
    for text in ("1", "2", "3"):
        publisher.push(None, text)

    assert (Pushed(text="3", index=2),) == told(publisher)
    assert (ChunkBatch(number=0, texts=("3",), start=2),) == publisher.unsaved(())[0]


def test_limits() -> None:
    """The run's bytes include what is stored, without what was rolled back."""
    publisher = publisher_of(execution(limits=Limits(stream_step=6, stream_run=10), streamed=4))
    first = inside(1)
    publisher.push(first, "123456")
    with pytest.raises(LimitExceededError, match=r"step 'a' .* 7 bytes.*Limits\.stream_step"):
        publisher.push(first, "7")
    with pytest.raises(LimitExceededError, match=r"11 bytes.*Limits\.stream_run"):
        publisher.push(None, "7")
    publisher.roll_back(first)
    publisher.push(None, "7")


def test_the_handoff() -> None:
    """It notes where the stream is, once; the next checkpoint has to store that."""
    publisher = publisher_of(execution())
    publisher.push(None, "0")
    publisher.push(inside(), "1")
    assert publisher.begin_handoff()
    assert not publisher.begin_handoff()
    _, handoff = publisher.unsaved(())

    assert f"0.1;{A}:1.1:1" == handoff == publisher.log.handoff
    assert (None) is publisher.unsaved(())[1]


def test_the_end_of_an_execution() -> None:
    """What is not known to be durable is void."""
    publisher = publisher_of(execution())
    publisher.push(inside(), "1")
    publisher.unsaved((done(1),))
    publisher.end()

    assert RolledBack(op_id=A, attempt=(1, 1)) == told(publisher)[-1]


def test_writes_of_another_claim_are_not_its_own() -> None:
    """A commit of another epoch says nothing about this execution."""
    publisher = publisher_of(execution())
    publisher.committed(memo_write(epoch=2, memos=(done(1),)))

    assert () == told(publisher)


def test_an_execution_that_was_replaced_is_silent() -> None:
    """What an execution that has lost its run still does reaches nobody."""
    old = publisher_of(execution())
    new = Publisher(execution(), old.log)
    old.log.attach_publisher(new)
    old.push(inside(), "1")
    old.roll_back(inside())

    batch = old.log.read(LogPosition(2, 0))
    assert batch is not None
    assert () == batch.events


def test_an_unwound_handler_pushes_nothing_outside_steps() -> None:
    """What it pushes on its way out has no place: the replay counts its chunks from the start."""
    ex = execution()
    publisher = publisher_of(ex)
    publisher.push(None, "0")
    ex.take(ExecutionEvent.UNWIND)
    publisher.push(None, "out")
    publisher.push(inside(), "1")

    chunks = [
        (each.op_id, each.index, each.text) for each in told(publisher) if type(each) is Pushed
    ]
    assert [(None, 0, "0"), (A, 0, "1")] == chunks


def test_a_stream_may_be_opened_while_the_run_goes_on() -> None:
    """A reader does that in its own thread; the steps that end meanwhile do it no harm."""
    ex = execution()

    class Meanwhile:
        """A memo; while its number is read, another step ends."""

        @property
        def completion_no(self) -> int:
            ex.memos["another"] = done(2)
            return 1

    ex.memos["one"] = cast("Memo", Meanwhile())
    publisher = publisher_of(ex)

    assert isinstance(publisher, Publisher)
    assert ["one", "another"] == list(ex.memos)


def test_what_is_live_costs_a_reader_nothing() -> None:
    """What a snapshot shows stays as it is, yet no reader has a copy of it."""
    publisher = publisher_of(execution())
    attempt = inside()
    for number in range(10_000):
        publisher.push(attempt, str(number))
        publisher.push(None, str(number))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        first = publisher.live()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    publisher.push(attempt, "more")
    publisher.push(None, "more")

    assert after - before < 8 * 10_000 + 2_000  # the references to the chunks outside steps
    assert 10_000 == len(first.attempts[1, 1].texts) == len(first.handler_chunks)
    assert "9999" == first.attempts[1, 1].texts[-1] == first.handler_chunks[-1].text


def test_what_is_live_says_up_to_where_all_is_over() -> None:
    """No open attempt has a number up to that: the last commit, or what was there before."""
    publisher = publisher_of(execution(memo(4)))
    publisher.push(inside(), "1")
    with publisher.log.lock:
        before = publisher.live().done
    publisher.unsaved([done(7)])
    with publisher.log.lock:
        saved = publisher.live().done
    publisher.committed(memo_write(memos=(done(7),)))
    with publisher.log.lock:
        committed = publisher.live().done

    assert (4, 4, 7) == (before, saved, committed)


def test_an_execution_says_what_others_may_know_of_it() -> None:
    """That its run has a record, and that it is over."""
    ex = execution()
    ex.stored = False
    publisher = publisher_of(ex)
    states = [(publisher.is_stored, publisher.finished)]
    ex.stored = True
    states.append((publisher.is_stored, publisher.finished))
    publisher.end()
    states.append((publisher.is_stored, publisher.finished))

    assert [(False, False), (True, False), (False, True)] == states


def test_only_so_many_steps_stream_at_a_time() -> None:
    """The id of an event names each of them, and must fit into a header; those that are over
    make room.
    """
    publisher = publisher_of(execution())
    attempts = [StepAttempt(op_named(str(number), OpKind.RUN), (1, number)) for number in range(65)]
    for attempt in attempts[:64]:
        publisher.push(attempt, "1")
        publisher.push(attempt, "2")
    with pytest.raises(LimitExceededError, match="step '64' may not stream while 64 other steps"):
        publisher.push(attempts[64], "1")
    publisher.begin_handoff()
    longest_id = len(publisher.log.handoff or "")
    publisher.roll_back(attempts[0])
    publisher.push(attempts[64], "1")

    assert 3000 < longest_id < 4096
    assert 64 == len(publisher.live().attempts)


def test_what_a_step_pushed_is_saved_in_batches() -> None:
    """No batch has more than 64 KiB; the last one says that it is the last."""
    publisher = publisher_of(execution())
    attempt = inside()
    for _ in range(10):
        publisher.push(attempt, "1" * 30_000)
        publisher.push(None, "2" * 30_000)

    batches, _ = publisher.unsaved((done(1),))

    of_step = [batch for batch in batches if batch.op_id is not None]
    outside = [batch for batch in batches if batch.op_id is None]
    assert [False] * 4 + [True] == [batch.last for batch in of_step]
    assert [0, 2, 4, 6, 8] == [batch.start for batch in of_step]
    assert [0, 2, 4, 6, 8] == [batch.start for batch in outside]
    assert max(batch.size for batch in batches) <= 64 * 1024


def test_a_chunk_that_is_too_large_is_refused() -> None:
    """It names the limit, and the stream goes on without it."""
    publisher = publisher_of(execution())

    with pytest.raises(LimitExceededError, match=r"262145 .*stream_chunk"):
        publisher.push(inside(), "1" * (256 * 1024 + 1))
    publisher.push(inside(), "1" * (256 * 1024))

    [opened] = publisher.live().attempts.values()
    assert 1 == len(opened.texts)
