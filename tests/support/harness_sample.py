"""An application for the tests of ``durable_core.testing``: the same endpoint in both faces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from durable_core import Durable, Event, Request, Response, endpoint_adapter
from durable_core import step as async_step
from durable_core.api.adapter import HTTPHandler
from durable_core.sync import step

__all__ = ["Sample", "plain_app", "sample"]


class Sample(NamedTuple):
    """An application with an endpoint ``order``; ``calls`` is what its steps have really done."""

    durable: Durable[HTTPHandler]
    order: HTTPHandler
    calls: list[str]


def plain_app() -> Durable[HTTPHandler]:
    """Return an application without endpoints."""
    return Durable(id="sample", endpoint_adapter=endpoint_adapter)


def sample(face: str, **options: Any) -> Sample:
    """Return a fresh application; ``face`` is ``"def"`` or ``"async def"``.

    Its endpoint reserves, charges, sleeps a day, waits an hour for ``order/approved`` and sends
    ``order/done``.
    """
    durable, calls = plain_app(), list[str]()

    def does(name: str) -> Callable[[], str]:
        def do() -> str:
            calls.append(name)
            return name.upper()

        return do

    def order(request: Request) -> Response:
        reserved = step.run("reserve", does("reserve"))
        charged = step.run("charge", does("charge"))
        step.sleep("rest", "1 day")
        answer = step.wait_for_event(
            "approval", event="order/approved", match="data.id", timeout="1h"
        )
        step.send_event("tell", Event("order/done", {"id": request.query["id"]}))
        return done(reserved, charged, answer)

    async def order_async(request: Request) -> Response:
        reserved = await async_step.run("reserve", does("reserve"))
        charged = await async_step.run("charge", does("charge"))
        await async_step.sleep("rest", "1 day")
        answer = await async_step.wait_for_event(
            "approval", event="order/approved", match="data.id", timeout="1h"
        )
        await asyncio.sleep(0)
        await async_step.send_event("tell", Event("order/done", {"id": request.query["id"]}))
        return done(reserved, charged, answer)

    handler = order if face == "def" else order_async
    return Sample(durable, durable.endpoint(**options)(handler), calls)


def done(reserved: str, charged: str, answer: Event | None) -> Response:
    steps = [reserved, charged]
    return Response.json({"steps": steps, "approved": answer is not None}, 201, {"x-order": "1"})
