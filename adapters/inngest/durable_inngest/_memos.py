"""The state of a run as the server hands it over: the outcomes of its steps by hashed id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from durable_core.errors import StepError
from durable_core.model.events import Event
from durable_core.wire.errors import load_step_error

__all__ = ["Failed", "Value", "load_event_memo", "load_failure", "load_outcome"]

_TYPED = ("data", "error", "input")


@dataclass(frozen=True, slots=True)
class Value:
    """A step has this result."""

    value: object


@dataclass(frozen=True, slots=True)
class Failed:
    """A step has failed for good, with this error."""

    error: Mapping[str, object]


def load_outcome(memo: object) -> Value | Failed | None:
    """Return what a memo says; None if the step is still to be run.

    An object with nothing but ``data``, ``error`` or ``input`` (and a ``type`` that says which) is
    that; anything else is itself the value.
    """
    if isinstance(memo, dict):
        keys = set(memo)
        for kind in _TYPED:
            if keys == {kind} or (keys == {kind, "type"} and memo["type"] == kind):
                return _typed(kind, memo[kind])
    return Value(memo)


def load_failure(step_name: str, error: Mapping[str, object]) -> StepError:
    """Return what the handler sees of a failed step.

    Args:
        step_name: the step, with its index.
        error: the error as the server keeps it, whoever wrote it.
    """
    fields: dict[str, object] = {
        "name": _text(error.get("name")) or "Error",
        "message": _text(error.get("message")) or _text(error.get("error")) or "Unknown error",
    }
    data = error.get("data")
    own = data.get("durable") if isinstance(data, dict) and set(data) == {"durable"} else None
    if isinstance(own, dict):
        data = own.get("data")
        if own.get("cancelled") is True:
            fields["cancelled"] = True
        if isinstance(own.get("result"), str):
            fields["result"] = own["result"]
        if isinstance(own.get("http"), list):
            fields["http"] = own["http"]
    if data is not None:
        fields["data"] = data
    return load_step_error(step_name, json.dumps(fields))


def load_event_memo(value: object) -> Event | None:
    """Return the event that ended a wait; None if its time ran out.

    Raises:
        ValueError: it is no event.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("what ended the wait is no event")
    data, id, ts = value.get("data"), value.get("id"), value.get("ts")
    return Event(
        value["name"],
        data if isinstance(data, dict) else {},
        id if isinstance(id, str) and id else None,
        ts if isinstance(ts, int) and ts >= 0 else None,
    )


def _typed(kind: str, inner: object) -> Value | Failed | None:
    if kind == "data":
        return Value(inner)
    if kind == "input":
        return None
    return Failed(inner if isinstance(inner, dict) else {"message": _text(inner)})


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
