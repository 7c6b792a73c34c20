"""A user's program, as Pyright sees it in strict mode: no error, and nothing of unknown type.

Checked by ``dev.py check``, never run. It uses what the README and the how-to pages use.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from durable_asgi import app as asgi_app
from durable_asgi import endpoint_adapter as asgi_adapter
from durable_client import Collector, fetch_with_stream
from durable_core import (
    BadRequest,
    Durable,
    Event,
    HTTPError,
    Limits,
    NonRetriableError,
    Request,
    Response,
    RetryAfterError,
    RetryPolicy,
    RunContext,
    RunInfo,
    Settings,
    StepError,
    run,
    step,
    stream,
)
from durable_core.engines import EmbeddedEngine
from durable_core.stores import SQLiteStore
from durable_core.sync import step as sync_step
from durable_core.testing import harness
from durable_wsgi import endpoint_adapter as wsgi_adapter

engine = EmbeddedEngine(
    SQLiteStore(Path("shop.db")),
    secrets=["a secret of sixteen bytes"],
    token_ttl=timedelta(days=1),
    settings=Settings(worker_threads=4, lease="1m", keep_runs=timedelta(days=30)),
)
durable = Durable(
    id="shop",
    endpoint_adapter=asgi_adapter.with_options(retries=5),
    engine=engine,
    limits=Limits(body=10_000),
    version="2026.11",
    retry=RetryPolicy(base="100ms"),
)
bare = Durable(id="bare")


def started(app: Durable) -> str:
    app.start()
    shown = app.runs.list(limit=1)
    sent = app.send(Event("started"))
    app.stop("5s")
    return f"{app.health()} {shown} {sent}"


plain = Durable(id="plain", endpoint_adapter=wsgi_adapter, store="plain.db")


async def reserve(cart: str, *, seats: int = 1) -> dict[str, int]:
    if not cart:
        raise NonRetriableError("no cart")
    if seats > 9:
        raise RetryAfterError("busy", "5s")
    return {cart: seats}


def price(cart: str) -> float:
    return float(len(cart))


@step("reserve-step")
async def reserve_step(cart: str) -> dict[str, int]:
    return await reserve(cart)


def labels(request: Request) -> dict[str, str]:
    return {"cart": request.query["cart"]}


@durable.endpoint(function_id="shop:checkout", name="Checkout", labels=labels, record="always")
async def checkout(request: Request) -> Response:
    cart = request.query["cart"]
    if cart == "none":
        raise BadRequest("which cart?")
    priced: tuple[float, dict[str, int]] = await step.parallel(
        "both", lambda: step.run("p", price, cart), lambda: step.run("r", reserve, cart)
    )
    if priced[0] > 100 and len(priced[1]) > 1:
        raise HTTPError(409, "too much")
    seats, cost = await asyncio.gather(
        step.run("reserve", reserve, cart, seats=2), step.run("price", price, cart)
    )
    hurried = step.options(retries=2, timeout="10s", name="Price it again")
    cost += await hurried.run("price-again", price, cart) + float(len(await reserve_step(cart)))
    stream.push({"seats": sum(seats.values()), "cost": cost + 1.0})
    await step.sleep("settle", timedelta(seconds=30))
    await step.sleep_until("morning", datetime(2030, 1, 1, tzinfo=UTC))
    approval = await step.wait_for_event("approval", event="approved", timeout="24h")
    if approval is None or approval.time is None:
        raise HTTPError(409, "nobody has approved it")
    told: list[str] = await step.send_event("tell", Event("booked", {"by": approval.data["by"]}))
    known: RunContext | None = Durable.current_run()
    since = datetime.now(UTC) - run.started_at
    body = {"told": told, "labels": run.labels, "late": since > timedelta(days=1)}
    return Response.json(body, 201, {"x-cart": cart, "x-run": known.id if known else run.id})


@plain.endpoint
def order(request: Request) -> dict[str, float]:
    wanted = request.json()
    try:
        return {"cost": sync_step.run("price", price, str(wanted["cart"])) * 2}
    except StepError as error:
        return {"failed": float(len(error.name))}


application = asgi_app(
    durable, {"POST /checkout": checkout, "POST /events": durable.events_endpoint(public=True)}
)


def look() -> list[str]:
    shown: RunInfo = durable.runs.get(durable.runs.list(status="failed", limit=1)[0].id)
    late = [each.name for each in shown.steps if each.due and each.due > datetime.now(UTC)]
    return [*late, shown.error or "", *durable.send(Event("looked"))]


def follow(url: str) -> str:
    answer = Collector()
    response = fetch_with_stream(url, collect=answer)
    return f"{response.status} {answer.text}"


def test_order() -> None:
    with harness(plain) as t:
        t.fail_step("price", error=ConnectionError)
        reply = t.client(order).post("/order", json={"cart": "c1"}, follow=True)
        assert reply.json() == {"cost": 4.0}
        assert [each.name for each in t.steps(reply)] == ["price"]
