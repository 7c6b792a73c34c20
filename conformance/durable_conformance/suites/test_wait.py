"""The wait URL: answers when the run ends, to whoever may know, as often as asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

import pytest

from durable_conformance.deployment import ALL_METHODS, Deployment, LiveServer
from durable_conformance.plugin import requirement
from durable_conformance.programs import LONG_NAP, NAP, Gate, Program, Script, until
from durable_conformance.wire import Reply
from durable_core import Request, Response, run

_CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET, DELETE, OPTIONS",
    "access-control-allow-headers": "Content-Type, Last-Event-ID, Prefer",
}


#: Seconds for which clients are held where a case waits for that to end.
_MOMENT = 0.02


def _gated(gate: Gate) -> Program:
    """Return a program that sleeps, and then stays at a gate."""

    def program(request: Any, step: Any) -> Script:
        yield step.sleep("nap", NAP)
        yield step.run("gate", gate.wait_open, 0)
        return Response.json({"done": True}, 201, {"x-own": "1"})

    return program


def _nap(request: Any, step: Any) -> Script:
    yield step.sleep("nap", NAP)
    return Response.json({"done": True}, 201, {"x-own": "1"})


def _long_nap(request: Any, step: Any) -> Script:
    yield step.sleep("nap", LONG_NAP)


def _seen(reply: Reply) -> tuple[int, str | None, bytes]:
    return reply.status, reply.get("x-own"), reply.body


_DONE = (201, "1", b'{"done":true}')


def _wait_url(server: LiveServer, target: str = "/it", method: str = "GET") -> str:
    location = server.ask(method, target).get("location") or ""
    return f"{target.partition('?')[0]}{location}"


def _until_held(server: LiveServer, clients: int) -> None:
    waiting = lambda: server.durable.health()["waiting_clients"] >= clients  # noqa: E731
    until(waiting, f"{clients} clients waited")


@requirement("W1")
def test_clients_are_answered_when_the_run_ends(
    deployment: Deployment, background: Callable[..., Future[Any]]
) -> None:
    """Two that wait and one that comes later get the same response, the former at once."""
    gate = deployment.gate()
    with deployment.serving(_gated(gate)) as server:
        target = _wait_url(server)
        early = [background(server.ask, "GET", target) for _ in range(2)]
        gate.wait_reached()
        _until_held(server, 2)
        began = time.monotonic()
        gate.open()
        seen = [_seen(each.result()) for each in early]
        took = time.monotonic() - began
        seen.append(_seen(server.ask("GET", target)))

    assert [_DONE] * 3 == seen
    assert took < 3


@requirement("W2")
def test_it_may_be_asked_again(deployment: Deployment) -> None:
    """The answer stays the same, and nothing runs again."""
    calls: list[int] = []

    def program(request: Any, step: Any) -> Script:
        yield step.sleep("nap", NAP)
        yield step.run("a", lambda: calls.append(1))
        return Response.json({"done": True}, 201, {"x-own": "1"})

    with deployment.serving(program) as server:
        target = _wait_url(server)
        seen = {_seen(server.finish("GET", target)) for _ in range(4)}

    assert {_DONE} == seen
    assert [1] == calls


@requirement("W3")
def test_head_of_the_wait_url(deployment: Deployment) -> None:
    """It is the response without its body."""
    with deployment.serving(_nap) as server:
        target = _wait_url(server)
        whole = server.finish("GET", target)
        head = server.follow(target, server.ask("HEAD", target), "HEAD")

    assert (201, "1", b"") == _seen(head)
    assert whole.get("content-length") == head.get("content-length")


@requirement("W4")
def test_wait_urls_are_for_get(deployment: Deployment) -> None:
    """Whatever methods the endpoint has: after a POST the client waits by GET."""
    with deployment.serving(_nap, methods="POST") as server:
        reply = server.ask("POST", "/it", body=b"x")
        assert 303 == reply.status
        assert _DONE == _seen(server.follow("/it", reply))


@requirement("W10")
def test_a_client_that_prefers_not_to_wait(deployment: Deployment) -> None:
    """It gets 202 before the handler begins, and the run's own response at the location."""
    with deployment.serving(_nap) as server:
        reply = server.ask("POST", "/it", body=b"x", fields=[("Prefer", "respond-async")])
        assert (202, "respond-async") == (reply.status, reply.get("preference-applied"))
        assert ("Prefer", "5") == (reply.get("vary"), reply.get("retry-after"))
        target = f"/it{reply.get('location')}"
        assert reply.json()["run_id"] in target
        assert _DONE == _seen(server.finish("GET", target))


