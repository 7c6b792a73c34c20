"""Child runs: what ``step.invoke`` begins and what it makes of the end of that."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from durable_core.codec.records import dump_head, load_response
from durable_core.errors import StepError, StepTypeError
from durable_core.flow.error_responses import cancelled_response
from durable_core.http.response import Response
from durable_core.machine.addresses import child_address
from durable_core.model.decision import Failure
from durable_core.model.event import Event
from durable_core.model.run import Phase, Run
from durable_core.model.step import Op
from durable_core.ports import Cancel, Delivery, NewRun, StoredResult

if TYPE_CHECKING:
    from durable_core.codec.typed import ValueType  # takes a while, and not all need it
    from durable_core.flow.effects import Flow

__all__ = [
    "MAX_DEPTH",
    "Invocation",
    "cancellation",
    "child_outcome",
    "child_response",
    "end_deliveries",
    "typed_child",
]

#: A run has at most so many runs above it.
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Invocation:
    """What the flow of ``step.invoke`` needs of its engine. The functions may block.

    Attributes:
        start: makes the child, given the time, epoch milliseconds.
        read: returns the outcome of a child that has ended, given its id.
        give_up: cancels a child that has taken too long, given its id; returns the outcome, which
            is that of the child if it has ended just before.
        timeout: how long to wait for the child, milliseconds.
        wait_in_place: how long a run whose client is attached waits before this is handed off,
            milliseconds.
    """

    start: Callable[[int], NewRun]
    read: Callable[[str], str | Failure]
    give_up: Callable[[str], str | Failure]
    timeout: int
    wait_in_place: int


def end_deliveries(run_id: str, parent: str | None, phase: Phase, now: int) -> tuple[Delivery, ...]:
    """Return what is delivered with the end of a run: its parent, if it has one, waits for it."""
    if parent is None:
        return ()
    event = Event("run/ended", {"phase": phase.value}, id=run_id, ts=now)
    return (Delivery(address=child_address(run_id), run_id=parent, event=event),)


def cancellation(run: Run, reason: str, now: int) -> Cancel:
    """Return the message that cancels a run, for a reason that its clients are told or ""."""
    response = cancelled_response(replace(run, cancel_reason=reason))
    assert isinstance(response.body, bytes)
    result = StoredResult(
        phase=Phase.CANCELLED, head=dump_head(response), body=response.body, ended_at=now
    )
    deliveries = end_deliveries(run.id, run.parent, Phase.CANCELLED, now)
    return Cancel(app=run.app, run_id=run.id, result=result, reason=reason, deliveries=deliveries)


def child_outcome(run_id: str, result: StoredResult | Phase | None) -> str | Failure:
    """Return what ``step.invoke`` makes of a child: the text to store, or why it has failed.

    Args:
        run_id: the child.
        result: how it has ended, as the store has it.
    """
    if not isinstance(result, StoredResult):
        return _failure("RunGone", f"run {run_id} is no longer kept", run_id)
    if result.body is None:
        return _failure("ResponseNotKept", f"the response of run {run_id} was not kept", run_id)
    if result.phase is not Phase.COMPLETED:
        problem = _problem_of(result.body)
        name = "RunCancelled" if result.phase is Phase.CANCELLED else "RunFailed"
        detail = problem.get("detail")
        text = detail if isinstance(detail, str) else "the child run has failed"
        return _failure(name, text, run_id, problem)
    stored: dict[str, object] = {"run_id": run_id, "head": result.head}
    try:
        stored["text"] = result.body.decode("utf-8")
    except UnicodeDecodeError:
        stored["base64"] = b64encode(result.body).decode("ascii")
    return json.dumps(stored, ensure_ascii=False)


def _failure(
    name: str, message: str, run_id: str, problem: dict[str, Any] | None = None
) -> Failure:
    data = json.dumps({**(problem or {}), "run_id": run_id}, ensure_ascii=False)
    return Failure(name=name, message=message, data=data, retriable=False)


def _problem_of(body: bytes) -> dict[str, Any]:
    try:
        problem = json.loads(body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def child_response(text: str) -> Response:
    """Return the response that :func:`child_outcome` has made a text of."""
    stored = json.loads(text)
    body = stored["text"].encode() if "text" in stored else b64decode(stored["base64"])
    return load_response(stored["head"], body)


def typed_child(flow: Flow[Response], op: Op, kind: ValueType) -> Flow[object]:
    """Return the JSON of a child's response as a type.

    Args:
        flow: that of the step.
        op: the step.
        kind: the type.

    Raises:
        StepError: the response has another status than 2xx.
        StepTypeError: its body is not of the type; the message has step, path and remedy.
    """
    response = yield from flow
    body = response.body
    assert isinstance(body, bytes)
    if not 200 <= response.status < 300:
        text = f"the endpoint has answered with status {response.status}"
        raise StepError(op.name, "HTTPStatus", text, {"status": response.status})
    try:
        return kind.load(json.loads(body))
    except (TypeError, ValueError) as error:
        raise StepTypeError(
            f"the response to step {op.name!r} does not fit {kind.name}: {error}; let the type "
            "take what the endpoint sends, or leave result= out to get the response itself"
        ) from error
