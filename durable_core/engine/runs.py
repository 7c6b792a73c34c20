"""The runs of one process: they are started for clients or resumed, and live until they end."""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from types import CoroutineType
from typing import Any, Generic, Protocol, TypeAlias, TypeVar
from weakref import WeakSet

from durable_core.codec.records import is_sealed, is_without_body, load_request
from durable_core.commit_queue import CommitFuture, CommitQueue
from durable_core.duration import time_of
from durable_core.engine.capacity import Capacity
from durable_core.engine.late_ends import LateEnds
from durable_core.engine.quota import Quota
from durable_core.engine.releases import cut_short_fact, end_of_corrupt, release_of, release_unbegun
from durable_core.engine.reports import report_begun
from durable_core.engine.undoing import Undoing
from durable_core.errors import LeaseLost, StoreBrokenError, StoreError, StoreOutcomeUnknownError
from durable_core.flow.driver import ask_again, drive_async
from durable_core.flow.effects import Flow, Outcome
from durable_core.flow.env import AppConfig
from durable_core.flow.execution import Execution, StoredExecution, new_run
from durable_core.flow.facts import run_facts
from durable_core.flow.handler import fail_orphan, fail_overdue, resume
from durable_core.flow.handoff import handoff_response, new_token
from durable_core.flow.omitted import OmittedBodyRequest
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.scope import HandlerKind
from durable_core.flow.stored_failure import stored_failure
from durable_core.http.headers import traceparent_of
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.retry import delay_ms
from durable_core.model.decision import HandoffReason
from durable_core.model.fact import RunNoted
from durable_core.model.run import Run
from durable_core.model.step import Memo, OpKind
from durable_core.platform import call_soon, logger, run_logger
from durable_core.ports import (
    Begin,
    BeginRefused,
    Begun,
    Cancel,
    CancelOutcome,
    Checkpoint,
    CheckpointResult,
    ClaimedRun,
    CorruptRun,
    Delete,
    Deliver,
    Delivered,
    EarlierRun,
    Fork,
    IdempotencyKey,
    Prune,
    Release,
    Retry,
    SealedRun,
    SendEvents,
    Slots,
    Store,
)
from durable_core.runners.host import RunHost
from durable_core.runners.live import Waiters
from durable_core.runners.observers import Observers
from durable_core.runners.recorded_body import close_unsent
from durable_core.runners.settings import RegisteredEndpoint, Settings, slots_of
from durable_core.runners.store_reads import StoreReads
from durable_core.runners.task import TaskRun, next_turn
from durable_core.runners.thread import ThreadRun
from durable_core.runners.thread_pool import DaemonThreadPool
from durable_core.streams.hub import StreamHub

__all__ = [
    "AnswerListener",
    "ClientAnswer",
    "EventWatermark",
    "RunExecutor",
    "RunManager",
    "WorkerParts",
]

#: A run that the store has cut short goes on after so long, milliseconds: it may be so again.
_PAUSE = 1_000
#: A run that this process cannot read is due again after so long, milliseconds.
_SEALED_PAUSE = 10_000


ExecutionT = TypeVar("ExecutionT", bound=Execution)

#: Sets a timer for the client of a run: the run, where it runs if that is a thread, and what to
#: call if it never begins there.
_Watch: TypeAlias = Callable[
    ["TaskRun | ThreadRun", "Future[None] | None", Callable[[], object]], asyncio.TimerHandle
]


