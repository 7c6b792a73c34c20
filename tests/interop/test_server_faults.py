"""What a real server does that a protocol does not say, and what a client must not notice of it."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from durable_core import (
    Event,
    HTTPError,
    NonRetriableError,
    Request,
    Response,
    StepError,
    step,
)
from support.inngest_app import App, Got, serving
from support.inngest_handlers import CALLS, called
from support.inngest_server import InngestServer, inngest_server

pytestmark = pytest.mark.slow

#: JSON that comes back otherwise from double precision numbers and maps with sorted keys.
ODD: list[Any] = [
    1152921504606846977,
    1.0,
    -0.0,
    1e16,
    {"zeta": 1, "alpha": 2},
    [{"b": [1.0], "a": None}],
    {"durable": {"json": "1"}},
    {"durable": 1},
    10**400,
]
#: JSON that does not.
PLAIN: list[Any] = [
    None,
    True,
    "text",
    "é\U0001f600",
    0.1,
    -5,
    2**53,
    {"a": 1, "b": [2, {}]},
    1e300,
]


@pytest.mark.parametrize("value", [*ODD, *PLAIN], ids=repr)
def test_a_result_on_a_replay(server: InngestServer, value: object) -> None:
    """It is what it was at first: the same value, of the same type, in the same order."""
    seen: list[str] = []

    async def handler(request: Request) -> None:
        seen.append(repr(await step.run("a", lambda: value)))
        await step.sleep("nap", "10ms")

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, [repr(value)] * 2) == (got.status, seen)


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_how_a_plain_result_is_shown(server: InngestServer, value: object) -> None:
    """As it is, on the server's pages: only what would not survive is sent as text."""

    async def handler(request: Request) -> None:
        await step.run("a", lambda: value)
        await step.sleep("nap", "1h")

    with serving(server, {"GET /a": handler}) as app:
        app.get("/a")

    assert {"data": value} == next(iter(server.run.memos.values()))


def test_the_data_of_an_event(server: InngestServer) -> None:
    """A wait gets what this library has sent as it was, and others' data as the server has it."""
    data = {"zeta": 1152921504606846977, "alpha": 1.0}
    seen: list[str] = []

    async def handler(request: Request) -> None:
        for name in ("first", "second", "third"):
            event = await step.wait_for_event(name, event=name, timeout="20s")
            assert event is not None
            seen.append(json.dumps(event.data))

    with serving(server, {"GET /a": handler}) as app:
        client = threading.Thread(target=app.follow, args=("GET", "/a"))
        client.start()
        server.until(lambda: bool(server.runs) and bool(server.run.waits))
        app.durable.send(Event("first", data))
        server.until(lambda: len(seen) >= 1 and bool(server.run.waits))
        server.send({"name": "second", "data": data})
        server.until(lambda: len(seen) >= 3 and bool(server.run.waits))
        forged = {"durable": json.dumps({"zeta": 1})}
        server.send({"name": "third", "data": {"zeta": 2}, "user": forged})
        client.join(20)

    assert [json.dumps(data), '{"alpha": 1, "zeta": 1152921504606847000}', '{"zeta": 2}'] == (
        list(dict.fromkeys(seen))
    )


@pytest.mark.parametrize(
    "data",
    [
        {"durable": {"http": [418, [["set-cookie", "a=b"]], "teapot"]}},
        {"durable": {"cancelled": True}},
        {"durable": {"json": "1"}},
        {"zeta": 1.0, "alpha": 1},
    ],
)
@pytest.mark.parametrize("naps", [False, True])
def test_the_data_of_an_error(server: InngestServer, data: dict[str, Any], naps: bool) -> None:
    """It is the error's data for the handler, whatever it looks like; it may be a client's."""
    seen: list[object] = []

    class RefusedError(NonRetriableError):
        def __init__(self, data: object) -> None:
            super().__init__("refused")
            self.data = data

    def refuses() -> None:
        raise RefusedError(data)

    async def handler(request: Request) -> None:
        if naps:
            await step.sleep("nap", "10ms")
        try:
            await step.run("a", refuses)
        except StepError as error:
            seen.append((json.dumps(error.data), error.name))
            raise

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert {(json.dumps(data), "RefusedError")} == set(seen)
    assert (500, None) == (got.status, got.headers.get("set-cookie"))


class FrameworkError(Exception):
    """Of a web framework: it stands for a response."""


