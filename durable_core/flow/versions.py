"""Changed code: what a replay asks for is compared with what the run has stored.

Only what is certain is noticed. The steps of one task or thread come in one order; those of several
may come in another order in each replay.
"""

from __future__ import annotations

from durable_core.errors import StepKindError, StepOrderError
from durable_core.flow.effects import Flow, log_warning, park, see_if_alone
from durable_core.flow.execution import StoredExecution
from durable_core.model.run import versioned_key
from durable_core.model.step import FailedAttempt, Op, OpKind

__all__ = [
    "check_end",
    "check_kind",
    "check_order",
    "is_misfit",
    "kind_mismatch",
    "new_step_before",
    "parking",
    "unasked_steps",
]

#: So many steps are named.
_MOST_NAMES = 5
#: How much of the reason is kept with the run, characters.
_MOST_CHARS = 1_000


#: How users know the kinds of steps.
_METHODS = {
    OpKind.RUN: "step.run",
    OpKind.SLEEP: "step.sleep",
    OpKind.WAIT: "step.wait_for_event",
    OpKind.SEND: "step.send_event",
    OpKind.SIGNAL: "step.wait_for_signal",
    OpKind.SEND_SIGNAL: "step.send_signal",
    OpKind.CALLBACK: "step.wait_for_callback",
    OpKind.INVOKE: "step.invoke",
}


def check_kind(ex: StoredExecution, stored: OpKind, op: Op) -> Flow[None]:
    """Refuse a step that is stored as one of another kind.

    Raises:
        StepKindError: always, unless the run is left to older code.
    """
    text = kind_mismatch(stored, op)
    if _can_park(ex):
        yield from _leave(ex, text)
        yield from _wait_for_unwinding(ex, op)
    raise StepKindError(text)


def check_order(ex: StoredExecution, op: Op) -> Flow[None]:
    """See that a new step comes after those that are stored.

    With ``on_mismatch="park"`` it does not return if the run is left to older code.

    Raises:
        StepOrderError: it does not, and the endpoint has ``on_mismatch="fail"``, or the run has no
            older code that it could be left to.
    """
    # Another branch may come to what is stored before this step: it has not asked for it yet.
    if ex.is_sequential and (yield from see_if_alone()):
        yield from _report(ex, new_step_before(ex, op))
        if is_misfit(ex):
            yield from _wait_for_unwinding(ex, op)


def check_end(ex: StoredExecution) -> Flow[None]:
    """See that a handler that has returned has asked for all that is stored.

    With ``on_mismatch="park"`` the run may be a misfit afterwards.

    Raises:
        StepOrderError: as :func:`check_order`.
    """
    text = (
        f"the handler has ended without {unasked_steps(ex)}, which the run has stored; was a step "
        "removed or renamed? Keep it while runs have it"
    )
    yield from _report(ex, text)


def kind_mismatch(stored: OpKind, op: Op) -> str:
    """Return in words that a step is stored as one of another kind."""
    return (
        f"step {op.name!r} is stored as {_METHODS[stored]}, and the code now asks for "
        f"{_METHODS[op.kind]}; give the new step an id of its own"
    )


def new_step_before(ex: StoredExecution, op: Op) -> str:
    """Return in words that a new step comes before some that are stored."""
    return (
        f"the code asks for the new step {op.name!r} before {unasked_steps(ex)}, which the run has "
        "stored; was a step added, removed or renamed? Put a new step behind "
        "'if step.patched(...)', and keep an old one while runs have it"
    )


def unasked_steps(ex: StoredExecution) -> str:
    """Return the names of the stored steps that this replay has not asked for, the first few."""
    known = [each.op.name for each in ex.memos.values() if each.op.id in ex.unasked]
    known += [each.op.name for each in ex.pending.values() if each.op.id in ex.unasked]
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return f"step {', '.join(map(repr, known[:_MOST_NAMES]))}{more}"


def is_misfit(ex: StoredExecution) -> bool:
    """Tell whether the run is left to the code of its own version."""
    return bool(getattr(ex, "misfit", ""))


def parking(ex: StoredExecution) -> tuple[str | None, tuple[FailedAttempt, ...]]:
    """Return the key under which a suspended run waits for code that fits, and why, as it is kept.

    The reason is the attempt 0 of the handler, which counts as none. The key is None, and there is
    no reason, if the code of this process fits.
    """
    version = ex.run.version
    if version is None or not is_misfit(ex):
        return None, ()
    now = ex.env.clock.now()
    why = FailedAttempt(
        op_id="",
        number=ex.run.failures,
        started_at=ex.started_at,
        ended_at=now,
        error_name="StepOrderError",
        error_message=ex.misfit[:_MOST_CHARS],
        retry_at=now,
    )
    return versioned_key(ex.run.endpoint_key, version), (why,)


def _can_park(ex: StoredExecution) -> bool:
    """Tell whether a misfit is left to older code: such code would be known by its version."""
    options, version = ex.options, ex.run.version
    return options.on_mismatch == "park" and version not in (None, options.version)


def _report(ex: StoredExecution, text: str) -> Flow[None]:
    ex.unasked = set()  # once is enough
    if _can_park(ex):
        yield from _leave(ex, text)
        return
    if ex.options.on_mismatch != "warn":
        raise StepOrderError(text)
    yield from log_warning(f"the code has changed since the run began: {text}")


def _leave(ex: StoredExecution, text: str) -> Flow[None]:
    """Stop here; the run will be suspended as one of the code of its own version."""
    ex.misfit = text
    ex.stop()
    whose = f"the run is left to the code of version {ex.run.version!r}"
    yield from log_warning(f"the code has changed since the run began, {whose}: {text}")


def _wait_for_unwinding(ex: StoredExecution, op: Op) -> Flow[None]:
    while True:
        yield from park(op.id, None)
        ex.check_open()
