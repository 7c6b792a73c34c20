"""Results as text: what functions of steps and handlers return, by the types that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durable_core.codec.json import Codec
from durable_core.errors import StepTypeError
from durable_core.flow.attempt import Call
from durable_core.flow.effects import Flow
from durable_core.http.response import Response
from durable_core.model.event import Event, Signal, TypedEvent
from durable_core.model.step import Op

if TYPE_CHECKING:
    from durable_core.codec.typed import ValueType  # takes a while, and not all need it

__all__ = [
    "dump_result",
    "load_result",
    "result_remedy",
    "typed_event",
    "typed_response",
    "typed_signal",
]


def dump_result(codec: Codec, kind: ValueType, value: object) -> str:
    """Return the text of what a step's function has returned, which is of a type.

    Raises:
        TypeError: it is not of the type, or would not come back; the message begins with the path.
        Exception: what a codec of the user's raises.
    """
    text = codec.encode(kind.dump(value))
    kind.load(codec.decode(text))  # what a class refuses now, it would refuse in every replay
    return text


def load_result(call: Call, op: Op, value: object) -> object:
    """Return the decoded result of a step as the type that the code names now.

    Raises:
        StepTypeError: it does not fit that type (any more); the message has step, path and remedy.
    """
    if call.result is None:
        return value
    try:
        return call.result.load(value)
    except TypeError as error:
        raise StepTypeError(
            f"the stored result of step {op.name!r} does not fit {call.result.name}: {error}; let "
            "the type take what is stored (a new field needs a default), or give the step a new id"
        ) from error


def result_remedy(call: Call, error: Exception) -> str:
    """Return what to do about a result without a type that is no JSON; else nothing."""
    if call.result is not None or not isinstance(error, TypeError):
        return ""
    from durable_core.codec.forms import UnknownTypeError
    from durable_core.codec.typed import return_type

    try:
        return_type(call.fn)
    except UnknownTypeError as unknown:
        return f"; {unknown}: name a type that has one, as step.options(result=...), or return JSON"
    return (
        "; name its type, as the function's return annotation or step.options(result=...), or "
        "return JSON"
    )


def typed_event(
    flow: Flow[Event | None], op: Op, kind: ValueType
) -> Flow[TypedEvent[object] | None]:
    """Return the event of a wait with its data as a type.

    Args:
        flow: the wait.
        op: its step.
        kind: the type.

    Raises:
        StepTypeError: the data is not of the type; the message has step, event, path and remedy.
    """
    event = yield from flow
    if event is None:
        return None
    try:
        data = kind.load(dict(event.data))
    except TypeError as error:
        raise StepTypeError(
            f"the data of event {event.name!r} ({event.id}), which ended step {op.name!r}, does "
            f"not fit {kind.name}: {error}; let the type take what is sent, or mend its sender"
        ) from error
    return TypedEvent(event.name, data, event.id, event.ts)


def typed_signal(
    flow: Flow[Signal[Any] | None], op: Op, kind: ValueType
) -> Flow[Signal[object] | None]:
    """Return the signal of a wait with its data as a type.

    Args:
        flow: the wait.
        op: its step.
        kind: the type.

    Raises:
        StepTypeError: the data is not of the type; the message has step, signal, path and remedy.
    """
    signal = yield from flow
    if signal is None:
        return None
    try:
        return Signal(signal.name, kind.load(signal.data))
    except TypeError as error:
        raise StepTypeError(
            f"the data of signal {signal.name!r}, which ended step {op.name!r}, does not fit "
            f"{kind.name}: {error}; let the type take what is sent, or mend its sender"
        ) from error


def typed_response(kind: ValueType | None, value: object) -> Response:
    """Return the response for the value of a handler, which may name a type for it.

    Raises:
        TypeError, ValueError: it is neither of the type nor a response.
    """
    if kind is None or isinstance(value, (Response, bytes)):
        return Response.from_value(value)
    return Response.from_value(kind.dump(value))
