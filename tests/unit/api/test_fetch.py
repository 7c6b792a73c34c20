"""``step.fetch``: what is asked, what is kept of the answer, and when it is asked again."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from unittest.mock import MagicMock, create_autospec

import httpx2
import pytest

from durable_core.api.outgoing import check_client
from durable_core.api.step import step, sync_step
from durable_core.errors import ServerBusyError, ServerStatusError, StepError
from durable_core.http.request import Request
from durable_core.http.response import FetchedResponse, Response
from durable_core.machine.retry import RetryPolicy
from durable_core.model.run import Phase
from support.harness import lab, request, until
from support.service import Asked, service

both = pytest.mark.parametrize("kind", ["def", "async def"])
Handler = Callable[[Request], Any]


def fetching(kind: str, url: str, nap: bool = False, **options: Any) -> Handler:
    """Return a handler that answers with status, body and a header of what it has fetched."""

    def plain(asked: Request) -> object:
        got = sync_step.fetch("get", url, **options)
        if nap:
            sync_step.sleep("nap", "1ms")
        return shown(got)

    async def asynchronous(asked: Request) -> object:
        got = await step.fetch("get", url, **options)
        if nap:
            await step.sleep("nap", "1ms")
        return shown(got)

    return plain if kind == "def" else asynchronous


def shown(got: FetchedResponse) -> object:
    return [got.status, got.ok, got.text(), got.headers.get("x-own"), got.headers.get("set-cookie")]


def value(response: Response) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


@both
def test_the_answer_is_kept(kind: str) -> None:
    """A replay does not ask again, and gets the same; cookies are not kept."""
    with (
        service(lambda *_: (201, {"x-own": "1", "set-cookie": "a=b"}, "é".encode())) as other,
        lab() as process,
    ):
        url = f"{other.url}/a?q=1"
        answer = process.call(
            process.endpoint(fetching(kind, url, nap=True, headers={"x-in": "2"}))
        )

    assert [201, True, "é", "1", None] == value(answer)
    [asked] = other.asked
    assert ("GET", "/a?q=1", "2") == (asked.method, asked.path, asked.headers["x-in"])
    assert "idempotency-key" not in asked.headers


@both
@pytest.mark.parametrize("status", [301, 304, 400, 404])
def test_other_statuses_are_returned(kind: str, status: int) -> None:
    """At once; a redirect is not followed."""
    with (
        service(lambda *_: (status, {"location": "/other"}, b"")) as other,
        lab() as process,
    ):
        answer = process.call(process.endpoint(fetching(kind, other.url)))

    assert [status, False, "", None, None] == value(answer)
    assert 1 == len(other.asked)


@both
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_service_is_asked_again(kind: str, status: int) -> None:
    """With the same key for a POST, as often as the step may be tried."""

    def serve(asked: Asked, number: int) -> tuple[int, dict[str, str], bytes]:
        return (status, {}, b"") if number < 3 else (200, {}, asked.body)

    with service(serve) as other, lab() as process:
        handler = fetching(kind, other.url, method="POST", json={"n": 1}, retries=2)
        answer = process.call(process.endpoint(handler, retries=0))

    assert [200, True, '{"n":1}', None, None] == value(answer)
    assert 3 == len(other.asked)
    [key] = {asked.headers["idempotency-key"] for asked in other.asked}
    assert key.startswith('"')
    assert 34 == len(key)
    assert "application/json" == other.asked[0].headers["content-type"]


@both
def test_in_the_end_it_fails(kind: str) -> None:
    """The handler sees which status it was, and no secret."""
    caught: list[StepError] = []

    def plain(asked: Request) -> object:
        try:
            sync_step.fetch("get", url, headers={"authorization": "Bearer sk-1"}, retries=1)
        except StepError as error:
            caught.append(error)
            return error.data
        return None

    async def asynchronous(asked: Request) -> object:
        try:
            await step.fetch("get", url, headers={"authorization": "Bearer sk-1"}, retries=1)
        except StepError as error:
            caught.append(error)
            return error.data
        return None

    with service(lambda *_: (503, {}, b"sk-1")) as other, lab() as process:
        url = f"{other.url}/?key=sk-1"
        handler = plain if kind == "def" else asynchronous
        answer = process.call(process.endpoint(handler, record_arguments=True))
        [run] = process.durable.runs.list()
        known = repr(process.durable.runs.get(run.id)) + repr(process.durable.runs.history(run.id))

    assert {"status": 503} == value(answer)
    assert ServerStatusError.__name__ == caught[0].name
    assert f"{other.url.removeprefix('http://')} answered 503" == caught[0].message
    assert "sk-1" not in known
    assert 2 == len(other.asked)


@both
@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 6, 8),
        ("999999", 3599, 3601),
        ("in 300 s", 200, 301),
        ("soon", 1, 1200),
        ("Fri, 01 Jan 99999999999999999999 00:00:00 GMT", 1, 1200),
    ],
)
def test_a_service_says_when_to_come_again(kind: str, header: str, least: int, most: int) -> None:
    """In seconds or as a date, up to an hour; what makes no sense is left out."""
    if header == "in 300 s":
        header = format_datetime(datetime.now(UTC) + timedelta(seconds=300))
    policy = RetryPolicy(base="10m", max="10m")
    with (
        service(lambda *_: (503, {"retry-after": header}, b"")) as other,
        lab(retry=policy) as process,
    ):
        process.endpoint(fetching(kind, other.url)).handle(request())
        [record] = until(lambda: process.records.list(Phase.SUSPENDED))
        [pending] = process.records.get(record.run.id).pending
        left = (pending.due_at - process.engine.env.clock.now()) / 1000

    assert least - 5 <= left <= most
    name = ServerStatusError if most == 1200 else ServerBusyError
    assert f'"name":"{name.__name__}"' in pending.error


@both
def test_no_connection_is_tried_again(kind: str) -> None:
    """The error of the last attempt is that of the HTTP client."""
    with lab() as process:
        handler = fetching(kind, "http://127.0.0.1:9/", retries=1, timeout="5s")
        answer = process.call(process.endpoint(handler))

    assert 500 == answer.status
    assert "ConnectError" in value(answer)["detail"]


@both
def test_an_answer_may_be_too_large(kind: str) -> None:
    """That is final, and the rest is not read."""
    with service(lambda *_: (200, {}, b"x" * 11)) as other, lab() as process:
        answer = process.call(process.endpoint(fetching(kind, other.url, max_bytes=10)))

    assert "more than 10 bytes (max_bytes=)" in value(answer)["detail"]
    assert 1 == len(other.asked)


@both
def test_bytes_that_are_no_text(kind: str) -> None:
    """They come back as they were, in a replay, too."""

    def plain(asked: Request) -> object:
        got = sync_step.fetch("get", other.url)
        sync_step.sleep("nap", "1ms")
        return list(got.body)

    async def asynchronous(asked: Request) -> object:
        got = await step.fetch("get", other.url)
        await step.sleep("nap", "1ms")
        return list(got.body)

    with service(lambda *_: (200, {}, b"\xff\x00")) as other, lab() as process:
        answer = process.call(process.endpoint(plain if kind == "def" else asynchronous))

    assert [255, 0] == value(answer)


@both
def test_a_client_of_ones_own(kind: str) -> None:
    """It is used, and stays open."""
    with service(lambda *_: (200, {}, b"ok")) as other, lab() as process:
        headers = {"x-in": "own"}
        client: Any = (
            httpx2.Client(headers=headers) if kind == "def" else httpx2.AsyncClient(headers=headers)
        )
        answer = process.call(process.endpoint(fetching(kind, other.url, client=client)))
        assert not client.is_closed

    assert [200, True, "ok", None, None] == value(answer)
    assert "own" == other.asked[0].headers["x-in"]


class Wrapper:
    """A client that is no context, and whose ``send`` is a plain function."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.build_request = inner, inner.build_request

    def send(self, request: Any, **options: Any) -> Any:
        """Return what the inner one returns: a response, or a coroutine."""
        return self.inner.send(request, **options)


