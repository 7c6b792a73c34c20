"""What ``step.invoke`` needs of the embedded engine, and the end of children without a parent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from durable_core.codec.records import dump_request
from durable_core.engine.reports import EngineReports
from durable_core.errors import LimitExceededError, RunNotFoundError, RunUndoneError
from durable_core.flow.child_runs import MAX_DEPTH, Invocation, cancellation, child_outcome
from durable_core.flow.completion import completion_run
from durable_core.flow.env import AppConfig
from durable_core.flow.execution import EVENT_SEQ, Execution, new_run
from durable_core.http.request import Request
from durable_core.machine.addresses import child_of
from durable_core.model.decision import Failure
from durable_core.model.run import Phase, Run, plain_key
from durable_core.model.step import OpKind
from durable_core.ports import (
    Cancel,
    CancelOutcome,
    NewRun,
    RunRecord,
    Store,
    StoredRequest,
    StoredResult,
    Write,
)

if TYPE_CHECKING:
    from durable_core.engine.embedded import EmbeddedEngine
    from durable_core.runners.settings import RegisteredEndpoint

__all__ = ["awaited_children", "cancel_abandoned", "invocation", "with_follow_up"]

#: Why a child is cancelled whose parent has ended, or was cancelled.
_ABANDONED = "its parent run has ended or was cancelled"


def invocation(
    engine: EmbeddedEngine, ex: Execution, key: str, request: Request, step_name: str, timeout: int
) -> Invocation:
    """Return how a step of an execution invokes an endpoint.

    Args:
        engine: the engine of both, which works in this process.
        ex: the execution.
        key: of the endpoint.
        request: what it is asked.
        step_name: for messages.
        timeout: how long the child may take, milliseconds.
    """
    options, worker = engine.endpoints[key].options, engine.worker
    wait_in_place = 0.0 if worker is None else worker.invoke_wait

    def start(now: int) -> NewRun:
        parent = ex.run
        if parent.depth >= MAX_DEPTH:
            raise LimitExceededError(
                f"step {step_name!r} would begin a run with {MAX_DEPTH + 1} runs above it; at most "
                f"{MAX_DEPTH} are allowed: does an endpoint invoke itself?"
            )
        run = new_run(ex.env, options, request, None, EVENT_SEQ.get())
        run = replace(
            run,
            phase=Phase.SUSPENDED,
            parent=parent.id,
            depth=parent.depth + 1,
            principal=parent.principal,
            traceparent=parent.traceparent,
        )
        head = dump_request(request, stored_headers=options.store_headers)
        return NewRun(run, StoredRequest(head=head, body=request.body))

    def read(run_id: str) -> str | Failure:
        return child_outcome(run_id, engine.store.result(engine.env.app, run_id))

    def give_up(run_id: str) -> str | Failure:
        try:
            engine.cancel(run_id, f"its parent run has waited for {timeout / 1000:g} s")
        except (RunNotFoundError, RunUndoneError):
            pass  # it is gone, or has failed and is being undone: nobody waits for it any more
        result = engine.store.result(engine.env.app, run_id)
        if isinstance(result, StoredResult) and result.phase is not Phase.CANCELLED:
            return child_outcome(run_id, result)  # it has ended just before
        text = f"run {run_id} took longer than {timeout / 1000:g} s (timeout=), and was cancelled"
        data = json.dumps({"run_id": run_id})
        return Failure(name="TimeoutError", message=text, data=data, retriable=False)

    return Invocation(start, read, give_up, timeout, int(wait_in_place * 1000))


def awaited_children(record: RunRecord) -> list[str]:
    """Return the ids of the children that a run waits for."""
    return [
        child_of(pending.address)
        for pending in record.pending
        if pending.op.kind is OpKind.INVOKE and pending.matched is None
    ]


def with_follow_up(
    cancel: Cancel, env: AppConfig, endpoints: Mapping[str, RegisteredEndpoint], run: Run
) -> Cancel:
    """Return the cancellation of a run, with the run that tells of its end if that is wanted."""
    endpoint = endpoints.get(plain_key(run))
    if endpoint is None or endpoint.options.on_complete is None:
        return cancel
    now = cancel.result.ended_at
    follow_up = completion_run(env, run, Phase.CANCELLED, now)
    return replace(cancel, result=replace(cancel.result, follow_up=follow_up))


def cancel_abandoned(
    env: AppConfig,
    store: Store,
    endpoints: Mapping[str, RegisteredEndpoint],
    execute: Callable[[Write[CancelOutcome]], CancelOutcome],
) -> None:
    """Cancel each run whose parent has ended or was cancelled, and their children, and so on.

    Args:
        env: the application.
        store: where its runs are.
        endpoints: of the application, by key.
        execute: commits a write.
    """
    reports = EngineReports(env)
    for _ in range(MAX_DEPTH + 1):
        children = store.abandoned_children(env.app)
        for record in children:
            cancel = cancellation(record.run, _ABANDONED, env.clock.now())
            cancel = with_follow_up(cancel, env, endpoints, record.run)
            if execute(cancel) is CancelOutcome.ENDED:
                reports.cancelled(replace(record.run, cancel_reason=_ABANDONED), cancel.result)
        if not children:
            return
