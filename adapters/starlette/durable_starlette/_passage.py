"""A request on its way through an application, to the durable endpoint that it may be for."""

from __future__ import annotations

import asyncio
import concurrent.futures
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from types import CoroutineType
from typing import Any, NoReturn, TypeAlias

from starlette.concurrency import run_in_threadpool

from durable_asgi import (
    ASGIApp,
    ASGIApplication,
    ASGIExchange,
    Message,
    Receive,
    Scope,
    Send,
    check_event_loop,
)
from durable_core import Limits, Request, Response
from durable_core.adapters import (
    LISTEN_AFTER,
    BegunCall,
    ClientAnswer,
    DeferredPoolRun,
    DeferredRun,
    NativeEndpoint,
    check_nested_call,
    context_outside_run,
    converse_async,
    parse_request,
    refuse_async,
    send_async,
    suspend_at_once,
)
from durable_core.errors import ControlSignal, Suspended
from durable_starlette._capture import Capture
from durable_starlette._request import RequestBody, plain_body

__all__ = [
    "PASSAGE",
    "REPLAY",
    "AttachedPassage",
    "AwaitedResponse",
    "Call",
    "Passage",
    "Target",
    "current_passage",
    "signal_in",
]


class _CancelledApplicationError(Exception):
    """The application was cancelled before it made a response; a replay makes it."""


class AwaitedResponse(asyncio.Future[Response]):
    """The response that an ``async def`` handler waits for.

    Of a class of its own: a run may be suspended while its handler waits for this, for it comes
    after the steps that the application waits for.
    """


#: A call of the function of an endpoint, with what the framework made of the request.
Call: TypeAlias = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Target:
    """A durable endpoint that requests may reach.

    Attributes:
        app: answers by the endpoint.
        endpoint: the endpoint.
        function: the user's.
    """

    app: ASGIApp
    endpoint: NativeEndpoint
    function: Callable[..., Any]


