"""What has ended of a live run although no memo of it is stored yet.

The end of a sleep, which a replay would find again, is stored with the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from durable_core.model.step import Memo, OpKind, Pending

if TYPE_CHECKING:
    from durable_core.ports import RunRecord

__all__ = ["with_ended_sleeps", "with_memos"]


def with_memos(record: RunRecord, memos: Sequence[Memo]) -> RunRecord:
    """Return the record with those of the memos that it does not have."""
    stored = {memo.op.id for memo in record.memos}
    new = tuple(memo for memo in memos if memo.op.id not in stored)
    ended = {memo.op.id for memo in new}
    pending = tuple(each for each in record.pending if each.op.id not in ended)
    return replace(record, memos=(*record.memos, *new), pending=pending)


def with_ended_sleeps(record: RunRecord, now: int) -> RunRecord:
    """Return the record with the ends of the sleeps that are over, of a run that a process has.

    A run that no process has sleeps on until one claims it, and one that was cancelled for good.

    Args:
        record: the run, with its unfinished ops.
        now: epoch milliseconds.
    """
    if record.owner is None or record.run.cancel_reason is not None:
        return record
    over = (each for each in record.pending if each.op.kind is OpKind.SLEEP and each.due_at <= now)
    last = max((memo.completion_no for memo in record.memos), default=0)
    return with_memos(record, [_end(each, last + n) for n, each in enumerate(over, 1)])


def _end(sleep: Pending, completion_no: int) -> Memo:
    return Memo(
        op=sleep.op,
        completion_no=completion_no,
        ok=True,
        value="null",
        event_seq=sleep.event_seq,
        attempts=1,
        ended_at=sleep.due_at,
        started_at=sleep.started_at,
    )
