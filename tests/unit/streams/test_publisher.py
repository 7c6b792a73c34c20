"""The stream of one execution."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest

from durable_conformance.store_values import memo, memo_write
from durable_core.errors import LimitExceededError
from durable_core.flow.checkpoint import StoredExecution
from durable_core.flow.effects import StepAttempt
from durable_core.flow.env import Limits
from durable_core.flow.execution import ExecutionEvent
from durable_core.flow.stream_reader import LogPosition
from durable_core.machine.step_ids import hash_step_id
from durable_core.model.step import Memo, Op, OpKind
from durable_core.model.stream import ChunkBatch, Committed, Pushed, RolledBack, Streamed
from durable_core.streams.log import RunLog
from durable_core.streams.publisher import Publisher
from support.executions import execution

A = hash_step_id("a")


def emitter_of(ex: StoredExecution) -> Publisher:
    log = RunLog("r1")
    log.follow(lambda: None)
    emitter = Publisher(ex, log)
    log.attach_publisher(emitter)
    ex.stream = emitter
    return emitter


def inside(number: int = 1) -> StepAttempt:
    return StepAttempt("a", A, (1, number))


def done(number: int, *, ok: bool = True) -> Memo:
    return replace(memo(number), op=Op(id=A, name="a", kind=OpKind.RUN), ok=ok)


def told(emitter: Publisher) -> Sequence[Streamed]:
    batch = emitter.log.read(LogPosition(1, 0))
    assert batch is not None
    return batch.events


def test_a_step_pushes_saves_and_commits() -> None:
    """Its chunks go out at once, are saved with its memo, and are durable with the write."""
    emitter = emitter_of(execution())
    attempt = inside()
    emitter.push(attempt, '"x"')
    before = emitter.live()
    attempt.function_ended = True
    pieces, handoff = emitter.unsaved((done(1),))
    emitter.committed(replace(memo_write(), memos=(done(1),), chunks=pieces))

    piece = ChunkBatch(number=1, texts=('"x"',), op_id=A, attempt=(1, 1))
    assert ((piece,), None) == (pieces, handoff)
    [(pushing, opened)] = before.attempts.items()
    assert ((1, 1), A, ['"x"']) == (pushing, opened.op_id, list(opened.texts))
    assert {} == emitter.live().attempts
    chunk = Pushed(text='"x"', index=0, op_id=A, attempt=(1, 1), number=1)
    assert (chunk, Committed(op_id=A, number=1)) == told(emitter)


def test_a_failed_attempt_is_rolled_back_once() -> None:
    """Nothing of it is saved; one that is being saved is not rolled back."""
    emitter = emitter_of(execution())
    failed = inside(1)
    emitter.push(failed, "1")
    emitter.roll_back(failed)
    nothing, _ = emitter.unsaved((done(1, ok=False),))
    second = inside(2)
    emitter.push(second, "2")
    emitter.unsaved((done(2),))
    emitter.roll_back(second)

    assert () == nothing
    assert [RolledBack(op_id=A, attempt=(1, 1))] == [
        event for event in told(emitter) if isinstance(event, RolledBack)
    ]


def test_what_a_step_has_left_behind_pushes_nothing() -> None:
    """Neither after its function has ended, nor after its run was closed."""
    ex = execution()
    emitter = emitter_of(ex)
    attempt = inside()
    attempt.function_ended = True
    emitter.push(attempt, "1")
    ex.close()
    emitter.push(inside(2), "2")

    assert () == told(emitter)


def test_outside_steps() -> None:
    """Chunks are saved with the next checkpoint, under the number of the step before."""
    emitter = emitter_of(execution(done(3)))
    emitter.push(None, "1")
    first, _ = emitter.unsaved((done(5),))
    emitter.push(None, "2")
    live = emitter.live().handler_chunks
    emitter.committed(replace(memo_write(), memos=(), chunks=first))
    second, _ = emitter.unsaved(())

    assert (ChunkBatch(number=3, texts=("1",), start=0),) == first
    assert (ChunkBatch(number=5, texts=("2",), start=1),) == second
    assert ["1", "2"] == [chunk.text for chunk in live]
    assert ["2"] == [chunk.text for chunk in emitter.live().handler_chunks]


def test_a_replay_pushes_what_is_stored_in_vain() -> None:
    """The first chunks of a replay are those that are stored."""
    emitter = emitter_of(execution(outside=2))
    for text in ("1", "2", "3"):
        emitter.push(None, text)

    assert (Pushed(text="3", index=2),) == told(emitter)
    assert (ChunkBatch(number=0, texts=("3",), start=2),) == emitter.unsaved(())[0]


def test_limits() -> None:
    """The run's bytes include what is stored, without what was rolled back."""
    emitter = emitter_of(execution(limits=Limits(stream_step=6, stream_run=10), streamed=4))
    first = inside(1)
    emitter.push(first, "123456")
    with pytest.raises(LimitExceededError, match=r"step 'a' .* 7 bytes.*Limits\.stream_step"):
        emitter.push(first, "7")
    with pytest.raises(LimitExceededError, match=r"11 bytes.*Limits\.stream_run"):
        emitter.push(None, "7")
    emitter.roll_back(first)
    emitter.push(None, "7")


