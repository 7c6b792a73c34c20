"""Children of runs: which a run waits for, and the end of those whose parent has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from durable_core.engine.reports import EngineReports
from durable_core.errors import ChildRunError
from durable_core.flow.child_runs import MAX_DEPTH, cancellation
from durable_core.flow.completion import completion_run
from durable_core.flow.env import AppConfig
from durable_core.machine.addresses import child_of
from durable_core.model.run import Phase, Run, plain_key
from durable_core.model.step import OpKind
from durable_core.ports import Cancel, CancelOutcome, RunRecord, Store, Write

if TYPE_CHECKING:
    from durable_core.runners.settings import RegisteredEndpoint

__all__ = ["awaited_children", "cancel_abandoned", "check_no_child", "with_follow_up"]

#: Why a child is cancelled whose parent has ended, or was cancelled.
_ABANDONED = "its parent run has ended or was cancelled"


def awaited_children(record: RunRecord) -> list[str]:
    """Return the ids of the children that a run waits for."""
    return [
        child_of(pending.address)
        for pending in record.pending
        if pending.op.kind is OpKind.INVOKE and pending.matched is None
    ]


def check_no_child(record: RunRecord) -> None:
    """See that a failed run is no child: its parent has been told that it has failed.

    Raises:
        ChildRunError: it is one.
    """
    run = record.run
    if run.parent is None:
        return
    failed = [memo.op.name for memo in record.memos if not memo.ok]
    text = (
        f"run {run.id} is a child of run {run.parent}, which has been told that it failed; retry "
        "that one, if it has failed, too: it begins another child"
    )
    if failed:
        text += f"; or begin a run without a parent: resume_from({run.id!r}, {failed[-1]!r})"
    raise ChildRunError(text)


def with_follow_up(
    cancel: Cancel, env: AppConfig, endpoints: Mapping[str, RegisteredEndpoint], run: Run
) -> Cancel:
    """Return the cancellation of a run, with the run that tells of its end if that is wanted."""
    endpoint = endpoints.get(plain_key(run))
    if endpoint is None or endpoint.options.on_complete is None:
        return cancel
    now = cancel.result.ended_at
    follow_up = completion_run(env, run, Phase.CANCELLED, now, run.traceparent)
    return replace(cancel, result=replace(cancel.result, follow_up=follow_up))


def cancel_abandoned(
    env: AppConfig,
    store: Store,
    endpoints: Mapping[str, RegisteredEndpoint],
    execute: Callable[[Write[CancelOutcome]], CancelOutcome],
    parents: Iterable[str] | None = None,
) -> None:
    """Cancel each run whose parent has ended or was cancelled, and their children, and so on.

    It cancels about 10,000 runs at most. The scheduler goes on with what is left.

    Args:
        env: the application.
        store: where its runs are.
        endpoints: of the application, by key.
        execute: commits a write.
        parents: only children of these runs, and theirs; None for all, which looks at every child
            that has not ended.
    """
    reports = EngineReports(env)
    known = None if parents is None else set(parents)
    for _ in range(MAX_DEPTH + 1):
        children = store.abandoned_children(env.app, None if known is None else sorted(known))
        if known is not None:
            known.update(record.run.id for record in children)
        for record in children:
            cancel = cancellation(record.run, _ABANDONED, env.clock.now())
            # Nobody waits for it any more.
            cancel = replace(cancel, deliveries=())
            cancel = with_follow_up(cancel, env, endpoints, record.run)
            if execute(cancel) is CancelOutcome.ENDED:
                reports.cancelled(replace(record.run, cancel_reason=_ABANDONED), cancel.result)
        if not children:
            return
