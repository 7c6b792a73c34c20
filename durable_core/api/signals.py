"""``step.wait_for_signal`` and ``step.send_signal``: messages to the run that waits for a name."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from durable_core.api.function_steps import current_scope, named, parsed
from durable_core.duration import Duration, parse_duration
from durable_core.flow.scope import HandlerKind, RunScope
from durable_core.flow.step_options import parse_type
from durable_core.model.event import Signal, SignalWait
from durable_core.model.step import OpKind

if TYPE_CHECKING:
    from durable_core.flow.effects import Flow

__all__ = ["AsyncSignalSteps", "SignalSteps"]

R = TypeVar("R")


class AsyncSignalSteps:
    """The steps of ``async def`` handlers that wait for signals and send them."""

    @overload
    def wait_for_signal(
        self,
        id: str,
        *,
        signal: str,
        timeout: Duration,
        on_conflict: Literal["fail", "replace"] = "fail",
    ) -> Coroutine[Any, Any, Signal[Any] | None]: ...

    @overload
    def wait_for_signal(
        self,
        id: str,
        *,
        signal: str,
        timeout: Duration,
        on_conflict: Literal["fail", "replace"] = "fail",
        data: type[R],
    ) -> Coroutine[Any, Any, Signal[R] | None]: ...

    def wait_for_signal(
        self,
        id: str,
        *,
        signal: str,
        timeout: Duration,
        on_conflict: Literal["fail", "replace"] = "fail",
        data: Any = None,
    ) -> Coroutine[Any, Any, Any]:
        """Wait for a signal that is sent while this step waits.

        One step of the application waits for a name at a time, unlike an event, which every run
        that waits for it gets. A signal that is sent before is lost.

        Args:
            id: the step's id.
            signal: the name; 1 to 255 characters. Put into it what makes it the run's own, such as
                ``f"approval/{order}"``.
            timeout: how long to wait at most; a duration as in :meth:`AsyncSteps.sleep`.
            on_conflict: what to do if another step waits for the name: ``"fail"``, or ``"replace"``
                it: then that step gets nothing and goes on after its time-out.
            data: the type of the signal's data, such as a dataclass; None leaves it JSON values.

        Returns:
            The signal, or None when the time is over.

        Raises:
            SignalConflictError: another step waits for the name (a StepError).
            StepTypeError: the signal's data is not of the type.
            StepArgumentError: an argument of another form (a ValueError and a TypeError).
        """
        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        coroutine = _wait(scope, id, signal, timeout, on_conflict, data)
        return named("wait_for_signal", id, coroutine)

    def send_signal(
        self, id: str, name: str, data: object = None
    ) -> Coroutine[Any, Any, str | None]:
        """Send a signal to the step that waits for it now, exactly once.

        Args:
            id: the step's id.
            name: of the signal; 1 to 255 characters.
            data: JSON values.

        Returns:
            The id of the run that it went to; None if no step waits for it. Then it is lost.

        Raises:
            StepArgumentError: no such name, or the data is not JSON (a ValueError and a TypeError).
            LimitExceededError: the data is too large.
        """
        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        return named("send_signal", id, _send(scope, id, name, data))


class SignalSteps:
    """The steps of ``def`` handlers that wait for signals and send them."""

    @overload
    def wait_for_signal(
        self,
        id: str,
        *,
        signal: str,
        timeout: Duration,
        on_conflict: Literal["fail", "replace"] = "fail",
    ) -> Signal[Any] | None: ...

    @overload
    def wait_for_signal(
        self,
        id: str,
        *,
        signal: str,
        timeout: Duration,
        on_conflict: Literal["fail", "replace"] = "fail",
        data: type[R],
    ) -> Signal[R] | None: ...

    def wait_for_signal(
        self,
        id: str,
        *,
        signal: str,
        timeout: Duration,
        on_conflict: Literal["fail", "replace"] = "fail",
        data: Any = None,
    ) -> Any:
        """Wait for a signal; see :meth:`AsyncSignalSteps.wait_for_signal`."""
        scope = current_scope(HandlerKind.DEF, id)
        return _wait(scope, id, signal, timeout, on_conflict, data)

    def send_signal(self, id: str, name: str, data: object = None) -> str | None:
        """Send a signal, exactly once; see :meth:`AsyncSignalSteps.send_signal`."""
        scope = current_scope(HandlerKind.DEF, id)
        return cast("str | None", _send(scope, id, name, data))


def _wait(
    scope: RunScope, step_id: str, signal: str, timeout: Duration, on_conflict: str, data: object
) -> Any:
    kind = None if data is None else parse_type(data, "data")
    wait = parsed(step_id, _parse_wait, signal, timeout, on_conflict)
    op = scope.ex.next_op(step_id, OpKind.SIGNAL, scope.current_task())
    flow: Flow[Any] = scope.flows.wait_for_signal(scope.ex, op, wait)
    if kind is not None:
        from durable_core.flow.results import typed_signal  # few waits need it

        flow = typed_signal(flow, op, kind)
    return scope.drive(flow)


def _parse_wait(signal: str, timeout: Duration, on_conflict: str) -> SignalWait:
    if on_conflict not in ("fail", "replace"):
        raise ValueError(f"on_conflict must be 'fail' or 'replace', not {on_conflict!r:.60}")
    return SignalWait(
        Signal(signal, None).name,  # which checks it
        parse_duration(timeout, what="timeout"),
        on_conflict == "replace",
    )


def _send(scope: RunScope, step_id: str, name: str, data: object) -> Any:
    from durable_core.codec.records import check_signal

    signal = parsed(step_id, Signal, name, data)
    parsed(step_id, check_signal, signal, scope.ex.env.limits.event)
    op = scope.ex.next_op(step_id, OpKind.SEND_SIGNAL, scope.current_task())
    return scope.drive(scope.flows.send_signal(scope.ex, op, signal))
