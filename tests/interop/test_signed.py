"""Away from a development server: signatures, keys, and where the server may be sent."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from durable_core import Request, step, stream
from durable_core.errors import ConfigurationError
from durable_inngest._config import hashed_key, sign
from support import inngest_server as inngest_server_module
from support.inngest_app import serving
from support.inngest_handlers import CALLS, naps, two, two_sync
from support.inngest_server import InngestServer, fetch, inngest_server

pytestmark = pytest.mark.slow

KEY = "signkey-test-0123456789abcdef0123456789abcdef"
OTHER = "signkey-test-ffffffffffffffffffffffffffffffff"


def signed(key: str, body: bytes = b"", later: int = 0) -> str:
    return sign(key, body, int(time.time()) + later)


@pytest.mark.parametrize(
    "signature",
    [
        lambda: "",
        lambda: "t=1&s=00",
        lambda: "s=é&t=x",
        lambda: signed(OTHER),
        lambda: signed(KEY, b"another body"),
        lambda: signed(KEY, later=-400),
        lambda: signed(KEY, later=400),
    ],
    ids=["empty", "short", "letters", "key", "body", "early", "late"],
)
@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
@pytest.mark.parametrize("handler", [two, two_sync])
def test_a_call_that_the_server_did_not_make(
    signature: Callable[[], str], interface: str, handler: Any
) -> None:
    """It gets 401, without a word on what is wrong; nothing runs, and the server is not asked."""
    CALLS.clear()
    with inngest_server(signing_key=KEY) as server:
        engine = {"signing_key": KEY, "is_dev": False}
        with serving(server, {"GET /a": handler}, engine=engine, interface=interface) as app:
            sent = {
                "x-run-id": "01J00000000000000000000000",
                "x-inngest-signature": signature().encode().decode("latin-1"),
            }
            got = app.ask("GET", "/a", headers=sent)

        assert (401, b'{"message":"Unauthorized"}') == (got.status, got.body)
        assert {"x-inngest-sdk", "x-inngest-signature"}.isdisjoint(got.headers)
        assert ({}, []) == (CALLS, server.seen)


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
@pytest.mark.parametrize("body", [b'{ "b": 1, "a": 2 }', b"b=1&a=2", b"\xff\x00 {", b""])
def test_signed_both_ways(interface: str, body: bytes) -> None:
    """Calls are verified by their raw bytes, answers signed, and our calls carry the hash."""
    with inngest_server(signing_key=KEY) as server:
        engine = {"signing_key": KEY, "is_dev": False}
        routes = {"POST /a": naps}
        with serving(server, routes, engine=engine, interface=interface) as app:
            got = app.follow("POST", "/a", body=body)

        assert ["a", "b", "c"] == got.json
        for _, answer in server.calls:
            assert answer is not None
            when = int(answer.headers["x-inngest-signature"][2:].partition("&")[0])
            assert sign(KEY, answer.body, when) == answer.headers["x-inngest-signature"]


@pytest.mark.parametrize("refused", [401, 403])
def test_the_fallback_key(refused: int) -> None:
    """A server that knows the new key only is asked with it after a refusal; calls work with it."""

    async def pushes(request: Request) -> list[Any]:
        found = await naps(request)
        stream.push("chunk")
        return found

    with inngest_server(signing_key=KEY) as server:
        server.unauthorized = refused
        engine = {"signing_key": OTHER, "signing_key_fallback": KEY, "is_dev": False}
        with serving(server, {"GET /a": pushes}, engine=engine) as app:
            got = app.follow("GET", "/a")
            tees = "/v1/realtime/publish/tee"
            server.until(lambda: any(each.path == tees for each in server.seen))

        assert ["a", "b", "c"] == got.json
        assert ["POST /v1/checkpoint"] * 2 == server.paths()[:2]
        hashed = {s.headers["authorization"] for s in server.seen if s.path == tees}
        assert {f"Bearer {hashed_key(KEY)}"} == hashed


def test_cloud_mode_without_a_key(server: InngestServer) -> None:
    """That is an error at start, which says what to set."""
    with (
        pytest.raises(ConfigurationError, match="INNGEST_SIGNING_KEY"),
        serving(server, {"GET /a": two}, engine={"is_dev": False}),
    ):
        pass


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_a_host_that_is_not_ours(interface: str, accept: str) -> None:
    """A client cannot send the server to a host of its choice: no step runs, nothing is told."""
    CALLS.clear()
    with inngest_server(signing_key=KEY) as server:
        engine = {"signing_key": KEY, "is_dev": False, "allowed_hosts": ["127.0.0.1:*"]}
        with serving(server, {"GET /a": two}, engine=engine, interface=interface) as app:
            headers = {"accept": accept, "host": "169.254.169.254"}
            refused = app.get("/a", headers=headers)
            asked = dict(CALLS), list(server.seen)
            served = app.get("/a")

    assert (421, "urn:durable:misdirected-request") == (refused.status, refused.json["type"])
    assert ({}, []) == asked
    assert (200, ["a", "b"]) == (served.status, served.json)


def test_cloud_mode_without_a_url_to_call() -> None:
    """That is an error at start, which says what to set."""
    engine = {"signing_key": KEY, "is_dev": False, "base_url": "http://inngest.example"}
    with (
        inngest_server(signing_key=KEY) as server,
        pytest.raises(ConfigurationError, match="INNGEST_SERVE_ORIGIN"),
        serving(server, {"GET /a": two}, engine=engine),
    ):
        pass


@pytest.mark.parametrize("interface", ["asgi", "asyncio", "wsgi"])
def test_a_proxy_that_changes_the_url(
    server: InngestServer, interface: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server calls what it is told; the handler sees one URL, at first and on a replay."""
    called_at: list[str] = []
    urls: list[str] = []

    async def proxied(method: str, url: str, *rest: Any) -> Any:
        called_at.append(url)
        return await fetch(method, url.replace("/out/", "/in/"), *rest)

    async def handler(request: Request) -> str:
        urls.append(request.url)
        await step.sleep("nap", "10ms")
        return "done"

    monkeypatch.setattr(inngest_server_module, "fetch", proxied)
    origin = "http://shop.example"
    engine = {"is_dev": True, "serve_origin": origin, "serve_path": "/out/a"}
    with serving(server, {"GET /in/a": handler}, engine=engine, interface=interface) as app:
        server.hosts[origin] = app.url
        got = app.follow("GET", "/in/a?q=1")

    assert (200, "done") == (got.status, got.json)
    assert {f"{app.url}/out/a?q=1"} == set(called_at)
    assert [f"{origin}/in/a?q=1"] * 2 == urls
    data = server.run.event["data"]
    assert (origin, "/out/a", "q=1") == (data["domain"], data["path"], data["query_params"])


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_the_server_does_not_take(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """No step runs: nothing of it could be reported. The log says what is wrong, not the key."""
    CALLS.clear()
    caplog.set_level(logging.ERROR, "durable")
    with inngest_server(signing_key=KEY) as server:
        server.unauthorized = status
        with serving(
            server, {"GET /a": two}, engine={"signing_key": OTHER, "is_dev": False}
        ) as app:
            answers = [app.get("/a").status for _ in range(3)]

    assert ([503] * 3, {}) == (answers, CALLS)
    assert "does not take the signing key" in caplog.text
    assert OTHER.rpartition("-")[2] not in caplog.text
