"""Plain steps, which runners do without a flow: they are done as the flow would do them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.engine.worker import Worker
from durable_core.errors import NonRetriableError, StepError
from durable_core.flow.env import Limits
from durable_core.flow.flows import EMBEDDED_FLOWS
from durable_core.http.request import Request
from durable_core.ports import Checkpoint
from support.harness import Lab, Ledger, lab

Work = Callable[[Ledger], object]


def fails(times: int, make_error: Callable[[], Exception]) -> Work:
    """Return work that raises such an error so often, and then returns a number."""
    return lambda ledger: ledger.fails("work", times, make_error(), 7)


#: What a step's function does, by how it ends.
WORK: dict[str, Work] = {
    "returns": lambda ledger: ledger.did("work", {"n": [1, None]}),
    "is retried": fails(2, lambda: OSError("no")),
    "fails": fails(9, lambda: OSError("no")),
    "is not retried": fails(1, lambda: NonRetriableError("never")),
    "cannot be stored": lambda ledger: ledger.did("work", {1}),
    "is too large": lambda ledger: ledger.did("work", "x" * 200),
}


def handler_of(asynchronous: bool, work: Work, ledger: Ledger) -> Callable[[Request], Any]:
    """Return a handler with this step between two others; it answers with what it saw."""

    def sync(request: Request) -> object:
        first = sync_step.run("first", ledger.did, "first", 1)
        try:
            result = sync_step.run("work", work, ledger)
        except StepError as error:
            result = f"{type(error).__name__}: {error.message}"
        return [first, result, sync_step.run("last", ledger.did, "last", 3)]

    async def async_(request: Request) -> object:
        first = await step.run("first", ledger.did_async, "first", 1)
        try:
            result = await step.run("work", work, ledger)
        except StepError as error:
            result = f"{type(error).__name__}: {error.message}"
        return [first, result, await step.run("last", ledger.did_async, "last", 3)]

    return async_ if asynchronous else sync


def by_flows_only(process: Lab) -> None:
    """Have the process do all steps by their flows."""

    def make_worker(*args: Any) -> Worker:
        worker = Worker(*args)
        worker.flows = replace(EMBEDDED_FLOWS, plain_steps=None)
        return worker

    process.engine._make_worker = make_worker


def without_times(value: Any) -> Any:
    """Return a record of the store without its times, which differ from run to run.

    So does a completion number, which counts the attempts of this execution.
    """
    names = ("started_at", "ended_at", "due_at", "retry_at", "completion_no")
    return replace(value, **{name: 0 for name in names if getattr(value, name, None) is not None})


def ran(work: Work, *, asynchronous: bool, plain: bool) -> object:
    """Run such a handler to its end; return the answer, the calls, and what was stored."""
    ledger = Ledger()
    with lab(limits=Limits(step_result=100), debug=False) as process:
        if not plain:
            by_flows_only(process)
        endpoint = process.endpoint(handler_of(asynchronous, work, ledger), retries=2)
        response = process.call(endpoint)
        batches = process.watched.batches
    writes = [each for batch in batches for each in batch if isinstance(each, Checkpoint)]
    memos = [without_times(memo) for write in writes for memo in write.memos]
    pending = [without_times(each) for write in writes for each in write.pending]
    failed = [without_times(each) for write in writes for each in write.failed_attempts]
    return response.status, response.body, ledger.calls, memos, pending, failed


@pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])
@pytest.mark.parametrize("ends", WORK)
def test_a_plain_step_is_what_its_flow_makes(ends: str, asynchronous: bool) -> None:
    """The handler sees the same, and the same is stored, however the step's function ends."""
    by_flow = ran(WORK[ends], asynchronous=asynchronous, plain=False)

    assert by_flow == ran(WORK[ends], asynchronous=asynchronous, plain=True)