class RunExecutor(Generic[ExecutionT]):
    """Runs executions in threads and tasks; each is live from its beginning to its end.

    This is what any engine needs; :class:`RunManager` adds what a store makes possible.

    Args:
        host: the worker.
        unanswered: makes the answer of an execution that ended before it had one.
    """

    def __init__(self, host: RunHost, unanswered: Callable[[ExecutionT], Response]) -> None:
        self._host = host
        self.unanswered = unanswered
        #: None of a run whose rest is executed in the task of its client.
        self._tasks: dict[TaskRun, asyncio.Task[None] | None] = {}
        self._other_tasks: set[asyncio.Task[None]] = set()
        #: The classes of live runs.
        self.thread_run, self.task_run = _classes_of_runs(host.observers)

    @property
    def has_tasks(self) -> bool:
        """True while something runs in a task."""
        return bool(self._tasks or self._other_tasks)

    def start_for_client(self, endpoint: RegisteredEndpoint, ex: ExecutionT) -> Response:
        """Run a ``def`` handler in this thread, and return what it answers."""
        answers: list[Response] = []
        run = self.thread_run(self._host, ex, endpoint.handler, answers.append)
        self.run_in_thread(run, self._host.flows.execute(ex))
        return answers[0] if answers else self.unanswered(ex)

    def answer_of(self, ex: ExecutionT, answers: Sequence[Response]) -> Response:
        """Return what an execution that is over has answered, or stands for."""
        return answers[0] if answers else self.unanswered(ex)

    async def start_for_client_async(
        self, endpoint: RegisteredEndpoint, ex: ExecutionT, watch: _Watch | None = None
    ) -> Response:
        """Run a handler of either kind, and return what it answers.

        Cancelling this means that the client is gone; the execution goes on.

        Args:
            endpoint: the endpoint.
            ex: the execution, which has not begun.
            watch: sets a timer for the client, which is cancelled once it has its answer.
        """
        done: Future[None] | None = None
        loop = asyncio.get_running_loop()
        answer = ClientAnswer(self, ex, loop)
        flow = self._host.flows.execute(ex)
        if endpoint.kind is HandlerKind.ASYNC_DEF:
            task_run = self.task_run(self._host, ex, endpoint.handler, answer.set, loop=loop)
            answer.run = task_run
            self.run_in_task(task_run, flow, answer.run_ended)
        else:
            reply = partial(_call_live, loop, answer.set)
            run = self.thread_run(self._host, ex, endpoint.handler, reply, own_thread=True)
            answer.run = run
            context = copy_context()  # what a middleware has set is there in the thread, too
            done = self._host.servers.submit(context.run, self.run_in_thread, run, flow)
            done.add_done_callback(partial(_thread_ended, loop, answer.run_ended))
        timer = None
        if watch is not None:
            timer = watch(answer.run, done, partial(_call_live, loop, answer.run_ended))
        try:
            await answer.arrival()  # ``answer.wait`` would be one coroutine more in each request
        except asyncio.CancelledError:
            answer.client_left()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        assert answer.response is not None
        return answer.response

    def run_in_thread(self, run: ThreadRun, flow: Flow[None]) -> None:
        """Run a flow of that run in this thread."""
        self.begin(run)
        try:
            run.run(flow)
        except BaseException as error:
            _broke(run.ex, error)
            raise
        finally:
            self._end(run)

    def run_in_task(
        self, run: TaskRun, flow: Flow[None], ended: Callable[[], None]
    ) -> asyncio.Task[None]:
        """Run a flow of that run in a task of its loop, which this is called on.

        ``ended`` is called at the end, whether or not there was an answer.
        """
        self.begin(run)
        task = self._tasks[run] = run.start(self._run_to_end(run, flow, ended))
        return task

    async def _run_to_end(self, run: TaskRun, flow: Flow[None], ended: Callable[[], None]) -> None:
        """Run a flow of a run in this task, and see to its end.

        A callback of the task would take one more turn of the event loop, after the client's.
        """
        try:
            if run.begins_with_task:
                await next_turn()
            await drive_async(flow, run.perform)
        except asyncio.CancelledError:
            self._task_ended(run, ended)
            raise
        except BaseException as error:
            task = self._tasks[run]
            if task is None or asyncio.current_task(task.get_loop()) is not task:
                raise  # the loop was closed without an end of its tasks
            assert task is not None
            _broke(run.ex, error)
            self._task_ended(run, ended)
            if not isinstance(error, Exception):  # it may end the event loop
                task.add_done_callback(asyncio.Task.exception)  # which has been logged
                raise
        else:
            self._task_ended(run, ended)

    def keep(self, run: TaskRun) -> None:
        """Note that the rest of a live run is soon executed, by :meth:`end_here` or in a task."""
        self._tasks[run] = None

    async def end_here(
        self, run: TaskRun, flow: Flow[None], outcome: Outcome, ended: Callable[[], None]
    ) -> None:
        """Run the rest of a flow, whose handler has ended, in the task of its client.

        If this is cancelled, the flow goes on in a task of its own.

        Args:
            run: the run; see :meth:`keep`.
            flow: waits for the outcome of the handler.
            outcome: that.
            ended: called at the end, whether or not there was an answer.
        """
        value: Any = outcome
        error: BaseException | None = None
        try:
            while True:  # as ``drive_async`` does
                effect = flow.send(value) if error is None else flow.throw(error)
                try:
                    value = run.perform(effect)
                    if type(value) is CoroutineType:
                        value = await value
                    error = None
                except BaseException as raised:
                    error = raised
                    if type(raised) is asyncio.CancelledError and self._may_go_on():
                        self.run_in_task(run, ask_again(flow, effect), ended)
                        raise
        except StopIteration:
            self._task_ended(run, ended)
        except BaseException as broken:
            is_exit = not isinstance(broken, Exception)
            if self._tasks[run] is not None or isinstance(broken, GeneratorExit):
                raise
            if not isinstance(broken, asyncio.CancelledError):
                _broke(run.ex, broken)
            self._task_ended(run, ended)
            if is_exit:
                raise

    def _may_go_on(self) -> bool:
        """Tell whether this event loop lets a run that is cancelled go on in a task of its own."""
        return not self._host.loops.is_shutting_down(asyncio.get_running_loop())

    def _task_ended(self, run: TaskRun, ended: Callable[[], None]) -> None:
        del self._tasks[run]
        ended()
        self._end(run)

    def begin(self, run: ThreadRun | TaskRun) -> None:
        """Note that a run is live."""
        self._host.live[run.ex.run.id] = run
        if self._host.stopping:  # after this one was let in, before it was live
            run.ex.stop()

    def abandon(self, run: ThreadRun | TaskRun, error: BaseException) -> None:
        """Forget a live run that nothing can go on with here; it is released later."""
        run.ex.close(error)
        self._end(run)

    def _end(self, run: ThreadRun | TaskRun) -> None:
        live, run_id = self._host.live, run.ex.run.id
        if live.get(run_id) is run:  # else a later execution has its place
            del live[run_id]
        if live.awaited:  # looked at last: whoever waits from now on sees that it is gone
            live.notify_if_empty()

    def client_gone(self, live: TaskRun | ThreadRun) -> None:
        """Detach the client of a run, which goes on."""
        if isinstance(live, TaskRun):
            live.detach(HandoffReason.DISCONNECT)
            return
        try:
            # Detaching a thread commits, which must not block the loop.
            self._host.threads.submit(live.detach, HandoffReason.DISCONNECT)
        except RuntimeError:
            pass  # stopped: what was in flight has been detached or released

    def discard(self, response: Response) -> None:
        """See that the end of a streamed body is recorded although nobody sends it."""
        if response.is_streaming:
            self._keep(close_unsent(response, self._host.threads))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in a task of this loop that is no run's."""
        task = asyncio.get_running_loop().create_task(work)
        self._other_tasks.add(task)
        task.add_done_callback(self._other_tasks.discard)