@both
def test_a_client_within_another(kind: str) -> None:
    """It need not be written as the libraries write theirs."""
    with service(lambda *_: (200, {}, b"ok")) as other, lab() as process:
        client = Wrapper(httpx2.Client() if kind == "def" else httpx2.AsyncClient())
        answer = process.call(process.endpoint(fetching(kind, other.url, client=client)))

    assert [200, True, "ok", None, None] == value(answer)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_client_that_is_a_mock(is_async: bool) -> None:
    """Its ``send`` may look like a coroutine function, whatever it stands for."""
    kind = httpx2.AsyncClient if is_async else httpx2.Client
    for client in (create_autospec(kind, instance=True), MagicMock(spec=kind), MagicMock()):
        check_client(client, is_async=is_async)
    with pytest.raises(TypeError, match="client must be"):
        check_client(create_autospec(kind, instance=True), is_async=not is_async)


@both
@pytest.mark.parametrize("timeout", [3, 60])
def test_the_step_ends_before_its_client_would(kind: str, timeout: float) -> None:
    """So each attempt that takes too long has the error of the step, not by chance another."""
    given: list[dict[str, float]] = []

    def keep(call: Any) -> None:
        given.append(call.extensions["timeout"])

    async def keep_async(call: Any) -> None:
        keep(call)

    with service(lambda *_: (200, {}, b"ok")) as other, lab() as process:
        client: Any = (
            httpx2.Client(event_hooks={"request": [keep]})
            if kind == "def"
            else httpx2.AsyncClient(event_hooks={"request": [keep_async]})
        )
        options = {"client": client, "timeout": timeout}
        answer = process.call(process.endpoint(fetching(kind, other.url, **options)))

    assert [200, True, "ok", None, None] == value(answer)
    [limits] = given
    assert {"connect", "read", "write", "pool"} == limits.keys()
    assert min(10.0, timeout + 1.0) == limits["connect"]
    assert [timeout + 1.0] * 3 == [limits[name] for name in ("read", "write", "pool")]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"url": "/relative"}, "url must be absolute"),
        ({"url": "ftp://x/"}, "url must be absolute"),
        ({"url": 7}, "url must be a str"),
        ({"url": "http://me:sk-1@127.0.0.1:9/"}, "url must not have a user and a password"),
        ({"method": "GET IT"}, "method must be"),
        ({"body": b"x", "json": 1}, "either body= or json="),
        ({"body": [b"x"]}, "what is streamed cannot be sent again"),
        ({"json": object()}, "$"),
        ({"headers": {"x": "a\nsk-1"}}, "the value of header 'x'"),
        ({"timeout": "soon"}, "timeout"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"retries": 99}, "retries"),
        ({"client": object()}, "client must have build_request and send"),
        ({"client": "other kind"}, "client must be"),
    ],
)
@both
def test_bad_arguments(kind: str, options: dict[str, Any], text: str) -> None:
    """Each is a mistake that no retry mends; no value that may be secret is shown."""
    options = {"url": "http://127.0.0.1:9/", **options}
    if options.get("client") == "other kind":
        options["client"] = httpx2.AsyncClient() if kind == "def" else httpx2.Client()
    with lab() as process:
        answer = process.call(process.endpoint(fetching(kind, **options)))

    assert 500 == answer.status
    assert text in value(answer)["detail"]
    assert "sk-1" not in value(answer)["detail"]


@both
def test_without_a_client_the_package_is_named(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, as no retry installs it."""
    monkeypatch.setitem(sys.modules, "durable_client", None)
    with lab() as process, caplog.at_level(logging.ERROR):
        answer = process.call(process.endpoint(fetching(kind, "http://127.0.0.1:9/")))

    assert 500 == answer.status
    assert "install the package 'durable-client', or give client=" in value(answer)["detail"]
