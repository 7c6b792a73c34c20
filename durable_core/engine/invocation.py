"""How a step of a run begins a child run, waits for it, and reads its end."""

from __future__ import annotations

import json
from dataclasses import replace

from durable_core.codec.records import dump_request
from durable_core.engine.embedded import EmbeddedEngine
from durable_core.errors import LimitExceededError, RunNotFoundError, RunUndoneError
from durable_core.flow.child_runs import MAX_DEPTH, Invocation, child_outcome
from durable_core.flow.execution import EVENT_SEQ, Execution, new_run
from durable_core.http.request import Request
from durable_core.model.decision import Failure
from durable_core.model.run import Phase
from durable_core.ports import NewRun, StoredRequest, StoredResult

__all__ = ["invocation"]


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
            traceparent=ex.traceparent,
        )
        if worker is not None and worker.observers.watched:
            run = worker.observers.in_trace(run)
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
