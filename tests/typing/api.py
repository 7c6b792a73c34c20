"""The public API as a type checker sees it. Checked by mypy, never run.

``assert_type`` claims what is inferred. A line with ``type: ignore[code]`` claims that it is an
error: mypy is strict about ignores that are not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, assert_type

from durable_core import (
    Concurrency,
    Durable,
    Event,
    FetchedResponse,
    RateLimit,
    Request,
    Response,
    Signal,
    Singleton,
    TypedEvent,
    endpoint_adapter,
    run,
    step,
)
from durable_core.ai import Inference, openai
from durable_core.api.adapter import HTTPHandler
from durable_core.sync import step as sync_step
from durable_core.testing import AsyncHarness, Harness, Reply, StepRecord, harness
from durable_inngest import InngestFunction, InngestGateway
from durable_wsgi import WSGIApp
from durable_wsgi import endpoint_adapter as wsgi_adapter


async def fetch(url: str, *, tries: int = 1) -> dict[str, int]:
    return {url: tries}


def count(text: str) -> int:
    return len(text)


@dataclass
class Placed:
    number: int
    at: datetime


def place(number: int) -> Placed:
    return Placed(number, datetime.now(UTC))


wsgi = Durable(id="typed", endpoint_adapter=wsgi_adapter)


def customer(request: Request) -> str:
    return request.query["customer"]


@wsgi.endpoint(
    concurrency=(Concurrency(10), Concurrency(2, key=customer)),
    queue_limit=100,
    rate_limit=RateLimit(5, "1m", key=customer),
    singleton=Singleton("attach", key=customer),
)
def limited(request: Request) -> str:
    return ""


Singleton("skip")  # type: ignore[arg-type]
Concurrency("5")  # type: ignore[arg-type]
RateLimit(5, "1m", key=lambda request: 5)  # type: ignore[arg-type, return-value]


@step("fetch")
async def fetch_step(url: str, *, tries: int = 1) -> dict[str, int]:
    return {url: tries}


@sync_step.options(retries=2)("count")
def count_step(text: str) -> int:
    return len(text)


async def in_async_handlers(request: Request) -> Response:
    assert_type(await step.run("fetch", fetch, "url", tries=2), dict[str, int])
    assert_type(await step.run("count", count, "text"), int)
    assert_type(await step.run("lambda", lambda: "text"), str)
    assert_type(await step.sleep("nap", "30s"), None)
    assert_type(await step.sleep_until("later", datetime.now().astimezone()), None)
    event = await step.wait_for_event("approval", event="approved", timeout=5.0)
    assert_type(event, Event | None)
    signal = await step.wait_for_signal("sig", signal="go", timeout="1h", on_conflict="replace")
    assert_type(signal, Signal[Any] | None)
    moved = await step.wait_for_signal("placed", signal="placed", timeout=5, data=Placed)
    assert_type(moved, Signal[Placed] | None)
    assert_type(await step.send_signal("send", "go", {"n": 1}), str | None)
    assert_type(await step.wait_for_callback("cb", timeout="1h"), Request | None)
    assert_type(await step.invoke("child", limited, {"n": 1}, timeout="1h"), Response)
    assert_type(await step.invoke("child2", limited, request, result=Placed), Placed)
    assert_type(await step.invoke("child4", InngestFunction("a", "b"), {"n": 1}), Any)
    assert_type(await step.invoke("child5", InngestFunction("a", "b"), result=Placed), Placed)
    await step.fetch("fetch", "http://localhost", client=InngestGateway())
    await step.invoke("child3", limited, wait=True)  # type: ignore[call-overload]
    assert_type(await step.wait_for_callback("cb2", timeout="1h", data=Placed), Placed | None)
    assert_type(run.callback_url("cb"), str)
    assert_type(await step.fetch("get", "https://x.example/"), FetchedResponse)
    assert_type(await step.ai.infer("ask", model=openai("m"), body={}), Inference)
    assert_type(await step.ai.wrap("wrap", fetch, "url", tries=2), dict[str, int])
    assert_type(await step.ai.wrap("wrap2", count, "text"), int)
    await step.wait_for_signal("no", signal="go", timeout=5, on_conflict="ignore")  # type: ignore[call-overload]
    assert_type(await step.send_event("tell", Event("told")), list[str])
    options = step.options(retries=5, timeout="10s", retry_if=lambda error: True, name="Fetch")
    assert_type(await options.run("fetch", fetch, "url", tries=2), dict[str, int])
    assert_type(await options.run("count", count, "text"), int)
    assert_type(await fetch_step("url", tries=2), dict[str, int])
    await fetch_step(1)  # type: ignore[arg-type]
    step.options(tries=5)  # type: ignore[call-overload]
    placed = step.options(result=Placed)
    assert_type(await placed.run("place", count, "text"), Placed)
    assert_type(await placed.options(retries=1).run("place", fetch, "url"), Placed)
    assert_type(await step.options(result=list[Placed]).run("place", count, "text"), list[Placed])
    assert_type(await options.fetch("fetch", "https://a.example"), FetchedResponse)
    assert_type(await options.ai.wrap("count", count, "text"), int)
    assert_type(await placed.ai.wrap("place", fetch, "url"), Placed)
    placed.fetch("fetch", "https://a.example")  # type: ignore[attr-defined]
    options.sleep("sleep", "1s")  # type: ignore[attr-defined]
    assert_type(await step.run("place", place, 5), Placed)
    await placed.run("place-wrong", count, 5)  # type: ignore[arg-type]
    several = await step.parallel("n", *[lambda: fetch("a")])
    assert_type(several, tuple[dict[str, int], ...])
    fastest = await step.parallel("race", lambda: fetch("a"), mode="race")
    assert_type(fastest, dict[str, int])
    told = await step.wait_for_event("told", event="told", timeout=5, data=Placed)
    assert_type(told, TypedEvent[Placed] | None)
    step("count")(count)  # type: ignore[arg-type]
    await step.run("count-wrong", count, 5)  # type: ignore[call-overload]
    await step.run("fetch-wrong", fetch, "url", attempts=2)  # type: ignore[call-arg]
    await step.wait_for_event("no-timeout", event="approved")  # type: ignore[call-overload]
    return Response.json(None)


def in_sync_handlers(request: Request) -> Response:
    assert_type(sync_step.run("count", count, "text"), int)
    assert_type(sync_step.options(retries=0).run("count", count, "text"), int)
    assert_type(count_step("text"), int)
    count_step()  # type: ignore[call-arg]
    sync_step.options(retries="3")  # type: ignore[call-overload]
    assert_type(sync_step.options(result=Placed, retries=0).run("p", count, "text"), Placed)
    pair = sync_step.parallel("two", lambda: count("a"), lambda: str(1))
    assert_type(pair, tuple[int, str])
    assert_type(sync_step.parallel("race", lambda: count("a"), mode="race"), int)
    told = sync_step.wait_for_event("told", event="told", timeout=5, data=Placed)
    assert_type(told, TypedEvent[Placed] | None)
    sync_step.sleep("nap", 5)
    assert_type(sync_step.wait_for_event("e", event="approved", timeout="1h"), Event | None)
    assert_type(sync_step.wait_for_signal("s", signal="go", timeout="1h"), Signal[Any] | None)
    moved = sync_step.wait_for_signal("placed", signal="placed", timeout=5, data=Placed)
    assert_type(moved, Signal[Placed] | None)
    assert_type(sync_step.send_signal("send", "go"), str | None)
    assert_type(sync_step.wait_for_callback("cb", timeout="1h"), Request | None)
    assert_type(sync_step.invoke("child", limited, {"n": 1}), Response)
    assert_type(sync_step.invoke("child2", limited, result=list[Placed]), list[Placed])
    assert_type(sync_step.fetch("get", "https://x.example/", retries=5), FetchedResponse)
    assert_type(sync_step.ai.infer("ask", model=openai("m"), body={}), Inference)
    assert_type(sync_step.ai.wrap("wrap", count, "text"), int)
    assert_type(sync_step.wait_for_callback("cb2", timeout="1h", data=Placed), Placed | None)
    assert_type(sync_step.send_event("tell", [Event("told")]), list[str])
    sync_step.run("count-wrong", count)  # type: ignore[call-arg]
    return Response.json(None)


wsgi = Durable(id="shop", endpoint_adapter=wsgi_adapter)
embedded = Durable(id="shop", endpoint_adapter=endpoint_adapter)


@wsgi.endpoint
def plain(request: Request) -> Response:
    return Response.json(None)


@wsgi.endpoint(retries=5, async_response="token")
async def with_options(request: Request) -> dict[str, Any]:
    return {}


async def ticket(run_id: str, token: str, wait_url: str) -> Response:
    return Response.redirect(wait_url)


@wsgi.endpoint(async_response=ticket, max_sync_runtime="20s", allow_cancel=True, ui_messages="live")
def answered_later(request: Request) -> Response:
    return Response.json(None)


@embedded.endpoint
def embedded_endpoint(request: Request) -> None:
    return None


assert_type(wsgi, Durable[WSGIApp])
assert_type(plain, WSGIApp)
assert_type(with_options, WSGIApp)
assert_type(wsgi.endpoint_proxy(), WSGIApp)
assert_type(wsgi.events_endpoint(public=True), WSGIApp)
assert_type(wsgi.dashboard(authorize=lambda request: True, read_only=True), WSGIApp)
assert_type(wsgi.health_endpoint(), WSGIApp)
assert_type(wsgi.readiness_endpoint(), WSGIApp)
assert_type(wsgi.metrics(), WSGIApp)
assert_type(embedded_endpoint, HTTPHandler)
wsgi.endpoint(retry=5)  # type: ignore[call-overload]
wsgi.endpoint(async_response="stream")  # type: ignore[call-overload]
wsgi.endpoint(async_response=lambda run_id, token: Response())  # type: ignore[arg-type, misc]
wsgi_adapter.with_options(retries="3")  # type: ignore[arg-type]


def in_tests() -> None:
    with harness(wsgi) as t:
        assert_type(t, Harness)
        reply = t.client(plain).post("/?a=1", headers={"x": "1"}, json=[1], follow=True)
        assert_type(reply, Reply)
        assert_type(reply.result(), Reply)
        assert_type(t.steps(reply), tuple[StepRecord, ...])
        assert_type(t.send("order/approved", {"id": 1}), str)
        t.fail_step("charge", times=None, error=ConnectionError)
        t.crash_after("charge", times=None)  # type: ignore[arg-type]
        t.client(plain).get("/", body=b"")  # type: ignore[call-arg]


async def in_async_tests() -> None:
    async with harness(embedded) as t:
        assert_type(t, AsyncHarness)
        assert_type(await t.client(embedded_endpoint).get("/"), Reply)
        await t.advance("24h")
