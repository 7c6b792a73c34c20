"""``fetch_with_stream`` with client objects of the caller: applications in the same process, and
the examples of the documentation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from starlette.testclient import TestClient

import durable_asgi
import durable_wsgi
from durable_client import ClientResponse, fetch_with_stream, fetch_with_stream_async
from durable_core import Durable, Request, Response, step, stream
from durable_core.codec.stream_events import Chunk, Commit, Final, Metadata, Rollback
from durable_core.sync import step as sync_step
from durable_core.sync import stream as sync_stream
from support.docs_pages import run_page
from support.scripted_server import Peer, ScriptedServer, plain, sse_head
from support.source_tree import ROOT
from support.stream_clients import Log, sse

PAGE = ROOT / "docs" / "howto" / "stream-from-a-client.md"
LIBRARIES = pytest.mark.parametrize("library", [httpx2, httpx], ids=lambda each: each.__name__)
HELLO = Metadata(run_id="r")


# Applications in the same process


def say(text: str) -> None:
    sync_stream.push(text)


def talk(request: Request) -> Response:
    """Stream in a step before the handoff, and in one after it."""
    sync_step.run("a", say, "one")
    sync_step.sleep("nap", "50ms")
    sync_step.run("b", say, "two")
    return Response.json({"said": request.query["q"]}, 202)


async def talk_async(request: Request) -> Response:
    """Do the same in a task."""

    async def push(text: str) -> None:
        stream.push(text)

    await step.run("a", push, "one")
    await step.sleep("nap", "50ms")
    await step.run("b", push, "two")
    return Response.json({"said": request.query["q"]}, 202)


@pytest.fixture
def wsgi(tmp_path: Path) -> Iterator[Any]:
    """A WSGI application."""
    durable = Durable(
        id="chat", endpoint_adapter=durable_wsgi.endpoint_adapter, store=tmp_path / "runs.db"
    )
    app = durable.endpoint(talk)
    durable.start()
    yield app
    durable.stop()


@pytest.fixture
def asgi(tmp_path: Path) -> tuple[Durable[Any], Any]:
    """An ASGI application, which is started on the loop of the test."""
    durable = Durable(
        id="chat", endpoint_adapter=durable_asgi.endpoint_adapter, store=tmp_path / "runs.db"
    )
    return durable, durable.endpoint(talk_async)


def check(response: ClientResponse, log: Log) -> None:
    assert (202, {"said": "tea"}) == (response.status, response.json())
    assert ["metadata", "data", "commit", "data", "commit"] == log.kinds
    assert ["one", "two"] == log.data


@LIBRARIES
def test_a_wsgi_application_in_the_same_process(wsgi: Any, library: Any) -> None:
    """The run is handed off and followed without a socket."""
    log = Log()
    with library.Client(transport=library.WSGITransport(app=wsgi)) as client:
        response = fetch_with_stream(
            "http://app/chat?q=tea", client=client, timeout=30, **log.callbacks
        )

    check(response, log)


@LIBRARIES
def test_an_asgi_application_in_the_same_process(
    asgi: tuple[Durable[Any], Any], library: Any
) -> None:
    """Likewise in a task, on the application's own loop."""
    durable, app = asgi
    log = Log()

    async def main() -> ClientResponse:
        transport = library.ASGITransport(app=app)
        async with durable.lifespan(), library.AsyncClient(transport=transport) as client:
            return await fetch_with_stream_async(
                "http://app/chat?q=tea", client=client, timeout=30, **log.callbacks
            )

    check(asyncio.run(main()), log)


def test_the_test_client_of_starlette(asgi: tuple[Durable[Any], Any]) -> None:
    """It is a client object, too; its portal runs the application."""
    _, app = asgi
    log = Log()
    with TestClient(app) as client:
        response = fetch_with_stream(
            "http://testserver/chat?q=tea", client=client, timeout=30, **log.callbacks
        )

    check(response, log)


# The page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        return run_page(PAGE)


def test_the_examples_of_the_page(page: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """They return what stays, and show what comes."""
    events = (
        Chunk(data="bad", step_id="s"),
        Rollback(step_id="s"),
        Chunk(data="good", step_id="s"),
        Commit(step_id="s"),
    )
    answer = sse_head() + sse(HELLO, *events, Final(status=200))
    script: Callable[[Peer], object] = partial(Peer.answer, data=answer)

    with ScriptedServer(*[script] * 5) as server:
        assert "good" == page["ask"](server.origin)
        assert ("good",) == page["replay"](server.origin)
        assert ("good",) == asyncio.run(page["collect"](server.origin))
        page["show"](server.origin)
        page["ask_for_a_minute"](server.origin)

    clear = "\r\x1b[K"
    assert f"{clear}bad{clear}{clear}good" == capsys.readouterr().out


def test_the_examples_with_client_objects(
    page: dict[str, Any], monkeypatch: pytest.MonkeyPatch, asgi: tuple[Durable[Any], Any]
) -> None:
    """One goes through its proxy with its credentials, the other to an application."""
    durable, app = asgi
    with ScriptedServer(lambda peer: peer.answer(plain("by proxy"))) as proxy:
        real = httpx2.Client
        monkeypatch.setattr(
            httpx2, "Client", lambda **options: real(**options | {"proxy": proxy.origin})
        )
        assert "by proxy" == page["ask_as"]("me", "secret", "http://app.invalid/")

    assert "http://app.invalid/" == proxy.heard[0].target
    assert proxy.heard[0].headers["authorization"].startswith("Basic ")

    async def main() -> str:
        async with durable.lifespan():
            text: str = await page["ask_app"](app)
            return text

    assert '{"said":"tea"}' == asyncio.run(main())
