"""Control of runs: finding them, their attempts, waiting for them, ending them."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable_core.api.runs import Runs
from durable_core.api.step import step, sync_step
from durable_core.errors import NonRetriableError, RunNotFoundError, StepError
from durable_core.http.request import Request
from support.harness import FakeClock, Lab, Ledger, event, lab, request, until

START = 1_700_000_000_000


def naps(request: Request) -> str:
    sync_step.sleep("nap", "1h")
    return "end"


def waits(request: Request) -> str:
    sync_step.wait_for_event("answer", event="answered", timeout="1h")
    return "end"


def suspended_run(process: Lab) -> str:
    """Begin a run that waits for an event; return its id once it is suspended."""
    process.endpoint(waits).handle(request())
    [known] = until(lambda: process.durable.runs.list(status="suspended"))
    return known.id


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, ["c", "b", "a"]),
        ({"endpoint": "other"}, ["b"]),
        ({"label": ("user", "7")}, ["c", "a"]),
        ({"label": ("user", "7"), "status": "completed"}, ["c", "a"]),
        ({"label": ("user", "9")}, []),
        ({"key": "nobody's"}, []),
        ({"since": datetime.fromtimestamp(START / 1000 + 1, UTC)}, ["c", "b"]),
        ({"until": datetime.fromtimestamp(START / 1000 + 1, UTC)}, ["a"]),
        ({"since": datetime.fromtimestamp(START / 1000, UTC) + timedelta(microseconds=1)}, "cb"),
        (
            {
                "since": datetime.fromtimestamp(START / 1000 + 1, UTC),
                "until": datetime.fromtimestamp(START / 1000 + 2, UTC),
            },
            ["b"],
        ),
    ],
)
def test_list_finds(where: dict[str, Any], expected: list[str]) -> None:
    """By endpoint, label, key and time; all conditions hold together."""
    clock = FakeClock(START)
    with lab(clock=clock) as process:
        for name, identity, labels in (
            ("a", "it", {"user": "7"}),
            ("b", "other", {"user": "8"}),
            ("c", "it", {"user": "7"}),
        ):
            endpoint = process.endpoint(
                lambda request: sync_step.run("a", int),
                function_id=identity,
                labels={**labels, "name": name},
            )
            endpoint.handle(request())
            clock.advance(1)
        found = process.durable.runs.list(**where)

    assert list(expected) == [each.labels["name"] for each in found]


@pytest.mark.parametrize("name", ["since", "until"])
def test_list_takes_no_naive_time(name: str) -> None:
    """It could mean any time zone."""
    naive: dict[str, Any] = {name: datetime(2030, 1, 1)}
    with lab() as process, pytest.raises(ValueError, match=f"{name} must be an aware datetime"):
        process.durable.runs.list(**naive)


def test_a_cursor_goes_on_within_the_conditions() -> None:
    """Pages do not overlap, also where a time bounds them."""
    clock = FakeClock(START)
    with lab(clock=clock) as process:
        endpoint = process.endpoint(lambda request: sync_step.run("a", int))
        for _ in range(5):
            endpoint.handle(request())
            clock.advance(1)
        runs, last = process.durable.runs, datetime.fromtimestamp(START / 1000 + 4, UTC)
        ids = [each.id for each in runs.list()]
        first = runs.list(until=last, limit=2)
        second = runs.list(until=last, limit=2, cursor=first[-1].id)

    assert (ids[1:3], ids[3:]) == ([each.id for each in first], [each.id for each in second])


def test_history() -> None:
    """Every attempt of steps and of the handler, with its times and error, as it ended."""
    ledger = Ledger()

    def handler(request: Request) -> str:
        sync_step.run("charge", ledger.fails, "charge", 1, ConnectionError("busy"), "paid")
        ledger.fails("handler", 1, ValueError("no seat"), None)
        return "end"

    with lab() as process:
        endpoint = process.endpoint(handler)
        process.call(endpoint)
        [known] = process.durable.runs.list()
        attempts = process.durable.runs.history(known.id)

    assert [
        ("charge", 1, "failed", "ConnectionError: busy"),
        ("charge", 2, "completed", None),
        (None, 1, "failed", "ValueError: no seat"),
    ] == [(each.step, each.number, each.status, each.error) for each in attempts]
    assert all(each.started and each.started <= each.ended for each in attempts)
    assert [True, False, True] == [each.retry is not None for each in attempts]


def test_wait() -> None:
    """It returns the run once it has ended, also where another thread ends it."""
    with lab() as process:
        run_id, runs = suspended_run(process), process.durable.runs
        with pytest.raises(TimeoutError, match=f"run {run_id} has not ended after 0.05"):
            runs.wait(run_id, timeout=0.05)
        sender = threading.Thread(target=process.durable.send, args=(event("answered"),))
        sender.start()
        ended = runs.wait(run_id, timeout="20s")
        sender.join()

    assert "completed" == ended.status


def test_wait_for_no_run() -> None:
    """There is nothing to wait for."""
    with lab() as process, pytest.raises(RunNotFoundError, match="nobody"):
        process.durable.runs.wait("nobody")


def test_cancel_for_a_reason() -> None:
    """The clients of the run are told."""
    with lab() as process:
        run_id = suspended_run(process)
        assert process.durable.runs.cancel(run_id, reason="out of stock")
        result: Any = process.store.result("lab", run_id)

    assert "the run was cancelled: out of stock" == json.loads(result.body)["detail"]


def test_a_reason_has_a_limit() -> None:
    """It is no place for a book."""
    with lab() as process, pytest.raises(ValueError, match="at most 1000 characters"):
        process.durable.runs.cancel("r1", reason="x" * 1001)


def test_retry() -> None:
    """A failed run goes on from its failed step; what has succeeded is not done again."""
    ledger = Ledger()

    def handler(request: Request) -> str:
        sync_step.run("reserve", ledger.did, "reserve", None)
        return sync_step.run("charge", ledger.fails, "charge", 1, ConnectionError("no"), "paid")

    with lab() as process:
        process.call(process.endpoint(handler, retries=0))
        runs = process.durable.runs
        [failed] = runs.list(status="failed")
        assert runs.retry(failed.id)
        assert "completed" == runs.wait(failed.id, timeout="20s").status
        assert not runs.retry(failed.id)

    assert {"reserve": 1, "charge": 2} == ledger.counts()


@pytest.mark.parametrize("kind", ["event", "signal"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])
def test_what_a_clean_up_sends_is_sent_in_each_retry(asynchronous: bool, kind: str) -> None:
    """Each failure is told of once: the second one is not taken for a repetition of the first."""

    def fails() -> None:
        raise NonRetriableError("no")

    def sync(request: Request) -> None:
        try:
            sync_step.run("charge", fails)
        except StepError:
            if kind == "event":
                sync_step.send_event("tell", event("refused"))
            else:
                sync_step.send_signal("tell", "refused")
            raise

    async def async_(request: Request) -> None:
        try:
            await step.run("charge", fails)
        except StepError:
            if kind == "event":
                await step.send_event("tell", event("refused"))
            else:
                await step.send_signal("tell", "refused")
            raise

    def hears(request: Request) -> str:
        if kind == "event":
            return str(sync_step.wait_for_event("hear", event="refused", timeout="1h") is not None)
        return str(sync_step.wait_for_signal("hear", signal="refused", timeout="1h") is not None)

    with lab() as process:
        listener = process.endpoint(hears, function_id="listener")
        runs = process.durable.runs
        first = listener.handle(request())
        until(lambda: 1 == len(runs.list(status="suspended")))
        process.call(process.endpoint(async_ if asynchronous else sync))
        assert b'"True"' == process.follow(listener, first).body
        [failed] = runs.list(status="failed")
        assert 0 == failed.retried
        for count in (1, 2):
            again = listener.handle(request())
            until(lambda: 1 == len(runs.list(status="suspended")))
            assert runs.retry(failed.id)
            assert b'"True"' == process.follow(listener, again).body
            ended = runs.wait(failed.id, timeout="20s")
            assert ("failed", count) == (ended.status, ended.retried)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])
def test_a_failure_that_was_handled_stays(asynchronous: bool) -> None:
    """A retry does not execute a step again after whose failure the handler went on: the card that
    was refused is not charged when the other one was.
    """
    ledger = Ledger()

    def fails(name: str) -> str:
        return ledger.fails(name, 1, NonRetriableError("no"), name)

    def handler(request: Request) -> str:
        try:
            by = sync_step.run("card", fails, "card")
        except StepError:
            by = sync_step.run("cash", ledger.did, "cash", "cash")
        try:
            sync_step.run("ship", fails, "ship")
        except StepError as error:
            raise NonRetriableError("not shipped") from error
        return by

    async def handler_async(request: Request) -> str:
        try:
            by = await step.run("card", fails, "card")
        except StepError:
            by = await step.run("cash", ledger.did, "cash", "cash")
        try:
            await step.run("ship", fails, "ship")
        except StepError:
            raise NonRetriableError("not shipped")  # noqa: B904 - it is known all the same
        return by

    with lab() as process:
        options: dict[str, Any] = {"on_mismatch": "fail"}
        used = handler_async if asynchronous else handler
        process.call(process.endpoint(used, **options))
        runs = process.durable.runs
        [failed] = runs.list()
        assert runs.retry(failed.id)
        assert "completed" == runs.wait(failed.id, timeout="20s").status

    assert {"card": 1, "cash": 1, "ship": 2} == ledger.counts()


def test_all_branches_that_failed_are_tried_again() -> None:
    """Also those whose error has not reached the handler."""
    ledger, clock, begun = Ledger(), FakeClock(), threading.Barrier(2)

    def fails(name: str) -> str:
        if name not in ledger.calls:
            begun.wait(20)
            clock.advance(0.001)
        return ledger.fails(name, 1, NonRetriableError("no"), name)

    def handler(request: Request) -> object:
        branches = [lambda name=name: sync_step.run(name, fails, name) for name in "ab"]
        return list(sync_step.parallel("both", *branches))

    with lab(clock=clock) as process:
        process.call(process.endpoint(handler))
        runs = process.durable.runs
        [failed] = runs.list()
        assert runs.retry(failed.id)
        assert "completed" == runs.wait(failed.id, timeout="20s").status

    assert {"a": 2, "b": 2} == ledger.counts()


def test_a_retry_forgets_what_a_failure_has_led_to() -> None:
    """What the handler did because of it is done again if it fails again, and else left out."""
    ledger = Ledger()

    def handler(request: Request) -> str:
        try:
            sync_step.run("charge", ledger.fails, "charge", 2, NonRetriableError("no"), None)
        except StepError:
            sync_step.run("release", ledger.did, "release", None)
            raise
        return sync_step.run("ship", ledger.did, "ship", "shipped")

    with lab() as process:
        process.call(process.endpoint(handler, on_mismatch="fail"))
        runs = process.durable.runs
        [failed] = runs.list()
        assert runs.retry(failed.id)
        assert "failed" == runs.wait(failed.id, timeout="20s").status
        assert {"charge": 2, "release": 2} == ledger.counts()
        assert runs.retry(failed.id)
        ended = runs.wait(failed.id, timeout="20s")

    assert {"charge": 3, "release": 2, "ship": 1} == ledger.counts()
    assert ["charge", "ship"] == [each.name for each in ended.steps]


def test_a_retry_keeps_what_other_branches_have_done() -> None:
    """Also after the failure: only the handler itself, and the branch that failed, knew of it."""
    ledger, failed_once = Ledger(), asyncio.Event()

    async def pays() -> None:
        try:
            await step.run("pay", ledger.fails, "pay", 1, NonRetriableError("no"), None)
        except StepError:
            failed_once.set()
            await step.run("unlock", ledger.did, "unlock", None)
            raise

    async def packs() -> None:
        await failed_once.wait()
        await step.run("pack", ledger.did, "pack", None)

    async def handler(request: Request) -> str:
        results = await asyncio.gather(packs(), pays(), return_exceptions=True)
        for error in results:
            if isinstance(error, Exception):
                await step.run("apologize", ledger.did, "apologize", None)
                raise error
        return "done"

    with lab() as process:
        process.call(process.endpoint(handler, on_mismatch="fail"))
        runs = process.durable.runs
        [failed] = runs.list()
        assert {"pay": 1, "unlock": 1, "pack": 1, "apologize": 1} == ledger.counts()
        assert runs.retry(failed.id)
        ended = runs.wait(failed.id, timeout="20s")

    assert ("completed", 2, 1) == (ended.status, ledger.counts()["pay"], ledger.counts()["pack"])
    assert {"pay", "pack"} == {each.name for each in ended.steps}


def test_resume_from() -> None:
    """A new run has the results before the step, and may be asked something else."""
    ledger = Ledger()

    def handler(request: Request) -> str:
        sync_step.run("reserve", ledger.did, "reserve", None)
        charged = sync_step.run("charge", ledger.did, "charge", request.query.get("by") or "cash")
        return f"paid by {charged}"

    with lab() as process:
        process.call(process.endpoint(handler))
        runs = process.durable.runs
        [old] = runs.list()
        same = runs.resume_from(old.id, "charge")
        other = asyncio.run(
            runs.resume_from_async(old.id, "charge", request=request("/it?by=card"))
        )
        ended = [runs.wait(each, timeout="20s") for each in (same, other)]
        with pytest.raises(ValueError, match="has no step 'nothing'"):
            runs.resume_from(old.id, "nothing")
        with pytest.raises(RunNotFoundError):
            runs.resume_from("nobody", "charge")

    assert {"reserve": 1, "charge": 3} == ledger.counts()
    assert [[None, "cash"], [None, "card"]] == [
        [step.result for step in run.steps] for run in ended
    ]


def test_delete() -> None:
    """A run that has ended is gone with its steps; one that goes on stays."""
    with lab() as process:
        run_id, runs = suspended_run(process), process.durable.runs
        assert not runs.delete(run_id)
        runs.cancel(run_id)
        assert asyncio.run(runs.delete_async(run_id))
        assert [] == runs.list()
        with pytest.raises(RunNotFoundError):
            runs.delete(run_id)


def test_tasks_control_runs_alike() -> None:
    """Each method has a twin with the same parameters, which does not block the event loop."""

    async def control(process: Lab, run_id: str) -> list[object]:
        runs = process.durable.runs
        listed = await runs.list_async(status="suspended", limit=1)
        return [
            [each.id for each in listed],
            (await runs.get_async(run_id)).status,
            await runs.history_async(run_id),
            await runs.cancel_async(run_id, reason="enough"),
            (await runs.wait_async(run_id, timeout="20s")).status,
        ]

    with lab() as process:
        run_id = suspended_run(process)
        seen = asyncio.run(control(process, run_id))

    assert [[run_id], "suspended", [], True, "cancelled"] == seen
    for name in ("get", "list", "history", "cancel", "retry", "resume_from", "delete", "wait"):
        plain, twin = (inspect.signature(getattr(Runs, each)) for each in (name, f"{name}_async"))
        assert plain.parameters == twin.parameters
