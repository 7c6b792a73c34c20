"""The steps that call a function, and what the call of any step does: two typed faces."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine
from types import FunctionType, GenericAlias, MethodType, UnionType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from durable_core.errors import NonRetriableError, StepArgumentError, StepUsageError
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.scope import HandlerKind, RunScope, current_run
from durable_core.flow.step_options import StepOptions
from durable_core.model.step import Op, OpKind

if TYPE_CHECKING:
    from durable_core.codec.typed import ValueType
    from durable_core.flow.effects import Flow

__all__ = [
    "IMPORTS",
    "AsyncFunctionSteps",
    "FunctionSteps",
    "current_scope",
    "named",
    "parsed",
    "with_undo",
]

P = ParamSpec("P")
T = TypeVar("T")

#: What every step hands over, see ``flow/execution.py``.
_DEF, _ASYNC_DEF, _RUN = HandlerKind.DEF, HandlerKind.ASYNC_DEF, OpKind.RUN


class AsyncFunctionSteps:
    """The steps of ``async def`` handlers that call a function.

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
        scope = current_run()
        if scope is None or scope.kind is not _ASYNC_DEF:
            scope = current_scope(_ASYNC_DEF, id)
        call = _call(id, fn, args, kwargs, self._options)
        op = scope.ex.next_op(id, _RUN, scope.current_task())
        if call.options is None or call.options.undo is None:
            coroutine = scope.run_step(op, call)
            coroutine.__qualname__ = _show_call("run", id)  # as named() does
            result: Coroutine[Any, Any, Any] = coroutine
            return result
        flow = with_undo(scope, op, call.options.undo, scope.flows.run_step(scope.ex, op, call))
        return named("run", id, scope.drive(flow))

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


class FunctionSteps:
    """The steps of ``def`` handlers that call a function.

    Args:
        options: of each of its steps.
    """

    def __init__(self, options: StepOptions | None = None) -> None:
        self._options = options

    def run(self, id: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a plain function once and for all; see :meth:`AsyncFunctionSteps.run`."""
        scope = current_run()
        if scope is None or scope.kind is not _DEF:
            scope = current_scope(_DEF, id)
        call = _call(id, fn, args, kwargs, self._options)
        op = scope.ex.next_op(id, _RUN, scope.current_task())
        if call.options is None or call.options.undo is None:
            result: T = scope.run_step(op, call)
        else:
            flow = scope.flows.run_step(scope.ex, op, call)
            result = scope.drive(with_undo(scope, op, call.options.undo, flow))
        return result

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
            if "return" not in hints:
                return Call(fn, args, kwargs, options)
            try:
                return Call(fn, args, kwargs, options, _RESULTS[hints["return"]])
            except KeyError:
                return Call(fn, args, kwargs, options, _annotated_result(fn, hints["return"]))
            except TypeError:  # the annotation has no hash
                pass
        return Call(fn, args, kwargs, options, _result_type(fn))
    if isinstance(fn, Coroutine):
        fn.close()  # it was made by mistake; that it is never awaited is not the news
    raise StepUsageError(
        f"step {step_id!r} was given an object of type {type(fn).__name__} for its function; hand "
        "over the function and its arguments, as in step.run(id, fn, *args), without calling it"
    )


#: What return annotations mean: the type of the result, or None if it is stored as it is. Those
#: that mean the same for every function are added when they are met.
_RESULTS: dict[object, ValueType | None] = dict.fromkeys(
    (None, "None", str, "str", int, "int", float, "float", bool, "bool")
)
_MOST_RESULTS = 1000


#: Text that names nothing but types of JSON. Another name may mean another class in each module.
_BUILTINS = re.compile(r"(?:\b(?:str|int|float|bool|None|object|Any|list|dict)\b|[\[\]|, ])+")


def _annotated_result(fn: Callable[..., object], hint: object) -> ValueType | None:
    """Return what a function's return annotation means, and remember it if that is certain."""
    is_json = isinstance(hint, str) and _BUILTINS.fullmatch(hint) is not None
    result = None if is_json else _result_type(fn)
    if (is_json or _is_of_classes(hint)) and len(_RESULTS) < _MOST_RESULTS:
        _RESULTS[hint] = result
    return result


def _is_of_classes(hint: object) -> bool:
    """Tell whether an annotation consists of classes, and of no text or type variable."""
    if isinstance(hint, GenericAlias | UnionType):
        return all(map(_is_of_classes, hint.__args__))
    return isinstance(hint, type)


def _result_type(fn: Callable[..., object]) -> ValueType | None:
    """Return the type of what a function returns; None if that is JSON, or nobody knows it."""
    from durable_core.codec.typed import result_type  # takes a while, and not all need it

    return result_type(fn)


def with_undo(
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


def _is_in_handler() -> bool:
    """Tell whether a step may be called here: in a handler, and not inside another step."""
    scope = current_run()
    return scope is not None and not isinstance(scope, StepAttempt)


# --- any step -------------------------------------------------------------------------------------

#: Where the steps of each kind of handler are imported from.
IMPORTS = {
    HandlerKind.DEF: "from durable_core.sync import step",
    HandlerKind.ASYNC_DEF: "from durable_core import step",
}


def current_scope(kind: HandlerKind, step_id: str) -> RunScope:
    """Return the run that calls a step with this calling convention.

    Raises:
        StepUsageError: there is none, it is inside another step, or its handler is of the other
            kind.
    """
    scope = current_run()
    if scope is not None and scope.kind is kind:
        return scope
    if scope is None:
        raise StepUsageError(
            f"step {step_id!r} was called outside a run; steps work in a handler with "
            "@durable.endpoint and in what it calls, not in response body iterators or threads of "
            "your own"
        )
    if isinstance(scope, StepAttempt):
        raise StepUsageError(
            f"step {step_id!r} was called inside step {scope.name!r}; the function of a step calls "
            "no other steps: call both in the handler, one after the other"
        )
    raise StepUsageError(
        f"step {step_id!r} is for '{kind.value}' handlers and was called in "
        f"'{scope.kind.value}'; write '{IMPORTS[scope.kind]}'"
    )


def named(method: str, step_id: str, coroutine: Any) -> Coroutine[Any, Any, Any]:
    """Name a coroutine after its step, for Python's warning when it is never awaited."""
    coroutine.__qualname__ = _show_call(method, step_id)
    result: Coroutine[Any, Any, Any] = coroutine
    return result


@functools.lru_cache(maxsize=4096)
def _show_call(method: str, step_id: str) -> str:
    return f"step.{method}({step_id!r})"


def parsed(step_id: str, parse: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what an argument of a step means.

    Raises:
        StepArgumentError: it means nothing. That is a mistake in the code, which no retry mends.
    """
    try:
        return parse(*args, **kwargs)
    except NonRetriableError:
        raise
    except (TypeError, ValueError) as error:
        raise StepArgumentError(f"step {step_id!r}: {error}") from error
