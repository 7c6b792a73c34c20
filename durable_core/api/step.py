"""The steps as handlers call them: two typed faces over the same flows."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from durable_core.api.step_call import IMPORTS, current_scope, named, parsed
from durable_core.codec.records import check_events
from durable_core.duration import Duration, parse_deadline, parse_duration
from durable_core.errors import StepArgumentError, StepUsageError
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.scope import CURRENT_RUN, HandlerKind, RunScope
from durable_core.flow.step_options import StepKeywords, StepOptions, merge_options, parse_type
from durable_core.http.request import Request
from durable_core.machine.matching import WaitRule, resolve_match, validate_if
from durable_core.model.event import Event, TypedEvent
from durable_core.model.step import Op, OpKind

if TYPE_CHECKING:
    from durable_core.codec.typed import ValueType
    from durable_core.flow.effects import Flow

__all__ = [
    "AsyncFunctionSteps",
    "AsyncSteps",
    "AsyncTypedSteps",
    "FunctionSteps",
    "Steps",
    "TypedSteps",
    "step",
    "sync_step",
]

P = ParamSpec("P")
T = TypeVar("T")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class AsyncFunctionSteps:
    """The steps of ``async def`` handlers that call a function. ``step.options(...)`` makes it.

    Args:
        options: of each of its steps.
    """

    def __init__(self, options: StepOptions | None = None) -> None:
        self._options = options

    @overload
    def run(
        self, id: str, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...

    @overload
    def run(
        self, id: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...

    def run(
        self, id: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, Any]:
        """Call a function once and for all: its result is stored, and replay gets it from there.

        A plain function runs in a worker thread, a coroutine function on the event loop. If it
        raises it is called again later, up to the endpoint's ``retries``.

        Args:
            id: the step's id, 1 to 255 characters.
            fn: what to do; it must not call steps itself.
            *args, **kwargs: handed to it.

        Returns:
            What the function returned, after a round trip through the codec: by default exactly
            str, int, float, bool, None, list and dict with str keys. If the function's return
            annotation, or ``step.options(result=)``, names a type with a form in JSON (such as a
            dataclass, a ``datetime`` or a pydantic model), a value of that type.

        Raises:
            StepError: it failed on the last attempt.
            StepResultError: its result cannot be stored (a StepError and TypeError).
            StepResultTooLargeError: its result is over a limit (a StepError).
            DuplicateStepIdError: another task uses the id.
            StepUsageError: not in a run, inside another step, or ``fn`` is no function.
        """
        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        call = _call(id, fn, args, kwargs, self._options)
        op = scope.ex.next_op(id, OpKind.RUN, scope.current_task())
        flow = scope.flows.run_step(scope.ex, op, call)
        if call.options is not None and call.options.undo is not None:
            flow = _with_undo(scope, op, call.options.undo, flow)
        return named("run", id, scope.drive(flow))

    @overload
    def options(self, **options: Unpack[StepKeywords]) -> AsyncFunctionSteps: ...

    @overload
    def options(
        self, *, result: type[R], **options: Unpack[StepKeywords]
    ) -> AsyncTypedSteps[R]: ...

    @overload
    def options(
        self, *, result: object, **options: Unpack[StepKeywords]
    ) -> AsyncTypedSteps[Any]: ...

    def options(self, *, result: Any = None, **options: Unpack[StepKeywords]) -> Any:
        """Return steps with options: ``await step.options(retries=5).run("charge", charge, cart)``.

        Args:
            result: the type of the result, such as ``Order`` or ``list[Order]``, where the
                function's return annotation does not say it. None leaves that.
            **options: see :class:`StepKeywords`; they change what these steps have.

        Raises:
            StepArgumentError: an option of another type, or out of range (also a ValueError and a
                TypeError).
        """
        return AsyncFunctionSteps(merge_options(self._options, result, **options))

    def __call__(
        self, id: str, /
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
        """Make each call of a coroutine function a step: ``@step("reserve")``.

        In a handler a call of the decorated function is ``step.run(id, function, ...)``. Outside
        runs, and inside the function of another step, it is an ordinary call.

        Args:
            id: the step's id, 1 to 255 characters.

        Raises:
            StepArgumentError: no id, or the function is no coroutine function.
        """
        _check_decorated_id(id)

        def decorate(fn: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Any]:
            import inspect  # takes a while, and few need it

            if not inspect.iscoroutinefunction(fn):
                raise StepArgumentError(
                    f"@step({id!r}) of 'async def' handlers is for coroutine functions, not for "
                    f"{fn!r}; for 'def' functions write '{IMPORTS[HandlerKind.DEF]}'"
                )

            @functools.wraps(fn)
            def call(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
                if _is_in_handler():
                    return self.run(id, fn, *args, **kwargs)
                return fn(*args, **kwargs)

            if sys.version_info >= (3, 12):
                return inspect.markcoroutinefunction(call)
            return call

        return decorate


class AsyncTypedSteps(Protocol[R_co]):
    """Steps whose results are of the type that ``step.options(result=...)`` names."""

    def run(
        self, id: str, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R_co]:
        """Call a function once and for all; see :meth:`AsyncFunctionSteps.run`."""
        ...

    def options(self, **options: Unpack[StepKeywords]) -> AsyncTypedSteps[R_co]:
        """Return steps with further options; see :meth:`AsyncFunctionSteps.options`."""
        ...


class AsyncSteps(AsyncFunctionSteps):
    """The steps of ``async def`` handlers: ``from durable_core import step``.

    Each call must be awaited (directly, through ``asyncio.gather`` or a ``TaskGroup``). A step id
    names the step for ever: a stored run finds its results by it. An id that repeats, as in a
    loop, gets an index, in the order of the calls; all calls of one id must come from one task.
    """

    @property
    def attempt(self) -> int:
        """How often the function of the current step is called with this time; 1 at first.

        Raises:
            StepUsageError: not inside the function of a step.
        """
        return _current_attempt()

    @overload
    def parallel(
        self,
        id: str,
        one: Callable[[], Awaitable[T]],
        two: Callable[[], Awaitable[T2]],
        /,
        *,
        mode: Literal["all"] = "all",
        limit: int | None = None,
    ) -> Coroutine[Any, Any, tuple[T, T2]]: ...

    @overload
    def parallel(
        self,
        id: str,
        one: Callable[[], Awaitable[T]],
        two: Callable[[], Awaitable[T2]],
        three: Callable[[], Awaitable[T3]],
        /,
        *,
        mode: Literal["all"] = "all",
        limit: int | None = None,
    ) -> Coroutine[Any, Any, tuple[T, T2, T3]]: ...

    @overload
    def parallel(
        self,
        id: str,
        /,
        *branches: Callable[[], Awaitable[T]],
        mode: Literal["all"] = "all",
        limit: int | None = None,
    ) -> Coroutine[Any, Any, tuple[T, ...]]: ...

    @overload
    def parallel(
        self,
        id: str,
        /,
        *branches: Callable[[], Awaitable[T]],
        mode: Literal["race"],
        limit: int | None = None,
    ) -> Coroutine[Any, Any, T]: ...

    def parallel(
        self,
        id: str,
        /,
        *branches: Callable[..., Any],
        mode: Literal["all", "race"] = "all",
        limit: int | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Run branches of the handler side by side.

        A branch is a function without arguments that calls steps, such as
        ``lambda: step.run("price", price, cart)``. Each step id may be used in one branch only.

        Args:
            id: the step's id, 1 to 255 characters. In a race the winner is stored under it.
            *branches: at least one; in ``async def`` handlers what they return is awaited.
            mode: ``"all"`` waits for all of them. ``"race"`` takes the first one that returns, now
                and in every replay. The others are cancelled, and their steps are stored as such;
                the thread of a plain function is abandoned.
            limit: how many may run at a time. Default: 8 in ``def`` handlers, where each of them
                takes a thread, else as many as there are.

        Returns:
            The results in the order of the branches; in a race that of the winner.

        Raises:
            StepArgumentError: no branch, or something that is no function, or no such mode.
            Exception: what the first branch in order has raised, once all have ended. In a race
                only if all have failed.
        """
        from durable_core.api.parallel import parallel_async  # takes a while to load

        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        return named("parallel", id, parallel_async(scope, id, branches, mode, limit))

    def patched(self, id: str) -> Coroutine[Any, Any, bool]:
        """Tell whether the run goes the new way: ``if await step.patched("new-branch"):``.

        It is True for runs that come here with this code for the first time, and then in each of
        their replays. It is False for a run that has stored steps after this place, by older code.
        The step that it stores must stay until no older run is left.

        Args:
            id: the step's id, 1 to 255 characters.
        """
        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        return named("patched", id, _patched(scope, id))

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
        return named("wait_for_event", id, _wait(scope, id, event, timeout, match, if_, data))

    def send_event(
        self, id: str, events: Event | Sequence[Event]
    ) -> Coroutine[Any, Any, list[str]]:
        """Send events, exactly once; return their ids.

        Raises:
            TypeError, ValueError: not events.
            LimitExceededError: one is too large.
        """
        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        return named("send_event", id, _send(scope, id, events))


