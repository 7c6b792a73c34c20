"""The steps of a run, as tests look at them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from durable_core.errors import StepError
from durable_core.model.ops import Memo, OpKind
from durable_core.ports import RunRecord
from durable_core.wire.codec import Codec
from durable_core.wire.errors import load_step_error
from durable_core.wire.events import load_event

__all__ = ["StepRecord", "steps_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What has become of one step.

    Attributes:
        name: its id, with ``:1``, ``:2`` appended where the id repeats.
        kind: ``"run"``, ``"sleep"``, ``"wait"`` or ``"send"``.
        done: it has finished and will not run again.
        attempts: how often it was tried, as the store has it: planned failures count, what a
            crash has undone does not.
        calls: how often its function was really called.
        result: what the handler gets: the result of ``run``, the ids of ``send``, the ``Event``
            (or None) of ``wait``; None while the step is not done, or has failed.
        error: how it has failed for good, or None.
    """

    name: str
    kind: str
    done: bool
    attempts: int
    calls: int = 0
    result: object = None
    error: StepError | None = None


def steps_of(record: RunRecord, codec: Codec, calls: Mapping[str, int]) -> tuple[StepRecord, ...]:
    """Return the finished steps of a run in the order in which they finished, then the others.

    Args:
        record: the run.
        codec: how results are stored.
        calls: how often the function of each step was called, by its name.
    """
    return (*_finished(record, codec, calls), *_unfinished(record, calls))


def _finished(record: RunRecord, codec: Codec, calls: Mapping[str, int]) -> Iterator[StepRecord]:
    for memo in record.memos:
        name = memo.op.name
        yield StepRecord(
            name=name,
            kind=memo.op.kind.value,
            done=True,
            attempts=memo.attempts,
            calls=calls.get(name, 0),
            result=_result(memo, codec) if memo.ok else None,
            error=None if memo.ok else load_step_error(name, memo.value),
        )


def _unfinished(record: RunRecord, calls: Mapping[str, int]) -> Iterator[StepRecord]:
    for pending in record.pending:
        name = pending.op.name
        yield StepRecord(
            name=name,
            kind=pending.op.kind.value,
            done=False,
            attempts=pending.failures,
            calls=calls.get(name, 0),
        )


def _result(memo: Memo, codec: Codec) -> object:
    match memo.op.kind:
        case OpKind.RUN:
            return codec.decode(memo.value)
        case OpKind.WAIT:
            return None if memo.value == "null" else load_event(memo.value)
    return json.loads(memo.value)
