"""The steps as handlers call them."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable_core.api.step import AsyncSteps, Steps, step, sync_step
from durable_core.http.request import Request
from durable_core.model.event import Event
from support.harness import Ledger, lab, request


def outcome(call: Callable[[], Any]) -> str:
    """Run a ``def`` handler that makes the call; give the text of the answer."""

    def handler(request: Request) -> object:
        try:
            call()
        except (ValueError, TypeError) as error:
            return f"{type(error).__name__}: {error}"
        return "no error"

    with lab() as process:
        body = process.endpoint(handler).handle(request("/it?x=1")).body
    assert isinstance(body, bytes)
    return body.decode()


def test_both_faces_have_the_same_steps() -> None:
    """The two faces differ in nothing but that one must be awaited."""

    def shape(cls: type) -> dict[str, list[tuple[str, object, object]]]:
        return {
            name: [
                (each.name, each.kind, each.default)
                for each in inspect.signature(method).parameters.values()
            ]
            for name, method in vars(cls).items()
            if not name.startswith("_") and inspect.isfunction(method)
        }

    assert shape(Steps) == shape(AsyncSteps)


BAD_CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: sync_step.run("", int), "StepArgumentError"),
    (lambda: sync_step.run("x" * 256, int), "StepArgumentError"),
    (lambda: sync_step.run(7, int), "StepArgumentError"),  # type: ignore[arg-type]
    (lambda: sync_step.sleep("x", -1), "StepArgumentError"),
    (lambda: sync_step.sleep("x", "soon"), "StepArgumentError"),
    (lambda: sync_step.sleep("x", float("nan")), "StepArgumentError"),
    (lambda: sync_step.sleep("x", True), "StepArgumentError"),
    (lambda: sync_step.sleep("x", timedelta(days=367)), "StepArgumentError"),
    (lambda: sync_step.sleep_until("x", datetime(2030, 1, 1)), "StepArgumentError"),
    (lambda: sync_step.sleep_until("x", datetime(9999, 1, 1, tzinfo=UTC)), "StepArgumentError"),
    (lambda: sync_step.wait_for_event("x", event="", timeout=1), "StepArgumentError"),
    (lambda: sync_step.wait_for_event("x", event="e", timeout="367 days"), "StepArgumentError"),
    (
        lambda: sync_step.wait_for_event("x", event="e", timeout=1, match="data.x", if_={}),
        "StepArgumentError",
    ),
    (lambda: sync_step.wait_for_event("x", event="e", timeout=1, match="x"), "StepArgumentError"),
    (lambda: sync_step.wait_for_event("x", event="e", timeout=1, if_={}), "StepArgumentError"),
    (lambda: sync_step.send_event("x", []), "StepArgumentError"),
    (lambda: sync_step.send_event("x", ["e"]), "StepArgumentError"),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("call", "error"), BAD_CALLS, ids=map(str, range(len(BAD_CALLS))))
def test_arguments(call: Callable[[], Any], error: str) -> None:
    """What cannot be is refused where it is written, before anything is stored."""
    assert outcome(call).startswith(f'"{error}')


def test_timeout_is_required() -> None:
    """A wait without an end is refused by Python itself."""
    wait: Any = sync_step.wait_for_event
    with pytest.raises(TypeError, match="timeout"):
        wait("x", event="e")


@pytest.mark.parametrize("face", ["sync", "async"])
def test_function_that_was_called_already(face: str) -> None:
    """A result or a coroutine in place of a function fails the run at once, and says why."""
    ledger = Ledger()

    async def work() -> int:
        return 1

    def handler(request: Request) -> object:
        ledger.did("handler", None)
        return sync_step.run("x", ledger.did("work", 1))  # type: ignore[arg-type]

    async def async_handler(request: Request) -> object:
        ledger.did("handler", None)
        return await step.run("x", work())  # type: ignore[call-overload]

    with lab() as process:
        endpoint = process.endpoint(handler if face == "sync" else async_handler)
        response = endpoint.handle(request())
    assert 500 == response.status
    assert b"StepUsageError" in bytes(response.body)  # type: ignore[arg-type]
    assert b"without calling it" in bytes(response.body)  # type: ignore[arg-type]
    assert 1 == ledger.calls.count("handler")


def test_missing_match_value_is_final() -> None:
    """``match`` on something that the request lacks fails the run, by name."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        ledger.did("handler", None)
        return sync_step.wait_for_event("x", event="e", timeout=1, match="data.absent")

    with lab() as process:
        response = process.endpoint(handler).handle(request())
    assert 500 == response.status
    assert b"MatchError" in bytes(response.body)  # type: ignore[arg-type]
    assert ["handler"] == ledger.calls