class FunctionSteps:
    """The steps of ``def`` handlers that call a function. ``step.options(...)`` makes it.

    Args:
        options: of each of its steps.
    """

    def __init__(self, options: StepOptions | None = None) -> None:
        self._options = options

    def run(self, id: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a plain function once and for all; see :meth:`AsyncFunctionSteps.run`."""
        scope = current_scope(HandlerKind.DEF, id)
        call = _call(id, fn, args, kwargs, self._options)
        op = scope.ex.next_op(id, OpKind.RUN, scope.current_task())
        flow = scope.flows.run_step(scope.ex, op, call)
        if call.options is not None and call.options.undo is not None:
            flow = _with_undo(scope, op, call.options.undo, flow)
        result: T = scope.drive(flow)
        return result

    @overload
    def options(self, **options: Unpack[StepKeywords]) -> FunctionSteps: ...

    @overload
    def options(self, *, result: type[R], **options: Unpack[StepKeywords]) -> TypedSteps[R]: ...

    @overload
    def options(self, *, result: object, **options: Unpack[StepKeywords]) -> TypedSteps[Any]: ...

    def options(self, *, result: Any = None, **options: Unpack[StepKeywords]) -> Any:
        """Return steps with options: ``step.options(retries=5).run("charge", charge, cart)``.

        See :meth:`AsyncFunctionSteps.options`.
        """
        return FunctionSteps(merge_options(self._options, result, **options))

    def __call__(self, id: str, /) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Make each call of a plain function a step; see :meth:`AsyncFunctionSteps.__call__`."""
        _check_decorated_id(id)

        def decorate(fn: Callable[P, T]) -> Callable[P, T]:
            import inspect  # see above

            if inspect.iscoroutinefunction(fn) or not callable(fn):
                raise StepArgumentError(
                    f"@step({id!r}) of 'def' handlers is for plain functions, not for {fn!r}; for "
                    f"'async def' functions write '{IMPORTS[HandlerKind.ASYNC_DEF]}'"
                )

            @functools.wraps(fn)
            def call(*args: P.args, **kwargs: P.kwargs) -> T:
                if _is_in_handler():
                    return self.run(id, fn, *args, **kwargs)
                return fn(*args, **kwargs)

            return call

        return decorate


class TypedSteps(Protocol[R_co]):
    """Steps whose results are of the type that ``step.options(result=...)`` names."""

    def run(self, id: str, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call a plain function once and for all; see :meth:`AsyncFunctionSteps.run`."""
        ...

    def options(self, **options: Unpack[StepKeywords]) -> TypedSteps[R_co]:
        """Return steps with further options; see :meth:`AsyncFunctionSteps.options`."""
        ...


class Steps(FunctionSteps):
    """The steps of ``def`` handlers: ``from durable_core.sync import step``.

    As :class:`AsyncSteps`, but each call blocks. A step that cannot finish now unwinds the handler
    by a signal that ``except Exception`` lets pass; the handler is replayed later.
    """

    @property
    def attempt(self) -> int:
        """How often the function of the current step is called with this time; 1 at first.

        Raises:
            StepUsageError: not inside the function of a step.
        """
        return _current_attempt()

    @overload
    def parallel(
        self,
        id: str,
        one: Callable[[], T],
        two: Callable[[], T2],
        /,
        *,
        mode: Literal["all"] = "all",
        limit: int | None = None,
    ) -> tuple[T, T2]: ...

    @overload
    def parallel(
        self,
        id: str,
        one: Callable[[], T],
        two: Callable[[], T2],
        three: Callable[[], T3],
        /,
        *,
        mode: Literal["all"] = "all",
        limit: int | None = None,
    ) -> tuple[T, T2, T3]: ...

    @overload
    def parallel(
        self,
        id: str,
        /,
        *branches: Callable[[], T],
        mode: Literal["all"] = "all",
        limit: int | None = None,
    ) -> tuple[T, ...]: ...

    @overload
    def parallel(
        self,
        id: str,
        /,
        *branches: Callable[[], T],
        mode: Literal["race"],
        limit: int | None = None,
    ) -> T: ...

    def parallel(
        self,
        id: str,
        /,
        *branches: Callable[..., Any],
        mode: Literal["all", "race"] = "all",
        limit: int | None = None,
    ) -> Any:
        """Run branches of the handler in threads; see :meth:`AsyncSteps.parallel`."""
        from durable_core.api.parallel import parallel  # takes a while to load

        return parallel(current_scope(HandlerKind.DEF, id), id, branches, mode, limit)

    def patched(self, id: str) -> bool:
        """Tell whether the run goes the new way; see :meth:`AsyncSteps.patched`."""
        scope = current_scope(HandlerKind.DEF, id)
        return bool(_patched(scope, id))

    def sleep(self, id: str, duration: Duration) -> None:
        """Go on after so long; see :meth:`AsyncSteps.sleep`."""
        _sleep(current_scope(HandlerKind.DEF, id), id, duration)

    def sleep_until(self, id: str, deadline: datetime) -> None:
        """Go on at a time; see :meth:`AsyncSteps.sleep_until`."""
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
        """Wait for an event; see :meth:`AsyncSteps.wait_for_event`."""
        scope = current_scope(HandlerKind.DEF, id)
        return _wait(scope, id, event, timeout, match, if_, data)

    def send_event(self, id: str, events: Event | Sequence[Event]) -> list[str]:
        """Send events, exactly once; see :meth:`AsyncSteps.send_event`."""
        return cast("list[str]", _send(current_scope(HandlerKind.DEF, id), id, events))


#: The steps of ``async def`` handlers.
step = AsyncSteps()
#: The steps of ``def`` handlers.
sync_step = Steps()


def _call(
    step_id: str,
    fn: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: StepOptions | None,
) -> Call:
    if callable(fn):
        if options is not None and options.result is not None:
            return Call(fn, args, kwargs, options, _unless_plain(options.result))
        if type(fn) is FunctionType or type(fn) is MethodType:
            # Every step does this, so it is done without a call where that is possible.
            hints = fn.__annotations__
            try:
                if "return" not in hints or hints["return"] in _JSON_TYPES:
                    return Call(fn, args, kwargs, options)
            except TypeError:  # the annotation has no hash
                pass
            if _is_json_text(hints["return"]):
                return Call(fn, args, kwargs, options)
        return Call(fn, args, kwargs, options, _result_type(fn))
    if isinstance(fn, Coroutine):
        fn.close()  # it was made by mistake; that it is never awaited is not the news
    raise StepUsageError(
        f"step {step_id!r} was given an object of type {type(fn).__name__} for its function; hand "
        "over the function and its arguments, as in step.run(id, fn, *args), without calling it"
    )


#: Return annotations whose values are stored as they are. Annotations that are text are added when
#: they are met, if they name builtins only: another name may mean another class in each module.
_JSON_TYPES: set[object] = {None, "None", str, "str", int, "int", float, "float", bool, "bool"}
_MOST_JSON_TYPES = 1000
_BUILTINS = re.compile(r"(?:\b(?:str|int|float|bool|None|object|Any|list|dict)\b|[\[\]|, ])+")


def _is_json_text(hint: object) -> bool:
    """Tell whether an annotation is text that names nothing but types of JSON; remember it."""
    if not isinstance(hint, str) or _BUILTINS.fullmatch(hint) is None:
        return False
    if len(_JSON_TYPES) < _MOST_JSON_TYPES:
        _JSON_TYPES.add(hint)
    return True


def _result_type(fn: Callable[..., object]) -> ValueType | None:
    """Return the type of what a function returns; None if that is JSON, or nobody knows it."""
    from durable_core.codec.typed import result_type  # takes a while, and not all need it

    return result_type(fn)


def _with_undo(
    scope: RunScope, op: Op, undo: Callable[[Any], object], flow: Flow[object]
) -> Flow[object]:
    """Return the flow of a step that remembers, once it has succeeded, what undoes it."""
    from durable_core.flow.undo import MAX_NAME, registered  # few steps need it

    if len(op.name) > MAX_NAME:
        raise StepArgumentError(
            f"step {op.name!r}: the id of a step with undo= has at most {MAX_NAME} characters"
        )
    return registered(scope.ex, op, undo, flow)


def _unless_plain(kind: ValueType) -> ValueType | None:
    return None if kind.is_plain else kind


def _check_decorated_id(step_id: object) -> None:
    if not isinstance(step_id, str):
        raise StepArgumentError(
            f"a step is decorated with its id, as in @step('reserve'); {step_id!r} is no id"
        )


def _current_attempt() -> int:
    scope = CURRENT_RUN.get()
    if not isinstance(scope, StepAttempt):
        raise StepUsageError(
            "step.attempt was read outside the function of a step; run.attempt is the handler's own"
        )
    return scope.number


def _patched(scope: RunScope, step_id: str) -> Any:
    """Drive the flow of ``step.patched``."""
    op = scope.ex.next_op(step_id, OpKind.RUN, scope.current_task())
    return scope.drive(_patch(scope, op))


def _patch(scope: RunScope, op: Op) -> Flow[bool]:
    ex = scope.ex
    if not ex.has_outcome(op) and ex.is_replaying(op.name):
        ex.unawaited.pop(op.id, None)
        return False
    return bool((yield from scope.flows.run_step(ex, op, Call(bool, (1,)))))


def _is_in_handler() -> bool:
    """Tell whether a step may be called here: in a handler, and not inside another step."""
    scope = CURRENT_RUN.get()
    return scope is not None and not isinstance(scope, StepAttempt)


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


def _wait(
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


def _send(scope: RunScope, step_id: str, events: Event | Sequence[Event]) -> Any:
    limits = scope.ex.env.limits
    checked = parsed(step_id, check_events, events, most=limits.events, largest=limits.event)
    op = scope.ex.next_op(step_id, OpKind.SEND, scope.current_task())
    return scope.drive(scope.flows.send_events(scope.ex, op, checked))
