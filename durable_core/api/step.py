"""The steps as handlers call them: two typed faces over the same flows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from durable_core.api.call_steps import AsyncCallSteps, CallSteps
from durable_core.api.function_steps import current_scope, named
from durable_core.api.wait_steps import AsyncWaitSteps, WaitSteps
from durable_core.duration import Duration
from durable_core.errors import StepUsageError
from durable_core.flow.attempt import Call, StepAttempt
from durable_core.flow.scope import CURRENT_RUN, HandlerKind, RunScope
from durable_core.http.response import Response
from durable_core.model.step import Op, OpKind

if TYPE_CHECKING:
    from durable_core.flow.effects import Flow
    from durable_core.flow.server_calls import ServerFunction

__all__ = [
    "AsyncSteps",
    "Steps",
    "step",
    "sync_step",
]

T = TypeVar("T")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
R = TypeVar("R")


class AsyncSteps(AsyncCallSteps, AsyncWaitSteps):
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

    @overload
    def invoke(
        self,
        id: str,
        endpoint: ServerFunction,
        request: Mapping[str, object] | None = None,
        *,
        timeout: Duration | None = None,
    ) -> Coroutine[Any, Any, Any]: ...

    @overload
    def invoke(
        self,
        id: str,
        endpoint: object,
        request: object = None,
        *,
        timeout: Duration | None = None,
    ) -> Coroutine[Any, Any, Response]: ...

    @overload
    def invoke(
        self,
        id: str,
        endpoint: object,
        request: object = None,
        *,
        timeout: Duration | None = None,
        result: type[R],
    ) -> Coroutine[Any, Any, R]: ...

    @overload
    def invoke(
        self,
        id: str,
        endpoint: object,
        request: object = None,
        *,
        timeout: Duration | None = None,
        result: object,
    ) -> Coroutine[Any, Any, Any]: ...

    def invoke(
        self,
        id: str,
        endpoint: object,
        request: object = None,
        *,
        timeout: Duration | None = None,
        result: object = None,
    ) -> Coroutine[Any, Any, Any]:
        """Call another endpoint of this application, in a run of its own; return its response.

        The child run begins once, whatever crashes, and goes on without its parent's process. It is
        cancelled when its parent is cancelled or ends before it.

        Args:
            id: the step's id.
            endpoint: what ``@durable.endpoint`` returned. ``authorize=`` of it is not called. Under
                an engine with a server, a function of that, such as an ``InngestFunction``: it is
                given ``request``, a dict, and the step returns its result.
            request: a ``Request``, or a value that is sent as JSON by POST.
            timeout: how long the child may take; past it, it is cancelled and the step has failed.
                A duration as in :meth:`sleep`. Default: 366 days.
            result: the type of the response's JSON, such as a dataclass. None returns the
                ``Response``.

        Raises:
            StepError: the child has failed, was cancelled, or has taken too long; ``data`` is its
                problem document with its ``run_id``. With ``result``, also if its response has
                another status than 2xx.
            StepTypeError: the response's JSON is not of the type.
            StepArgumentError: no endpoint of this application, or a request that it cannot have.
            LimitExceededError: the child would have more than 100 runs above it, or there are too
                many below the topmost one (``Limits.child_runs``).
        """
        from durable_core.api.invoke import invoke  # takes a while to load, and few need it

        scope = current_scope(HandlerKind.ASYNC_DEF, id)
        return named("invoke", id, invoke(scope, id, endpoint, request, timeout, result))


class Steps(CallSteps, WaitSteps):
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

    @overload
    def invoke(
        self,
        id: str,
        endpoint: ServerFunction,
        request: Mapping[str, object] | None = None,
        *,
        timeout: Duration | None = None,
    ) -> Any: ...

    @overload
    def invoke(
        self,
        id: str,
        endpoint: object,
        request: object = None,
        *,
        timeout: Duration | None = None,
    ) -> Response: ...

    @overload
    def invoke(
        self,
        id: str,
        endpoint: object,
        request: object = None,
        *,
        timeout: Duration | None = None,
        result: type[R],
    ) -> R: ...

    @overload
    def invoke(
        self,
        id: str,
        endpoint: object,
        request: object = None,
        *,
        timeout: Duration | None = None,
        result: object,
    ) -> Any: ...

    def invoke(
        self,
        id: str,
        endpoint: object,
        request: object = None,
        *,
        timeout: Duration | None = None,
        result: object = None,
    ) -> Any:
        """Call another endpoint in a run of its own; see :meth:`AsyncSteps.invoke`."""
        from durable_core.api.invoke import invoke  # takes a while to load, and few need it

        scope = current_scope(HandlerKind.DEF, id)
        return invoke(scope, id, endpoint, request, timeout, result)


#: The steps of ``async def`` handlers.
step = AsyncSteps()


#: The steps of ``def`` handlers.
sync_step = Steps()


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
