"""Where a stream goes on after the handoff."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from durable_core.flow.effects import CallUser, Returned
from durable_core.flow.env import AppConfig, ResolvedOptions
from durable_core.flow.handoff import stream_redirect_url
from durable_core.http.request import Request
from durable_core.platform import SystemIds
from support.harness import FakeClock

ENV = AppConfig(app="app", clock=FakeClock(5), ids=SystemIds(), secrets=lambda: (b"s" * 32,))
REQUEST = Request(method="GET", url="http://host:8000//evil.example/it?x=1")


def where(env: AppConfig = ENV, **options: Any) -> tuple[str, dict[str, list[str]]]:
    """Return the URL without its query, and the query."""
    flow = stream_redirect_url(env, ResolvedOptions(key="it", **options), REQUEST, "r1")
    answer: Any = None
    while True:
        try:
            ask = flow.send(answer)
        except StopIteration as stop:
            parts = urlsplit(stop.value)
            return parts._replace(query="").geturl(), parse_qs(parts.query)
        assert isinstance(ask, CallUser)
        answer = Returned(ask.call.fn(*ask.call.args))


@pytest.mark.parametrize(
    ("public_url", "origin"),
    [(None, "http://host:8000"), ("https://example.com", "https://example.com")],
)
def test_the_endpoint_itself(public_url: str | None, origin: str) -> None:
    """On the public origin, else the request's; a path never becomes a host."""
    url, query = where(replace(ENV, public_url=public_url))

    assert f"{origin}//evil.example/it" == url
    assert ["durable-run", "durable-token", "durable-from"] == list(query)
    assert (["r1"], ["handoff"]) == (query["durable-run"], query["durable-from"])


@pytest.mark.parametrize(
    ("redirect", "url"),
    [
        ("/wait?a=b", "http://host:8000/wait"),
        ("wait?a=b", "http://host:8000/wait"),
        ("https://other.example/wait?a=b", "https://other.example/wait"),
    ],
)
def test_a_route_of_ones_own(redirect: str, url: str) -> None:
    """What else is in its query stays."""
    found, query = where(redirect_url=redirect)

    assert url == found
    assert ["a", "runId", "token", "from"] == list(query)
    assert (["b"], ["handoff"]) == (query["a"], query["from"])


def test_a_function_of_ones_own() -> None:
    """It says where; from where in the stream is added."""
    url, query = where(redirect_url=lambda run_id, token: f"/wait/{run_id}?t=1")

    assert ("http://host:8000/wait/r1", {"t": ["1"], "from": ["handoff"]}) == (url, query)
