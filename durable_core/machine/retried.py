"""Which steps of a failed run are executed again when it is retried."""

from __future__ import annotations

from durable_core.ports import RunRecord

__all__ = ["steps_to_retry"]


def steps_to_retry(record: RunRecord) -> tuple[str, ...]:
    """Return the ids of the failed ops that a retried run gets fresh attempts for.

    These are the ops whose failure the handler has failed by, and those after whose failure nothing
    was begun, as other branches that have failed at the same time. The handler has gone on after
    any other one: what it did then would not fit another outcome of that op.

    Args:
        record: a failed run, with its steps and attempts.
    """
    failed = [memo for memo in record.memos if not memo.ok]
    handlers = [each for each in record.failed_attempts if not each.op_id]
    last = max(handlers, key=lambda each: (each.ended_at, each.number), default=None)
    causes = () if last is None else last.caused_by
    begun = [
        (memo.op.id, memo.ended_at if memo.started_at is None else memo.started_at)
        for memo in record.memos
    ]
    return tuple(
        memo.op.id
        for memo in failed
        if memo.op.name in causes
        or not any(at >= memo.ended_at for op_id, at in begun if op_id != memo.op.id)
    )