class Passage(ABC):
    """A request within an application."""

    @abstractmethod
    async def pass_through(
        self, application: ASGIApplication, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send it through what the durable layer is around."""

    @abstractmethod
    def call_async(self, target: Target, call: Call) -> Awaitable[Any]:
        """Return what gives the result of an ``async def`` function that the framework has called.

        If that is a ``BegunCall``, the function has ended.
        """

    @abstractmethod
    async def call_in_thread(self, target: Target, call: Call) -> Any:
        """Return the result of a ``def`` function that the framework has called."""


#: The key in the scope of a replayed request that has its passage.
REPLAY = "durable_starlette.replay"
#: The request that the current code works for.
PASSAGE: ContextVar[Passage | None] = ContextVar("durable_starlette_passage", default=None)
# Python 3.11 makes a bound method for each call of a method of a context variable.
current_passage = PASSAGE.get
_enter_passage, _leave_passage = PASSAGE.set, PASSAGE.reset


class AttachedPassage(Passage):
    """A client's request, which becomes a run when it reaches a durable endpoint that needs one.

    The function is called at once, and most that ask for no step have ended then:
    there is no run, and the framework answers. Otherwise the call goes on in a run. Its result goes
    back to the framework, and what the framework makes of it is the response of the run. When that
    is stored, it is sent on to the client, and the framework goes on.

    That is all if it does not take long. Otherwise, and if the client gets another answer than the
    response of the framework, a second task, the conversation, looks whether the client is still
    there, and answers it.

    Args:
        limits: of the application.
    """

    _is_answered = False  # by the framework: without a run, or as the run has been stored
    _calls: list[Call] | None = None  # at most one, until the run takes it
    _answer: ClientAnswer | None = None  # of a run that was needed after its handler had begun
    _arrival: asyncio.Future[None] | None = None  # of the answer, while the application waits
    _watch: asyncio.TimerHandle | None = None
    _exchange: ASGIExchange
    _target: Target
    _loop: asyncio.AbstractEventLoop
    _value: asyncio.Future[Any] | None = None  # for which the framework waits
    _response: Any
    _capture: Capture
    _begun: BegunCall | None = None  # while the run is expected to end without a task of its own
    _ends_here = False  # the run does so now

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Python 3.11 is slow to read an attribute that only the class has.
        self._is_reached = self._has_run = self._holds_body = False
        self._made_body: RequestBody | None = None
        self._deferred: DeferredRun | DeferredPoolRun | None = None
        self._conversation: asyncio.Task[None] | None = None

    async def pass_through(
        self, application: ASGIApplication, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send the request through the application, and see that the client is answered.

        Raises:
            Exception: what the application raised, unless that is how a run ended.
        """
        self._first_scope = dict(scope)  # routers change it
        self._scope, self._receive, self._send = scope, receive, send
        token = _enter_passage(self)
        error: BaseException | None = None
        try:
            await application(scope, self._receive_message, self._send_message)
        except BaseException as raised:
            error = signal_in(raised) or raised
        finally:
            _leave_passage(token)
        try:
            if self._has_run:
                await self._end_run(error)
            elif error is not None:
                await self._end_without_run(error)
        finally:  # these refer to this object: the memory of the request would wait for a collector
            if self._watch is not None:
                self._end_watch()
            self._deferred = self._conversation = self._answer = self._begun = None

    async def _end_run(self, error: BaseException | None) -> None:
        """See that the client of a run is answered; raise what the run does not know.

        Args:
            error: what the application has raised.
        """
        if self._begun is not None:
            self._begin_expected()
        was_answered = self._application_ended(error)
        if isinstance(error, asyncio.CancelledError):
            await self._client_left()
            raise error
        if not self._is_answered:
            await self._required_conversation()
        if was_answered and isinstance(error, Exception):
            raise error

    async def _client_left(self) -> None:
        """End the conversation, if there is one: the client is gone."""
        if self._conversation is not None:
            self._conversation.cancel()
            await asyncio.wait((self._conversation,))
        elif self._answer is not None and not self._is_answered:
            self._answer.client_left()

    def _application_ended(self, error: BaseException | None) -> bool:
        """Tell the run that nothing more is sent; return whether it has a response.

        The run of a ``def`` handler learns here that its function raised the signal.
        """
        if isinstance(error, ControlSignal) and isinstance(self._response, AwaitedResponse):
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
        is_exit = isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))
        if deferred is None or self._is_answered or is_exit:
            raise error
        if isinstance(deferred, DeferredPoolRun):
            with suppress(Suspended):
                deferred.begin()
            self._run_has_begun()
            await self._end_run(error)
            return
        begun = deferred.call(_suspend if is_cancelled else partial(_raise, error))
        self._begin(deferred, begun, lambda request: _result_of(begun))
        if is_cancelled:
            await self._client_left()
            raise error
        await self._required_conversation()

    @property
    def _body(self) -> RequestBody:
        """The body. Most requests have none, and no application asks for it."""
        if self._made_body is None:
            self._made_body = RequestBody(self._receive, self._limits.body)
            if self._holds_body:
                self._made_body.hold()
        return self._made_body

    def _hold_body(self) -> None:
        self._holds_body = True
        if self._made_body is not None:
            self._made_body.hold()

    def _release_body(self) -> None:
        self._holds_body = False
        if self._made_body is not None:
            self._made_body.release()

    def _receive_message(self) -> Awaitable[Message]:
        return self._body.receive()

    def _send_message(self, message: Message) -> Awaitable[None]:
        if self._answer is not None:
            return self._send_on(message)
        if self._has_run:
            return self._capture.send(message)
        self._is_answered = self._is_reached
        return self._send(message)

    async def _send_on(self, message: Message) -> None:
        """Take a message of the response of a run; send it on once it is stored, if that is quick.

        It returns from the last one when the client has it, or the execution has ended.
        """
        capture, answer = self._capture, self._answer
        if self._begun is not None and message.get("more_body", False):
            self._begin_expected()
        await capture.take(message)
        if not capture.is_complete:
            return
        assert answer is not None
        if self._begun is not None:
            await self._end_here()
        may_arrive = answer.response is None and not (capture.is_streamed or capture.has_ended)
        if may_arrive and self._arrival is None:  # once: it may come back from a time-out here
            self._arrival = self._loop.create_future()
            await self._arrival
        if self._is_answered:
            return  # it sends more than a response, or has done so in two tasks
        is_sent_on = capture.is_prepared and answer.response is capture.response
        if self._conversation is not None or not is_sent_on:
            self._required_conversation()
            await capture.wait_for_end()
            return
        self._is_answered = True
        self._end_watch()
        self._release_body()
        try:
            for each in capture.messages:
                await self._send(each)
        except OSError:
            pass  # the client is gone: its run has ended, and has work to do yet

    async def _end_here(self) -> None:
        """Execute the rest of a run in this task, as its response is there; or have it begin."""
        deferred, response = self._deferred, self._capture.response
        assert isinstance(deferred, DeferredRun)
        assert response is not None
        if not deferred.may_end:
            self._begin_expected()
            return
        self._begun, self._ends_here = None, True
        try:
            await deferred.end(response)
        finally:
            self._ends_here = False

    # -- the framework's side ---------------------------------------------------------------

    def call_async(self, target: Target, call: Call) -> Awaitable[Any]:
        """Call the function, in a new run if it needs one; return what gives its result.

        Awaiting that raises what the function raised, or Suspended: there will be no result here.
        """
        if self._is_reached:  # an endpoint that calls the function of another
            check_nested_call(self._target.function, target.function)
            awaited: Awaitable[Any] = call()
            return awaited
        self._is_reached, self._target = True, target
        has_body = plain_body(self._first_scope, self._limits)
        if has_body is None:
            return self._await_run(call)
        if has_body and not self._body.is_read:
            return self._call_once_read(call)
        return self._call_deferred(call)

    async def _call_once_read(self, call: Call) -> Any:
        """Call the function when the body has been read, which may become a run's."""
        is_plain = await self._body.read_to_end()
        return await (self._call_deferred(call) if is_plain else self._await_run(call))

    def _call_deferred(self, call: Call) -> Awaitable[Any]:
        """Call the function before its run, if that may be; return what gives its result."""
        try:
            deferred = self._target.endpoint.defer(self._request_of_run)
        except RuntimeError:
            check_event_loop()
            raise
        if isinstance(deferred, DeferredRun):
            return self._begin_call(deferred, call)
        return self._call_deferred_later(deferred, call)

    async def _call_deferred_later(
        self, deferred: Coroutine[Any, Any, DeferredRun | None] | None, call: Call
    ) -> Any:
        found = None if deferred is None else await deferred
        return await (self._await_run(call) if found is None else self._begin_call(found, call))

    def _begin_call(self, deferred: DeferredRun, call: Call) -> Awaitable[Any]:
        """Call the function, and begin its run if it needs one; return what gives its result."""
        self._deferred = deferred
        self._hold_body()
        begun = deferred.call(call)
        if deferred.is_needless(begun):
            self._release_body()
            return begun
        answer = deferred.expect_end(begun, self._begin_expected)
        if answer is not None:
            self._begun, self._capture = begun, Capture()
            self._loop = asyncio.get_running_loop()
            self._await_answer(answer)
            return begun
        self._begin(deferred, begun, lambda request: self._go_on(begun))
        is_refused = deferred.refusal is not None
        if begun.has_ended and not (begun.is_cut_short or is_refused):
            return begun
        self._value = self._loop.create_future()
        if is_refused:
            self._value.set_exception(Suspended())
        return self._value

    async def _await_run(self, call: Call) -> Any:
        """Call the function in a run that begins first; return its result."""
        self._loop = loop = check_event_loop()
        value = loop.create_future()
        self._converse(call, value, AwaitedResponse(loop=loop))
        return await value

    def _request_of_run(self) -> tuple[Request, str | None]:
        """Return the request, and the template of its path, for the run that there is now.

        Raises:
            HTTPError: it is refused.
        """
        self._hold_body()
        self._exchange = self._new_exchange(self._body.receive_next)
        request = parse_request(self._exchange, self._limits, bytes(self._body.kept))
        return request, self._exchange.route

    def _begin(
        self,
        deferred: DeferredRun,
        begun: BegunCall,
        handler: Callable[[Request], Coroutine[Any, Any, Response]],
    ) -> None:
        """Begin the run of a call."""
        self._loop = loop = asyncio.get_running_loop()
        self._response = AwaitedResponse(loop=loop)
        self._capture = Capture(self._response)
        try:
            answer = deferred.start(handler)
        except Suspended:
            assert deferred.refusal is not None
            begun.close()
            self._talk(refuse_async(self._target.app, self._exchange, deferred.refusal))
        else:
            self._await_answer(answer)

    def _begin_expected(self) -> None:
        """Begin the run of a call after all that was expected to end without a task of its own."""
        deferred, begun = self._deferred, self._begun
        assert isinstance(deferred, DeferredRun)
        assert begun is not None
        self._begun = None
        self._response = AwaitedResponse(loop=self._loop)
        self._capture.attach(self._response)
        deferred.begin(lambda request: self._go_on(begun))

    async def call_in_thread(self, target: Target, call: Call) -> Any:
        """Call a ``def`` function in a thread of the framework; return its result.

        Raises:
            Suspended: there will be no run here, or it is suspended.
            Exception: what the function raised.
        """
        if self._is_reached:
            check_nested_call(self._target.function, target.function)
            return await run_in_threadpool(call)
        self._is_reached, self._target = True, target
        self._loop = check_event_loop()
        deferred: Any = None
        has_body = plain_body(self._first_scope, self._limits)
        if has_body is False or (has_body and await self._body.read_to_end()):
            deferred = target.endpoint.defer_in_pool(self._request_of_run, self._run_has_begun)
            if type(deferred) is CoroutineType:
                deferred = await deferred
        if deferred is None:
            return await self._call_in_run(call)
        self._deferred = deferred
        self._hold_body()
        try:
            return await run_in_threadpool(deferred.call, call)
        except asyncio.CancelledError:
            deferred = None  # the thread goes on
            raise
        finally:
            if deferred is None:
                pass
            elif deferred.is_needless():
                self._release_body()
            else:
                self._run_has_begun()

    async def _call_in_run(self, call: Call) -> Any:
        """Call a ``def`` function when its run has begun.

        The framework has few threads, and may need another one to make the response. So none is
        taken before the run has the thread of its own: it would be held while the run waits.
        """
        context: asyncio.Future[Context] = self._loop.create_future()
        response: concurrent.futures.Future[Response] = concurrent.futures.Future()
        self._converse(call, context, response)
        assert self._conversation is not None
        self._conversation.add_done_callback(lambda _: self._capture.execution_ended())
        return await run_in_threadpool((await context).run, call)

    def _run_has_begun(self) -> None:
        """Take the run of a ``def`` function, unless that is done."""
        deferred = self._deferred
        if self._has_run or not isinstance(deferred, DeferredPoolRun):
            return
        self._response = self._loop.create_future()
        self._response.add_done_callback(partial(self._response_is_made, deferred))
        self._capture = Capture(self._response)
        if deferred.refusal is None:
            self._await_answer(deferred.answer)
        else:
            self._talk(refuse_async(self._target.app, self._exchange, deferred.refusal))

    def _response_is_made(self, deferred: DeferredPoolRun, made: asyncio.Future[Response]) -> None:
        made.exception()  # seen, also where there is no run for it
        if deferred.refusal is None:
            deferred.end(self._response_of_run)

    def _response_of_run(self, request: Request) -> Response:
        try:
            response: Response = self._response.result()
        except _CancelledApplicationError:
            suspend_at_once()
        return response

    def _converse(self, call: Call, value: asyncio.Future[Any], response: Any) -> None:
        self._calls = [call]
        self._value, self._response = value, response
        self._capture = Capture(response)
        self._talk(converse_async(self._target.app, self._new_exchange(self._body.take())))

    def _new_exchange(self, receive: Receive) -> ASGIExchange:
        exchange = ASGIExchange(self._first_scope, receive, self._send)
        exchange.route = self._route
        return exchange

    @property
    def _route(self) -> str:
        """The template of the path."""
        path = getattr(self._scope.get("route"), "path", None)
        return path if isinstance(path, str) else self._scope["path"]

    def _await_answer(self, answer: ClientAnswer) -> None:
        """Take the answer of a run that has begun, and look for the client if it takes long."""
        self._has_run, self._answer, answer.listener = True, answer, self
        self._watch = self._loop.call_later(LISTEN_AFTER, self._required_conversation)

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def answer_arrived(self) -> None:
        """Have the answer sent: by the application, if that waits for it."""
        answer = self._answer
        if self._arrival is not None:
            self._end_arrival()
        elif self._ends_here and answer is not None and answer.response is self._capture.response:
            pass  # the task that executes the rest of the run sends it
        elif answer is not None:
            self._required_conversation()

    def _end_arrival(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def run_ended(self) -> None:
        """Let the application go on, after its response or without one."""
        self._end_value(Suspended())  # of a run that was stopped before its handler could go on
        self._end_arrival()  # no answer arrives for a client that has left
        self._capture.execution_ended()

    def _required_conversation(self) -> asyncio.Task[None]:
        """Return the conversation; it begins now if it has not begun."""
        if self._conversation is None:
            assert self._answer is not None
            exchange, answer = self._exchange, self._answer
            self._talk(send_async(self._target.app, exchange, answer.wait, has_waited=True))
            assert self._conversation is not None
        return self._conversation

    def _talk(self, conversation: Coroutine[Any, Any, None]) -> None:
        self._has_run = True
        self._end_watch()
        # The answer may arrive in a task of the run, which is not to wait for the client.
        context = context_outside_run()
        self._conversation = self._loop.create_task(conversation, context=context)
        self._conversation.add_done_callback(self._conversation_ended)

    def _conversation_ended(self, conversation: asyncio.Task[None]) -> None:
        self._body.conversation_ended()
        if self._answer is not None and conversation.cancelled():
            self._answer.client_left()  # if it was cancelled before it began
        if self._calls:  # the client was answered without a run
            self._calls.clear()
            self._end_value(Suspended())
            self._capture.execution_ended()  # a middleware may have responded without the call

    # -- the run's side ---------------------------------------------------------------------

    def take_call(self, function: Callable[..., Any]) -> Call | None:
        """Return the call that the run is for; None but for the first time, and its function."""
        if self._calls and self._target.function is function:
            try:
                call = self._calls.pop()
            except IndexError:
                return None  # the conversation ended at this moment
            return call
        return None

    async def execute_async(self, call: Call) -> Response:
        """Call the function in this task, which is the run's; return the response."""
        self._body.complete()
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._capture.execution_ended())
        return await self._go_on(call())

    async def _go_on(self, called: Awaitable[Any]) -> Response:
        """Go on with a call in the task of its run; return the response of that."""
        try:
            value = await called
        except Exception as error:
            self._end_value(error)
        except BaseException:
            self._end_value(Suspended())
            raise
        else:
            self._set_value(value)
        try:
            response: Response = await self._response
        except _CancelledApplicationError:
            suspend_at_once()
        return response

    def execute(self) -> Response:
        """Have the framework's thread call the function in this context; return the response."""
        self._loop.call_soon_threadsafe(self._body.complete)
        self._loop.call_soon_threadsafe(self._set_value, copy_context())
        try:
            response: Response = self._response.result()
        except _CancelledApplicationError:
            suspend_at_once()
        return response

    def _set_value(self, value: object) -> None:
        """Give the framework what the function has returned, if it still waits for that."""
        if self._value is not None and not self._value.done():
            self._value.set_result(value)

    def _end_value(self, error: BaseException) -> None:
        """Let the framework go on with an error, if it still waits."""
        if self._value is not None and not self._value.done():
            self._value.set_exception(error)


async def _raise(error: BaseException) -> NoReturn:
    raise error


async def _suspend() -> NoReturn:
    suspend_at_once()


async def _result_of(begun: BegunCall) -> Any:
    return await begun


def signal_in(error: BaseException) -> ControlSignal | None:
    """Return the signal that an application has raised; None if it was something else.

    A middleware that is a ``BaseHTTPMiddleware`` runs the rest of the application in a task group.
    That puts the signal into a group, with the middleware's error about the missing response.
    """
    if isinstance(error, ControlSignal):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(signal_in, error.exceptions)), None)
    return None
