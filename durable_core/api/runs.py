"""Control of runs: ``durable.runs``."""

from __future__ import annotations

import json
from asyncio import to_thread
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast, get_args
from urllib.parse import urlencode

from durable_core.api.engine import Engine
from durable_core.api.inspection import (
    StreamedChunk,
    check_limit,
    required_values,
    stored_request,
    stored_response,
    streamed,
)
from durable_core.api.run_info import AttemptInfo, RunInfo, RunStatus, StepInfo, StepStatus
from durable_core.codec.json import Codec, JSONCodec
from durable_core.codec.records import is_sealed
from durable_core.duration import Duration, parse_duration, time_of, time_or_none
from durable_core.engine.embedded import embedded
from durable_core.errors import RunNotFoundError
from durable_core.flow.child_runs import child_response
from durable_core.flow.completion import completion_key
from durable_core.flow.handoff import new_token
from durable_core.flow.wait_url import PROXY_PARAMS
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.addresses import child_of, signal_of
from durable_core.model.run import Phase, is_parked, plain_key
from durable_core.model.step import FailedAttempt, Memo, OpKind, Pending, RunningStep
from durable_core.platform import make_ulid
from durable_core.ports import RunFilter, RunRecord

__all__ = ["Runs", "first_id", "select", "show_history", "show_run"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Runs:
    """``durable.runs``. It opens the store, and never executes a run.

    Every method raises ``StoreError`` if the store cannot answer. An engine that keeps its runs
    elsewhere raises ``EngineError``, which says where to look.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __repr__(self) -> str:
        """Show the application."""
        return f"<Runs of {self._engine.env.app}>"

    def get(self, run_id: str) -> RunInfo:
        """Return all that is known about a run, its steps included.

        Raises:
            RunNotFoundError: there is none with that id (any more).
        """
        shown = show_run(self._record(run_id), self._engine.env.codec)
        return shown if shown.ended is None else self._with_completion(shown)

    def list(
        self,
        *,
        status: RunStatus | None = None,
        endpoint: str | None = None,
        key: str | None = None,
        label: tuple[str, str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> list[RunInfo]:
        """Return runs without their steps and errors, the newest first. All conditions must hold.

        Args:
            status: only runs with this status.
            endpoint: only runs of the endpoint with this identity (``RunInfo.function_id``).
            key: only runs with this key.
            label: only runs with this name and value among their labels.
            since: only runs that began at this time or later; an aware ``datetime``.
            until: only runs that began before this time.
            cursor: the id of the last run of the page before; for the next page.
            limit: the most to return, 1 to 1,000.

        Raises:
            ValueError: no such status, a limit out of range, or a naive time.
            TypeError: an argument of another type.
        """
        _check_texts(endpoint=endpoint, key=key, cursor=cursor)
        if label is not None and not _is_label(label):
            raise TypeError(f"label must be a pair such as ('team', 'blue'), not {label!r}")
        where = RunFilter(
            endpoint_key=endpoint,
            key=key,
            label=label,
            since=None if since is None else first_id(since, "since"),
            before=_lowest(cursor, None if until is None else first_id(until, "until")),
        )
        return select(self._engine.list, where, status=status, limit=limit)

    def history(self, run_id: str) -> Sequence[AttemptInfo]:
        """Return every attempt of the handler and of the steps, in the order in which they ended.

        Of the handler only attempts that have failed are kept.

        Raises:
            RunNotFoundError: there is no such run.
        """
        return show_history(self._record(run_id))

    def request(self, run_id: str) -> Request:
        """Return the request that began a run, as it is stored.

        Credential headers that are not stored are named in ``headers.withheld``. Reading a body
        that is not stored raises ``BodyNotStoredError``.

        Raises:
            RunNotFoundError: there is no such run (any more).
        """
        return stored_request(self._engine, run_id)

    def response(self, run_id: str) -> Response | None:
        """Return the response of a run, which its clients get; None if it has not ended.

        Raises:
            RunNotFoundError: there is no such run (any more).
            LookupError: its body is not kept: it was too large, or its endpoint stores none.
        """
        return stored_response(self._engine, run_id)

    def streamed(self, run_id: str) -> Iterator[StreamedChunk]:
        """Return what a run has streamed and keeps, in order, without what was rolled back.

        It is read from the store part by part, so what steps in progress stream is not in it.

        Raises:
            RunNotFoundError: there is no such run (any more).
        """
        return streamed(self._engine, run_id)

    def wait_query(self, run_id: str) -> str:
        """Return ``runId=...&token=...``: the query of a wait URL, as clients of a run have it.

        It is for the wait route (``Durable.endpoint_proxy``). The token opens the run to whoever
        has it, until it expires; whether there is such a run is not looked at.

        Raises:
            ConfigurationError: the engine of the application is not the embedded one.
        """
        token = new_token(embedded(self._engine).env, run_id)
        return urlencode(((PROXY_PARAMS.run, run_id), (PROXY_PARAMS.token, token)))

    def cancel(self, run_id: str, *, reason: str | None = None) -> bool:
        """End a run: its handler is unwound, its waits are dropped, its clients get 410.

        A run without steps that can be undone ends at once, also where no process has its code. One
        with such steps is ``cancelling`` first: a step in progress ends, no other one begins, and
        what was done is undone, the last step first. That takes a process that has its code.

        Args:
            run_id: the run.
            reason: what its clients are told, at most 1,000 characters.

        Returns:
            False if it had ended, or was cancelled already, which changes nothing.

        Raises:
            RunNotFoundError: there is no such run.
            RunUndoneError: it has failed and is being undone; it ends when that is done.
            ValueError: the reason is too long.
            TypeError: it is no str.
        """
        _check_texts(reason=reason)
        if reason is not None and len(reason) > _LONGEST_REASON:
            raise ValueError(f"reason must have at most {_LONGEST_REASON} characters")
        return self._engine.cancel(run_id, reason)

    def retry(self, run_id: str) -> bool:
        """Let a failed run go on from where it failed, with fresh attempts.

        The step by whose failure it failed is executed again, and so is what the handler had called
        because of that failure, in an ``except`` block for example. All other steps keep their
        results, also a failure that the handler has handled. Of code that runs in several tasks or
        threads, only what the handler's own one, or that of the step, called counts as a
        consequence. Clients that wait for the run get its new response. Some process must
        work on it.

        A run whose steps were undone (``step.options(undo=)``) is refused: its steps would count as
        done. Use :meth:`resume_from` with the first of them, which the error names.

        Returns:
            False if it has not failed, which changes nothing.

        Raises:
            RunNotFoundError: there is no such run (any more).
            RunUndoneError: its steps were undone.
            ChildRunError: it is a child, whose parent has been told that it failed.
        """
        return self._engine.retry(run_id)

    def resume_from(self, run_id: str, step: str, *, request: Request | None = None) -> str:
        """Begin a new run that goes on from a step of another one; return its id.

        The new run has the results of the steps that finished before that step. The step, and what
        came after it, are executed again. The old run stays as it is.

        Args:
            run_id: the run to copy, in any status.
            step: the name of the step (``StepInfo.name``).
            request: what the new run is asked. Default: the request of the old one.

        Raises:
            RunNotFoundError: there is no such run (any more).
            RunUndoneError: an earlier step was undone, so the new run must not have its result; or
                the run is being undone.
            ValueError: it has no such step.
        """
        new = self._engine.fork(run_id, step, request)
        if new is None:
            raise ValueError(f"run {run_id} has no step {step!r}")
        return new

    def delete(self, run_id: str) -> bool:
        """Delete a run that has ended, with all that is known about it. Its clients get 410.

        Returns:
            False if it has not ended, which changes nothing: cancel it first.

        Raises:
            RunNotFoundError: there is no such run (any more).
        """
        return self._engine.delete(run_id)

    def wait(self, run_id: str, *, timeout: Duration | None = None) -> RunInfo:
        """Return a run once it has ended. Some process must work on it meanwhile.

        Args:
            run_id: the run.
            timeout: how long to wait at most; a duration. None waits for as long as it takes.

        Raises:
            RunNotFoundError: there is no such run (any more).
            TimeoutError: it has not ended by then.
        """
        seconds = None if timeout is None else parse_duration(timeout, what="timeout") / 1000
        if not self._engine.await_end(run_id, seconds):
            raise TimeoutError(f"run {run_id} has not ended after {timeout}")
        return self.get(run_id)

    async def get_async(self, run_id: str) -> RunInfo:
        """As :meth:`get`, without blocking the event loop."""
        return await to_thread(self.get, run_id)

    async def list_async(
        self,
        *,
        status: RunStatus | None = None,
        endpoint: str | None = None,
        key: str | None = None,
        label: tuple[str, str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Sequence[RunInfo]:
        """As :meth:`list`, without blocking the event loop."""
        return await to_thread(
            self.list,
            status=status,
            endpoint=endpoint,
            key=key,
            label=label,
            since=since,
            until=until,
            cursor=cursor,
            limit=limit,
        )

    async def history_async(self, run_id: str) -> Sequence[AttemptInfo]:
        """As :meth:`history`, without blocking the event loop."""
        return await to_thread(self.history, run_id)

    async def request_async(self, run_id: str) -> Request:
        """As :meth:`request`, without blocking the event loop."""
        return await to_thread(self.request, run_id)

    async def response_async(self, run_id: str) -> Response | None:
        """As :meth:`response`, without blocking the event loop."""
        return await to_thread(self.response, run_id)

    async def cancel_async(self, run_id: str, *, reason: str | None = None) -> bool:
        """As :meth:`cancel`, without blocking the event loop."""
        return await to_thread(self.cancel, run_id, reason=reason)

    async def retry_async(self, run_id: str) -> bool:
        """As :meth:`retry`, without blocking the event loop."""
        return await to_thread(self.retry, run_id)

    async def resume_from_async(
        self, run_id: str, step: str, *, request: Request | None = None
    ) -> str:
        """As :meth:`resume_from`, without blocking the event loop."""
        return await to_thread(self.resume_from, run_id, step, request=request)

    async def delete_async(self, run_id: str) -> bool:
        """As :meth:`delete`, without blocking the event loop."""
        return await to_thread(self.delete, run_id)

    async def wait_async(self, run_id: str, *, timeout: Duration | None = None) -> RunInfo:
        """As :meth:`wait`, without blocking the event loop; it takes a thread meanwhile.

        A task that is cancelled leaves the thread behind until the run has ended or the time is
        over.
        """
        return await to_thread(self.wait, run_id, timeout=timeout)

    def _with_completion(self, shown: RunInfo) -> RunInfo:
        """Return a run that has ended, with the run that tells of its end, if there is one."""
        where = RunFilter(endpoint_key=completion_key(shown.function_id), key=shown.id)
        found = self._engine.list(where, 1)
        if not found:
            return shown
        completion = show_run(found[0], _JSON)
        return replace(shown, completion=completion.status, completion_run=completion.id)

    def _record(self, run_id: str) -> RunRecord:
        record = self._engine.get(run_id)
        if record is None:
            raise RunNotFoundError(f"there is no run {run_id!r} in app {self._engine.env.app!r}")
        return record


#: The longest reason for a cancellation, characters.
_LONGEST_REASON = 1_000


def _check_texts(**given: object) -> None:
    """See that arguments are texts; None leaves one out."""
    for name, value in given.items():
        if not isinstance(value, (str, type(None))):
            raise TypeError(f"{name} must be a str, not {value!r}")


def _is_label(label: object) -> bool:
    is_pair = isinstance(label, tuple) and len(label) == 2
    return is_pair and all(isinstance(each, str) for each in cast("tuple[object, ...]", label))


def first_id(moment: datetime, what: str) -> str:
    """Return an id that is lower than those of all runs that began at a time or later."""
    if not isinstance(moment, datetime):
        raise TypeError(f"{what} must be an aware datetime, not {moment!r}")
    if moment.utcoffset() is None:
        raise ValueError(f"{what} must be an aware datetime; this one has no time zone")
    # Rounded up: a run that began within the same millisecond may have begun before.
    ms = -((_EPOCH - moment) // timedelta(milliseconds=1))
    return make_ulid(max(0, ms), bytes(10))


def _lowest(*ids: str | None) -> str | None:
    return min((each for each in ids if each is not None), default=None)


_ENDED: dict[Phase, RunStatus] = {
    Phase.COMPLETED: "completed",
    Phase.FAILED: "failed",
    Phase.CANCELLED: "cancelled",
}
#: The phases of each status that one phase is enough to tell.
_PHASES: dict[str, tuple[Phase, ...]] = {"queued": (Phase.QUEUED,)}
_PHASES.update((status, (phase,)) for phase, status in _ENDED.items())
#: So many runs are read at a time, if some may be of another status.
_PAGE = 100
_ALIVE = tuple(phase for phase in Phase if phase not in _ENDED)


def select(
    read: Callable[[RunFilter, int], Sequence[RunRecord]],
    where: RunFilter,
    *,
    status: str | None,
    limit: int,
) -> list[RunInfo]:
    """Return runs of a status, the newest first; see :meth:`Runs.list`.

    Args:
        read: returns the records that a filter lets through, up to a number of them.
        where: all conditions but the status.
    """
    check_limit(limit)
    statuses = get_args(RunStatus)
    if status is not None and status not in statuses:
        raise ValueError(f"status must be one of {', '.join(statuses)}, not {status!r}")
    where = replace(
        where,
        phases=() if status is None else _PHASES.get(status, _ALIVE),
        held=status == "running",
        cancelled=status == "cancelling",
    )
    size = limit if status is None else max(limit, _PAGE)
    found: list[RunInfo] = []
    while True:
        # These conditions let runs of other statuses through, but few.
        page = read(where, size)
        shown = (show_run(record, _JSON) for record in page)
        found += [run for run in shown if status in (None, run.status)]
        if len(page) < size or len(found) >= limit:
            return found[:limit]
        where = replace(where, before=page[-1].run.id)


def show_run(record: RunRecord, codec: Codec) -> RunInfo:
    """Return what a record says.

    Args:
        record: the run.
        codec: how the results of its steps are stored.
    """
    run = record.run
    running = {each.op.id for each in record.running}
    failed: dict[str, FailedAttempt] = {each.op_id: each for each in record.failed_attempts}
    status = _ENDED.get(run.phase) or _status_of_live(record)
    last = failed.get("")
    failures = max(run.failures, 0 if last is None else last.number)
    return RunInfo(
        id=run.id,
        app=run.app,
        name=run.function_id,
        function_id=plain_key(run),
        key=run.key,
        labels=dict(run.labels),
        version=run.version,
        parked=is_parked(run) and not run.phase.ended,
        parent=run.parent,
        traceparent=run.traceparent,
        status=status,
        attempts=max(1, failures if status == "failed" else failures + 1),
        crashes=run.crash_count,
        started=time_of(run.created_at),
        ended=time_or_none(record.ended_at),
        due=time_or_none(record.due_at),
        error=None if last is None or status == "completed" else _error(last),
        deadline=time_or_none(run.deadline),
        cancel_reason=run.cancel_reason or None,
        retried=run.retry_count,
        steps=(
            *(_show_finished(memo, codec) for memo in record.memos),
            *(
                _show_pending(pending, failed.get(pending.op.id))
                for pending in record.pending
                if pending.op.id not in running
            ),
            *(_running(each, failed.get(each.op.id)) for each in record.running),
        ),
    )


def _status_of_live(record: RunRecord) -> RunStatus:
    if record.run.cancel_reason is not None:
        return "cancelling"
    if record.run.phase is Phase.QUEUED:
        return "queued"
    return "suspended" if record.owner is None else "running"


def _running(step: RunningStep, failed: FailedAttempt | None) -> StepInfo:
    return StepInfo(
        name=step.op.name,
        kind=step.op.kind.value,
        status="running",
        attempts=step.failures + 1,
        started=time_of(step.started_at),
        ended=None,
        due=None,
        event=None,
        child=None,
        arguments=None,
        result=None,
        error=None if failed is None else _error(failed),
    )


def show_history(record: RunRecord) -> list[AttemptInfo]:
    """Return the attempts that a record tells of, in the order in which they ended."""
    names = {memo.op.id: memo.op.name for memo in record.memos}
    names |= {pending.op.id: pending.op.name for pending in record.pending}
    attempts = [
        AttemptInfo(
            step=names.get(each.op_id),
            number=each.number,
            status="failed",
            started=time_of(each.started_at),
            ended=time_of(each.ended_at),
            error=_error(each),
            retry=time_or_none(each.retry_at),
        )
        for each in record.failed_attempts
    ]
    attempts += [
        AttemptInfo(
            step=memo.op.name,
            number=memo.attempts,
            status="completed",
            started=time_or_none(memo.started_at),
            ended=time_of(memo.ended_at),
            error=None,
            retry=None,
        )
        for memo in record.memos
        if memo.ok and memo.op.kind is OpKind.RUN
    ]
    # Within one millisecond an attempt of the handler ended after those of its steps.
    return sorted(attempts, key=lambda each: (each.ended, each.step is None))


def _show_finished(memo: Memo, codec: Codec) -> StepInfo:
    return StepInfo(
        name=memo.op.name,
        kind=memo.op.kind.value,
        status="completed" if memo.ok else "failed",
        attempts=memo.attempts,
        started=time_or_none(memo.started_at),
        ended=time_of(memo.ended_at),
        due=None,
        event=None,
        child=_child_of(memo),
        arguments=_arguments(memo),
        result=_result(memo, codec) if memo.ok else None,
        error=None if memo.ok else _error_text(memo.value),
        trace=None if memo.ok else _trace(memo.value),
    )


#: Of unfinished steps that have no function.
_STATUS: dict[OpKind, StepStatus] = {
    OpKind.SLEEP: "sleeping",
    OpKind.WAIT: "waiting",
    OpKind.SIGNAL: "waiting",
    OpKind.CALLBACK: "waiting",
    OpKind.INVOKE: "waiting",
}


def _show_pending(pending: Pending, failed: FailedAttempt | None) -> StepInfo:
    of_run: StepStatus = "retrying" if pending.error else "begun"
    begun = pending.started_at if failed is None else failed.started_at
    return StepInfo(
        name=pending.op.name,
        kind=pending.op.kind.value,
        status=_STATUS.get(pending.op.kind, of_run),
        attempts=pending.failures,
        started=time_or_none(begun),
        ended=None,
        due=time_of(pending.due_at),
        event=pending.event or signal_of(pending.address) or None,
        match=required_values(pending),
        child=child_of(pending.address) if pending.op.kind is OpKind.INVOKE else None,
        arguments=None,
        result=None,
        error=_error_text(pending.error) if pending.error else None,
        trace=_trace(pending.error) if pending.error else None,
    )


def _arguments(memo: Memo) -> dict[str, object] | None:
    if memo.arguments is None:
        return None
    if is_sealed(memo.arguments):
        return {"left_out": True}
    shown: dict[str, object] = json.loads(memo.arguments) if memo.arguments else {"left_out": True}
    return shown


def _child_of(memo: Memo) -> str | None:
    """Return the run that a finished step has started."""
    if memo.op.kind is not OpKind.INVOKE or is_sealed(memo.value):
        return None
    stored = json.loads(memo.value)
    run_id = stored.get("run_id") or (stored.get("data") or {}).get("run_id")
    return run_id if isinstance(run_id, str) else None


def _result(memo: Memo, codec: Codec) -> object:
    if is_sealed(memo.value):
        return memo.value
    if memo.op.kind is OpKind.INVOKE:
        response = child_response(memo.value)
        assert isinstance(response.body, bytes)
        return {"status": response.status, "body": response.body.decode("utf-8", "replace")}
    try:
        return codec.decode(memo.value) if memo.op.kind is OpKind.RUN else json.loads(memo.value)
    except ValueError:
        return memo.value  # of a codec that is not at hand


def _error_text(text: str) -> str:
    if is_sealed(text):
        return text
    stored = json.loads(text)
    return f"{stored['name']}: {stored['message']}"


def _trace(text: str) -> str | None:
    if is_sealed(text):
        return None
    trace: str | None = json.loads(text).get("trace")
    return trace


def _error(failed: FailedAttempt) -> str:
    return f"{failed.error_name}: {failed.error_message}"


_JSON = JSONCodec()
