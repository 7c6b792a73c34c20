"""A stored request, which a run sends through its application again."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from starlette.concurrency import run_in_threadpool

from durable_asgi import (
    ASGIApplication,
    Message,
    Receive,
    Scope,
    Send,
    replay_scope,
    replayed_receive,
)
from durable_core import Request, Response
from durable_core.adapters import (
    NotReachedError,
    check_nested_call,
    context_outside_run,
    current_run_logger,
    enter_run,
)
from durable_core.errors import ControlSignal, Suspended
from durable_starlette._capture import Capture, Outcome
from durable_starlette._passage import (
    PASSAGE,
    REPLAY,
    AwaitedResponse,
    Call,
    Passage,
    Target,
    signal_in,
)

__all__ = ["ReplayPassage"]


class ReplayPassage(Passage):
    """A stored request, which a run sends through the application again.

    The framework builds the parameters of the function again, and calls it.

    Args:
        request: the stored request.
        function: that of the endpoint that the run is of.
    """

    def __init__(self, request: Request, function: Callable[..., Any]) -> None:
        self._request = request
        self._function = function
        self._is_inside = False
        self._is_reached = False
        self._status = 0
        self._capture: Capture
        self._called: asyncio.Future[tuple[Call, Context] | None] | None = None
        self._value: asyncio.Future[Any]

    async def execute_async(self, application: ASGIApplication) -> Response:
        """Send the request through an application on this loop; return the response.

        Raises:
            NotReachedError: it was answered without a call of the endpoint's function.
            Exception: what the application raised.
        """
        loop = asyncio.get_running_loop()
        response = AwaitedResponse(loop=loop)
        task = asyncio.current_task()
        assert task is not None
        self._capture = Capture(response)
        self._log = current_run_logger()
        self._called = loop.create_future()
        # Middleware may wait in tasks of its own for as long as a step waits, such as for a part of
        # the response: that must not keep the run from being suspended.
        serving = loop.create_task(self._run(application), context=context_outside_run())
        task.add_done_callback(lambda _: self._capture.execution_ended())
        try:
            called = await self._called
            if called is not None:
                await self._execute(*called)
            return await response
        except BaseException:
            serving.cancel()
            await asyncio.wait((serving,))
            if response.done() and not response.cancelled():
                response.exception()  # what the application has raised is of no more interest
            raise

    async def _execute(self, call: Call, context: Context) -> None:
        """Call the function in a task of the run, with the context that the framework has made."""
        enter_run(context)
        try:
            value = await asyncio.get_running_loop().create_task(call(), context=context)
        except (ControlSignal, asyncio.CancelledError):
            self._fill(self._value.set_exception, Suspended())
            raise
        except Exception as error:
            self._fill(self._value.set_exception, error)
        else:
            self._fill(self._value.set_result, value)

    def _fill(self, fill: Callable[[Any], None], what: object) -> None:
        if not self._value.done():  # the framework may have stopped waiting
            fill(what)

    def execute(self, application: ASGIApplication, loop: asyncio.AbstractEventLoop) -> Response:
        """As :meth:`execute_async`, for a run in this thread."""
        response: concurrent.futures.Future[Response] = concurrent.futures.Future()
        self._log = current_run_logger()
        asyncio.run_coroutine_threadsafe(self._run_for_thread(application, response), loop)
        try:
            return response.result()
        finally:
            loop.call_soon_threadsafe(self._capture.execution_ended)

    async def _run_for_thread(
        self, application: ASGIApplication, response: Outcome[Response]
    ) -> None:
        self._capture = Capture(response)
        await self._run(application)

    async def _run(self, application: ASGIApplication) -> None:
        PASSAGE.set(self)
        scope = {**replay_scope(self._request), REPLAY: self}
        receive = replayed_receive(self._request.body)
        try:
            await application(scope, receive, self._note_status)
        except BaseException as error:
            if not self._capture.application_ended(signal_in(error) or error):
                return  # the run has it
            if not isinstance(error, Exception):
                raise
            if self._capture.is_complete:  # else the run has it: the body breaks off with it
                self._log.error("the application failed after its response", exc_info=error)
            return
        finally:
            if self._called is not None and not self._called.done():
                self._called.set_result(None)
        self._capture.application_ended(None if self._is_reached else self._not_reached())

    async def _note_status(self, message: Message) -> None:
        """Take what comes out of the whole application: nobody reads it."""
        self._status = message.get("status", self._status)

    def _not_reached(self) -> NotReachedError:
        return NotReachedError(
            f"in a replay the application answered {self._status} before it reached the endpoint: "
            "a middleware or dependency may need what is not stored with the run, such as the "
            "header Authorization; see durable.is_replaying()"
        )

    async def pass_through(
        self, application: ASGIApplication, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send the request through what the durable layer is around, and take the response.

        Middleware around it gets another one, which nobody reads.
        """
        if self._is_inside:
            await application(scope, receive, send)
            return
        self._is_inside = True
        await application(scope, receive, self._send_message)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def _send_message(self, message: Message) -> None:
        if self._is_reached:
            await self._capture.send(message)
        else:
            await self._note_status(message)

    async def call_async(self, target: Target, call: Call) -> Any:
        """Have the function called in the run; return its result."""
        self._reach(target)
        if self._called is None or self._called.done():
            return await call()
        self._value = asyncio.get_running_loop().create_future()
        self._called.set_result((call, copy_context()))
        return await self._value

    async def call_in_thread(self, target: Target, call: Call) -> Any:
        """Call the function in a thread of the framework."""
        self._reach(target)
        return await run_in_threadpool(call)

    def _reach(self, target: Target) -> None:
        if self._is_reached:
            check_nested_call(self._function, target.function)
        elif target.function is not self._function:
            raise NotReachedError(
                f"in a replay the application leads to {target.function.__qualname__}, and the run "
                f"is of {self._function.__qualname__}: the routes may have changed since it began"
            )
        self._is_reached = True
