"""Looking at runs."""

from __future__ import annotations

from typing import Any

import pytest

from durable_core.api.step import sync_step
from durable_core.errors import RunNotFoundError
from durable_core.http.request import Request
from durable_core.model.run import Phase
from support.harness import Lab, lab, request, until


def some_runs(process: Lab) -> None:
    def handler(request: Request) -> str:
        sync_step.run("a", int)
        if request.query.get("sleep"):
            sync_step.sleep("nap", "1h")
        return "end"

    endpoint = process.endpoint(handler)
    for n in range(4):
        endpoint.handle(request("/it" if n % 2 else "/it?sleep=1"))
    until(lambda: len(process.durable.runs.list(phase="suspended")) == 2)


def test_list() -> None:
    """Runs are listed newest first, by phase and by page."""
    with lab() as process:
        some_runs(process)
        runs = process.durable.runs
        ids = [record.run.id for record in runs.list()]
        assert sorted(ids, reverse=True) == ids
        assert 4 == len(ids)
        assert 2 == len(runs.list(phase=Phase.COMPLETED))
        assert ids[:3] == [record.run.id for record in runs.list(limit=3)]
        assert ids[3:] == [record.run.id for record in runs.list(before=ids[2])]


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"limit": 1001}, {"limit": True}, {"phase": "x"}]
)
def test_list_out_of_range(options: dict[str, Any]) -> None:
    """An unknown phase or a limit out of range is a ValueError."""
    with lab() as process, pytest.raises(ValueError, match=r"limit must be|one of sync, "):
        process.durable.runs.list(**options)


def test_get() -> None:
    """A run is shown with its steps; one that is not there is an error."""
    with lab() as process:
        some_runs(process)
        [first, *_] = process.durable.runs.list(phase="suspended")
        record = process.durable.runs.get(first.run.id)
        assert (["a"], ["nap"]) == (
            [memo.op.name for memo in record.memos],
            [each.op.name for each in record.pending],
        )
        with pytest.raises(RunNotFoundError, match="nobody"):
            process.durable.runs.get("nobody")


def test_cancel() -> None:
    """A run is cancelled once; one that is not there is an error."""
    with lab() as process:
        some_runs(process)
        [first, *_] = process.durable.runs.list(phase="suspended")
        assert [True, False] == [process.durable.runs.cancel(first.run.id) for _ in range(2)]
        assert Phase.CANCELLED is process.durable.runs.get(first.run.id).run.phase
        with pytest.raises(RunNotFoundError):
            process.durable.runs.cancel("nobody")
