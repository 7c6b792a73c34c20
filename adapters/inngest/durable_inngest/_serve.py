"""One execution of a handler under this engine, from its start to whatever ends it."""

from __future__ import annotations

import json

from durable_core.errors import StoreError, Suspended
from durable_core.flow.asks import Cancelled, Flow, Unwound, handle, report
from durable_core.flow.execution import Execution
from durable_core.flow.serve import unavailable
from durable_core.model.commands import HandoffReason
from durable_core.model.response import Response
from durable_inngest import _ops
from durable_inngest._answers import answer_ops, answer_with, server_answer
from durable_inngest._concluding import answer_client, conclude, refer
from durable_inngest._execution import Found, RemoteExecution, remote
from durable_inngest._reporting import tell

__all__ = ["detach", "execute", "put_away"]

_MOST_NAMED = 25


def execute(execution: Execution) -> Flow[None]:
    """Run the handler, and tell the server and the client what has come of it."""
    ex = remote(execution)
    try:
        outcome = yield from handle()
        if ex.answered:
            return
        if ex.closed or isinstance(outcome, (Unwound, Cancelled)):
            yield from put_away(ex)
        else:
            yield from conclude(ex, outcome)
    except Suspended:
        yield from _refuse(ex)
    finally:
        ex.close()
        if ex.emitter is not None:
            ex.emitter.end()


def put_away(execution: Execution) -> Flow[None]:
    """The handler was unwound: tell the server what to go on from."""
    ex = remote(execution)
    if ex.answered:
        return
    if ex.fault is not None:
        yield from _refuse(ex)
        return
    try:
        if ex.link is not None:
            yield from _hand_over(ex)
        else:
            yield from _report_found(ex)
    except Suspended:
        yield from _refuse(ex)


def detach(execution: Execution, reason: HandoffReason) -> Flow[None]:
    """Do nothing: a run whose client is gone is reported to its end, as if it were there."""
    return
    yield  # a flow, as those of other engines are


# -- while the client is attached --------------------------------------------------------------


def _hand_over(ex: RemoteExecution) -> Flow[None]:
    """Report what was found, so that the server goes on, and send the client where to wait."""
    assert ex.link is not None
    yield from tell(ex, ex.link, *_to_hand_over(ex))
    yield from refer(ex, ex.link)


def _to_hand_over(ex: RemoteExecution) -> list[str]:
    """Return the ops that take the run to the server; the last one makes it call again.

    The server keeps count of steps that go on side by side only where they are reported in the
    answer to a call of its own: several are kept back for that.
    """
    if len(ex.found) == 1 and not ex.found[0].detour:
        return [ex.found[0].op]
    kept = [
        _ops.counted_failure(each.step, ex.counted(each.step.op.name) + 1, each.error, each.final)
        for each in ex.in_order()
        if each.error is not None
    ]
    return [*kept, _ops.discovery(ex.env.clock.now())]


# -- on a re-entry -----------------------------------------------------------------------------


def _report_found(ex: RemoteExecution) -> Flow[None]:
    assert ex.reentry is not None
    if ex.found:
        failed: Found | None = ex.found[0] if ex.found[0].final and len(ex.found) == 1 else None
        yield from answer_ops(ex, [each.op for each in ex.in_order()], failed)
    elif ex.reentry.target and not ex.cut_short:
        yield from answer_with(ex, _not_found(ex, ex.reentry.target))
    else:
        yield from answer_ops(ex, [_ops.discovery(ex.env.clock.now())])


def _not_found(ex: RemoteExecution, target: str) -> Response:
    """Return the answer where the handler asks for other steps than the one to be run."""
    new = [each for each in ex.pending.values() if each.op.id not in ex.actions]
    fields = {
        "error": "the handler does not ask for the requested step",
        "requestedStep": target,
        "foundSteps": [
            {"id": each.op.id, "name": each.op.name, "displayName": each.op.name}
            for each in new[:_MOST_NAMED]
        ],
        "totalFoundSteps": len(new),
    }
    return server_answer(500, json.dumps(fields), (("x-inngest-no-retry", "false"),))


def _refuse(ex: RemoteExecution) -> Flow[None]:
    """Nothing of this execution counts: tell whoever waits for the answer."""
    if isinstance(ex.fault, StoreError) and ex.link is not None:
        yield from report(f"the run could not be recorded, it is lost: {ex.fault}")
        yield from answer_client(ex, unavailable(ex.fault), failed=True)