@requirement("W11")
def test_the_status_and_the_end_of_a_run(deployment: Deployment) -> None:
    """The client sees how far its run is; DELETE cancels it, where the endpoint allows that."""
    with deployment.serving(_long_nap, allow_cancel=True) as server:
        target = _wait_url(server)
        shown = server.ask("GET", f"{target}&durable-status")
        assert (200, "no-store") == (shown.status, shown.get("cache-control"))
        assert ["nap"] == [each["name"] for each in shown.json()["steps"]]
        gone = server.ask("DELETE", target)
        assert (204, b"") == (gone.status, gone.body)
        assert "cancelled" == server.ask("GET", f"{target}&durable-status").json()["status"]
        assert 410 == server.ask("GET", target).status


@requirement("W5")
def test_a_bad_token_opens_nothing(deployment: Deployment) -> None:
    """403, with the same words whether or not there is such a run."""
    with deployment.serving(_long_nap) as server:
        mine, other = _wait_url(server), _wait_url(server)
        run, token = mine.partition("durable-run=")[2].split("&durable-token=")
        bad = [
            mine[:-1] + ("A" if mine[-1] != "A" else "B"),
            f"{mine.partition('durable-token=')[0]}durable-token=x",
            f"/it?durable-run={run}&durable-token={other.partition('durable-token=')[2]}",
            f"/it?durable-run=01ARZ3NDEKTSV4RRFFQ69G5FAV&durable-token={token}",
        ]
        replies = [server.ask("GET", target) for target in bad]

    assert {(403, "application/problem+json")} == {
        (reply.status, reply.get("content-type")) for reply in replies
    }
    assert 1 == len({reply.body for reply in replies})


@requirement("W5")
def test_a_missing_parameter(deployment: Deployment) -> None:
    """400, and no run is started for it."""
    with deployment.serving(_nap) as server:
        replies = [
            server.ask("GET", f"/it?{query}")
            for query in ("durable-run=x", "durable-token=x", "durable-run=&durable-token=")
        ]
        assert [] == server.phases()

    assert [400] * 3 == [reply.status for reply in replies]


@requirement("W6")
def test_it_survives_a_restart(deployment: Deployment) -> None:
    """Whoever serves the same runs afterwards answers at the same wait URL, and they go on."""
    calls: list[int] = []

    def program(request: Any, step: Any) -> Script:
        yield step.run("a", lambda: calls.append(1))
        yield step.sleep("nap", NAP)
        return Response.json({"done": True}, 201, {"x-own": "1"})

    with deployment.serving(program) as server:
        target = _wait_url(server)
    with deployment.serving(program) as server:
        assert _DONE == _seen(server.finish("GET", target))

    assert [1] == calls


