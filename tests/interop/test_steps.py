"""Steps and responses of the kinds that the recordings have none of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from durable_core import (
    Event,
    Limits,
    NonRetriableError,
    Request,
    Response,
    RetryPolicy,
    StepError,
    step,
)
from durable_core.errors import StepUsageError
from support.inngest_app import serving
from support.inngest_handlers import CALLS
from support.inngest_server import InngestServer

pytestmark = pytest.mark.slow


def called(name: str, result: object = None) -> object:
    CALLS[name] += 1
    return result


def refuses() -> None:
    CALLS["refuses"] += 1
    raise NonRetriableError("never")


def test_a_failure_beside_a_sleep(server: InngestServer) -> None:
    """What has failed for good while the client was attached is not called again on a replay."""

    async def handler(request: Request) -> list[str]:
        several = await asyncio.gather(
            step.run("bad", refuses), step.sleep("nap", "10ms"), return_exceptions=True
        )
        assert isinstance(several[0], StepError)
        return [several[0].name, several[0].message]

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, ["NonRetriableError", "never"]) == (got.status, got.json)
    assert 1 == CALLS["refuses"]


@pytest.mark.parametrize("naps", [False, True])
@pytest.mark.parametrize("goes_on", [False, True])
def test_a_step_that_is_given_up(server: InngestServer, naps: bool, goes_on: bool) -> None:
    """Its time is over in the code of the handler: it has failed for good, now and on a replay."""

    limits: list[asyncio.Timeout] = []

    async def never() -> None:
        CALLS["never"] += 1
        limits[-1].reschedule(asyncio.get_running_loop().time())
        await asyncio.Event().wait()

    async def handler(request: Request) -> list[object]:
        if naps:
            await step.sleep("nap", "10ms")
        try:
            async with asyncio.timeout(None) as limit:
                limits.append(limit)
                await step.run("never", never)
        except TimeoutError as error:
            after = await step.run("after", called, "after", 1) if goes_on else 1
            return [after, isinstance(error, TimeoutError)]
        return []

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, [1, True]) == (got.status, got.json)
    assert 1 == CALLS["never"]


class Dates:
    """A codec of dates alone."""

    def encode(self, value: object) -> str:
        if not isinstance(value, date):
            raise TypeError("no date")
        return value.isoformat()

    def decode(self, text: str) -> object:
        return date.fromisoformat(text)


def test_another_codec(server: InngestServer) -> None:
    """Values are what the codec makes of them, before and after a handoff; others fail for good."""

    async def handler(request: Request) -> list[str]:
        first = await step.run("first", called, "first", date(2030, 1, 2))
        await step.sleep("nap", "10ms")
        second = await step.run("second", called, "second", date(2031, 3, 4))
        try:
            await step.run("third", called, "third", 3)
        except StepError as error:
            return [repr(first), repr(second), error.name]
        return []

    with serving(server, {"GET /a": handler}, codec=Dates()) as app:
        got = app.follow("GET", "/a")

    dates = [repr(date(2030, 1, 2)), repr(date(2031, 3, 4))]
    assert (200, [*dates, "StepResultError"]) == (got.status, got.json)
    assert {"first": 1, "second": 1, "third": 1} == CALLS


def test_ids_of_events_on_a_replay(server: InngestServer) -> None:
    """Sent once; the ids are there again."""
    seen: list[list[str]] = []

    async def handler(request: Request) -> int:
        seen.append(await step.send_event("emit", [Event("a"), Event("b", {}, "own")]))
        await step.sleep("nap", "10ms")
        return len(seen)

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, 2) == (got.status, got.json)
    assert seen[0] == seen[1]
    assert 1 == sum(each.path.startswith("/e/") for each in server.seen)


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
@pytest.mark.parametrize("naps", [False, True])
def test_bodies_that_come_in_parts(server: InngestServer, interface: str, naps: bool) -> None:
    """Are sent whole, attached or after a handoff; too large ones fail the run."""

    async def parts(size: int) -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x" * size

    async def handler(request: Request) -> Response:
        if naps:
            await step.sleep("nap", "10ms")
        return Response(status=201, body=parts(int(request.query["size"])))

    limits = Limits(response_stored=1000)
    routes = {"GET /a": handler}
    with serving(server, routes, interface=interface, limits=limits) as app:
        small = app.follow("GET", "/a?size=250")
        large = app.follow("GET", "/a?size=251")

    assert (201, b"x" * 1000) == (small.status, small.body)
    assert 500 == large.status
    assert "ResponseTooLarge" == large.json["error"]["name"]
    assert ["Completed", "Failed"] == [run.status for run in server.runs.values()]


@pytest.mark.parametrize("naps", [False, True])
def test_a_body_that_breaks_off(server: InngestServer, naps: bool) -> None:
    """Nothing of it was sent: the handler is tried again."""

    async def parts() -> AsyncIterator[bytes]:
        CALLS["parts"] += 1
        yield b"all "
        if CALLS["parts"] == 1:
            raise ValueError("not yet")
        yield b"of it"

    async def handler(request: Request) -> Response:
        if naps:
            await step.sleep("nap", "10ms")
        return Response(body=parts())

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, b"all of it", 2) == (got.status, got.body, CALLS["parts"])


@pytest.mark.parametrize("naps", [False, True])
def test_what_cannot_be_sent(server: InngestServer, naps: bool) -> None:
    """A value that is no JSON fails the run at once: another attempt would return the same."""

    async def handler(request: Request) -> Any:
        CALLS["handler"] += 1
        if naps:
            await step.sleep("nap", "10ms")
        return {"a": {1, 2}}

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (500, "urn:durable:run-failed") == (got.status, got.json["type"])
    assert (2 if naps else 1, "Failed") == (CALLS["handler"], server.run.status)


def test_what_other_libraries_store(server: InngestServer) -> None:
    """A body that is no base64 is text, as they send it."""
    bodies: list[bytes] = []

    async def handler(request: Request) -> None:
        bodies.append(request.body)
        await step.sleep("nap", "1h")

    with serving(server, {"POST /a": handler}) as app:
        app.ask("POST", "/a", body=b"first")
        server.run.event["data"]["body"] = json.dumps({"k": "é"}, ensure_ascii=False)
        headers = {"x-run-id": server.run.id, "x-inngest-signature": ""}
        app.ask("POST", "/a", headers=headers)

    assert [b"first", '{"k": "é"}'.encode()] == bodies


def test_options_of_a_step(server: InngestServer) -> None:
    """Fewer retries, a pause and a predicate of its own, and a time for each attempt hold."""

    def fails(error: Exception) -> None:
        CALLS[type(error).__name__] += 1
        raise error

    async def slow() -> None:
        CALLS["slow"] += 1
        await asyncio.sleep(20)

    async def handler(request: Request) -> list[str]:
        impatient = step.options(retries=1, backoff=RetryPolicy(base="10ms", max="10ms"))
        picky = step.options(retry_if=lambda error: False)
        hurried = step.options(timeout=0.02, retries=0)
        names = []
        try:
            await impatient.run("a", fails, OSError("no"))
        except StepError as error:
            names.append(error.name)
        try:
            await picky.run("b", fails, KeyError("no"))
        except StepError as error:
            names.append(error.name)
        try:
            await hurried.run("c", slow)
        except StepError as error:
            names.append(error.name)
        return names

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, ["OSError", "KeyError", "TimeoutError"]) == (got.status, got.json)
    assert {"OSError": 2, "KeyError": 1, "slow": 1} == dict(CALLS)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retries": 20}, "InngestEngine allows fewer only, so raise endpoint(retries=)"),
        ({"at_most_once": True}, "InngestEngine has no at_most_once="),
    ],
    ids=["retries", "at_most_once"],
)
def test_options_without_a_form(server: InngestServer, options: Any, text: str) -> None:
    """What the server cannot do is refused; the error names the engine and the remedy."""

    async def handler(request: Request) -> str:
        try:
            await step.options(**options).run("a", called, "a")
        except ValueError as error:
            return str(error)
        return ""

    with serving(server, {"GET /a": handler}) as app:
        got = app.get("/a")

    assert text in got.json
    assert 0 == CALLS["a"]


def test_no_child_runs(server: InngestServer) -> None:
    """A run there begins with a request that the server makes: ``step.invoke`` is refused."""

    async def handler(request: Request) -> str:
        try:
            await step.invoke("call", None)
        except StepUsageError as error:
            return str(error)
        return ""

    with serving(server, {"GET /a": handler}) as app:
        got = app.get("/a")

    assert "step.invoke of an endpoint needs the embedded engine" in got.json


@dataclass
class Receipt:
    """What a step gives that is no JSON."""

    at: date
    prices: tuple[Decimal, ...]


def test_typed_results(server: InngestServer) -> None:
    """The handler gets the type while the client is attached and on every re-entry."""
    made = Receipt(date(2026, 1, 2), (Decimal("1.10"), Decimal(2)))

    def pay() -> Receipt:
        CALLS["pay"] += 1
        return made

    async def handler(request: Request) -> Receipt:
        receipt = await step.run("pay", pay)
        assert receipt == made
        await step.sleep("nap", "10ms")
        return receipt

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, {"at": "2026-01-02", "prices": ["1.10", "2"]}) == (got.status, got.json)
    assert 1 == CALLS["pay"]
