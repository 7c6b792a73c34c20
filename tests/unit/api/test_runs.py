"""Looking at runs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from durable_conformance.store_values import memo, run, wait
from durable_core.api.run_info import RunInfo, StepInfo, as_json
from durable_core.api.runs import show_run
from durable_core.api.step import step, sync_step
from durable_core.codec.json import JSONCodec
from durable_core.errors import RunNotFoundError
from durable_core.http.request import Request
from durable_core.machine.retry import RetryPolicy
from durable_core.model.event import Event
from durable_core.model.run import Phase
from durable_core.ports import RunRecord
from durable_core.stores.memory import MemoryStore
from support.harness import FakeClock, Lab, Ledger, lab, request, until


def some_runs(process: Lab) -> None:
    def handler(request: Request) -> str:
        sync_step.run("a", int)
        if request.query.get("sleep"):
            sync_step.sleep("nap", "1h")
        return "end"

    endpoint = process.endpoint(handler)
    for n in range(4):
        endpoint.handle(request("/it" if n % 2 else "/it?sleep=1"))
    until(lambda: len(process.durable.runs.list(status="suspended")) == 2)


def test_list() -> None:
    """Runs are listed newest first, by status and by page."""
    with lab() as process:
        some_runs(process)
        runs = process.durable.runs
        ids = [run.id for run in runs.list()]
        assert sorted(ids, reverse=True) == ids
        assert 4 == len(ids)
        assert 2 == len(runs.list(status="completed"))
        assert ids[:3] == [run.id for run in runs.list(limit=3)]
        assert ids[3:] == [run.id for run in runs.list(cursor=ids[2])]


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"limit": 1001}, {"limit": True}, {"status": "x"}]
)
def test_list_out_of_range(options: dict[str, Any]) -> None:
    """An unknown status or a limit out of range is a ValueError."""
    with lab() as process, pytest.raises(ValueError, match=r"limit must be|one of running, "):
        process.durable.runs.list(**options)


def test_get() -> None:
    """A run is shown with its steps; one that is not there is an error."""
    with lab() as process:
        some_runs(process)
        [first, *_] = process.durable.runs.list(status="suspended")
        run = process.durable.runs.get(first.id)
        assert (["a"], ["nap"]) == (
            [step.name for step in run.steps if step.ended],
            [step.name for step in run.steps if step.due],
        )
        with pytest.raises(RunNotFoundError, match="nobody"):
            process.durable.runs.get("nobody")


def test_cancel() -> None:
    """A run is cancelled once; one that is not there is an error."""
    with lab() as process:
        some_runs(process)
        [first, *_] = process.durable.runs.list(status="suspended")
        assert [True, False] == [process.durable.runs.cancel(first.id) for _ in range(2)]
        assert "cancelled" == process.durable.runs.get(first.id).status
        with pytest.raises(RunNotFoundError):
            process.durable.runs.cancel("nobody")


RECORD = RunRecord(
    run=run(),
    owner=None,
    due_at=1_700_000_000_000,
    ended_at=None,
    memos=(
        memo(1, name="reserve", value='{"seat":"12A"}'),
        replace(memo(2, name="charge", value='{"name":"E","message":"no"}'), ok=False),
    ),
    pending=(wait("approval"),),
)


def test_json_has_the_same_names() -> None:
    """What Python has as attributes JSON has as members; times are ISO 8601 in UTC."""
    shown = show_run(RECORD, JSONCodec())
    parsed = json.loads(json.dumps(as_json(shown)))

    assert [field.name for field in fields(RunInfo)] == list(parsed)
    assert [field.name for field in fields(StepInfo)] == list(parsed["steps"][0])
    assert ("2023-11-14T22:13:20+00:00", None) == (parsed["due"], parsed["ended"])
    assert datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC) == shown.due
    assert [{"seat": "12A"}, None, None] == [step["result"] for step in parsed["steps"]]
    assert [None, "E: no", None] == [step["error"] for step in parsed["steps"]]
    assert [None, None, "e"] == [step["event"] for step in parsed["steps"]]


def test_result_of_another_codec_is_shown_as_text() -> None:
    """What a codec of the user's has written, and is not JSON, is shown as it is."""
    record = replace(RECORD, memos=(memo(1, value="!!python/tuple [1]"),))

    assert "!!python/tuple [1]" == show_run(record, JSONCodec()).steps[0].result


