"""Runs that the store may refuse, queue, or give to an earlier request, when they are to begin."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from durable_core.codec.tokens import request_fingerprint
from durable_core.engine.runs import RunManager, WorkerParts
from durable_core.errors import RunNotFoundError, RunUndoneError
from durable_core.flow.execution import StoredExecution, checkpoint
from durable_core.flow.handoff import hand_off_queued
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.http.response import Response, with_headers
from durable_core.ports import Begin, BeginRefused, Begun, EarlierRun, IdempotencyKey
from durable_core.runners.settings import RegisteredEndpoint

__all__ = ["Admission", "Admitted", "CancelRun"]

#: Cancels a run for a reason; see ``Engine.cancel``.
CancelRun = Callable[[str, str], object]

#: How often a request may cancel the run that has its singleton key: others may do the same.
_MOST_TRIES = 10
#: What the clients of a run are told that was cancelled for another one.
_REPLACED = "another run took its place"
#: Seconds after which a client may try again where nobody knows better.
_RETRY_AFTER = 5


class Admitted(NamedTuple):
    """What the store has decided about a run.

    Attributes:
        ex: its execution.
        answer: what the client is answered, or the run that it joins; None if its own has begun.
        is_queued: it has begun, and waits for a slot: its handler is not called here.
    """

    ex: StoredExecution
    answer: Response | EarlierRun | None
    is_queued: bool = False


class Admission:
    """Begins runs as far as the store lets them.

    Args:
        worker: the worker that it is a part of.
        runs: of this worker.
    """

    def __init__(self, worker: WorkerParts, runs: RunManager) -> None:
        self._worker = worker
        self._runs = runs

    def begin(
        self,
        endpoint: RegisteredEndpoint,
        request: Request,
        route: str | None,
        key: IdempotencyKey | None,
        cancel: CancelRun,
    ) -> Admitted:
        """Store a run before its handler begins, if it may begin.

        Args:
            endpoint: its handler.
            request: what the client asks.
            route: the template that the path was found by, where a router knows it.
            key: of the request; None without one.
            cancel: cancels the run that this one is to replace (``singleton="cancel"``).

        Raises:
            StoreError: it could not be stored, or nobody knows whether it was.
            TypeError, ValueError: the function of a limit returned no key; or what it raised.
        """
        worker = self._worker
        event_seq = worker.event_watermark.recent()
        ex = self._runs.new_execution(endpoint, request, route, event_seq)
        refusal = worker.quota.refusal(ex.run.principal)
        if refusal is not None:
            return Admitted(ex, self._runs.find_earlier(key) or refusal)
        client = ex.run.client
        write = _begin_write(ex, key)
        cancelled = None
        for _ in range(_MOST_TRIES):
            with self._runs.beginning(ex):
                begun = worker.queue.execute(write)
            old = _run_to_cancel(ex, begun)
            if old is None or old == cancelled or not _cancel_old(old, cancel):
                break
            cancelled = old  # unless it is undone first, it has ended
        return _admitted(ex, begun, client)

    async def begin_async(
        self,
        endpoint: RegisteredEndpoint,
        request: Request,
        route: str | None,
        key: IdempotencyKey | None,
        cancel: CancelRun,
    ) -> Admitted:
        """As :meth:`begin`, on an event loop."""
        worker = self._worker
        event_seq = await worker.reads.wait(worker.event_watermark.recent)
        ex = self._runs.new_execution(endpoint, request, route, event_seq)
        refusal = await worker.reads.wait(worker.quota.refusal, ex.run.principal)
        if refusal is not None:
            earlier = await worker.reads.wait(self._runs.find_earlier, key)
            return Admitted(ex, earlier or refusal)
        client = ex.run.client
        write = _begin_write(ex, key)
        cancelled = None
        for _ in range(_MOST_TRIES):
            ticket = worker.queue.submit(write)
            with self._runs.beginning(ex):
                begun = await worker.queue.wait_async(ticket)
            old = _run_to_cancel(ex, begun)
            if old is None or old == cancelled or not await to_thread(_cancel_old, old, cancel):
                break
            cancelled = old  # unless it is undone first, it has ended
        return _admitted(ex, begun, client)

    def answer_queued(
        self, endpoint: RegisteredEndpoint, ex: StoredExecution, follows: bool
    ) -> Response | EarlierRun:
        """Answer a client whose run waits for a slot; one that follows the stream joins the run.

        The execution is not live: this process may claim the run and execute it meanwhile.
        """
        if follows:
            return EarlierRun(ex.run.id, None)
        answers: list[Response] = []
        run = self._runs.thread_run(self._worker, ex, endpoint.handler, answers.append)
        run.run(hand_off_queued(ex))
        return self._runs.answer_of(ex, answers)

    async def answer_queued_async(
        self, endpoint: RegisteredEndpoint, ex: StoredExecution, follows: bool
    ) -> Response | EarlierRun:
        """As :meth:`answer_queued`, on an event loop."""
        if follows:
            return EarlierRun(ex.run.id, None)
        answers: list[Response] = []
        run = self._runs.task_run(self._worker, ex, endpoint.handler, answers.append)
        await run.start(hand_off_queued(ex))
        return self._runs.answer_of(ex, answers)


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


def _run_to_cancel(ex: StoredExecution, begun: Begun | BeginRefused) -> str | None:
    """Return the run that the new one is to replace; None if there is none."""
    limits = ex.options.limits
    if not isinstance(begun, BeginRefused) or begun.reason != "singleton" or limits is None:
        return None
    is_replaced = limits.singleton is not None and limits.singleton.mode == "cancel"
    return begun.run_id if is_replaced else None


def _cancel_old(run_id: str, cancel: CancelRun) -> bool:
    """Cancel a run for another one; False if it cannot be cancelled now."""
    try:
        cancel(run_id, _REPLACED)
    except RunUndoneError:
        return False
    except RunNotFoundError:
        pass  # it has been deleted
    return True


def _admitted(ex: StoredExecution, begun: Begun | BeginRefused, client: str | None) -> Admitted:
    """Return what a store's answer means for a client, of whom ``client`` is a digest."""
    if isinstance(begun, BeginRefused):
        return Admitted(ex, _refused(ex, begun, client))
    if begun.is_new:
        return Admitted(ex, None, begun.is_queued)
    return Admitted(ex, EarlierRun(begun.run_id, begun.fingerprint))


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