def test_the_handoff() -> None:
    """It notes where the stream is, once; the next checkpoint has to store that."""
    emitter = emitter_of(execution())
    emitter.push(None, "0")
    emitter.push(inside(), "1")
    assert emitter.begin_handoff()
    assert not emitter.begin_handoff()
    _, handoff = emitter.unsaved(())

    assert f"0.1;{A}:1.1:1" == handoff == emitter.log.handoff
    assert (None) is emitter.unsaved(())[1]


def test_the_end_of_an_execution() -> None:
    """What is not known to be durable is void."""
    emitter = emitter_of(execution())
    emitter.push(inside(), "1")
    emitter.unsaved((done(1),))
    emitter.end()

    assert RolledBack(op_id=A, attempt=(1, 1)) == told(emitter)[-1]


def test_writes_of_another_claim_are_not_its_own() -> None:
    """A commit of another epoch says nothing about this execution."""
    emitter = emitter_of(execution())
    emitter.committed(replace(memo_write(epoch=2), memos=(done(1),)))

    assert () == told(emitter)


def test_an_execution_that_was_replaced_is_silent() -> None:
    """What an execution that has lost its run still does reaches nobody."""
    old = emitter_of(execution())
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
    emitter = emitter_of(ex)
    emitter.push(None, "0")
    ex.take(ExecutionEvent.UNWIND)
    emitter.push(None, "out")
    emitter.push(inside(), "1")

    chunks = [(each.op_id, each.index, each.text) for each in told(emitter) if type(each) is Pushed]
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
    emitter = emitter_of(ex)

    assert isinstance(emitter, Publisher)
    assert ["one", "another"] == list(ex.memos)


def test_what_is_live_costs_a_reader_nothing() -> None:
    """What a snapshot shows stays as it is, yet no reader has a copy of it."""
    emitter = emitter_of(execution())
    attempt = inside()
    for number in range(10_000):
        emitter.push(attempt, str(number))
        emitter.push(None, str(number))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        first = emitter.live()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    emitter.push(attempt, "more")
    emitter.push(None, "more")

    assert after - before < 8 * 10_000 + 2_000  # the references to the chunks outside steps
    assert 10_000 == len(first.attempts[1, 1].texts) == len(first.handler_chunks)
    assert "9999" == first.attempts[1, 1].texts[-1] == first.handler_chunks[-1].text


def test_what_is_live_says_up_to_where_all_is_over() -> None:
    """No open attempt has a number up to that: the last commit, or what was there before."""
    emitter = emitter_of(execution(memo(4)))
    emitter.push(inside(), "1")
    with emitter.log.lock:
        before = emitter.live().done
    emitter.unsaved([done(7)])
    with emitter.log.lock:
        saved = emitter.live().done
    emitter.committed(replace(memo_write(), memos=(done(7),)))
    with emitter.log.lock:
        committed = emitter.live().done

    assert (4, 4, 7) == (before, saved, committed)


def test_an_execution_says_what_others_may_know_of_it() -> None:
    """That its run has a record, and that it is over."""
    ex = execution()
    ex.stored = False
    emitter = emitter_of(ex)
    states = [(emitter.is_stored, emitter.finished)]
    ex.stored = True
    states.append((emitter.is_stored, emitter.finished))
    emitter.end()
    states.append((emitter.is_stored, emitter.finished))

    assert [(False, False), (True, False), (False, True)] == states