class AnswerListener(Protocol):
    """Who sends an answer to the client. It is called on the event loop."""

    def answer_arrived(self) -> None:
        """Take note that the answer is there."""
        ...

    def run_ended(self) -> None:
        """Take note that the run has ended, or goes on elsewhere. The answer is there by then."""
        ...


class ClientAnswer:
    """The answer to the client of a run. All but making it happens on one event loop.

    Args:
        runs: what runs it.
        ex: the execution.
        loop: the event loop.

    Attributes:
        run: the run, to be set before anybody waits.
        response: the answer; None until it is there.
        listener: is told of it, and of the end of the run. Whoever only waits needs none.
    """

    listener: AnswerListener | None = None

    def __init__(
        self,
        runs: RunExecutor[Any],
        ex: Execution,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.run: TaskRun | ThreadRun
        self.response: Response | None = None
        self._is_left = False
        self._arrival: asyncio.Future[None] | None = None
        self._runs = runs
        self._ex = ex
        self._loop = loop

    def set(self, response: Response) -> None:
        """Answer, unless the client is gone, or whoever waits for it is cancelled right now."""
        arrival = self._arrival
        if self._is_left or (arrival is not None and arrival.cancelled()):
            self._runs.discard(response)
            return
        self.response = response
        if arrival is not None and not arrival.done():
            arrival.set_result(None)
        if self.listener is not None:
            self.listener.answer_arrived()

    def run_ended(self) -> None:
        """Answer if the run has not."""
        if self.response is None and not self._is_left:
            self.set(self._runs.unanswered(self._ex))
        if self.listener is not None:
            self.listener.run_ended()

    async def wait(self) -> Response:
        """Return the answer. Cancelling this means that the client is gone; the run goes on."""
        if self.response is None:
            try:
                await self.arrival()
            except asyncio.CancelledError:
                self.client_left()
                raise
        assert self.response is not None
        return self.response

    def arrival(self) -> asyncio.Future[None]:
        """Return a future of the answer, which is not there yet; for one who waits."""
        self._arrival = self._loop.create_future()
        return self._arrival

    def client_left(self) -> None:
        """Detach the client of the run, or drop the answer that it has no more use for."""
        self._is_left = True
        if self.response is None:
            self._runs.client_gone(self.run)
        else:
            self._runs.discard(self.response)


class EventWatermark:
    """Reads the highest event sequence number, and remembers it until it may have changed.

    So not every request and step asks the store for it.

    Where events are matched from, a number that is too low errs on the safe side: the event is
    still found. May be used by several threads.
    """

    def __init__(self, store: Store, app: str, reads: StoreReads) -> None:
        self._store = store
        self._reads = reads
        self._app = app
        self._lock = threading.Lock()
        self._known = 0
        self._is_current = False
        self._is_shared = True  # until the scheduler has looked

    def recent(self) -> int:
        """Return a number that counts every event of this process, and of those known to be there.

        Those of a process that has just come are counted once the scheduler has noticed it, up to
        0.1 s later. To the run or step that asks, they seem to have come after it began.
        """
        return self._known if self._is_current else self._read()

    def recent_async(self) -> int | Coroutine[Any, Any, int]:
        """As :meth:`recent`, on an event loop: the number, or what it is awaited from."""
        return self._known if self._is_current else self._reads.call(self._read)

    def _read(self) -> int:
        # Before reading, so that a change meanwhile is not missed.
        self._is_current = not self._is_shared
        try:
            mark = self._store.event_seq(self._app)
        except BaseException:
            self._is_current = False
            raise
        with self._lock:
            self._known = max(self._known, mark)
            return self._known

    def share(self, shared: bool) -> None:
        """Note whether other processes may store events, too; then every step asks the store."""
        self._is_shared = shared
        if shared:
            self._is_current = False

    def changed(self) -> None:
        """Note that there may be newer events."""
        self._is_current = False


class WorkerParts(RunHost):
    """A worker of the embedded engine, as its parts see it."""

    env: AppConfig
    settings: Settings
    store: Store
    endpoints: dict[str, RegisteredEndpoint]
    #: The name of this process in its leases.
    owner: str
    #: Writes of runs that are not live any more, which the store has not taken yet.
    abandoned: list[Checkpoint]
    quota: Quota
    waiters: Waiters
    streams: StreamHub
    reads: StoreReads
    #: Where ``def`` handlers are replayed.
    workers: DaemonThreadPool
    #: Where clients are handed off whose time is over; no handler and no step runs there.
    handoffs: DaemonThreadPool
    queue: CommitQueue
    event_watermark: EventWatermark
    #: How often clients were handed on.
    drains: int

    @abstractmethod
    def wake_scheduler(self) -> None:
        """Have the scheduler look at everything now."""

    @abstractmethod
    def cancel_abandoned_soon(self, parent: str) -> None:
        """Have the scheduler cancel the children of a run that has ended, or was cancelled."""

    @abstractmethod
    def wake_scheduler_at(self, due_at: int) -> None:
        """Have the scheduler look at a run that is due then, epoch milliseconds."""

    @abstractmethod
    def claim_soon(self, kind: HandlerKind) -> None:
        """Have the scheduler claim due runs, as there is more room for such handlers."""


class RunManager(RunExecutor[StoredExecution]):
    """Starts and resumes runs that are kept in a store, where other processes may resume them too.

    Args:
        worker: the worker that it is a part of.

    Attributes:
        capacity: how many more runs may be claimed.
    """

    def __init__(self, worker: WorkerParts) -> None:
        super().__init__(worker, _answer_at_end)
        settings = worker.settings
        self.capacity = Capacity(settings.worker_threads, settings.worker_tasks)
        self.late_ends = LateEnds(worker.workers, self._finish)
        self._worker = worker
        self._open_stream = worker.streams.open  # each run has it: it is bound once
        self._has_children = False  # runs of this process have started others
        self._released: WeakSet[StoredExecution] = WeakSet()
        #: The runs that were left to other processes and logged.
        self._sealed: set[str] = set()

    # -- starting ---------------------------------------------------------------------------

    def new_execution(
        self, endpoint: RegisteredEndpoint, request: Request, route: str | None, event_seq: int
    ) -> StoredExecution:
        """Return the execution of a new run; nothing is written before its first checkpoint.

        Args:
            endpoint: its handler.
            request: what the client asks.
            route: the template that the path was found by, where a router knows it.
            event_seq: the watermark of events that came before the run.
        """
        worker, options = self._worker, endpoint.options
        run = new_run(worker.env, options, request, route, event_seq)
        if worker.observers.watched:
            traceparent = traceparent_of(request.headers)
            run = worker.observers.in_trace(replace(run, traceparent=traceparent))
        request.headers._on_sensitive = endpoint.on_sensitive_header
        return StoredExecution(worker.env, options, run, request, owner=worker.owner)

    @contextmanager
    def beginning(self, ex: StoredExecution) -> Iterator[None]:
        """See that a run which may be stored begins by a replay if its handler does not begin here.

        That is so if its client goes away meanwhile, or if the process has no thread left.
        """
        try:
            yield
        except BaseException as error:
            is_lost = isinstance(error, StoreOutcomeUnknownError)
            is_stored = is_lost or not isinstance(error, StoreError)
            if is_stored and self._worker.live.get(ex.run.id) is None:
                self._write_later(release_of(ex.run, ex.owner, self._worker.env.clock.now(), 0))
            raise

    def find_earlier(self, key: IdempotencyKey | None) -> EarlierRun | None:
        """Return the run that has the key, if any; for a request that may begin none."""
        if key is None:
            return None
        env, store = self._worker.env, self._worker.store
        found = store.keyed_run(env.app, key, env.clock.now())
        return None if found is None else EarlierRun(found.run_id, found.fingerprint)

    # -- resuming ---------------------------------------------------------------------------

    def keys(self, kind: HandlerKind) -> tuple[str, ...]:
        """Return the keys of the handlers of a kind."""
        endpoints = list(self._worker.endpoints.items())
        return tuple(key for key, endpoint in endpoints if endpoint.kind is kind)

    def slots(self, keys: Sequence[str]) -> tuple[Slots, ...]:
        """Return the slots of those of the endpoints that have any."""
        endpoints = self._worker.endpoints
        return slots_of(endpoints[key] for key in keys if key in endpoints)

    def resume(self, claimed: ClaimedRun) -> None:
        """Replay the handler of a claimed run, in a thread or a task."""
        endpoint = self._worker.endpoints[claimed.run.endpoint_key]
        ex = self._claimed_execution(claimed, endpoint.options)
        if ex is None:
            return
        is_failing = stored_failure(ex) is not None
        if is_failing:
            ex.deadline = None
        is_overdue = ex.deadline is not None and ex.is_overdue
        if is_overdue and not ex.run.undoable:
            self.run_in_thread(ThreadRun(self._worker, ex, _no_handler), fail_overdue(ex))
            return
        self.capacity.take(endpoint.kind)
        if is_failing or is_overdue or ex.run.cancel_reason is not None:
            Undoing(
                self._worker,
                self._worker.workers,
                self,
                endpoint,
                ex,
                lambda: self._free(endpoint.kind),
            ).start()
            return
        # It is live from now on, although its worker begins later: a stop must know of it.
        if endpoint.kind is HandlerKind.DEF:
            run = self.thread_run(self._worker, ex, endpoint.handler)
            self._worker.live[ex.run.id] = run
            self._resume_in_thread(run, ex)
        else:
            loop = self._worker.loops.replay_loop
            task_run = self.task_run(self._worker, ex, endpoint.handler, loop=loop)
            self._worker.live[ex.run.id] = task_run
            task_run.left = _call_once(lambda: self._free(HandlerKind.ASYNC_DEF))
            if not _call_live(loop, self._resume_here, task_run, ex):
                ex.close(RuntimeError("the event loop was closed"))
                self._end(task_run)
                task_run.left()

    def _resume_in_thread(self, run: ThreadRun, ex: StoredExecution) -> None:
        self.capacity.add_waiting(run)
        try:
            self._worker.workers.run_soon(partial(self._replay_in_thread, run, ex))
        except RuntimeError as error:
            # The system has no thread left. As with the store, that passes.
            self.capacity.begin(run)
            self.abandon(run, StoreError(f"it has no thread to run in: {error}"))
            self._free(HandlerKind.DEF)

    def _replay_in_thread(self, run: ThreadRun, ex: StoredExecution) -> None:
        if not self.capacity.begin(run):
            return  # it was released
        self.begin(run)
        rest: Flow[None] | None = None
        try:
            rest = run.run_until(resume(ex), self._may_end_later)
        except BaseException as error:
            _broke(run.ex, error)
        finally:
            if rest is None:
                self._end(run)
            else:
                self.late_ends.add(run, rest)
            self.capacity.thread_ended()
            self._free(HandlerKind.DEF)

    def _may_end_later(self, ex: Execution) -> bool:
        """Tell whether a thread may take the next run before the end of this one is committed.

        Each thread that waits for a commit has to be woken, which takes as long as a short handler.
        Whoever waits for the run hears of its end from the commit. What else follows it must not
        wait for other runs: the end of its stream, runs that have its slot or tell of its end, and
        what observers are told.
        """
        options = ex.options
        return (
            ex.run.phase.ended
            and self.capacity.has_waiting
            and ex.stream is None
            and options.limits is None
            and options.on_complete is None
            and not self._worker.observers.watched
        )

    def _finish(self, run: ThreadRun, rest: Flow[None]) -> None:
        try:
            run.run(rest)
        except BaseException as error:
            _broke(run.ex, error)
        finally:
            self._end(run)

    def release_waiting(self, older_than: float) -> None:
        """Release the runs that have waited for a thread for longer than so many seconds.

        It is called in the thread that resumes runs, or when none does any more.
        """
        for run in self.capacity.take_back(older_than):
            run.ex.close()
            self._end(run)
            assert isinstance(run.ex, StoredExecution)
            self._write_later(release_unbegun(run.ex))
            self._free(HandlerKind.DEF)

    def _resume_here(self, run: TaskRun, ex: StoredExecution) -> None:
        task = self.run_in_task(run, resume(ex), lambda: None)
        task.add_done_callback(lambda _: run.left())

    def _free(self, kind: HandlerKind) -> None:
        self.capacity.give_back(kind)
        self._worker.claim_soon(kind)

    def fail_orphan(self, claimed: ClaimedRun) -> None:
        """Fail a claimed run whose endpoint no code knows any more."""
        ex = self._claimed_execution(claimed, ResolvedOptions(key=claimed.run.endpoint_key))
        if ex is not None:
            self.run_in_thread(ThreadRun(self._worker, ex, _no_handler), fail_orphan(ex))

    def fail_corrupt(self, claimed: CorruptRun) -> None:
        """Fail a claimed run whose record cannot be read: another try would not help."""
        log = run_logger(claimed.run_id, "")
        log.error("what is stored of the run cannot be read, it fails: %s", claimed.reason)
        self._write_later(end_of_corrupt(claimed, self._worker.owner, self._worker.env.clock.now()))

    def leave_sealed(self, sealed: SealedRun) -> None:
        """Leave a claimed run as it is, for a process that can read it. No attempt is counted."""
        run, now = sealed.run, self._worker.env.clock.now()
        if run.id not in self._sealed:
            self._sealed.add(run.id)
            facts = run_facts(replace(run, function_id=run.endpoint_key))  # the label is encrypted
            text = f"it is left to other processes: {sealed.reason}"
            self._worker.observers.notify(
                RunNoted(run=facts, at=time_of(now), level=logging.ERROR, message=text)
            )
        self._write_later(
            Checkpoint(
                run_id=run.id,
                owner=self._worker.owner,
                epoch=run.epoch,
                now=now,
                state=run,  # as it is; a cancelled one says so, or it would be due at once
                release=Release(due_at=now + _SEALED_PAUSE, awaited=()),  # whatever has come
            )
        )

    def _claimed_execution(
        self, claimed: ClaimedRun, options: ResolvedOptions
    ) -> StoredExecution | None:
        """Return what is to be executed; None if it cannot be, and the run is failed."""
        try:
            request = load_request(claimed.request.head, claimed.request.body)
            if claimed.run.principal is not None:
                request = request.with_principal(claimed.run.principal)
            if is_without_body(request):
                request = OmittedBodyRequest.of(request, is_stored=True)
        except MemoryError:
            raise
        except Exception as error:
            if is_sealed(claimed.request.head):
                reason = "it is encrypted, and this process has no keys (stores.EncryptedStore)"
                self.leave_sealed(SealedRun(run=claimed.run, reason=reason))
                return None
            run, reason = claimed.run, f"{type(error).__name__}: {error}"
            self.fail_corrupt(
                CorruptRun(run_id=run.id, epoch=run.epoch, reason=reason, parent=run.parent)
            )
            return None
        return StoredExecution(
            self._worker.env,
            options,
            claimed.run,
            request,
            owner=self._worker.owner,
            memos=claimed.memos,
            pending=claimed.pending,
            streamed=claimed.streamed,
            handler_chunks=claimed.handler_chunks,
        )

    # -- living -----------------------------------------------------------------------------

    def begin(self, run: ThreadRun | TaskRun) -> None:
        """Note that a run is live, and may open its stream."""
        super().begin(run)
        streams = self._worker.streams
        run.ex.stream_opener = self._open_stream
        if streams.logs:  # looked at last: a reader that joins from now on finds the opener
            streams.begin(run.ex)

    def _end(self, run: ThreadRun | TaskRun) -> None:
        ex, streams = run.ex, self._worker.streams
        if ex.fault is not None:
            self.release_later(ex)
        super()._end(run)
        options = ex.options
        if options.limits is not None or options.on_complete is not None:
            self._worker.wake_scheduler()  # a queued run may have its slot; another one is due
        ex.stream_opener = None
        # A thread that opens the stream now has seen the execution open, and holds the lock.
        if ex.stream is not None or streams.lock.locked():
            streams.end(ex)

    def release_later(self, ex: Execution) -> None:
        """Have the scheduler release a run that its execution could not release, once.

        Nothing is done if the execution has no fault, or has lost its lease, or has no record.
        """
        assert isinstance(ex, StoredExecution)
        fault = ex.fault
        if fault is None or isinstance(fault, LeaseLost) or not ex.stored or ex in self._released:
            return
        self._released.add(ex)
        # A fault of the store passes; whatever else it was may come again with every attempt.
        passes = isinstance(fault, StoreError) and not isinstance(fault, StoreBrokenError)
        crash_count = ex.crash_count + (0 if passes else 1)
        run = replace(ex.run, crash_count=crash_count)
        self._release(run, ex.owner, fault, is_crash=not passes)

    def give_back(self, claimed: Run, fault: Exception) -> None:
        """Have the scheduler release a claimed run that could not be resumed here."""
        run = replace(claimed, crash_count=claimed.crash_count + 1)
        self._release(run, self._worker.owner, fault, is_crash=True)

    def _release(self, run: Run, owner: str, fault: BaseException, *, is_crash: bool) -> None:
        env = self._worker.env
        now, pause = env.clock.now(), _PAUSE
        self._worker.observers.notify(cut_short_fact(run, fault, now, is_crash=is_crash))
        if is_crash:  # what was short in the process may be short for a while
            pause = delay_ms(env.policy, run.crash_count, env.ids.uniform())
        self._write_later(release_of(run, owner, now, pause))

    def _write_later(self, write: Checkpoint) -> None:
        """Have the scheduler write this as soon as the store takes it."""
        self._worker.abandoned.append(write)
        self._worker.wake_scheduler()

    # -- what commits mean to others in this process ----------------------------------------

    def on_commit(self, batch: Sequence[CommitFuture[Any]]) -> None:
        """Pass on what was committed to those in this process who wait for it.

        The scheduler notices the commits of other processes only.
        """
        worker = self._worker
        if worker.observers.watched:
            report_begun(worker.observers, batch)
        for commit in batch:
            write, answer = commit.write, commit.answer
            if write.is_one_memo and not (worker.streams.logs or self._has_children):
                continue  # nearly always; nobody has to know of it
            if type(write) is Checkpoint:  # a call for each would be felt
                if worker.streams.logs and answer is not None:
                    worker.streams.committed(write)
                if write.result is not None:
                    if answer is None:  # it may have been cancelled, and is to be undone
                        worker.wake_scheduler()
                    elif worker.waiters.wakers:
                        worker.waiters.wake((write.run_id,))
                    if self._has_children:
                        worker.cancel_abandoned_soon(write.run_id)
                if write.children:
                    self._has_children = True
                    worker.wake_scheduler()
                elif self._has_children and any(map(_leaves_child, write.memos)):
                    worker.cancel_abandoned_soon(write.run_id)
                if write.release is not None:
                    worker.wake_scheduler_at(write.release.due_at)
                if write.events:
                    worker.event_watermark.changed()
                if type(answer) is CheckpointResult and answer.resumed_runs:
                    worker.wake_scheduler()
            elif isinstance(write, SendEvents):
                worker.event_watermark.changed()
                worker.wake_scheduler()
            elif isinstance(write, Deliver) and isinstance(answer, Delivered):
                if answer.resumed_runs:
                    worker.wake_scheduler()
            elif isinstance(write, Retry | Fork | Delete | Prune) and answer:
                worker.wake_scheduler()
            elif isinstance(write, Begin):
                if isinstance(answer, Begun) and answer.is_queued:
                    worker.wake_scheduler()
                if write.replaces is not None and isinstance(answer, Begun | BeginRefused):
                    self._cancelled(write.replaces, answer.replaced)
            elif isinstance(write, Cancel):
                self._cancelled(write, answer)

    def _cancelled(self, write: Cancel, outcome: object) -> None:
        """Have the live execution of a cancelled run end; the scheduler sees to its undoing."""
        live = self._worker.live.get(write.run_id)
        if self._has_children and outcome is not CancelOutcome.NOTHING:
            self._worker.cancel_abandoned_soon(write.run_id)
        if outcome is CancelOutcome.ENDED:
            self._worker.waiters.wake((write.run_id,))
            self._worker.wake_scheduler()  # for deliveries, and for a run that has its slot now
            if live is not None:
                live.lease_lost()
        elif outcome is CancelOutcome.UNDOING:
            if live is not None:
                live.stop()
            self._worker.wake_scheduler()


def _leaves_child(memo: Memo) -> bool:
    """Return whether a step may have ended before the child that it began."""
    return memo.op.kind is OpKind.INVOKE and not memo.ok


def _classes_of_runs(observers: Observers) -> tuple[type[ThreadRun], type[TaskRun]]:
    if not observers.watched:
        return ThreadRun, TaskRun
    from durable_core.runners.observed_runs import ObservedTaskRun, ObservedThreadRun

    return ObservedThreadRun, ObservedTaskRun


def _answer_at_end(ex: StoredExecution) -> Response:
    """Return what a client gets if an execution ended before it could answer."""
    if ex.stored and ex.fault is None:
        token = new_token(ex.env, ex.run.id)
        return handoff_response(ex.options, ex.request.method, ex.run.id, token)
    return problem(500, "internal-error", detail=f"run {ex.run.id} ended without an answer")


def _call_live(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> bool:
    """Call on the loop of a live run; False if the loop is closed, which is logged."""
    if call_soon(loop, call, *args):
        return True
    logger.warning("an event loop was closed while runs were live on it")
    return False


def _thread_ended(
    loop: asyncio.AbstractEventLoop, ended: Callable[[], None], done: Future[None]
) -> None:
    if not done.cancelled():  # else it was handed off before it began
        _call_live(loop, ended)


def _broke(ex: Execution, error: BaseException | None) -> None:
    ex.close(error)
    run_logger(ex.run.id, ex.run.function_id).error("the execution broke", exc_info=error)


def _call_once(call: Callable[[], None]) -> Callable[[], None]:
    """Return a function that passes its first call on."""
    calls = [call]

    def first() -> None:
        if calls:
            calls.pop()()

    return first


def _no_handler(request: Request) -> None:
    raise AssertionError("an orphaned run has no handler")
