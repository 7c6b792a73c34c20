"""Where a handed-off client is sent."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from durable_core.api.step import step, sync_step
from durable_core.flow.env import AppConfig
from durable_core.flow.handoff import handoff_response
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.wait_url import query_reference
from durable_core.http.request import Request
from durable_core.http.response import Response, with_headers
from durable_core.platform import SystemIds
from support.harness import FakeClock, lab, request

PRIVATE = {"cache-control": "no-store", "referrer-policy": "no-referrer"}


def sleeps(request: Request) -> str:
    sync_step.sleep("nap", "1h")
    return "end"


async def sleeps_async(request: Request) -> str:
    await step.sleep("nap", "1h")
    return "end"


handlers = pytest.mark.parametrize("handler", [sleeps, sleeps_async])


def an_env() -> AppConfig:
    return AppConfig(app="lab", clock=FakeClock(), ids=SystemIds(), secrets=lambda: (b"s" * 32,))


def params_of(location: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


@pytest.mark.parametrize(
    ("method", "status"),
    [("GET", 302), ("POST", 303), ("PUT", 303), ("PATCH", 303), ("DELETE", 303)],
)
@handlers
def test_redirect(handler: Any, method: str, status: int) -> None:
    """GET is redirected by 302, others by 303, to a query-only reference that is kept private."""
    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        response = endpoint.handle(request("/it?x=1", method, body=b"body"))
        location = response.headers["location"]
        assert status == response.status
        assert location.startswith("?durable-run=")
        assert {"durable-run", "durable-token"} == set(params_of(location))
        for name, value in PRIVATE.items():
            assert value == response.headers[name]
        process.pass_nap(clock)
        assert b'"end"' == process.follow(endpoint, response).body


@handlers
def test_token(handler: Any) -> None:
    """``async_response="token"`` answers 200 with run id and token as JSON."""
    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler, async_response="token")
        response = endpoint.handle(request())
        assert 200 == response.status
        assert isinstance(response.body, bytes)
        answer = json.loads(response.body)
        assert {"run_id", "token"} == set(answer)
        for name, value in PRIVATE.items():
            assert value == response.headers[name]
        way = f"/it?durable-run={answer['run_id']}&durable-token={answer['token']}"
        process.pass_nap(clock)
        last = endpoint.handle(request(way))
        assert b'"end"' == process.follow(endpoint, last).body


@pytest.mark.parametrize(
    ("target", "start"),
    [
        ("/wait", "/wait?runId="),
        ("wait", "/wait?runId="),
        ("/wait?a=b", "/wait?a=b&runId="),
        ("/wait?runId=x&token=y", "/wait?runId="),
        ("https://other.test/w#part", "https://other.test/w?runId="),
        ("//other.test/w", "//other.test/w?runId="),
    ],
)
def test_string_redirect_url(target: str, start: str) -> None:
    """A path is sent path-absolute, a URL as it is; both with ``runId`` and ``token``."""
    with lab(clock=FakeClock()) as process:
        response = process.endpoint(sleeps, async_redirect_url=target).handle(request())
        location = response.headers["location"]
        [record] = process.records.list()
    assert location.startswith(start)
    assert record.run.id == params_of(location)["runId"]
    assert 1 == location.count("token=")


@handlers
@pytest.mark.parametrize("asynchronous", [False, True])
def test_callable_redirect_url(handler: Any, asynchronous: bool) -> None:
    """A function, sync or async, makes the whole URL; what a URL cannot hold is quoted."""

    def sync(run_id: str, token: str) -> str:
        return f"https://x.test/{run_id}/ä\r\nx: y?t={token}"

    async def async_(run_id: str, token: str) -> str:
        await asyncio.sleep(0)
        return sync(run_id, token)

    with lab(clock=FakeClock()) as process:
        endpoint = process.endpoint(handler, async_redirect_url=async_ if asynchronous else sync)
        location = endpoint.handle(request()).headers["location"]
        [record] = process.records.list()
    assert location.startswith(f"https://x.test/{record.run.id}/%C3%A4%0D%0Ax:%20y?t=")


@handlers
@pytest.mark.parametrize("kind", ["raises", "none", "number", "empty"])
def test_broken_redirect_url(handler: Any, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A function that gives no URL loses nobody: the client is sent to the endpoint itself."""

    def broken(run_id: str, token: str) -> Any:
        if kind == "raises":
            raise LookupError("no route")
        return {"none": None, "number": 7, "empty": ""}[kind]

    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler, async_redirect_url=broken)
        response = endpoint.handle(request())
        assert response.headers["location"].startswith("?durable-run=")
        process.pass_nap(clock)
        assert b'"end"' == process.follow(endpoint, response).body
    assert any("async_redirect_url" in record.getMessage() for record in caplog.records)


def test_tokens_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """No log record has the token."""
    clock = FakeClock()
    with caplog.at_level(1), lab(clock=clock) as process:
        endpoint = process.endpoint(sleeps)
        response = endpoint.handle(request())
        process.pass_nap(clock)
        process.follow(endpoint, response)
    token = params_of(response.headers["location"])["durable-token"]
    assert token not in caplog.text


def test_referral_prefers_what_the_application_said() -> None:
    """A URL that was made for this run goes before the configured one."""
    options = ResolvedOptions(key="it", async_redirect_url="/wait")
    assert "/made" == handoff_response(options, "GET", "r1", "t", "/made").headers["location"]
    assert (
        "/wait?runId=r1&token=t" == handoff_response(options, "GET", "r1", "t").headers["location"]
    )


def test_query_reference() -> None:
    """Parameters are encoded."""
    assert "?a=1&b=x%2By+z" == query_reference((("a", "1"), ("b", "x+y z"))).replace("%20", "+")


def test_with_headers() -> None:
    """Header fields are added; what was there stays."""
    response = with_headers(Response.text("x", 201, {"a": "1"}), (("a", "2"), ("b", "3")))
    assert (201, b"x") == (response.status, response.body)
    assert ["1", "2"] == [value for name, value in response.headers.raw if name == "a"]
    assert "3" == response.headers["b"]
