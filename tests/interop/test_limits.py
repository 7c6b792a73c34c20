"""What is too large, too many, or too odd for the server."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import urlencode

import pytest

from durable_core import Limits, NonRetriableError, Request, Response, StepError, step
from durable_core.errors import LimitExceededError
from support.inngest_app import serving
from support.inngest_handlers import CALLS, called
from support.inngest_server import InngestServer


async def one(request: Request) -> str:
    return await step.run("a", called, "a")


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
def test_a_body_that_the_server_cannot_keep(server: InngestServer, interface: str) -> None:
    """It is refused before any step runs."""
    limits = Limits(body=8 * 1024 * 1024)
    with serving(server, {"POST /a": one}, interface=interface, limits=limits) as app:
        got = app.ask("POST", "/a", body=bytes(3 * 1024 * 1024))

    assert (413, {}, []) == (got.status, CALLS, server.paths())


def test_results_that_are_large_together(server: InngestServer) -> None:
    """They go out in as many calls as the server takes them in."""

    async def handler(request: Request) -> list[int]:
        large = [step.run(f"s{n}", lambda: "x" * 1_500_000) for n in range(6)]
        return [len(text) for text in await asyncio.gather(*large)]

    with serving(server, {"POST /a": handler}) as app:
        got = app.ask("POST", "/a", body=bytes(1_000_000))

    assert [1_500_000] * 6 == got.json
    calls = [s for s in server.seen if s.path.startswith("/v1/checkpoint")]
    assert max(len(call.body) for call in calls) <= 4 * 1024 * 1024
    assert [f"s{n}" for n in range(6)] == sorted(
        op["displayName"] for call in calls for op in call.json["steps"] if op["op"] == "StepRun"
    )


def test_a_result_that_is_too_large_for_the_first_call(server: InngestServer) -> None:
    """It has to go with the request's body; the step fails for good, and says why."""

    async def handler(request: Request) -> str:
        try:
            return str(len(await step.run("a", lambda: "x" * 3_500_000)))
        except StepError as error:
            return error.message

    with serving(server, {"POST /a": handler}) as app:
        small = app.follow("POST", "/a")
        large = app.follow("POST", "/a", body=bytes(1_000_000))

    assert b"3500000" == small.body.strip(b'"')
    assert b"Inngest server takes" in large.body


def test_a_response_that_is_too_large(server: InngestServer) -> None:
    """An attached client gets it all the same; after a handoff the run fails, and says why."""

    async def handler(request: Request) -> Response:
        if "nap" in request.query:
            await step.sleep("nap", "20ms")
        return Response.text("x" * 5_000_000)

    with serving(server, {"GET /a": handler}) as app:
        attached = app.get("/a")
        handed_off = app.follow("GET", "/a?nap=1")

    assert (200, 5_000_000) == (attached.status, len(attached.body))
    assert 500 == handed_off.status
    assert b"the response has more than" in handed_off.body
    assert ["Completed", "Failed"] == [run.status for run in server.runs.values()]


def test_more_steps_than_the_server_takes(server: InngestServer) -> None:
    """The step that is one too many raises, and says whose limit it is."""

    async def handler(request: Request) -> str:
        await asyncio.gather(*(step.run(f"s{n}", called, f"s{n}") for n in range(998)))
        with pytest.raises(LimitExceededError, match=r"998 steps and retries .* Inngest engine"):
            await step.run("more", called, "more")
        return "done"

    with serving(server, {"GET /a": handler}, options={"retries": 0}) as app:
        got = app.get("/a")

    assert (200, b"done") == (got.status, got.body.strip(b'"'))


def test_fewer_steps_than_the_server_takes(server: InngestServer) -> None:
    """The application's own limit goes first, and is of its steps alone."""

    async def handler(request: Request) -> str:
        CALLS["handler"] += 1
        await step.run("a", called, "a")
        if CALLS["handler"] < 3:
            raise ValueError("again")
        await step.run("b", called, "b")
        with pytest.raises(LimitExceededError, match="the 2 steps"):
            await step.run("c", called, "c")
        return "done"

    with serving(server, {"GET /a": handler}, limits=Limits(steps=2)) as app:
        got = app.follow("GET", "/a")

    assert (200, b'"done"') == (got.status, got.body)


def test_a_retry_counts_as_a_step(server: InngestServer) -> None:
    """A handler is not tried again where the server has no room for that: its error is the last."""

    async def handler(request: Request) -> None:
        CALLS["handler"] += 1
        await asyncio.gather(*(step.run(f"s{n}", called, f"s{n}") for n in range(998)))
        raise ValueError(f"boom #{CALLS['handler']}")

    with serving(server, {"GET /a": handler}, options={"retries": 5}) as app:
        got = app.follow("GET", "/a")

    assert (500, "ValueError: boom #1") == (got.status, got.json["detail"])
    assert "Failed" == server.run.status


def test_a_run_that_the_server_fails_for_its_size(server: InngestServer) -> None:
    """Its client hears that it failed; another library, or an older one, has filled it."""

    async def handler(request: Request) -> None:
        await step.run("a", called, "a")
        server.run.memos.update((f"of another {n}", None) for n in range(999))
        await step.sleep("nap", "10ms")

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (500, "urn:durable:run-failed") == (got.status, got.json["type"])
    assert "Failed" == server.run.status


@pytest.mark.parametrize(
    "text", ['"', "\\", "a\\", "'\"", "vars.a", "event.x", "line\n", "\x00", "é"], ids=ascii
)
def test_waits_for_any_text(server: InngestServer, text: str) -> None:
    """What a client sends is compared as it is, and cannot become a part of the expression."""

    async def handler(request: Request) -> object:
        event = await step.wait_for_event("w", event="e", timeout="20s", match="data.id")
        return None if event is None else dict(event.data)

    with serving(server, {"GET /a": handler}) as app:
        got = app.get(f"/a?{urlencode({'id': text})}")
        server.until(lambda: bool(server.run.waits))
        server.send(*({"name": "e", "data": {"id": each}} for each in (f"{text}x", text)))
        location = got.headers["location"]
        done = app.get(f"/a{location}" if location.startswith("?") else location)

    assert {"id": text} == done.json


@pytest.mark.parametrize("text", ["\ud800", "\x00", "é\u2028"], ids=ascii)
def test_text_that_is_not_quite_unicode(
    server: InngestServer, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In messages: the server gets UTF-8, and the run goes on."""

    async def handler(request: Request) -> str:
        try:
            await step.run("a", fails, text)
        except StepError as error:
            return f"caught {len(error.message)}"
        return ""

    def fails(text: str) -> None:
        raise NonRetriableError(text)

    caplog.set_level(logging.CRITICAL, "durable")  # it could not be reported
    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, True) == (got.status, b"caught" in got.body)
