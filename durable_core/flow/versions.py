"""Changed code: what a replay asks for is compared with what the run has stored.

Only what is certain is noticed. The steps of one task or thread come in one order; those of several
may come in another order in each replay.
"""

from __future__ import annotations

from durable_core.errors import StepOrderError
from durable_core.flow.effects import Flow, log_warning
from durable_core.flow.execution import StoredExecution
from durable_core.model.step import Op

__all__ = ["check_end", "check_order"]

#: So many steps are named.
_MOST_NAMES = 5


def check_order(ex: StoredExecution, op: Op) -> Flow[None]:
    """See that a new step comes after those that are stored.

    Raises:
        StepOrderError: it does not, and the endpoint has ``on_mismatch="fail"``.
    """
    if ex.is_sequential:
        text = (
            f"the code asks for the new step {op.name!r} before {_unasked(ex)}, which the run has "
            "stored; a new step belongs after a step.patched(...), or in a new endpoint"
        )
        yield from _report(ex, text)


def check_end(ex: StoredExecution) -> Flow[None]:
    """See that a handler that has returned has asked for all that is stored.

    Raises:
        StepOrderError: it has not, and the endpoint has ``on_mismatch="fail"``.
    """
    text = f"the handler has ended without {_unasked(ex)}, which the run has stored"
    yield from _report(ex, text)


def _report(ex: StoredExecution, text: str) -> Flow[None]:
    ex.unasked = set()  # once is enough
    if ex.options.on_mismatch == "fail":
        raise StepOrderError(text)
    yield from log_warning(f"the code has changed since the run began: {text}")


def _unasked(ex: StoredExecution) -> str:
    known = [each.op.name for each in ex.memos.values() if each.op.id in ex.unasked]
    known += [each.op.name for each in ex.pending.values() if each.op.id in ex.unasked]
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return f"step {', '.join(map(repr, known[:_MOST_NAMES]))}{more}"
