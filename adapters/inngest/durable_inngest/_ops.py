"""Ops: what the server is told of the steps of a run, as JSON text.

The value of a step is JSON already, so an op is put together from text, not encoded again.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass

from durable_core.machine.stepids import hash_step_id
from durable_core.model.inputs import Failure
from durable_core.model.ops import Op

__all__ = [
    "COMPLETE",
    "Step",
    "counted_failure",
    "counted_failure_id",
    "discovery",
    "error_of",
    "failed",
    "finished",
    "handler_retry",
    "planned",
    "retry_sleep",
    "run_complete",
    "send_finished",
    "sleep",
    "step_failure",
    "wait",
]

#: The id of the end of a run.
COMPLETE = hash_step_id("complete")
#: Stands in the names of ops of our own; no text of a user's makes the same hashed id.
_OWN = "\x1f"
_LONGEST_NAME = 120
_LONGEST_STACK = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step as the server shows it.

    Attributes:
        op: the op; its name has the index.
        id: what the user called it, without the index.
        began: when its function was called, epoch milliseconds.
        took: how long that took, milliseconds.
    """

    op: Op
    id: str
    began: int = 0
    took: int = 0


def finished(step: Step, value: str) -> str:
    """Return the op of a function that has returned; ``value`` is JSON."""
    return _op(step, "StepRun", f',"data":{value}{_timing(step)}')


def send_finished(step: Step, ids: list[str]) -> str:
    """Return the op of events that were sent."""
    data = _text({"ids": ids})
    rest = f',"data":{data}{_timing(step)}'
    return _op(step, "StepRun", rest, name="sendEvent", opts='{"type":"step.sendEvent"}')


def failed(step: Step, error: dict[str, object]) -> str:
    """Return the op of a function that has raised and is to be tried again by the server."""
    return _op(step, "StepError", f',"error":{_text(error)}{_timing(step)}')


def step_failure(step: Step, error: dict[str, object]) -> str:
    """Return the op of a step that has failed for good."""
    shown = {name: error[name] for name in ("name", "message")}
    data = _text({"__serialized": True, **shown, "stack": ""})
    return _op(step, "StepFailed", f',"error":{_text(error)},"data":{data}{_timing(step)}')


def planned(step: Step) -> str:
    """Return the op of a function that is to be called in a request of its own."""
    return _op(step, "StepPlanned")


def sleep(step: Step, duration: str) -> str:
    """Return the op of a sleep."""
    return _op(step, "Sleep", name=duration)


def wait(step: Step, event: str, timeout: str, expression: str) -> str:
    """Return the op of a wait for an event."""
    opts = {"timeout": timeout, **({"if": expression} if expression else {})}
    return _op(step, "WaitForEvent", name=event, opts=_text(opts))


def discovery(now: int) -> str:
    """Return the op that asks for a request at once."""
    return _text({"id": hash_step_id(f"discovery-request-{now}"), "op": "DiscoveryRequest"})


def run_complete(data: dict[str, object]) -> str:
    """Return the op that ends a run."""
    return _text({"id": COMPLETE, "op": "RunComplete", "data": data})


# -- ops of our own: they count attempts, which the server tells nobody ------------------------


def counted_failure_id(name: str, number: int) -> str:
    """Return the id under which the n-th failure of a step (or of the handler, "") is counted."""
    return hash_step_id(f"{_OWN}failure{_OWN}{name}{_OWN}{number}")


def handler_retry(number: int, error: dict[str, object], duration: str) -> str:
    """Return the sleep before the handler is called again after its n-th failure."""
    shown = f"retry {number} of the handler after {error['name']}: {error['message']}"
    return _own(counted_failure_id("", number), "Sleep", shown, duration)


def retry_sleep(step: Step, number: int, error: dict[str, object], duration: str) -> str:
    """Return the sleep before a step is tried again after its n-th failure."""
    shown = f"retry {number} of {step.op.name} after {error['name']}: {error['message']}"
    return _own(counted_failure_id(step.op.name, number), "Sleep", shown, duration)


def counted_failure(step: Step, number: int, error: dict[str, object], final: bool) -> str:
    """Return the op that keeps the n-th failure of a step for the next request."""
    shown = f"failure {number} of {step.op.name}"
    rest = f',"data":{_text({"error": error, "final": final})}'
    return _own(counted_failure_id(step.op.name, number), "StepRun", shown, shown, rest)


def error_of(failure: Failure, error: BaseException | None) -> dict[str, object]:
    """Return an error as the server shows it, and as replay needs it.

    What only we know goes into ``data``, the one field that the server keeps as it is.
    """
    stack = "".join(traceback.format_exception(error))[-_LONGEST_STACK:] if error else ""
    shown: dict[str, object] = {
        "name": failure.name,
        "message": failure.message,
        "stack": stack.encode("utf-8", "replace").decode() or f"{failure.name}: {failure.message}",
        "__serialized": True,
    }
    data = json.loads(failure.data) if failure.data else None
    if failure.http is not None or failure.cancelled or failure.result:
        own = {"http": failure.http, "cancelled": failure.cancelled, "result": failure.result}
        shown["data"] = {"durable": {**own, "data": data}}
    elif data is not None:
        shown["data"] = data
    return shown


def _own(id: str, op: str, shown: str, name: str, rest: str = "") -> str:
    shown = shown if len(shown) <= _LONGEST_NAME else shown[: _LONGEST_NAME - 1] + "…"
    fields = {"id": id, "op": op, "name": name, "displayName": shown, "opts": {}}
    return _text({**fields, "userland": {"id": shown}})[:-1] + rest + "}"


def _op(step: Step, op: str, rest: str = "", name: str | None = None, opts: str = "{}") -> str:
    id = _text(step.id)
    index = step.op.name[len(step.id) + 1 :]
    userland = f'{{"id":{id},"index":{index}}}' if index else f'{{"id":{id}}}'
    shown = id if name is None else _text(name)
    return (
        f'{{"id":"{step.op.id}","op":"{op}","name":{shown},"opts":{opts},'
        f'"displayName":{id},"userland":{userland}{rest}}}'
    )


def _timing(step: Step) -> str:
    return f',"timing":{{"a":{step.began * 1_000_000},"b":{step.took * 1_000_000}}}'


_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))


def _text(value: object) -> str:
    return _ENCODER.encode(value)
