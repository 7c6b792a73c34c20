"""A fault of the process, such as too little memory, is a crash and never an outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from durable_conformance.store_values import created
from durable_core.api.step import step, sync_step
from durable_core.codec.json import JSONCodec
from durable_core.codec.records import load_request
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Phase
from durable_core.ports import Release
from durable_core.stores.sqlite import SQLiteStore
from durable_core.stores.sqlite import claims as sqlite_claims
from durable_core.stores.sqlite.reads import load_claimed
from support.harness import FakeClock, Lab, Ledger, WatchedStore, a_request, lab, request, until

Handler = Callable[[Request], Any]


def handlers(ledger: Ledger, body: Callable[[Any], object]) -> dict[str, Handler]:
    """Return a handler of either kind: a step that ends, then one that calls ``body``."""

    def plain(request: Request) -> object:
        sync_step.run("a", ledger.did, "a", 1)
        try:
            return sync_step.run("b", body, request)
        except Exception as error:
            return f"caught {error!r}"

    async def asynchronous(request: Request) -> object:
        await step.run("a", ledger.did, "a", 1)
        try:
            return await step.run("b", body, request)
        except Exception as error:
            return f"caught {error!r}"

    return {"def": plain, "async def": asynchronous}


def first_answer(process: Lab, handler: Handler, **options: Any) -> Response:
    """Ask once; wait until the run has ended."""
    endpoint = process.endpoint(handler, **options)
    response: Response = endpoint.handle(request())
    until(lambda: ended(process))
    return response


def ended(process: Lab) -> bool:
    runs = process.records.list()
    return bool(runs) and all(each.run.phase.ended for each in runs)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_memory_that_is_short_for_a_while_fails_no_step(kind: str) -> None:
    """The step is called again although it has no retries, and the handler sees no error."""
    ledger = Ledger()

    def hungry(request: Request) -> int:
        ledger.did("b", 0)
        if ledger.counts()["b"] < 3:
            raise MemoryError
        return 2

    with lab() as process:
        first_answer(process, handlers(ledger, hungry)[kind], retries=0)
        [record] = process.records.list()
        stored = process.store.result("lab", record.run.id)

    assert Phase.COMPLETED is record.run.phase
    assert b"2" == getattr(stored, "body", None)
    assert {"a": 1, "b": 3} == ledger.counts()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_result_that_could_not_be_encoded_for_want_of_memory(kind: str) -> None:
    """It is not stored as one that cannot be stored."""
    ledger, broken = Ledger(), [True, True]

    class Short(JSONCodec):
        def encode(self, value: object) -> str:
            if value == "b" and broken:
                broken.pop()
                raise MemoryError
            return super().encode(value)

    with lab(codec=Short()) as process:
        first_answer(process, handlers(ledger, lambda request: "b")[kind], retries=0)
        [record] = process.records.list()

    assert [] == broken
    assert Phase.COMPLETED is record.run.phase


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_handler_that_ran_out_of_memory_has_not_failed(kind: str) -> None:
    """Even if the error comes in a group with others."""
    ledger = Ledger()

    def run_out() -> None:
        if len(ledger.calls) < 3:
            raise ExceptionGroup("tasks", [ValueError("x"), MemoryError()])

    def plain(request: Request) -> str:
        sync_step.run("a", int)
        ledger.did("handler", 0)
        run_out()
        return "end"

    async def asynchronous(request: Request) -> str:
        await step.run("a", int)
        ledger.did("handler", 0)
        run_out()
        return "end"

    handler: Handler = plain if kind == "def" else asynchronous
    with lab() as process:
        response = first_answer(process, handler, retries=0)
        [record] = process.records.list()

    assert 500 == response.status
    assert (Phase.COMPLETED, 0) == (record.run.phase, record.run.failures)
    assert 3 == len(ledger.calls)


def test_a_run_whose_request_could_not_be_loaded_for_want_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is given back and resumed later, and is no unreadable one."""
    broken = [True, True]

    def short(head: str, body: bytes) -> Request:
        if broken:
            broken.pop()
            raise MemoryError
        return load_request(head, body)

    monkeypatch.setattr("durable_core.engine.runs.load_request", short)
    store = WatchedStore()
    waiting = created("r0", app="lab", key="it")
    store.commit([replace(waiting, request=a_request(), release=Release(due_at=0))], wait=1.0)
    with lab(store) as process:
        process.endpoint(lambda request: "end")
        process.durable.start()
        until(lambda: process.records.get("r0").run.phase.ended)
        assert Phase.COMPLETED is process.records.get("r0").run.phase
    assert [] == broken


def test_a_run_that_could_not_be_claimed_for_want_of_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The claim fails as a whole, and is made again."""
    broken = [True]

    def short(*args: Any) -> Any:
        if broken:
            broken.pop()
            raise MemoryError
        return load_claimed(*args)

    monkeypatch.setattr(sqlite_claims, "load_claimed", short)
    clock = FakeClock()
    with lab(SQLiteStore(tmp_path / "db"), clock=clock) as process:
        endpoint = process.endpoint(_sleeper)
        handoff = endpoint.handle(request())
        until(lambda: process.records.list()[0].due_at is not None)
        clock.advance(3601)
        process.poke()
        assert b'"end"' == process.follow(endpoint, handoff).body

    assert [] == broken


def _sleeper(request: Request) -> str:
    sync_step.sleep("nap", 3600)
    return "end"


class Interrupt(BaseException):
    """What a library raises to get past ``except Exception``."""


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_what_is_no_exception_fails_the_handler(kind: str) -> None:
    """A step that raises one is not called without end: the retries of the handler count."""
    ledger = Ledger()

    def interrupted(request: Request) -> None:
        ledger.did("b", 0)
        raise Interrupt("stop")

    with lab() as process:
        response = first_answer(process, handlers(ledger, interrupted)[kind], retries=0)
        [record] = process.records.list()

    assert Phase.FAILED is record.run.phase
    assert 500 == response.status
    assert isinstance(response.body, bytes)
    assert b"Interrupt" in response.body
    assert {"a": 1, "b": 1} == ledger.counts()
