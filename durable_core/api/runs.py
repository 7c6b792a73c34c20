"""Looking at runs, and cancelling them: ``durable.runs``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import get_args

from durable_core.api.engine import Engine
from durable_core.api.run_info import RunInfo, RunStatus, StepInfo, StepStatus
from durable_core.codec.json import Codec, JSONCodec
from durable_core.errors import RunNotFoundError
from durable_core.model.run import Phase
from durable_core.model.step import FailedAttempt, Memo, OpKind, Pending, RunningStep
from durable_core.ports import RunFilter, RunRecord

__all__ = ["Runs", "select", "show_run"]


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
        record = self._engine.get(run_id)
        if record is None:
            raise RunNotFoundError(f"there is no run {run_id!r} in app {self._engine.env.app!r}")
        return show_run(record, self._engine.env.codec)

    def list(
        self, *, status: RunStatus | None = None, before: str | None = None, limit: int = 100
    ) -> list[RunInfo]:
        """Return runs without their steps, the newest first.

        Args:
            status: only runs with this status.
            before: only runs older than the one with this id; for the next page.
            limit: 1 to 1,000.

        Raises:
            ValueError: no such status, or a limit out of range.
        """
        return select(self._engine.list, status=status, before=before, limit=limit)

    def cancel(self, run_id: str) -> bool:
        """End a run: its handler is unwound, its waits are dropped, its clients get 410.

        Returns:
            False if it had ended already, which changes nothing.

        Raises:
            RunNotFoundError: there is no such run.
        """
        return self._engine.cancel(run_id)


_ENDED: dict[Phase, RunStatus] = {
    Phase.COMPLETED: "completed",
    Phase.FAILED: "failed",
    Phase.CANCELLED: "cancelled",
}
_ALIVE = tuple(phase for phase in Phase if phase not in _ENDED)


def select(
    read: Callable[[RunFilter, int], Sequence[RunRecord]],
    *,
    status: str | None,
    before: str | None,
    limit: int,
) -> list[RunInfo]:
    """Return runs of a status, the newest first; see :meth:`Runs.list`.

    Args:
        read: returns the records that a filter lets through, up to a number of them.
    """
    if isinstance(limit, bool) or not 1 <= limit <= 1000:
        raise ValueError(f"limit must be 1 to 1000, not {limit!r}")
    statuses = get_args(RunStatus)
    if status is not None and status not in statuses:
        raise ValueError(f"status must be one of {', '.join(statuses)}, not {status!r}")
    ended = tuple(phase for phase, each in _ENDED.items() if each == status)
    phases = () if status is None else ended or _ALIVE
    found: list[RunInfo] = []
    while True:
        # Whether a run that has not ended is live depends on its owner, which no index has.
        page = read(RunFilter(phases=phases, before=before), limit)
        shown = (show_run(record, _JSON) for record in page)
        found += [run for run in shown if status in (None, run.status)]
        if len(page) < limit or len(found) >= limit:
            return found[:limit]
        before = page[-1].run.id


def show_run(record: RunRecord, codec: Codec) -> RunInfo:
    """Return what a record says.

    Args:
        record: the run.
        codec: how the results of its steps are stored.
    """
    run = record.run
    running = {each.op.id for each in record.running}
    failed: dict[str, FailedAttempt] = {each.op_id: each for each in record.failed_attempts}
    status = _ENDED.get(run.phase) or ("suspended" if record.owner is None else "running")
    last = failed.get("")
    failures = max(run.failures, 0 if last is None else last.number)
    return RunInfo(
        id=run.id,
        app=run.app,
        name=run.function_id,
        function_id=run.endpoint_key,
        key=run.key,
        labels=dict(run.labels),
        version=run.version,
        parent=run.parent,
        traceparent=run.traceparent,
        status=status,
        attempts=max(1, failures if status == "failed" else failures + 1),
        crashes=run.crash_count,
        started=_time(run.created_at),
        ended=None if record.ended_at is None else _time(record.ended_at),
        due=None if record.due_at is None else _time(record.due_at),
        error=None if last is None or status == "completed" else _error(last),
        steps=(
            *(_finished(memo, codec) for memo in record.memos),
            *(
                _unfinished(pending, failed.get(pending.op.id))
                for pending in record.pending
                if pending.op.id not in running
            ),
            *(_running(each, failed.get(each.op.id)) for each in record.running),
        ),
    )


def _running(step: RunningStep, failed: FailedAttempt | None) -> StepInfo:
    return StepInfo(
        name=step.op.name,
        kind=step.op.kind.value,
        status="running",
        attempts=step.failures + 1,
        started=_time(step.started_at),
        ended=None,
        due=None,
        event=None,
        arguments=None,
        result=None,
        error=None if failed is None else _error(failed),
    )


def _finished(memo: Memo, codec: Codec) -> StepInfo:
    return StepInfo(
        name=memo.op.name,
        kind=memo.op.kind.value,
        status="completed" if memo.ok else "failed",
        attempts=memo.attempts,
        started=None if memo.started_at is None else _time(memo.started_at),
        ended=_time(memo.ended_at),
        due=None,
        event=None,
        arguments=_arguments(memo),
        result=_result(memo, codec) if memo.ok else None,
        error=None if memo.ok else _error_text(memo.value),
    )


def _unfinished(pending: Pending, failed: FailedAttempt | None) -> StepInfo:
    status: dict[OpKind, StepStatus] = {OpKind.SLEEP: "sleeping", OpKind.WAIT: "waiting"}
    of_run: StepStatus = "retrying" if pending.error else "begun"
    return StepInfo(
        name=pending.op.name,
        kind=pending.op.kind.value,
        status=status.get(pending.op.kind, of_run),
        attempts=pending.failures,
        started=None if failed is None else _time(failed.started_at),
        ended=None,
        due=_time(pending.due_at),
        event=pending.event or None,
        arguments=None,
        result=None,
        error=_error_text(pending.error) if pending.error else None,
    )


def _arguments(memo: Memo) -> dict[str, object] | None:
    if memo.arguments is None:
        return None
    shown: dict[str, object] = json.loads(memo.arguments) if memo.arguments else {"left_out": True}
    return shown


def _result(memo: Memo, codec: Codec) -> object:
    try:
        return codec.decode(memo.value) if memo.op.kind is OpKind.RUN else json.loads(memo.value)
    except ValueError:
        return memo.value  # of a codec that is not at hand


def _error_text(text: str) -> str:
    stored = json.loads(text)
    return f"{stored['name']}: {stored['message']}"


def _error(failed: FailedAttempt) -> str:
    return f"{failed.error_name}: {failed.error_message}"


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


_JSON = JSONCodec()
