"""The steps that wait, and those that send what others wait for: two typed faces."""

from __future__ import annotations

import functools
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from durable_core.api.function_steps import current_scope, named, parsed
from durable_core.codec.records import check_events, check_signal
from durable_core.duration import Duration, parse_deadline, parse_duration
from durable_core.flow.scope import HandlerKind, RunScope
from durable_core.flow.step_options import parse_type
from durable_core.http.request import Request
from durable_core.machine.matching import WaitRule, resolve_match, validate_if
from durable_core.model.event import Event, Signal, SignalWait, TypedEvent
from durable_core.model.step import OpKind

if TYPE_CHECKING:
    from durable_core.flow.effects import Flow

__all__ = ["AsyncWaitSteps", "WaitSteps"]

R = TypeVar("R")


class AsyncWaitSteps:
    """The steps of ``async def`` handlers that wait, and those that send what others wait for."""

    def sleep(self, id: str, duration: Duration) -> Coroutine[Any, Any, None]:
        """Go on after so long, however often the process restarts meanwhile.

        Args:
            id: the step's id.
            duration: such as ``"30s"``, ``"1h30m"``, ``"2 days"``, a number of seconds or a
                ``timedelta``; 0 to 366 days. 0 goes on at once.

        Raises:
            ValueError: not a duration.
        """
        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        return named("sleep", id, _sleep(scope, id, duration))

    def sleep_until(self, id: str, deadline: datetime) -> Coroutine[Any, Any, None]:
        """Go on at a time; at once if it is past.

        Args:
            id: the step's id.
            deadline: an aware ``datetime`` at most 366 days ahead.

        Raises:
            ValueError: naive, or too far ahead.
        """
        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        return named("sleep_until", id, _sleep_until(scope, id, deadline))

    @overload
    def wait_for_event(
        self,
        id: str,
        *,
        event: str,
        timeout: Duration,
        match: str | None = None,
        if_: Mapping[str, object] | None = None,
    ) -> Coroutine[Any, Any, Event | None]: ...

    @overload
    def wait_for_event(
        self,
        id: str,
        *,
        event: str,
        timeout: Duration,
        match: str | None = None,
        if_: Mapping[str, object] | None = None,
        data: type[R],
    ) -> Coroutine[Any, Any, TypedEvent[R] | None]: ...

    def wait_for_event(
        self,
        id: str,
        *,
        event: str,
        timeout: Duration,
        match: str | None = None,
        if_: Mapping[str, object] | None = None,
        data: Any = None,
    ) -> Coroutine[Any, Any, Any]:
        """Wait for an event that is sent after the step before, or after the run began.

        Args:
            id: the step's id.
            event: the event's name.
            timeout: how long to wait at most; a duration as in :meth:`sleep`.
            match: ``"data.<x>"``: the event's value there must be the one that the run's own
                request has as ``<x>`` in its path parameters, query or JSON body.
            if_: values that the event must have, such as ``{"data.status": "paid"}``.
            data: the type of the event's data, such as a dataclass; None leaves it a dict.

        Returns:
            The event, or None when the time is over. With ``data`` it is a ``TypedEvent``.

        Raises:
            MatchError: the request has no such value.
            StepTypeError: the event's data is not of the type.
            ValueError, TypeError: an argument of another form, or both ``match`` and ``if_``.
        """
        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        return named(
            "wait_for_event", id, _wait_for_event(scope, id, event, timeout, match, if_, data)
        )

    def send_event(
        self, id: str, events: Event | Sequence[Event]
    ) -> Coroutine[Any, Any, list[str]]:
        """Send events, exactly once; return their ids.

        Raises:
            TypeError, ValueError: not events.
            LimitExceededError: one is too large.
        """
        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        return named("send_event", id, _send_event(scope, id, events))

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
            timeout: how long to wait at most; a duration as in :meth:`sleep`.
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
        coroutine = _wait_for_signal(scope, id, signal, timeout, on_conflict, data)
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
        return named("send_signal", id, _send_signal(scope, id, name, data))

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
            timeout: how long to wait at most; a duration as in :meth:`sleep`.
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
        return named("wait_for_callback", id, _wait_for_callback(scope, id, timeout, data))


class WaitSteps:
    """The steps of ``def`` handlers that wait, and those that send what others wait for."""

    def sleep(self, id: str, duration: Duration) -> None:
        """Go on after so long; see :meth:`AsyncWaitSteps.sleep`."""
        _sleep(current_scope(HandlerKind.DEF, id), id, duration)

    def sleep_until(self, id: str, deadline: datetime) -> None:
        """Go on at a time; see :meth:`AsyncWaitSteps.sleep_until`."""
        _sleep_until(current_scope(HandlerKind.DEF, id), id, deadline)

    @overload
    def wait_for_event(
        self,
        id: str,
        *,
        event: str,
        timeout: Duration,
        match: str | None = None,
        if_: Mapping[str, object] | None = None,
    ) -> Event | None: ...

    @overload
    def wait_for_event(
        self,
        id: str,
        *,
        event: str,
        timeout: Duration,
        match: str | None = None,
        if_: Mapping[str, object] | None = None,
        data: type[R],
    ) -> TypedEvent[R] | None: ...

    def wait_for_event(
        self,
        id: str,
        *,
        event: str,
        timeout: Duration,
        match: str | None = None,
        if_: Mapping[str, object] | None = None,
        data: Any = None,
    ) -> Any:
        """Wait for an event; see :meth:`AsyncWaitSteps.wait_for_event`."""
        scope = current_scope(HandlerKind.DEF, id)
        return _wait_for_event(scope, id, event, timeout, match, if_, data)

    def send_event(self, id: str, events: Event | Sequence[Event]) -> list[str]:
        """Send events, exactly once; see :meth:`AsyncWaitSteps.send_event`."""
        return cast("list[str]", _send_event(current_scope(HandlerKind.DEF, id), id, events))

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
        """Wait for a signal; see :meth:`AsyncWaitSteps.wait_for_signal`."""
        scope = current_scope(HandlerKind.DEF, id)
        return _wait_for_signal(scope, id, signal, timeout, on_conflict, data)

    def send_signal(self, id: str, name: str, data: object = None) -> str | None:
        """Send a signal, exactly once; see :meth:`AsyncWaitSteps.send_signal`."""
        scope = current_scope(HandlerKind.DEF, id)
        return cast("str | None", _send_signal(scope, id, name, data))

    @overload
    def wait_for_callback(self, id: str, *, timeout: Duration) -> Request | None: ...

    @overload
    def wait_for_callback(self, id: str, *, timeout: Duration, data: type[R]) -> R | None: ...

    def wait_for_callback(self, id: str, *, timeout: Duration, data: Any = None) -> Any:
        """Wait for an answer by POST; see :meth:`AsyncWaitSteps.wait_for_callback`."""
        return _wait_for_callback(current_scope(HandlerKind.DEF, id), id, timeout, data)


