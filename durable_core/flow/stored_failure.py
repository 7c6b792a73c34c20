"""How a run fails that is being undone: it is stored before, as a step of the engine's own."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from durable_core.flow.execution import StoredExecution
from durable_core.machine.step_ids import op_named
from durable_core.model.decision import Fail
from durable_core.model.step import FailedAttempt, Memo, OpKind

__all__ = ["FAILED", "failed_memo", "fields_of", "stored_failure"]

#: The name of the step.
FAILED = "(failed)"


def failed_memo(ex: StoredExecution, fail: Fail) -> Memo:
    """Return the memo that says how a run fails, once it is undone."""
    now = ex.env.clock.now()
    return Memo(
        op=ex.next_undo_op(FAILED),
        completion_no=ex.next_completion_no(),
        ok=True,
        value=json.dumps(fields_of(fail)),
        event_seq=ex.run.event_seq,
        attempts=1,
        ended_at=now,
        started_at=now,
    )


def fields_of(fail: Fail) -> dict[str, Any]:
    """Return what is stored of how a run fails."""
    fields = asdict(fail)
    if fail.failed is not None:
        fields["failed"]["caused_by"] = [*fail.failed.caused_by]
    return fields


def stored_failure(ex: StoredExecution) -> Fail | None:
    """Return how a run fails, once it is undone; None if an earlier execution has not failed it."""
    memo = ex.memos.get(op_named(FAILED, OpKind.RUN).id) if ex.run.undoable else None
    if memo is None:
        return None
    fields = json.loads(memo.value)
    failed = fields.pop("failed")
    if failed is not None:
        failed = FailedAttempt(**{**failed, "caused_by": tuple(failed["caused_by"])})
    return Fail(**fields, failed=failed)