@pytest.mark.parametrize(
    ("phase", "owner", "status"),
    [
        (Phase.SYNC, "p1", "running"),
        (Phase.SUSPENDED, "p1", "running"),
        (Phase.SUSPENDED, None, "suspended"),
        (Phase.ASYNC, None, "suspended"),
        (Phase.COMPLETED, None, "completed"),
        (Phase.FAILED, None, "failed"),
        (Phase.CANCELLED, None, "cancelled"),
    ],
)
def test_status(phase: Phase, owner: str | None, status: str) -> None:
    """A run that some process executes is running, whatever it was before it was resumed."""
    record = replace(RECORD, run=replace(run(), phase=phase), owner=owner)

    assert status == show_run(record, JSONCodec()).status


def test_why_the_handler_failed() -> None:
    """The error of a handler that raised, and how often, while it is tried again and at the end."""

    def handler(request: Request) -> None:
        sync_step.run("a", int)
        raise ValueError("no seat left")

    clock = FakeClock()
    with lab(clock=clock, retry=RetryPolicy(base="1h", max="1h", jitter=0)) as process:
        process.endpoint(handler, retries=3).handle(request())
        runs, shown = process.durable.runs, []
        [first] = runs.list()
        for attempts in (2, 3, 4):
            until(lambda: runs.get(first.id).due is not None)
            assert attempts == runs.get(first.id).attempts
            shown.append(runs.get(first.id))
            clock.advance(4 * 3600)
            process.poke()
            until(lambda: runs.get(first.id).due != shown[-1].due)
        until(lambda: runs.list(status="failed"))
        shown.append(runs.get(first.id))

    assert ["suspended"] * 3 + ["failed"] == [each.status for each in shown]
    assert ["ValueError: no seat left"] * 4 == [each.error for each in shown]
    assert [2, 3, 4, 4] == [each.attempts for each in shown]


def test_looking_executes_nothing() -> None:
    """Whoever lists, shows, cancels or sends opens the store, and claims no run that is due."""
    clock, store, calls = FakeClock(), MemoryStore(), Ledger()

    def handler(request: Request) -> None:
        sync_step.sleep("nap", "1h")
        calls.did("woke", None)

    with lab(store, clock=clock) as process:
        process.endpoint(handler).handle(request())
    clock.advance(2 * 3600)
    looking = Lab(store, clock=clock)
    looking.endpoint(handler)
    [first] = looking.durable.runs.list()
    looking.durable.runs.get(first.id)
    looking.durable.send(Event("e"))
    asyncio.run(looking.durable.send_async(Event("e")))

    assert not looking.durable.health()["started"]
    assert looking.durable.runs.cancel(first.id)
    assert [] == calls.calls


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_step_that_runs_is_listed(asynchronous: bool) -> None:
    """In the process that executes it: before anything is stored, and while it is tried again."""
    ledger, ids = Ledger(), list[str]()
    shown: list[RunInfo] = []

    def look() -> None:
        [live] = process.engine.worker.live.all()  # type: ignore[union-attr]
        ids.append(live.ex.run.id)
        shown.append(process.durable.runs.get(ids[-1]))
        ledger.fails("look", 1, OSError("busy"), None)

    def handler(request: Request) -> str:
        sync_step.run("look", look)
        return "end"

    async def handler_async(request: Request) -> str:
        await step.run("look", look)
        return "end"

    with lab() as process:
        response = process.call(process.endpoint(handler_async if asynchronous else handler))
        ended = process.durable.runs.get(ids[0])
    assert b'"end"' == response.body
    assert 1 == len(set(ids))
    assert ["running", "running"] == [each.status for each in shown]
    steps = [each.steps for each in shown]
    assert [("look", "running", 1, None)] == [_brief(each) for each in steps[0]]
    assert [("look", "running", 2, "OSError: busy")] == [_brief(each) for each in steps[1]]
    assert [("look", "completed", 2, None)] == [_brief(each) for each in ended.steps]
    assert None not in [each.started for each in (*steps[0], *steps[1])]


def _brief(step: StepInfo) -> tuple[str, str, int, str | None]:
    return step.name, step.status, step.attempts, step.error


@pytest.mark.parametrize(
    "options",
    [{"label": "team=blue"}, {"label": {"team": "blue"}}, {"since": "yesterday"}]
    + [{name: 5} for name in ("endpoint", "key", "cursor")],
)
def test_list_of_another_type(options: dict[str, Any]) -> None:
    """A condition that no run could meet is refused; it does not look like an empty list."""
    [name] = options
    with lab() as process, pytest.raises(TypeError, match=f"{name} must be a"):
        process.durable.runs.list(**options)


def test_a_reason_is_a_text() -> None:
    """It is refused before the run is looked for."""
    reason: Any = 5
    with lab() as process, pytest.raises(TypeError, match="reason must be a str, not 5"):
        process.durable.runs.cancel("nobody", reason=reason)
