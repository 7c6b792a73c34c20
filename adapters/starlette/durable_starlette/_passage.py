"""A request on its way through an application, to the durable endpoint that it may be for."""

from __future__ import annotations

import asyncio
import concurrent.futures
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from starlette.concurrency import run_in_threadpool

from durable_asgi import (
    ASGIApp,
    ASGIApplication,
    ASGIExchange,
    Message,
    Receive,
    Scope,
    Send,
    replay_scope,
    replayed_receive,
)
from durable_core import Limits, Request, Response
from durable_core.adapters import (
    BegunCall,
    ClientAnswer,
    DeferredRun,
    NativeEndpoint,
    NotReachedError,
    context_outside_run,
    converse_async,
    enter_run,
    parse_request,
    refuse_async,
    send_async,
    suspend_at_once,
)
from durable_core.errors import ControlSignal, Suspended
from durable_starlette._capture import Capture, Outcome
from durable_starlette._exchange import RequestBody
from durable_starlette._head import plain_body

__all__ = [
    "PASSAGE",
    "REPLAY",
    "AttachedPassage",
    "Call",
    "Passage",
    "ReplayPassage",
]


class _CancelledApplicationError(Exception):
    """The application was cancelled before it made a response; a replay makes it."""


class _AwaitedResponse(asyncio.Future[Response]):
    """The response that an ``async def`` handler waits for.

    Of a class of its own: a run may be suspended while its handler waits for this, for it comes
    after the steps that the application waits for.
    """


@dataclass(slots=True)
class Call:
    """A framework's call of the function of an endpoint.

    Attributes:
        app: answers by the endpoint.
        endpoint: the endpoint.
        function: the user's.
        args, kwargs: what the framework made of the request.
    """

    app: ASGIApp
    endpoint: NativeEndpoint
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        """Call the function."""
        return self.function(*self.args, **self.kwargs)


