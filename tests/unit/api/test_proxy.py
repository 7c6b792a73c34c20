"""The wait route for a URL of one's own."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from durable_core.api.step import sync_step
from durable_core.http.request import Request
from durable_core.http.response import Response
from support.harness import event, lab, request


def waits(request: Request) -> Response:
    sync_step.wait_for_event("w", event="go", timeout="1h")
    return Response.text("end", 201, {"access-control-allow-credentials": "true", "x-own": "1"})


@pytest.mark.parametrize("asynchronous", [False, True])
def test_proxy(asynchronous: bool) -> None:
    """It hops by its own parameters, and gives the response with CORS added."""
    with lab() as process:
        proxy = process.durable.endpoint_proxy()
        endpoint = process.endpoint(waits, async_redirect_url="/results")
        url = endpoint.handle(request()).headers["location"]
        hop = proxy.handle(request(url), max_wait=0.001)
        assert 303 == hop.status
        assert hop.headers["location"].startswith("?runId=")
        assert "hop=1" in hop.headers["location"]
        assert "*" == hop.headers["access-control-allow-origin"]
        process.durable.send(event("go"))
        asked = request(f"/results?{urlsplit(hop.headers['location']).query}")
        response = asyncio.run(proxy.handle_async(asked)) if asynchronous else proxy.handle(asked)
    assert (201, b"end", "1") == (response.status, response.body, response.headers["x-own"])
    assert "*" == response.headers["access-control-allow-origin"]
    assert "*" == response.headers["access-control-expose-headers"]


def test_own_headers_of_cors_are_kept() -> None:
    """An origin that is allowed twice is refused by browsers."""

    def handler(request: Request) -> Response:
        sync_step.wait_for_event("w", event="go", timeout="1h")
        return Response.text("end", headers={"Access-Control-Allow-Origin": "https://a.example"})

    with lab() as process:
        proxy = process.durable.endpoint_proxy()
        endpoint = process.endpoint(handler, async_redirect_url="/results")
        url = endpoint.handle(request()).headers["location"]
        process.durable.send(event("go"))
        response = proxy.handle(request(url))
    assert 200 == response.status
    assert ("https://a.example",) == response.headers.get_all("access-control-allow-origin")
    assert ("*",) == response.headers.get_all("access-control-expose-headers")


def test_preflight() -> None:
    """OPTIONS is answered for browsers on other origins."""
    with lab() as process:
        response = process.durable.endpoint_proxy().handle(request("/results", "OPTIONS"))
    assert 204 == response.status
    assert "GET, DELETE, OPTIONS" == response.headers["access-control-allow-methods"]
    assert "Content-Type, Last-Event-ID, Prefer" == response.headers["access-control-allow-headers"]
    assert "86400" == response.headers["access-control-max-age"]


@pytest.mark.parametrize(
    ("url", "method", "status"),
    [
        ("/results", "GET", 400),
        ("/results?runId=x", "GET", 400),
        ("/results?runId=x&token=y", "GET", 403),
        ("/results", "POST", 405),
    ],
)
def test_refused(url: str, method: str, status: int) -> None:
    """Errors have the headers of CORS too, so that a browser can read them."""
    with lab() as process:
        proxy = process.durable.endpoint_proxy()
        for response in (
            proxy.handle(request(url, method)),
            asyncio.run(proxy.handle_async(request(url, method))),
        ):
            assert status == response.status
            assert "*" == response.headers["access-control-allow-origin"]


def test_hops_keep_what_else_the_query_has() -> None:
    """Parameters of ``async_redirect_url`` that are not the proxy's own are there at every hop."""
    with lab() as process:
        proxy = process.durable.endpoint_proxy()
        endpoint = process.endpoint(waits, async_redirect_url="/results?shop=a%26b&n=1&n=&token=x")
        url = endpoint.handle(request()).headers["location"]
        for hop in (1, 2):
            answer = proxy.handle(request(url), max_wait=0.001)
            asked = request(f"/results{answer.headers['location']}").query
            assert (("shop", "a&b"), ("n", "1"), ("n", "")) == tuple(
                pair for pair in asked.items() if pair[0] in ("shop", "n")
            )
            assert (str(hop),) == asked.get_all("hop")
            assert 1 == len(asked.get_all("runId")) == len(asked.get_all("token"))
            url = "/results" + answer.headers["location"]


def test_hops_keep_a_query_that_is_no_text() -> None:
    """Bytes that are no UTF-8 do not break the wait."""
    with lab() as process:
        proxy = process.durable.endpoint_proxy()
        endpoint = process.endpoint(waits, async_redirect_url="/results")
        url = endpoint.handle(request()).headers["location"]
        answer = proxy.handle(request(url + "&x=%ff"), max_wait=0.001)
        assert 303 == answer.status