def _sleep(scope: RunScope, step_id: str, duration: Duration) -> Any:
    length = parsed(step_id, parse_duration, duration)
    op = scope.ex.next_op(step_id, OpKind.SLEEP, scope.current_task())
    return scope.drive(
        scope.flows.sleep_until(scope.ex, op, functools.partial(int.__add__, length))
    )


def _sleep_until(scope: RunScope, step_id: str, deadline: datetime) -> Any:
    due_at = parsed(step_id, parse_deadline, deadline, now=scope.ex.env.clock.now())
    op = scope.ex.next_op(step_id, OpKind.SLEEP, scope.current_task())
    return scope.drive(scope.flows.sleep_until(scope.ex, op, lambda now: due_at))


def _wait_for_event(
    scope: RunScope,
    step_id: str,
    event: str,
    timeout: Duration,
    match: str | None,
    if_: Mapping[str, object] | None,
    data: object,
) -> Any:
    kind = None if data is None else parse_type(data, "data")
    rule = parsed(step_id, _wait_rule, scope.ex.request, event, match, if_)
    length = parsed(step_id, parse_duration, timeout, what="timeout")
    op = scope.ex.next_op(step_id, OpKind.WAIT, scope.current_task())
    flow: Flow[Any] = scope.flows.wait_for_event(scope.ex, op, rule, length)
    if kind is not None:
        from durable_core.flow.results import typed_event  # few waits need it

        flow = typed_event(flow, op, kind)
    return scope.drive(flow)


def _wait_rule(
    request: Request, event: str, match: str | None, if_: Mapping[str, object] | None
) -> WaitRule:
    if match is not None and if_ is not None:
        raise ValueError("give either match= or if_=, not both")
    Event(event)  # checks the name
    return WaitRule(
        event=event,
        match=None if match is None else resolve_match(match, request),
        conditions=() if if_ is None else validate_if(if_),
    )


def _send_event(scope: RunScope, step_id: str, events: Event | Sequence[Event]) -> Any:
    limits = scope.ex.env.limits
    checked = parsed(step_id, check_events, events, most=limits.events, largest=limits.event)
    op = scope.ex.next_op(step_id, OpKind.SEND, scope.current_task())
    return scope.drive(scope.flows.send_events(scope.ex, op, checked))


def _wait_for_signal(
    scope: RunScope, step_id: str, signal: str, timeout: Duration, on_conflict: str, data: object
) -> Any:
    kind = None if data is None else parse_type(data, "data")
    wait = parsed(step_id, _signal_wait, signal, timeout, on_conflict)
    op = scope.ex.next_op(step_id, OpKind.SIGNAL, scope.current_task())
    flow: Flow[Any] = scope.flows.wait_for_signal(scope.ex, op, wait)
    if kind is not None:
        from durable_core.flow.results import typed_signal  # few waits need it

        flow = typed_signal(flow, op, kind)
    return scope.drive(flow)


def _signal_wait(signal: str, timeout: Duration, on_conflict: str) -> SignalWait:
    if on_conflict not in ("fail", "replace"):
        raise ValueError(f"on_conflict must be 'fail' or 'replace', not {on_conflict!r:.60}")
    return SignalWait(
        Signal(signal, None).name,  # which checks it
        parse_duration(timeout, what="timeout"),
        on_conflict == "replace",
    )


def _send_signal(scope: RunScope, step_id: str, name: str, data: object) -> Any:
    signal = parsed(step_id, Signal, name, data)
    parsed(step_id, check_signal, signal, scope.ex.env.limits.event)
    op = scope.ex.next_op(step_id, OpKind.SEND_SIGNAL, scope.current_task())
    return scope.drive(scope.flows.send_signal(scope.ex, op, signal))


def _wait_for_callback(scope: RunScope, step_id: str, timeout: Duration, data: object) -> Any:
    kind = None if data is None else parse_type(data, "data")
    length = parsed(step_id, parse_duration, timeout, what="timeout")
    op = scope.ex.next_op(step_id, OpKind.CALLBACK, scope.current_task())
    flow: Flow[Any] = scope.flows.wait_for_callback(scope.ex, op, length)
    if kind is not None:
        from durable_core.flow.callbacks import typed_callback  # few waits need it

        flow = typed_callback(flow, op, kind)
    return scope.drive(flow)