class Passage(ABC):
    """A request within an application."""

    @abstractmethod
    async def pass_through(
        self, application: ASGIApplication, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send it through what the durable layer is around."""

    @abstractmethod
    async def call_async(self, call: Call) -> Any:
        """Return the result of an ``async def`` function that the framework has called."""

    @abstractmethod
    async def call_in_thread(self, call: Call) -> Any:
        """Return the result of a ``def`` function that the framework has called."""


#: The key in the scope of a replayed request that has its passage.
REPLAY = "durable_starlette.replay"
#: The request that the current code works for.
PASSAGE: ContextVar[Passage | None] = ContextVar("durable_starlette_passage", default=None)


class AttachedPassage(Passage):
    """A client's request, which becomes a run when it reaches a durable endpoint that needs one.

    An ``async def`` function is called at once, and most that ask for no step have ended then:
    there is no run, and the framework answers. Otherwise the call goes on in a run. Its result goes
    back to the framework, and what the framework makes of it is the response of the run. A second
    task, the conversation, answers the client: with that response, or with what the run hands it
    off by.

    Args:
        limits: of the application.
    """

    def __init__(self, limits: Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._body: RequestBody
        self._is_reached = False
        self._is_answered = False  # by the framework, without a run
        self._has_run = False
        self._deferred: DeferredRun | None = None
        self._exchange: ASGIExchange
        self._app: ASGIApp
        self._answer: ClientAnswer | None = None
        self._conversation: asyncio.Task[None] | None = None
        self._calls: list[Call] = []  # at most one, until the run takes it
        self._value: asyncio.Future[Any]
        self._response: Any
        self._capture: Capture

    async def pass_through(
        self, application: ASGIApplication, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send the request through the application, and see that the client is answered.

        Raises:
            Exception: what the application raised, unless that is how a run ended.
        """
        self._first_scope = dict(scope)  # routers change it
        self._scope, self._receive, self._send = scope, receive, send
        self._body = RequestBody(receive, self._limits.body)
        token = PASSAGE.set(self)
        error: BaseException | None = None
        try:
            await application(scope, self._body.receive, self._send_message)
        except BaseException as raised:
            error = _signal_in(raised) or raised
        finally:
            PASSAGE.reset(token)
        try:
            if self._conversation is not None:
                await self._end_conversation(self._conversation, error)
            elif error is not None:
                await self._end_without_run(error)
        finally:  # these refer to this object: the memory of the request would wait for a collector
            self._deferred = self._conversation = self._answer = None

    async def _end_conversation(
        self, conversation: asyncio.Task[None], error: BaseException | None
    ) -> None:
        """Wait until the client is answered; raise what the run does not know.

        Args:
            conversation: answers it.
            error: what the application has raised.
        """
        was_answered = self._application_ended(error)
        if isinstance(error, asyncio.CancelledError):  # the client is gone
            conversation.cancel()
            await asyncio.wait((conversation,))
            raise error
        await conversation
        if was_answered and isinstance(error, Exception):
            raise error

    def _application_ended(self, error: BaseException | None) -> bool:
        """Tell the run that nothing more is sent; return whether it has a response.

        The run of a ``def`` handler learns here that its function raised the signal.
        """
        if isinstance(error, ControlSignal) and isinstance(self._response, _AwaitedResponse):
            return False
        if isinstance(error, asyncio.CancelledError):
            error = _CancelledApplicationError()
        return self._capture.application_ended(error)

    async def _end_without_run(self, error: BaseException) -> None:
        """Begin a run for what became of the endpoint, if that has no answer: it is tried again.

        Args:
            error: what the application has raised.

        Raises:
            BaseException: the error, where it is not the endpoint's, or the client is gone.
        """
        deferred, is_cancelled = self._deferred, isinstance(error, asyncio.CancelledError)
        is_unknown = is_cancelled or isinstance(error, Exception)
        if deferred is None or self._is_answered or not is_unknown:
            raise error
        begun = deferred.call(_suspend if is_cancelled else partial(_raise, error))
        self._begin(deferred, begun, lambda request: _result_of(begun))
        assert self._conversation is not None
        if is_cancelled:
            self._conversation.cancel()
            await asyncio.wait((self._conversation,))
            raise error
        await self._conversation

    async def _send_message(self, message: Message) -> None:
        if self._has_run:
            await self._capture.send(message)
        else:
            self._is_answered = self._is_reached
            await self._send(message)

    # -- the framework's side ---------------------------------------------------------------

    async def call_async(self, call: Call) -> Any:
        """Call the function, in a new run if it needs one; return its result.

        Raises:
            Suspended: there will be none here.
            Exception: what the function raised.
        """
        if self._is_reached:  # an endpoint that calls the function of another
            return await call()
        self._is_reached = True
        deferred = await self._defer(call)
        if deferred is None:
            value = self._loop.create_future()
            self._converse(call, value, _AwaitedResponse(loop=self._loop))
            return await value
        self._deferred = deferred
        self._body.hold()
        begun = deferred.call(call)
        if deferred.is_needless(begun):
            self._body.release()
            return begun.result()
        self._begin(deferred, begun, lambda request: self.execute_async(lambda: begun))
        return await self._value

    async def _defer(self, call: Call) -> DeferredRun | None:
        """Return what becomes a run if the call needs one; None if there must be one at once."""
        self._app = call.app
        has_body = plain_body(self._first_scope, self._limits)
        if has_body is None or (has_body and not await self._body.read_to_end()):
            return None
        deferred = call.endpoint.defer(self._request_of_run)
        return await deferred if isinstance(deferred, Coroutine) else deferred

    def _request_of_run(self) -> tuple[Request, str]:
        """Return the request, and the template of its path, for the run that there is now.

        Raises:
            HTTPError: it is refused.
        """
        self._exchange = self._new_exchange(self._body.hold())
        request = parse_request(self._exchange, self._limits, bytes(self._body.kept))
        return request, self._route

    def _begin(
        self,
        deferred: DeferredRun,
        begun: BegunCall,
        handler: Callable[[Request], Coroutine[Any, Any, Response]],
    ) -> None:
        """Begin the run of a call, and the conversation."""
        self._value, self._response = self._loop.create_future(), _AwaitedResponse(loop=self._loop)
        self._capture = Capture(self._response)
        try:
            self._answer = deferred.start(handler)
        except Suspended:
            assert deferred.refusal is not None
            begun.close()
            self._value.set_exception(Suspended())
            self._talk(refuse_async(self._app, self._exchange, deferred.refusal))
        else:
            self._talk(send_async(self._app, self._exchange, self._answer.wait))

    async def call_in_thread(self, call: Call) -> Any:
        """Call a ``def`` function for a new run in a thread of the framework; return its result.

        The framework has few threads, and may need another one to make the response. So none is
        taken before the run has the thread of its own: it would be held while the run waits.

        Raises:
            Suspended: there will be no run here, or it is suspended.
            Exception: what the function raised.
        """
        if self._is_reached:
            return await run_in_threadpool(call)
        self._is_reached = True
        context: asyncio.Future[Context] = self._loop.create_future()
        response: concurrent.futures.Future[Response] = concurrent.futures.Future()
        self._converse(call, context, response)
        return await run_in_threadpool((await context).run, call)

    def _converse(self, call: Call, value: asyncio.Future[Any], response: Any) -> None:
        self._calls.append(call)
        self._value, self._response = value, response
        self._capture = Capture(response)
        self._talk(converse_async(call.app, self._new_exchange(self._body.take())))

    def _new_exchange(self, receive: Receive) -> ASGIExchange:
        exchange = ASGIExchange(self._first_scope, receive, self._send)
        exchange.route = self._route
        return exchange

    @property
    def _route(self) -> str:
        """The template of the path."""
        path = getattr(self._scope.get("route"), "path", None)
        return path if isinstance(path, str) else self._scope["path"]

    def _talk(self, conversation: Coroutine[Any, Any, None]) -> None:
        self._has_run = True
        self._conversation = self._loop.create_task(conversation)
        self._conversation.add_done_callback(self._conversation_ended)

    def _conversation_ended(self, conversation: asyncio.Task[None]) -> None:
        self._body.conversation_ended()
        if self._answer is not None and conversation.cancelled():
            self._answer.client_left()  # if it was cancelled before it began
        if self._calls:  # the client was answered without a run
            self._calls.clear()
            self._fill(self._value.set_exception, Suspended())
        if isinstance(self._response, concurrent.futures.Future):
            self._capture.execution_ended()

    # -- the run's side ---------------------------------------------------------------------

    def take_call(self, function: Callable[..., Any]) -> Call | None:
        """Return the call that the run is for; None but for the first time, and its function."""
        if self._calls and self._calls[0].function is function:
            try:
                call = self._calls.pop()
            except IndexError:
                return None  # the conversation ended at this moment
            return call
        return None

    async def execute_async(self, call: Callable[[], Awaitable[Any]]) -> Response:
        """Call the function in this task, which is the run's; return the response."""
        self._body.complete()
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._capture.execution_ended())
        try:
            value = await call()
        except (ControlSignal, asyncio.CancelledError):
            self._fill(self._value.set_exception, Suspended())
            raise
        except Exception as error:
            self._fill(self._value.set_exception, error)
        else:
            self._fill(self._value.set_result, value)
        try:
            response: Response = await self._response
        except _CancelledApplicationError:
            suspend_at_once()
        return response

    def execute(self) -> Response:
        """Have the framework's thread call the function in this context; return the response."""
        self._loop.call_soon_threadsafe(self._body.complete)
        self._loop.call_soon_threadsafe(self._fill, self._value.set_result, copy_context())
        try:
            response: Response = self._response.result()
        except _CancelledApplicationError:
            suspend_at_once()
        return response

    def _fill(self, fill: Callable[[Any], None], what: object) -> None:
        if not self._value.done():  # the framework may have stopped waiting
            fill(what)


