"""Requests with a key."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from durable_core import Durable, Event, Request, Response, endpoint_adapter, step
from durable_core.api.endpoint import Endpoint
from durable_core.engines import EmbeddedEngine
from durable_core.errors import BadRequest
from durable_core.ports import Begin
from durable_core.sync import step as sync_step
from support.harness import until

KEY = "Idempotency-Key"


class App:
    """An application with one endpoint of each kind, which counts what it does."""

    def __init__(self, store: Path, **options: Any) -> None:
        self.durable: Durable[Any] = Durable(
            id="shop", endpoint_adapter=endpoint_adapter, store=store
        )
        self.done: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

        def work() -> int:
            self.gate.wait(20)
            self.done.append("work")
            return len(self.done)

        @self.durable.endpoint(**options)
        def plain(request: Request) -> dict[str, int]:
            count = sync_step.run("work", work)
            if "wait" in request.query:
                sync_step.wait_for_event("go", event="go", timeout="1h")
            return {"count": count}

        @self.durable.endpoint(**options)
        async def coroutine(request: Request) -> dict[str, int]:
            count = await step.run("work", work)
            if "wait" in request.query:
                await step.wait_for_event("go", event="go", timeout="1h")
            return {"count": count}

        self.endpoints: dict[str, Endpoint] = {"def": plain, "async": coroutine}

    def ask(self, kind: str, key: str | None = '"k1"', **request: Any) -> Response:
        """Send one request."""
        headers = {} if key is None else {KEY: key}
        request = {"method": "POST", "url": "http://localhost/", "body": b"x", **request}
        return self.endpoints[kind].handle(
            Request(headers={**headers, **request.pop("headers", {})}, **request), max_wait=0.05
        )


@pytest.fixture
def app(tmp_path: Path) -> Any:
    made = App(tmp_path / "db")
    yield made
    made.durable.stop()


KINDS = pytest.mark.parametrize("kind", ["def", "async"])


@KINDS
def test_a_repeated_request_gets_the_same_response(app: App, kind: str) -> None:
    """The run of the first request answers the second one; the run has the key."""
    first, second = app.ask(kind), app.ask(kind)

    assert (200, b'{"count":1}') == (first.status, first.body)
    assert (200, b'{"count":1}') == (second.status, second.body)
    assert ["work"] == app.done
    assert ["k1"] == [run.key for run in app.durable.runs.list(key="k1")]


@KINDS
def test_a_repeated_request_while_the_run_waits(app: App, kind: str) -> None:
    """It is sent to the wait URL of the first run, which both then read."""
    url = "http://localhost/?wait"
    first, second = app.ask(kind, url=url), app.ask(kind, url=url)
    assert (303, 303) == (first.status, second.status)
    app.durable.send(Event("go"))
    for redirect in (first, second):
        target = f"http://localhost/{redirect.headers['location']}"
        request = Request(method="GET", url=target)
        assert b'{"count":1}' == app.endpoints[kind].handle(request, max_wait=20).body
    assert 200 == app.ask(kind, url=url).status
    assert ["work"] == app.done


@KINDS
def test_two_at_once(app: App, kind: str) -> None:
    """Of two requests at the same time one begins the run, and the other one joins it."""
    app.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(app.ask, kind) for _ in range(8)]
        app.gate.set()
        answers = [each.result(20) for each in asked]
    assert {200, 303} >= {each.status for each in answers}
    assert 200 == app.ask(kind).status
    assert ["work"] == app.done


def test_two_processes(tmp_path: Path) -> None:
    """The store decides, whatever process a request comes to."""
    one, other = App(tmp_path / "db"), App(tmp_path / "db")
    try:
        assert b'{"count":1}' == one.ask("def").body
        assert b'{"count":1}' == other.ask("def").body
        assert ([], ["work"]) == (other.done, one.done)
    finally:
        one.durable.stop()
        other.durable.stop()


@KINDS
@pytest.mark.parametrize(
    "other",
    [{"body": b"y"}, {"url": "http://localhost/?a=1"}, {"headers": {"content-type": "a/b"}}],
)
def test_another_request_with_the_key(app: App, kind: str, other: dict[str, Any]) -> None:
    """It gets 422, and nothing is done."""
    app.ask(kind)
    answer = app.ask(kind, **other)
    assert 422 == answer.status
    assert isinstance(answer.body, bytes)
    assert b"urn:durable:idempotency-key-reused" in answer.body
    assert ["work"] == app.done


def test_what_keeps_keys_apart(app: App) -> None:
    """Endpoints, methods and keys do; the host does not."""
    assert b'{"count":1}' == app.ask("def").body
    assert b'{"count":2}' == app.ask("async").body
    assert b'{"count":3}' == app.ask("def", method="PUT").body
    assert b'{"count":4}' == app.ask("def", key='"k2"').body
    assert b'{"count":1}' == app.ask("def", url="http://example.com/").body


def test_principals_have_keys_of_their_own(tmp_path: Path) -> None:
    """A client cannot find the run of another one by its key."""
    app = App(tmp_path / "db", authorize=lambda request: request.headers["x-user"])
    try:
        ann, bob = ({"x-user": name} for name in ("ann", "bob"))
        assert b'{"count":1}' == app.ask("def", headers=ann).body
        assert b'{"count":2}' == app.ask("def", headers=bob).body
        assert b'{"count":1}' == app.ask("def", headers=ann).body
    finally:
        app.durable.stop()


@pytest.mark.parametrize("name", ["authorization", "cookie", "proxy-authorization", "x-api-key"])
def test_credentials_tell_clients_apart(app: App, name: str) -> None:
    """Without a principal, who knows the key of another client does not get its response."""
    ann, bob = {name: "ann"}, {name: "bob"}
    assert b'{"count":1}' == app.ask("def", headers=ann).body
    assert b'{"count":1}' == app.ask("def", headers=ann).body
    assert (422, 422) == (app.ask("def", headers=bob).status, app.ask("def").status)
    assert ["work"] == app.done


def test_the_token_of_a_form_tells_no_clients_apart(app: App) -> None:
    """A page that was loaded again has another one."""
    for token in ("old", "new"):
        assert b'{"count":1}' == app.ask("def", headers={"x-csrf-token": token}).body


def test_credentials_of_a_principal_may_change(tmp_path: Path) -> None:
    """A client that has a new token meanwhile still finds its run."""
    app = App(tmp_path / "db", authorize=lambda request: "ann")
    try:
        for token in ("old", "new"):
            answer = app.ask("def", headers={"authorization": token})
            assert b'{"count":1}' == answer.body
    finally:
        app.durable.stop()


@pytest.mark.parametrize("spelling", ["k1", '"k1"', ' "k1" '])
def test_spellings(app: App, spelling: str) -> None:
    """A key is a string of structured fields; without quotes it is taken, too."""
    app.ask("def")
    assert b'{"count":1}' == app.ask("def", key=spelling).body


@pytest.mark.parametrize("key", ["", '""', "a b", '"a', "\xe4", "x" * 256, '"' + "x" * 256 + '"'])
def test_malformed_keys(app: App, key: str) -> None:
    """They are bad requests, and nothing is done."""
    with pytest.raises(BadRequest, match="Idempotency-Key"):
        app.ask("def", key=key)
    assert [] == app.done


def test_a_key_that_is_required(tmp_path: Path) -> None:
    """A request without one is a bad request."""
    app = App(tmp_path / "db", idempotency="required")
    try:
        with pytest.raises(BadRequest, match="needs the header Idempotency-Key"):
            app.ask("def", key=None)
        assert 200 == app.ask("def").status
    finally:
        app.durable.stop()


def test_keys_that_are_off(tmp_path: Path) -> None:
    """The header means nothing then."""
    app = App(tmp_path / "db", idempotency="off")
    try:
        assert b'{"count":1}' == app.ask("def").body
        assert b'{"count":2}' == app.ask("def").body
    finally:
        app.durable.stop()


def test_a_key_of_the_application(tmp_path: Path) -> None:
    """``key=`` makes it of the request; without one there is an ordinary run."""
    app = App(tmp_path / "db", key=lambda request: request.query.get("order"))
    try:
        url = "http://localhost/?order=7"
        assert b'{"count":1}' == app.ask("def", key=None, url=url).body
        assert b'{"count":1}' == app.ask("def", key='"other"', url=url).body
        assert b'{"count":2}' == app.ask("def", key=None).body
        assert b'{"count":3}' == app.ask("def", key=None).body
        assert ["7"] == [run.key for run in app.durable.runs.list(key="7")]
    finally:
        app.durable.stop()


@pytest.mark.parametrize("made", [7, "", "x" * 256, "\ud800"])
def test_what_is_no_key(tmp_path: Path, made: Any) -> None:
    """A function that returns no key is an error of the application."""
    app = App(tmp_path / "db", key=lambda request: made)
    try:
        with pytest.raises((TypeError, ValueError), match="the key, which key= returns, must"):
            app.ask("def")
    finally:
        app.durable.stop()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"idempotency": "always"}, "'optional', 'required' or 'off'"),
        ({"idempotency_ttl": "soon"}, "idempotency_ttl"),
        ({"key": "k1"}, "key must be a function"),
    ],
)
def test_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """Options of another form are refused when the endpoint is made."""
    with pytest.raises((TypeError, ValueError), match=message):
        App(tmp_path / "db", **options)


def test_asynchronous_servers(app: App) -> None:
    """On an event loop it is the same."""

    async def ask() -> Response:
        request = Request(method="POST", url="http://localhost/", headers={KEY: "k"}, body=b"")
        return await app.endpoints["async"].handle_async(request)

    async def main() -> list[Response]:
        return [await ask(), *await asyncio.gather(ask(), ask())]

    assert [b'{"count":1}'] * 3 == [each.body for each in asyncio.run(main())]
    assert ["work"] == app.done


@KINDS
def test_a_client_that_goes_away_while_its_run_is_stored(app: App, kind: str) -> None:
    """The run begins all the same, and the client finds it when it comes again."""
    engine = app.durable.engine
    assert isinstance(engine, EmbeddedEngine)

    async def main() -> None:
        engine.start()
        headers = {KEY: "k1"}
        request = Request(method="POST", url="http://localhost/", headers=headers, body=b"x")
        asking = asyncio.create_task(app.endpoints[kind].handle_async(request))
        assert engine.worker is not None
        submitted = engine.worker.queue.submit

        def submit(write: Any) -> Any:
            if isinstance(write, Begin):
                asking.get_loop().call_soon(asking.cancel)
            return submitted(write)

        with patch.object(engine.worker.queue, "submit", submit), suppress(asyncio.CancelledError):
            await asking
        assert asking.cancelled()
        await asyncio.to_thread(
            until, lambda: ["completed"] == [run.status for run in app.durable.runs.list()]
        )
        assert b'{"count":1}' == (await app.endpoints[kind].handle_async(request)).body
        await app.durable.stop_async()

    asyncio.run(main())
    assert ["work"] == app.done


@pytest.mark.parametrize("made", ["", "x" * 256, "\ud800"])
def test_what_is_no_principal(tmp_path: Path, made: str) -> None:
    """It is refused before anything is stored."""
    app = App(tmp_path / "db", authorize=lambda request: made)
    try:
        with pytest.raises(ValueError, match="a principal, which authorize= returns, must"):
            app.ask("def")
    finally:
        app.durable.stop()
