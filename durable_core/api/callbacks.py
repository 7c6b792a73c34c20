"""Callbacks: ``step.wait_for_callback``, and the answers that come by POST."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, overload

from durable_core.api.function_steps import current_scope, named, parsed
from durable_core.duration import Duration, parse_duration
from durable_core.flow.scope import HandlerKind, RunScope
from durable_core.flow.step_options import parse_type
from durable_core.model.step import OpKind

if TYPE_CHECKING:
    from durable_core.flow.effects import Flow
    from durable_core.http.request import Request

__all__ = ["AsyncCallbackSteps", "CallbackSteps"]

R = TypeVar("R")


class AsyncCallbackSteps:
    """The steps of ``async def`` handlers that wait for callbacks."""

    @overload
    def wait_for_callback(
        self, id: str, *, timeout: Duration
    ) -> Coroutine[Any, Any, Request | None]: ...

    @overload
    def wait_for_callback(
        self, id: str, *, timeout: Duration, data: type[R]
    ) -> Coroutine[Any, Any, R | None]: ...

    def wait_for_callback(
        self, id: str, *, timeout: Duration, data: Any = None
    ) -> Coroutine[Any, Any, Any]:
        """Wait for the answer to ``run.callback_url(id)``, which somebody POSTs there.

        It does not matter whether the answer comes before the run waits. The first one counts.

        Args:
            id: the step's id.
            timeout: how long to wait at most; a duration as in :meth:`AsyncSteps.sleep`.
            data: the type of the JSON in the answer's body, such as a dataclass.

        Returns:
            The answer, a ``Request`` without the token in its URL, or None when the time is over.
            With ``data`` what is in its body, as that type.

        Raises:
            StepTypeError: the body is not JSON, or not of the type.
            StepArgumentError: an argument of another form (a ValueError and a TypeError).
            StepUsageError: the engine has no callbacks.
        """
        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        return named("wait_for_callback", id, _wait(scope, id, timeout, data))


class CallbackSteps:
    """The steps of ``def`` handlers that wait for callbacks."""

    @overload
    def wait_for_callback(self, id: str, *, timeout: Duration) -> Request | None: ...

    @overload
    def wait_for_callback(self, id: str, *, timeout: Duration, data: type[R]) -> R | None: ...

    def wait_for_callback(self, id: str, *, timeout: Duration, data: Any = None) -> Any:
        """Wait for an answer by POST; see :meth:`AsyncCallbackSteps.wait_for_callback`."""
        return _wait(current_scope(HandlerKind.DEF, id), id, timeout, data)


def _wait(scope: RunScope, step_id: str, timeout: Duration, data: object) -> Any:
    kind = None if data is None else parse_type(data, "data")
    length = parsed(step_id, parse_duration, timeout, what="timeout")
    op = scope.ex.next_op(step_id, OpKind.CALLBACK, scope.current_task())
    flow: Flow[Any] = scope.flows.wait_for_callback(scope.ex, op, length)
    if kind is not None:
        from durable_core.flow.callbacks import typed_callback  # few waits need it

        flow = typed_callback(flow, op, kind)
    return scope.drive(flow)