async def _raise(error: BaseException) -> NoReturn:
    raise error


async def _suspend() -> NoReturn:
    suspend_at_once()


async def _result_of(begun: BegunCall) -> Any:
    return await begun


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
        response = _AwaitedResponse(loop=loop)
        task = asyncio.current_task()
        assert task is not None
        self._capture = Capture(response)
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
            if not self._capture.application_ended(_signal_in(error) or error):
                return  # the run has it
            raise
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

    async def call_async(self, call: Call) -> Any:
        """Have the function called in the run; return its result."""
        self._reach(call)
        if self._called is None or self._called.done():
            return await call()
        self._value = asyncio.get_running_loop().create_future()
        self._called.set_result((call, copy_context()))
        return await self._value

    async def call_in_thread(self, call: Call) -> Any:
        """Call the function in a thread of the framework."""
        self._reach(call)
        return await run_in_threadpool(call)

    def _reach(self, call: Call) -> None:
        if not self._is_reached and call.function is not self._function:
            raise NotReachedError(
                f"in a replay the application leads to {call.function.__qualname__}, and the run "
                f"is of {self._function.__qualname__}: the routes may have changed since it began"
            )
        self._is_reached = True


def _signal_in(error: BaseException) -> ControlSignal | None:
    """Return the signal that an application has raised; None if it was something else.

    A middleware that is a ``BaseHTTPMiddleware`` runs the rest of the application in a task group.
    That puts the signal into a group, with the middleware's error about the missing response.
    """
    if isinstance(error, ControlSignal):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_signal_in, error.exceptions)), None)
    return None