@pytest.mark.parametrize(
    ("options", "sent", "heard"),
    [
        ({"match": "data.trip"}, {"trip": "T1"}, True),
        ({"match": "data.trip"}, {"trip": "T2"}, False),
        ({"match": "data.trip"}, {}, False),
        ({"if_": {"data.status": "paid", "data.n": 1}}, {"status": "paid", "n": 1}, True),
        ({"if_": {"data.status": "paid", "data.n": 1}}, {"status": "paid", "n": 2}, False),
    ],
)
@pytest.mark.parametrize("face", ["def", "async"])
def test_conditions(options: Any, sent: dict[str, object], heard: bool, face: str) -> None:
    """A wait ends by an event that answers its conditions, and only by such a one."""
    most = 60 if heard else 0.5

    def sync(request: Request) -> object:
        got = sync_step.wait_for_event("w", event="e", timeout=most, **options)
        return got and got.data

    async def async_(request: Request) -> object:
        got = await step.wait_for_event("w", event="e", timeout=most, **options)
        return got and got.data

    with lab() as process:
        endpoint = process.endpoint(sync if face == "def" else async_)
        first = endpoint.handle(request("/it?trip=T1"))
        assert 302 == first.status
        process.durable.send([Event("other", sent), Event("e", sent)])
        answer = process.follow(endpoint, first).body
    assert heard is (answer != b"null")


def test_arguments_are_handed_to_the_function() -> None:
    """Positional and keyword arguments go to the function."""

    def add(a: int, b: int, *, c: int = 0) -> int:
        return a + b + c

    async def add_async(a: int, b: int, *, c: int = 0) -> int:
        return a + b + c

    def sync(request: Request) -> object:
        return sync_step.run("add", add, 1, 2, c=3)

    async def async_(request: Request) -> object:
        one = await step.run("add", add, 1, 2, c=3)
        two = await step.run("add async", add_async, 1, b=2, c=3)
        return [one, two]

    with lab() as process:
        assert b"6" == process.endpoint(sync, function_id="a").handle(request()).body
        assert b"[6,6]" == process.endpoint(async_, function_id="b").handle(request()).body


def test_index_is_taken_at_the_call() -> None:
    """The index of a repeated id is that of the call, whichever is awaited first."""

    async def handler(request: Request) -> object:
        first, second = step.run("x", lambda: "first"), step.run("x", lambda: "second")
        results = [await second, await first]
        await step.sleep("nap", 0.01)
        return results

    with lab() as process:
        assert b'["second","first"]' == process.call(process.endpoint(handler)).body
        [record] = process.records.list()
        memos = {m.op.name: m.value for m in process.records.get(record.run.id).memos}
    assert ('"first"', '"second"') == (memos["x"], memos["x:1"])


def test_functions_run_in_threads_and_on_the_loop() -> None:
    """In ``async def`` handlers a plain function does not block the loop; others run on it."""

    async def on_loop() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    async def handler(request: Request) -> object:
        plain = await step.run("plain", lambda: threading.current_thread().name)
        return [plain[:12], await step.run("async", on_loop)]

    with lab() as process:
        assert (
            b'["durable-step","durable-loop"]' == process.endpoint(handler).handle(request()).body
        )


def test_step_that_is_never_awaited_is_named_by_the_warning() -> None:
    """Python warns of a coroutine that nobody awaits; the warning says which step it is."""
    ledger = Ledger()

    async def handler(request: Request) -> str:
        _ = step.run("charge", ledger.did, "charge", 1)  # the await is missing
        del _
        gc.collect()
        return "done"

    with lab() as process, pytest.warns(RuntimeWarning, match=r"step\.run\('charge'\)' was never"):
        process.call(process.endpoint(handler))
    assert {} == ledger.counts()
