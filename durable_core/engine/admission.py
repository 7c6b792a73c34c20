"""Runs that the store may refuse, queue, or give to an earlier request, when they are to begin."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from durable_core.codec.tokens import request_fingerprint
from durable_core.engine.runs import RunManager, WorkerParts
from durable_core.errors import RunNotFoundError, RunUndoneError, StoreError
from durable_core.flow.driver import await_values, drive_async, drive_values
from durable_core.flow.execution import StoredExecution, checkpoint
from durable_core.flow.handoff import hand_off_queued
from durable_core.http.headers import accepts_event_stream
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.http.response import Response, with_headers
from durable_core.ports import Begin, BeginRefused, Begun, EarlierRun, IdempotencyKey, Write
from durable_core.runners.settings import RegisteredEndpoint

if TYPE_CHECKING:
    from durable_core.engine.stream_responses import StreamResponder
    from durable_core.engine.sync_limit import SyncLimit
    from durable_core.model.run import Run
    from durable_core.ports import Cancel, CancelOutcome

__all__ = ["Admission", "Arrival", "RunCanceller"]

T = TypeVar("T")
#: A part of an admission. What it yields is a value, or an awaitable of one.
_Flow: TypeAlias = Generator[Any, Any, T]

#: How often a request may try to take the place of the run with its singleton key: others may do
#: the same, so that it is another run each time.
_MOST_TRIES = 10
#: What the clients of a run are told that was cancelled for another one.
_REPLACED = "another run took its place"
#: Seconds after which a client may try again where nobody knows better.
_RETRY_AFTER = 5


class RunCanceller(Protocol):
    """What cancels runs; see ``RunControl``."""

    def cancellation(self, run_id: str, reason: str) -> tuple[Run, Cancel]: ...

    def after_cancel(self, run: Run, cancel: Cancel, outcome: CancelOutcome) -> None: ...


class _Admitted(NamedTuple):
    """What the store has decided about a run.

    Attributes:
        ex: its execution.
        answer: what the client is answered, or the run that it joins; None if its own has begun.
        is_queued: it has begun, and waits for a slot: its handler is not called here.
    """

    ex: StoredExecution
    answer: Response | EarlierRun | None
    is_queued: bool = False


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request for a run that the store may not let begin.

    Attributes:
        endpoint: that of the handler.
        request: what the client asks.
        route: the template that the path was found by, where a router knows it.
        key: of the request; None without one.
        control: of the run that this one is to replace (``singleton="cancel"``).
        refuse: makes the response where the store cannot answer.
    """

    endpoint: RegisteredEndpoint
    request: Request
    route: str | None
    key: IdempotencyKey | None
    control: RunCanceller
    refuse: Callable[[StoreError], Response]


