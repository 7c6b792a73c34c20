"""Which steps of a failed run are executed again when it is retried."""

from __future__ import annotations

from durable_core.ports import RunRecord

__all__ = ["steps_to_retry"]


def steps_to_retry(record: RunRecord) -> tuple[str, ...]:
    """Return the ids of the ops that a retried run executes again.

    These are the ops whose failure the handler has failed by, and what it did because of that; and
    the failed ones after which nothing was begun, as other branches that have failed at the same
    time. The handler has gone on after any other failure: what it did then would not fit another
    outcome of that op.

    Args:
        record: a failed run, with its steps and attempts.
    """
    handlers = [each for each in record.failed_attempts if not each.op_id]
    last = max(handlers, key=lambda each: (each.ended_at, each.number), default=None)
    causes = () if last is None else last.caused_by
    begun = [
        (memo.op.id, memo.ended_at if memo.started_at is None else memo.started_at)
        for memo in record.memos
    ]
    return tuple(
        memo.op.id
        for memo in record.memos
        if memo.op.name in causes
        or not (memo.ok or any(at >= memo.ended_at for id, at in begun if id != memo.op.id))
    )