def _hold_briefly(handler: Any) -> list[float]:
    """Have clients of a handler held for a moment, however long the server would hold them.

    Returns:
        The seconds for which it would; they come with each request.
    """
    handle, handle_async, max_waits = handler.handle, handler.handle_async, list[float]()

    def brief(request: Request, *, max_wait: float = 25.0, route: str | None = None) -> Response:
        max_waits.append(max_wait)
        response: Response = handle(request, max_wait=_MOMENT, route=route)
        return response

    async def brief_async(
        request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        max_waits.append(max_wait)
        response: Response = await handle_async(request, max_wait=_MOMENT, route=route)
        return response

    handler.handle, handler.handle_async = brief, brief_async
    return max_waits


@requirement("W8")
def test_a_client_is_not_held_for_long(deployment: Deployment) -> None:
    """It is sent round by 303 five times, then told by 202 where and when to ask again."""
    gate = deployment.gate()
    max_waits: list[list[float]] = []

    def more(durable: Any) -> dict[str, Any]:
        wrapped = deployment.endpoint(durable, _gated(gate), function_id="long")
        max_waits.append(_hold_briefly(getattr(wrapped, "endpoint", wrapped)))
        return {"GET /long": wrapped}

    with deployment.serving(more=more) as server:
        target, hops = "/long", [server.ask("GET", "/long")]
        while hops[-1].status in (302, 303) and len(hops) < 10:
            target, reply = server.goto(target, hops[-1].get("location") or "")
            hops.append(reply)
        gate.open()

        def last() -> Reply | None:
            _, reply = server.goto(target, hops[-1].get("location") or "")
            return reply if reply.status == 201 else None

        final = until(last, "the run ended")

    assert [302, *[303] * 5, 202] == [reply.status for reply in hops]
    assert (hops[-1].get("retry-after") or "").isdigit()
    assert [["no-store"]] * 7 == [reply.all("cache-control") for reply in hops]
    assert final is not None
    assert _DONE == _seen(final)
    assert all(0 < each <= 30 for each in max_waits[0]), "proxies give up after 30 s"


def _poll(durable: Any) -> dict[str, Any]:
    return {f"{ALL_METHODS},OPTIONS /poll": durable.endpoint_proxy()}


@requirement("W7")
def test_cors_of_the_wait_route(deployment: Deployment) -> None:
    """OPTIONS is answered with 204, no body and the fields of CORS."""
    with deployment.serving(more=_poll) as server:
        reply = server.ask("OPTIONS", "/poll")

    assert (204, b"", "86400") == (reply.status, reply.body, reply.get("access-control-max-age"))
    assert _CORS == {name: reply.get(name) for name in _CORS}


@requirement("W7")
@pytest.mark.parametrize("query", ["", "?runId=x", "?token=x"])
def test_the_wait_route_without_parameters(deployment: Deployment, query: str) -> None:
    """400 as a problem document, which a script of another origin may read."""
    with deployment.serving(more=_poll) as server:
        reply = server.ask("GET", f"/poll{query}")

    assert (400, "application/problem+json") == (reply.status, reply.get("content-type"))
    assert "*" == reply.get("access-control-allow-origin")
    assert "runId" in reply.json()["detail"]


@requirement("W7")
def test_the_wait_route_passes_the_response_on(deployment: Deployment) -> None:
    """It is the handler's own, with the fields of CORS added; a bad token gets 403 with them."""
    with deployment.serving(_nap, more=_poll, async_redirect_url="/poll") as server:
        target = server.ask("GET", "/it").get("location") or ""
        good = server.finish("GET", target)
        bad = server.ask("GET", f"{target[:-3]}xyz")

    assert _DONE == _seen(good)
    assert _CORS == {name: good.get(name) for name in _CORS}
    assert (403, "*") == (bad.status, bad.get("access-control-allow-origin"))


@requirement("W9")
def test_a_callback_is_answered_by_post(deployment: Deployment) -> None:
    """Whatever methods the endpoint has. A look at the URL answers nothing; it is used once."""
    urls: list[str] = []

    def program(request: Any, step: Any) -> Script:
        yield step.run("ask", urls.append, run.callback_url("answer"))
        answer = yield step.wait_for_callback("answer", timeout="1h")
        return Response.json([answer.text(), answer.headers.get("content-type")])

    with deployment.serving(program, methods="GET") as server:
        first = server.ask("GET", "/it")
        parts = urlsplit(urls[0])
        target = f"{parts.path}?{parts.query}"
        text = [("Content-Type", "text/plain")]
        replies = [
            server.ask("GET", target),
            server.ask("POST", target, fields=text, body=b"yes"),
            server.ask("POST", target, fields=text, body=b"no"),
        ]
        final = server.follow("/it", first)

    assert [403, 200, 409] == [reply.status for reply in replies]
    assert b'["yes","text/plain"]' == final.body
