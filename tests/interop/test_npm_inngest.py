"""The npm client of the protocol follows runs under the Inngest engine, through the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from durable_core import NonRetriableError, Request, Response, StepError, step
from durable_core.sync import step as sync_step
from durable_core.sync import stream as sync_stream
from support.inngest_app import App, serving
from support.inngest_server import inngest_server
from support.node import NpmClient, install

pytestmark = pytest.mark.slow

CALLS: Counter[str] = Counter()
HEADERS = {"x-my-header": "my-value"}


#: Waits until a client listens at the server.
LISTENS: list[Callable[[], None]] = []


def says(text: str, failures: int = 0) -> str:
    """Push; all but the first time of all, when the client has come to the server."""
    if CALLS:
        LISTENS[0]()
    CALLS[text] += 1
    sync_stream.push(text)
    if CALLS[text] <= failures:
        raise ValueError("not yet")
    return text


async def napping(request: Request) -> Response:
    await step.run("a", says, "chunk a")
    await step.sleep("nap", "10ms")
    await step.run("b", says, "chunk b")
    return Response.json("All done", 202, HEADERS)


def napping_sync(request: Request) -> Response:
    sync_step.run("a", says, "chunk a")
    sync_step.sleep("nap", "10ms")
    sync_step.run("b", says, "chunk b")
    return Response.json("All done", 202, HEADERS)


async def flaky(request: Request) -> Response:
    await step.run("a", says, "sync-data", 1)
    await step.run("b", says, "async-data", 1)
    return Response.json("All done", 202, HEADERS)


async def caught(request: Request) -> Response:
    await step.sleep("nap", "10ms")
    try:
        await step.run("a", refuses)
    except StepError as error:
        return Response.json(error.message, 500)
    return Response.json("never")


def refuses() -> None:
    raise NonRetriableError("oh no")


async def fails(request: Request) -> None:
    await step.sleep("nap", "10ms")
    raise NonRetriableError("boom")


@pytest.fixture(scope="module")
def npm() -> NpmClient:
    return NpmClient(install())


@pytest.fixture(params=["asgi", "wsgi"])
def app(request: pytest.FixtureRequest) -> Iterator[App]:
    """The handlers, on a server of their own."""
    CALLS.clear()
    handlers: dict[str, Any] = {
        "GET /napping": napping,
        "GET /napping_sync": napping_sync,
        "GET /flaky": flaky,
        "GET /caught": caught,
        "GET /fails": fails,
    }
    with (
        inngest_server() as server,
        serving(server, handlers, interface=request.param) as app,
    ):
        LISTENS[:] = [lambda: server.until(lambda: server.is_followed)]
        yield app


@pytest.mark.parametrize("path", ["napping", "napping_sync"])
def test_a_stream_over_a_handoff(npm: NpmClient, app: App, path: str) -> None:
    """Each chunk once, over both connections, and the handler's own response."""
    call = npm.call(f"{app.url}/{path}")

    assert call.response is not None, call.error
    assert (202, '"All done"') == (call.response["status"], call.response["body"])
    assert "my-value" == call.response["headers"]["x-my-header"]
    assert ["chunk a", "chunk b"] == call.data == call.committed


def test_rollbacks(npm: NpmClient, app: App) -> None:
    """What failed attempts have pushed is taken back."""
    call = npm.call(f"{app.url}/flaky")

    assert call.response is not None, call.error
    assert 202 == call.response["status"]
    assert ["sync-data", "async-data"] == call.committed


@pytest.mark.parametrize(
    ("path", "body"), [("caught", '"oh no"'), ("fails", '"boom"')], ids=["caught", "fails"]
)
def test_failures(npm: NpmClient, app: App, path: str, body: str) -> None:
    """A response of the handler's own, or that of a run that has failed: both end the call.

    It may be there before the client is; the end is told again.
    """
    call = npm.call(f"{app.url}/{path}")

    assert call.response is not None, call.error
    assert (500, body) == (call.response["status"], call.response["body"])