class Admission:
    """Begins runs as far as the store lets them.

    What is done is written once, as generators; see ``flow.driver.drive_values``.

    Args:
        worker: the worker that it is a part of.
        runs: of this worker.
        streaming: answers with event streams.
        sync_limit: starts runs whose clients wait for a limited time.
    """

    def __init__(
        self,
        worker: WorkerParts,
        runs: RunManager,
        streaming: StreamResponder,
        sync_limit: SyncLimit,
    ) -> None:
        self._worker = worker
        self._runs = runs
        self._in_thread = _InThread(worker, runs, streaming, sync_limit)
        self._on_loop = _OnLoop(worker, runs, streaming, sync_limit)

    #: Returns a request for a run; see :class:`Arrival`.
    arrival = Arrival

    def serve(self, arrival: Arrival) -> Response | EarlierRun:
        """Run a ``def`` handler in this thread, if the store lets its run begin.

        Returns:
            The response, or the run that the client joins.

        Raises:
            TypeError, ValueError: the function of a limit returned no key; or what it raised.
        """
        return drive_values(self._serve(self._in_thread, arrival))

    async def serve_async(self, arrival: Arrival) -> Response | EarlierRun:
        """As :meth:`serve`, for a handler of either kind, on an event loop."""
        return await await_values(self._serve(self._on_loop, arrival))

    def _serve(self, how: _InThread | _OnLoop, arrival: Arrival) -> _Flow[Response | EarlierRun]:
        try:
            ex, answer, is_queued = yield from self._begin(how, arrival)
        except StoreError as error:
            return arrival.refuse(error)
        if answer is not None:
            return answer
        options = arrival.endpoint.options
        follows = accepts_event_stream(arrival.request.headers) or options.ui_messages is not None
        response: Response
        if is_queued:
            # The execution is not live: this process may claim the run and execute it meanwhile.
            if follows:
                return EarlierRun(ex.run.id, None)
            response = yield how.hand_off_queued(arrival.endpoint, ex)
            return response
        with self._runs.beginning(ex):
            response = yield how.start(arrival.endpoint, ex, follows)
        return response

    def _begin(self, how: _InThread | _OnLoop, arrival: Arrival) -> _Flow[_Admitted]:
        """Store a run before its handler begins, if it may begin.

        Raises:
            StoreError: it could not be stored, or nobody knows whether it was.
            TypeError, ValueError: the function of a limit returned no key; or what it raised.
        """
        worker, key = self._worker, arrival.key
        event_seq: int = yield how.read(worker.event_watermark.recent)
        ex = self._runs.new_execution(arrival.endpoint, arrival.request, arrival.route, event_seq)
        refusal: Response | None = yield how.read(worker.quota.refusal, ex.run.principal)
        if refusal is not None:
            earlier: EarlierRun | None = yield how.read(self._runs.find_earlier, key)
            return _Admitted(ex, earlier or refusal)
        client = ex.run.client
        write = _begin_write(ex, key)
        old: tuple[Run, Cancel] | None = None
        replaced = ""
        for _ in range(_MOST_TRIES):
            with self._runs.beginning(ex):
                begun: Begun | BeginRefused = yield how.commit(write)
            if old is not None:
                yield how.call(arrival.control.after_cancel, *old, begun.replaced)
            run_id = _run_to_replace(ex, begun)
            if run_id is None or run_id == replaced:
                break  # or it is undone first
            try:
                old = yield how.call(_cancellation, arrival.control, run_id)
            except RunUndoneError:
                break
            replaced = run_id
            write = replace(write, replaces=None if old is None else old[1])
        return _admitted(ex, begun, client)


class _Parts:
    """What an admission has others do."""

    def __init__(
        self,
        worker: WorkerParts,
        runs: RunManager,
        streaming: StreamResponder,
        sync_limit: SyncLimit,
    ) -> None:
        self._worker = worker
        self._runs = runs
        self._streaming = streaming
        self._sync_limit = sync_limit


