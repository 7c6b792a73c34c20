"""Looking at runs, and cancelling them: ``durable.runs``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Literal, TypeAlias, get_args

from durable_core.api.engine import Engine
from durable_core.codec.json import Codec, JSONCodec
from durable_core.errors import RunNotFoundError
from durable_core.model.run import Phase
from durable_core.model.step import FailedAttempt, Memo, OpKind, Pending
from durable_core.ports import RunFilter, RunRecord

__all__ = [
    "RunInfo",
    "RunStatus",
    "Runs",
    "StepInfo",
    "StepStatus",
    "as_json",
    "select",
    "show_run",
]

#: ``running``: a handler is live in some process, or will be at once. ``suspended``: it waits for a
#: time or an event.
RunStatus: TypeAlias = Literal["running", "suspended", "completed", "failed", "cancelled"]
#: ``retrying``: the function has failed and will be called again.
StepStatus: TypeAlias = Literal["sleeping", "waiting", "retrying", "completed", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """What has become of one step.

    Attributes:
        name: its id, with ``:1``, ``:2`` appended where the id repeats.
        kind: ``"run"``, ``"sleep"``, ``"wait"`` or ``"send"``.
        status: see :data:`StepStatus`.
        attempts: how often its function was called.
        started: when its last attempt began; of a sleep or a wait, when it was asked for. None if
            that is not known.
        ended: when it completed or failed for good; None before.
        due: when it goes on; None once it has ended.
        event: the name of the event that it waits for; None if it waits for none.
        result: what the function returned, or the step did; None without one.
        error: the last error, such as ``"ValueError: no seat left"``; None without one.
    """

    name: str
    kind: Literal["run", "sleep", "wait", "send"]
    status: StepStatus
    attempts: int
    started: datetime | None
    ended: datetime | None
    due: datetime | None
    event: str | None
    result: object
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What is known about one run. Times are in UTC.

    Attributes:
        id: a ULID.
        app: the ``Durable(id=)`` it belongs to.
        name: how it is shown: the endpoint's ``name=``, or such as ``"GET /users/{id}"``.
        function_id: the identity of its endpoint.
        status: see :data:`RunStatus`.
        attempts: how often its handler was tried, errors of steps not counted.
        crashes: how often in a row its process died without a new checkpoint.
        started: when the request came in.
        ended: when it ended; None before.
        due: when it goes on; None while it runs and once it has ended.
        error: why it failed, or why its handler is tried again; None without an error.
        steps: its steps: finished ones in the order in which they finished, then the others. Empty
            in a list of runs.
    """

    id: str
    app: str
    name: str
    function_id: str
    status: RunStatus
    attempts: int
    crashes: int
    started: datetime
    ended: datetime | None
    due: datetime | None
    error: str | None
    steps: tuple[StepInfo, ...]


class Runs:
    """``durable.runs``. It opens the store, and never executes a run.

    Every method raises ``StoreError`` if the store cannot answer. An engine that keeps its runs
    elsewhere raises ``EngineError``, which says where to look.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

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
    failed: dict[str, FailedAttempt] = {each.op_id: each for each in record.failed_attempts}
    status = _ENDED.get(run.phase) or ("suspended" if record.owner is None else "running")
    last = failed.get("")
    failures = max(run.failures, 0 if last is None else last.number)
    return RunInfo(
        id=run.id,
        app=run.app,
        name=run.function_id,
        function_id=run.endpoint_key,
        status=status,
        attempts=max(1, failures if status == "failed" else failures + 1),
        crashes=run.crash_count,
        started=_time(run.created_at),
        ended=None if record.ended_at is None else _time(record.ended_at),
        due=None if record.due_at is None else _time(record.due_at),
        error=None if last is None or status == "completed" else _error(last),
        steps=(
            *(_finished(memo, codec) for memo in record.memos),
            *(_unfinished(pending, failed.get(pending.op.id)) for pending in record.pending),
        ),
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
        result=_result(memo, codec) if memo.ok else None,
        error=None if memo.ok else _error_text(memo.value),
    )


def _unfinished(pending: Pending, failed: FailedAttempt | None) -> StepInfo:
    status: dict[OpKind, StepStatus] = {OpKind.SLEEP: "sleeping", OpKind.WAIT: "waiting"}
    return StepInfo(
        name=pending.op.name,
        kind=pending.op.kind.value,
        status=status.get(pending.op.kind, "retrying"),
        attempts=pending.failures,
        started=None if failed is None else _time(failed.started_at),
        ended=None,
        due=_time(pending.due_at),
        event=pending.event or None,
        result=None,
        error=_error_text(pending.error) if pending.error else None,
    )


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


def as_json(info: RunInfo | StepInfo) -> dict[str, object]:
    """Return a run or a step as a JSON-ready dict: the same names, times in ISO 8601.

    A run of a list has no ``steps``.
    """
    return dict(_json_fields(info))


def _json_fields(info: RunInfo | StepInfo) -> Iterator[tuple[str, object]]:
    for field in fields(info):
        value = getattr(info, field.name)
        if field.name == "steps":
            value = [as_json(step) for step in value]
        yield field.name, value.isoformat() if isinstance(value, datetime) else value


_JSON = JSONCodec()