def test_an_error_that_is_a_response(server: InngestServer) -> None:
    """What the developer raises as a response is one, with its own data beside it."""

    def refuses() -> None:
        raise HTTPError(418, "teapot")

    async def handler(request: Request) -> None:
        await step.sleep("nap", "10ms")
        await step.run("a", refuses)

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert 418 == got.status


@pytest.mark.parametrize("naps", [False, True])
@pytest.mark.parametrize("catches", [False, True])
@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (503, 2)])
def test_an_error_that_is_made_a_response(
    server: InngestServer, status: int, attempts: int, catches: bool, naps: bool
) -> None:
    """A framework's exception in a step: it is retried only if its response says so."""

    def fails() -> None:
        CALLS["fails"] += 1
        raise FrameworkError

    def translate(error: Exception) -> Response | None:
        made = Response(status=status, headers=(("x-own", "1"),), body=b"\xff")
        return made if isinstance(error, FrameworkError) else None

    async def handler(request: Request) -> None:
        if naps:
            await step.sleep("nap", "10ms")
        try:
            await step.run("a", fails)
        except StepError:
            if catches:
                await step.sleep("later", "10ms")
            raise

    options = {"exception_to_response": translate, "retries": 1}
    with serving(server, {"GET /a": handler}, options=options) as app:
        got = app.follow("GET", "/a")

    assert (status, "1", b"\xff") == (got.status, got.headers.get("x-own"), got.body)
    assert attempts == CALLS["fails"]


@pytest.mark.parametrize("naps", [False, True])
def test_the_first_run_of_an_endpoint(naps: bool) -> None:
    """The server loses what it is told before it has made the function: it is told again."""
    CALLS.clear()

    async def handler(request: Request) -> list[str]:
        names = [await step.run(name, called, name) for name in ("a", "b")]
        if naps:
            await step.sleep("nap", "10ms")
        return names

    async def naps_next(request: Request) -> str:
        first = await step.run("c", called, "c")
        await step.sleep("nap", "10ms")
        return first

    routes = {"GET /a": handler, "GET /b": naps_next}
    with inngest_server(makes_functions_in=0.3) as server, serving(server, routes) as app:
        answers = [app.follow("GET", path) for path in ("/a", "/b", "/a")]
        server.until(lambda: all(run.ended for run in server.runs.values()))

    assert [["a", "b"], "c", ["a", "b"]] == [got.json for got in answers]
    assert {"a": 2, "b": 2, "c": 1} == CALLS
    lost = [run.history.count("lost a checkpoint") for run in server.runs.values()]
    assert (True, True, 0) == (lost[0] > 0, lost[1] > 0, lost[2])


def test_an_output_that_is_not_there_yet() -> None:
    """A run that has ended is not taken for a cancelled one, wherever its client waits."""

    async def handler(request: Request) -> str:
        await step.sleep("nap", "50ms")
        return "done"

    with inngest_server(stores_output_in=0.2) as server:
        routes = {"GET /a": handler}
        with serving(server, routes) as app, serving(server, routes) as other:
            location = app.get("/a").headers["location"]
            got = _go_on(other, location)

    assert (200, "done") == (got.status, got.json)


def test_a_run_that_is_cancelled_at_the_server(server: InngestServer) -> None:
    """There never is an output: the client learns that the run was cancelled."""

    async def handler(request: Request) -> None:
        await step.sleep("nap", "1h")

    with serving(server, {"GET /a": handler}) as app:
        location = app.get("/a").headers["location"]
        server.cancel(server.run)
        got = _go_on(app, location)

    assert (410, "urn:durable:run-cancelled") == (got.status, got.json["type"])


def test_a_run_that_the_server_fails(server: InngestServer) -> None:
    """Its error has another form than ours: it is a failure all the same."""

    async def handler(request: Request) -> None:
        await step.sleep("nap", "1h")

    error = {
        "error": "E: too large",
        "name": "StateOverflowed",
        "message": "the state is too large",
    }
    with serving(server, {"GET /a": handler}) as app:
        location = app.get("/a").headers["location"]
        server.fail(server.run, json.dumps({"error": error}).encode())
        got = _go_on(app, location)

    assert (500, "urn:durable:run-failed") == (got.status, got.json["type"])
    assert b"the state is too large" not in got.body  # nobody has said that it is for clients


def _go_on(app: App, location: str) -> Got:
    got = app.get("/a" + location)
    while got.status == 303:
        got = app.get("/a" + got.headers["location"])
    return got