class _InThread(_Parts):
    """What an admission does in a thread: each method returns what its caller waits for."""

    def read(self, function: Callable[..., T], *args: Any) -> T:
        """Return what a function reads from the store."""
        return function(*args)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Return what a function that blocks returns."""
        return function(*args)

    def commit(self, write: Write[T]) -> T:
        """Return the answer of the store to a write."""
        return self._worker.queue.execute(write)

    def hand_off_queued(self, endpoint: RegisteredEndpoint, ex: StoredExecution) -> Response:
        """Return the answer to a client whose run waits for a slot."""
        answers: list[Response] = []
        run = self._runs.thread_run(self._worker, ex, endpoint.handler, answers.append)
        run.run(hand_off_queued(ex))
        return self._runs.answer_of(ex, answers)

    def start(self, endpoint: RegisteredEndpoint, ex: StoredExecution, follows: bool) -> Response:
        """Return the answer to a client whose run has begun."""
        if follows:
            return self._streaming.serve(endpoint, ex)
        if endpoint.options.max_sync_runtime is None:
            return self._runs.start_for_client(endpoint, ex)
        return self._sync_limit.start(endpoint, ex)


class _OnLoop(_Parts):
    """What an admission does on an event loop: the methods are those of :class:`_InThread`."""

    def read(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """See :meth:`_InThread.read`."""
        return self._worker.reads.wait(function, *args)

    def call(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """See :meth:`_InThread.call`."""
        return to_thread(function, *args)

    def commit(self, write: Write[T]) -> Awaitable[T]:
        """See :meth:`_InThread.commit`."""
        queue = self._worker.queue
        return queue.wait_async(queue.submit(write))

    async def hand_off_queued(self, endpoint: RegisteredEndpoint, ex: StoredExecution) -> Response:
        """See :meth:`_InThread.hand_off_queued`."""
        answers: list[Response] = []
        run = self._runs.task_run(self._worker, ex, endpoint.handler, answers.append)
        await drive_async(hand_off_queued(ex), run.perform)
        return self._runs.answer_of(ex, answers)

    def start(
        self, endpoint: RegisteredEndpoint, ex: StoredExecution, follows: bool
    ) -> Awaitable[Response]:
        """See :meth:`_InThread.start`."""
        if follows:
            return self._streaming.serve_async(endpoint, ex)
        if endpoint.options.max_sync_runtime is None:
            return self._runs.start_for_client_async(endpoint, ex)
        return self._sync_limit.start_async(endpoint, ex)


def _begin_write(ex: StoredExecution, key: IdempotencyKey | None) -> Begin:
    limits = ex.options.limits
    rate = None if limits is None else limits.rate_rule(ex.request)
    app, [secret, *_] = ex.env.app, ex.env.secrets()
    if key is not None:
        ex.run = replace(ex.run, key=key.key)
        fingerprint = request_fingerprint(secret, app=app, digest=key.fingerprint)
        key = replace(key, fingerprint=fingerprint)
    if ex.run.client is not None:
        client = request_fingerprint(secret, app=app, digest=ex.run.client)
        ex.run = replace(ex.run, client=client)
    write: Any = checkpoint(ex).write
    if limits is None:
        return Begin(checkpoint=write, key=key)
    return Begin(
        checkpoint=write,
        key=key,
        slots=limits.slots,
        queue_limit=limits.queue_limit,
        rate=rate,
    )


def _run_to_replace(ex: StoredExecution, begun: Begun | BeginRefused) -> str | None:
    """Return the run that the new one is to take the place of; None if there is none."""
    limits = ex.options.limits
    if not isinstance(begun, BeginRefused) or begun.reason != "singleton" or limits is None:
        return None
    is_replaced = limits.singleton is not None and limits.singleton.mode == "cancel"
    return begun.run_id if is_replaced else None


def _cancellation(control: RunCanceller, run_id: str) -> tuple[Run, Cancel] | None:
    """Return a run, and what cancels it for another one; None if it has been deleted.

    Raises:
        RunUndoneError: it has failed and is being undone.
    """
    try:
        return control.cancellation(run_id, _REPLACED)
    except RunNotFoundError:
        return None


def _admitted(ex: StoredExecution, begun: Begun | BeginRefused, client: str | None) -> _Admitted:
    """Return what a store's answer means for a client, of whom ``client`` is a digest."""
    if isinstance(begun, BeginRefused):
        return _Admitted(ex, _refused(ex, begun, client))
    if begun.is_new:
        return _Admitted(ex, None, begun.is_queued)
    return _Admitted(ex, EarlierRun(begun.run_id, begun.fingerprint))


def _refused(
    ex: StoredExecution, refused: BeginRefused, client: str | None
) -> Response | EarlierRun:
    if refused.reason == "singleton":
        return _join_or_refuse(ex, refused, client)
    if refused.reason == "queue-full":
        detail = "too many runs of this endpoint wait their turn"
        return _with_retry_after(problem(503, "queue-full", detail=detail), _RETRY_AFTER)
    retry_at = refused.retry_at or 0
    seconds = -((ex.env.clock.now() - retry_at) // 1000)
    detail = "this endpoint has begun as many runs as its rate limit allows"
    return _with_retry_after(problem(429, "rate-limited", detail=detail), max(1, seconds))


def _join_or_refuse(
    ex: StoredExecution, refused: BeginRefused, client: str | None
) -> Response | EarlierRun:
    limits, env = ex.options.limits, ex.env
    is_joined = (
        limits is not None and limits.singleton is not None and limits.singleton.mode == "attach"
    )
    # Nobody gets a response that was made for another client.
    if is_joined and client is not None:
        for secret in env.secrets():
            if request_fingerprint(secret, app=env.app, digest=client) == refused.client:
                return EarlierRun(refused.run_id, None)
    detail = "another run of this endpoint, which allows one at a time, has not ended"
    return _with_retry_after(problem(409, "already-running", detail=detail), _RETRY_AFTER)


def _with_retry_after(response: Response, seconds: int) -> Response:
    return with_headers(response, (("retry-after", str(seconds)),))
