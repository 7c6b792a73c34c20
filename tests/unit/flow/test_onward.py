"""Where a stream goes on after the handoff."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest

from durable_core.flow.effects import CallUser, Returned
from durable_core.flow.env import AppConfig
from durable_core.flow.handoff import stream_redirect_url
from durable_core.flow.options import ResolvedOptions
from durable_core.http.request import Request
from durable_core.platform import SystemIds
from support.harness import FakeClock

ENV = AppConfig(app="app", clock=FakeClock(5), ids=SystemIds(), secrets=lambda: (b"s" * 32,))
REQUEST = Request(method="GET", url="http://evil.example:8000/it?x=1")


def where(
    env: AppConfig = ENV, request: Request = REQUEST, **options: Any
) -> tuple[str, dict[str, list[str]]]:
    """Return the URL without its query, and the query."""
    flow = stream_redirect_url(env, ResolvedOptions(key="it", **options), request, "r1")
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
    ("public_url", "url", "expected"),
    [
        (None, "http://evil.example/it?x=1", "/it"),
        (None, "http://user@evil.example:8000/it?x=1", "/it"),
        (None, "http://127.0.0.1.evil.example/it", "/it"),
        (None, "http://127.0.0.1:8000/it?x=1", "http://127.0.0.1:8000/it"),
        (None, "http://[::1]:8000/it", "http://[::1]:8000/it"),
        (None, "http://localhost/it", "http://localhost/it"),
        ("https://example.com", "http://evil.example/it", "https://example.com/it"),
        ("https://example.com", "http://localhost/it", "https://example.com/it"),
    ],
)
def test_only_a_certain_origin_is_named(public_url: str | None, url: str, expected: str) -> None:
    """A host that only the request names would get the token; clients know whom they asked."""
    found, query = where(replace(ENV, public_url=public_url), Request(method="GET", url=url))

    assert expected == found
    assert ["durable-run", "durable-token", "durable-from"] == list(query)
    assert (["r1"], ["handoff"]) == (query["durable-run"], query["durable-from"])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host//evil.example/it", "http://host//evil.example/it"),
        ("http://host/\udcff\ud800 ä", "http://host/%ED%B3%BF%ED%A0%80%20%C3%A4"),
        ("http://host/a%2Fb", "http://host/a%2Fb"),
        ("http://host", "http://host"),
    ],
)
def test_a_path_stays_a_path(url: str, expected: str) -> None:
    """Resolved by the client, it is the one that was asked, whatever is in it."""
    found, _ = where(request=Request(method="GET", url=url))

    assert found.isascii()
    assert expected == urljoin("http://host/", found).removesuffix(
        "/" if url.count("/") < 3 else ""
    )


@pytest.mark.parametrize(
    ("redirect", "url"),
    [
        ("/wait?a=b", "/wait"),
        ("wait?a=b", "/wait"),
        ("/wait\udcff?a=b", "/wait%ED%B3%BF"),
        ("https://other.example/wait?a=b", "https://other.example/wait"),
    ],
)
def test_a_route_of_ones_own(redirect: str, url: str) -> None:
    """What else is in its query stays."""
    found, query = where(async_redirect_url=redirect)

    assert url == found
    assert ["a", "runId", "token", "from"] == list(query)
    assert (["b"], ["handoff"]) == (query["a"], query["from"])


def test_a_function_of_ones_own() -> None:
    """It says where; from where in the stream is added."""
    public = replace(ENV, public_url="https://example.com/")
    relative = where(async_redirect_url=lambda run_id, token: f"/wait/{run_id}?t=1")
    absolute = where(public, async_redirect_url=lambda run_id, token: f"/wait/{run_id}?t=1")

    query = {"t": ["1"], "from": ["handoff"]}
    assert ("/wait/r1", query) == relative
    assert ("https://example.com/wait/r1", query) == absolute
