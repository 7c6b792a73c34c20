"""As :mod:`durable_core.engine.deferred`, for ``def`` handlers.

The first part of such a handler lasts until it asks for a step, or for its run. It may take long,
and other threads and the event loop go on meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any, NoReturn, TypeVar

from durable_core.engine.deferred import not_begun
from durable_core.engine.runs import ClientAnswer, RunManager, WorkerParts
from durable_core.errors import HTTPError, StoreError, Suspended
from durable_core.flow.attempt import Call
from durable_core.flow.driver import drive_sync
from durable_core.flow.effects import CallHandler, Flow
from durable_core.flow.execution import EVENT_SEQ, StoredExecution
from durable_core.flow.flows import EngineFlows
from durable_core.flow.scope import CURRENT_RUN, HandlerKind
from durable_core.http.problem import problem_from_http_error
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.decision import HandoffReason
from durable_core.model.step import Op
from durable_core.platform import call_soon
from durable_core.runners.host import RunHost
from durable_core.runners.settings import RegisteredEndpoint
from durable_core.runners.thread import ThreadRun

__all__ = ["DeferredPoolRun", "DeferredThreadRun"]

T = TypeVar("T")


class DeferredThreadRun:
    """As ``DeferredRun``, for a ``def`` handler.

    The thread of a server calls it, and ends the run, if there is one, when the handler has ended.
    Other threads may ask for the run.

    Args:
        worker, runs, endpoint, request, event_seq: see ``DeferredRun``.

    Attributes:
        refusal: why there can be no run, once that is known.
    """

    kind = HandlerKind.DEF
    tasks = None
    #: The current thread.
    current_task = staticmethod(threading.current_thread)

    def __init__(
        self,
        worker: WorkerParts,
        runs: RunManager,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
        event_seq: int,
    ) -> None:
        self.refusal: HTTPError | None = None
        self._worker = worker
        self._runs = runs
        self._endpoint = endpoint
        self._request = request
        self._event_seq = event_seq
        self._drains = worker.drains
        self._main = threading.get_ident()
        self._lock = threading.Lock()
        self._run: _LateThreadRun | None = None
        self._answers: list[Response] = []
        self._is_over = False

    # -- as its handler sees it -------------------------------------------------------------

    @property
    def ex(self) -> StoredExecution:
        """The execution. There is a run from now on."""
        return self._needed().execution

    @property
    def flows(self) -> EngineFlows[Any]:
        """The flows of its engine."""
        return self._worker.flows

    def drive(self, flow: Flow[Any]) -> Any:
        """Run the flow of a step in the thread that calls it."""
        return self._needed().drive(flow)

    def run_step(self, op: Op, call: Call) -> Any:
        """Do a step that calls a function, in the thread that calls it."""
        return self._needed().run_step(op, call)

    def _needed(self) -> _LateThreadRun:
        """Return the run, live.

        Raises:
            Suspended: the request is refused.
        """
        with self._lock:
            if self._run is None:
                self._run = self._make()
            return self._run

    def _make(self) -> _LateThreadRun:
        try:
            request, route = self._request()
        except HTTPError as error:
            self.refusal = error
            raise Suspended from error
        ex = self._runs.new_execution(self._endpoint, request, route, self._event_seq)
        run = self._late_run(ex)
        if self._is_over:  # code that the handler has left behind asks for it
            ex.close()
            return run
        self._runs.begin(run)
        if self._worker.drains != self._drains:
            self._drain(run)
        return run

    def _late_run(self, ex: StoredExecution) -> _LateThreadRun:
        return _LateThreadRun(self._worker, ex, self._answers.append, self._main)

    def _drain(self, run: ThreadRun) -> None:
        run.detach(HandoffReason.DRAIN)

    # -- as the caller of the handler sees it -----------------------------------------------

    def serve(
        self, handler: Callable[[], T], to_response: Callable[[T], Response]
    ) -> tuple[T, None] | tuple[None, Response]:
        """Call the handler.

        Args:
            handler: returns what the framework sends in response.
            to_response: makes the response of a run of that.

        Returns:
            What the handler returned, if there is no run; else the response for the client.
        """
        with self._awaited_by_stop():
            call: Callable[[Request], Response]
            try:
                value = copy_context().run(self._call, handler)
            except (KeyboardInterrupt, SystemExit, GeneratorExit) as error:
                if self._run is not None:  # it goes on in another thread or process
                    self._runs.abandon(self._run, error)
                raise
            except BaseException as error:
                call = partial(_raise, error)
            else:
                if self.is_needless():
                    return value, None
                call = partial(_pass, to_response, value)
            return None, self._end(call)

    @contextmanager
    def _awaited_by_stop(self) -> Iterator[None]:
        """Let whoever stops the worker wait for the handler."""
        live, name = self._worker.live, f"{self._endpoint.options.key} in {threading.get_ident()}"
        live.body_started(name)
        try:
            yield
        finally:
            live.body_finished(name)

    def _call(self, handler: Callable[[], T]) -> T:
        CURRENT_RUN.set(self)
        EVENT_SEQ.set(self._event_seq)
        return handler()

    def is_needless(self) -> bool:
        """Tell whether the handler, which has ended, had no use for a run; then it gets none."""
        with self._lock:
            self._is_over = self._run is None and self.refusal is None
        return self._is_over

    def _end(self, call: Callable[[Request], Response]) -> Response:
        """Run the flow of the run whose handler has ended in this way."""
        try:
            run = self._needed()
        except Suspended:
            assert self.refusal is not None
            return problem_from_http_error(self.refusal)
        self._runs.run_in_thread(run, run.flow_after(call))
        answers = self._answers
        return answers[0] if answers else self._runs.unanswered(run.execution)


class DeferredPoolRun(DeferredThreadRun):
    """As :class:`DeferredThreadRun`, for a thread of a framework's pool.

    The client waits on an event loop. The framework makes the response when the thread has ended,
    so a thread of the engine ends the run. All but :meth:`call` happens on the event loop.

    Args:
        worker, runs, endpoint, request, loop, event_seq: see ``DeferredRun``.
        begun: called on the event loop when the run has begun.

    Attributes:
        answer: that to the client; there is one when the run has begun.
    """

    def __init__(
        self,
        worker: WorkerParts,
        runs: RunManager,
        endpoint: RegisteredEndpoint,
        request: Callable[[], tuple[Request, str | None]],
        loop: asyncio.AbstractEventLoop,
        begun: Callable[[], object],
        event_seq: int,
    ) -> None:
        super().__init__(worker, runs, endpoint, request, event_seq)
        self.answer: ClientAnswer
        self._loop = loop
        self._begun = partial(copy_context().run, begun)  # not in the context of the handler
        self._context: Context | None = None  # of the handler

    def call(self, handler: Callable[[], T]) -> T:
        """Call the handler, in this thread.

        Raises:
            Suspended: there can be no run, or it is suspended.
            Exception: what the handler raised.
        """
        self._main = threading.get_ident()
        self._context = context = copy_context()
        with self._awaited_by_stop():
            if self._run is not None:  # begun because the request was cancelled
                raise Suspended
            return context.run(self._call, handler)

    def begin(self) -> None:
        """Begin the run, whatever has become of the handler.

        Raises:
            Suspended: the request is refused.
        """
        self._is_over = False
        self._needed()

    def end(self, handler: Callable[[Request], Response]) -> None:
        """Have a thread of the engine end the run, which has begun.

        Args:
            handler: makes the response of the run; it does not wait.
        """
        run, context, answer = self._needed(), self._context or copy_context(), self.answer
        self._context = None  # which refers to this object
        try:
            # The first context may still be in use: a thread cannot be stopped with its request.
            done = self._worker.servers.submit(
                context.copy().run, self._runs.run_in_thread, run, run.flow_after(handler)
            )
        except RuntimeError as error:  # stopped, or the system has no thread left
            self._runs.abandon(run, StoreError(f"it has no thread to end in: {error}"))
            answer.run_ended()
        else:
            done.add_done_callback(lambda _: call_soon(self._loop, answer.run_ended))

    def is_needless(self) -> bool:
        is_over = super().is_needless()
        if is_over:
            self._context = None
        return is_over

    def _late_run(self, ex: StoredExecution) -> _LateThreadRun:
        run = _LateThreadRun(self._worker, ex, self._reply, self._main, own_thread=True)
        self.answer = ClientAnswer(self._runs, ex, self._loop)
        self.answer.run = run
        if not self._is_over:
            call_soon(self._loop, self._begun)
        return run

    def _reply(self, response: Response) -> None:
        call_soon(self._loop, self.answer.set, response)

    def _drain(self, run: ThreadRun) -> None:
        with suppress(RuntimeError):  # stopped: then every run is
            self._worker.threads.submit(run.detach, HandoffReason.DRAIN)


class _LateThreadRun(ThreadRun):
    """The run of a handler that was called already."""

    has_called = True

    def __init__(
        self,
        host: RunHost,
        ex: StoredExecution,
        reply: Callable[[Response], object],
        main: int,
        *,
        own_thread: bool = False,
    ) -> None:
        super().__init__(host, ex, not_begun, reply, own_thread=own_thread)
        self.execution = ex
        self._main = main
        self._late_flow = self._flow = host.flows.execute(ex)
        effect = next(self._late_flow)
        assert isinstance(effect, CallHandler)

    def flow_after(self, handler: Callable[[Request], Response]) -> Flow[None]:
        """Return the flow, which waits for the end of the handler.

        Args:
            handler: gives what came of the call.
        """
        self._handler = handler
        return self._late_flow

    def run(self, flow: Flow[None]) -> None:
        """Run the rest of the flow, unless that was done without the handler."""
        if self._flow is not None:
            outcome = self.call_handler(CallHandler())
            drive_sync(flow, self.perform, self._lock, outcome)


def _raise(error: BaseException, request: Request) -> NoReturn:
    raise error


def _pass(to_response: Callable[[T], Response], value: T, request: Request) -> Response:
    return to_response(value)
