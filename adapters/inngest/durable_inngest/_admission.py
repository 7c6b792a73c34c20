"""Which step may run: any while the client is attached, at most one on a re-entry."""

from __future__ import annotations

from durable_core.flow.asks import Flow, in_turn
from durable_core.model.ops import Op
from durable_inngest import _ops
from durable_inngest._execution import Found, Reentry, RemoteExecution
from durable_inngest._failing import known_failure

__all__ = ["admitted"]

#: Later than any memo.
_LAST = 2**62
#: So many turns of the loop without a new step mean that all that can be asked for now has been.
_CALM = 8


def admitted(ex: RemoteExecution, op: Op) -> Flow[bool]:
    """Tell whether the function of a step may be called here and now.

    If not, the server was left what it needs to know, or will be asked again.
    """
    reentry = ex.reentry
    if reentry is None:
        return True
    if reentry.target and op.id != reentry.target:
        return False
    if not reentry.target:
        ex.candidates[op.id] = ex.step(op)
        yield from _until_calm(ex)
        if ex.running is not None or ex.answered:
            return False
        if _must_plan(ex, reentry):
            ex.found.append(Found(step=ex.step(op), op=_ops.planned(ex.step(op))))
            return False
    failure = known_failure(ex, ex.step(op))
    if failure is not None:
        ex.found.append(failure)
        return False
    ex.running = op.id
    return True


def _must_plan(ex: RemoteExecution, reentry: Reentry) -> bool:
    """Tell whether steps are to be run in requests of their own: there are several of them."""
    others = [each for each in ex.found if each.step.op.id not in ex.candidates]
    return reentry.force_plan or len(ex.candidates) + len(others) > 1


def _until_calm(ex: RemoteExecution) -> Flow[None]:
    seen, calm = ex.activity, 0
    while calm < _CALM:
        yield from in_turn(_LAST)
        calm = calm + 1 if ex.activity == seen else 0
        seen = ex.activity
