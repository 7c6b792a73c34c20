"""Durable endpoints on a host that runs nothing between two requests, as AWS Lambda does.

``on_request`` answers a request of an HTTP gateway (payload format 2.0). ``on_timer`` executes what
is due; let a timer call it, at the latest when it says. Each call starts the engine and stops it.
"""

from __future__ import annotations

import base64
import os
from typing import Any, Protocol

from durable_core import Durable, Request, Response, Settings, endpoint_adapter
from durable_core.adapters import Application
from durable_core.engines import EmbeddedEngine
from durable_core.sync import step

#: Seconds that are kept for the step in flight and for giving the runs back.
MARGIN = 2.0

durable = Durable(
    id="orders",
    endpoint_adapter=endpoint_adapter,
    engine=EmbeddedEngine(
        os.environ.get("ORDERS_STORE", ".durable/orders.db"), settings=Settings(on_demand=True)
    ),
)


@durable.endpoint
def order(request: Request) -> dict[str, str]:
    """Charge, give the customer time to think, and ship."""
    charge = step.run("charge", str.upper, request.query["item"])
    step.sleep("time to think", request.query.get("pause") or "1 day")
    return {"charged": charge, "shipped": step.run("ship", str.title, charge)}


site = Application(
    durable,
    {"GET,POST /order": order, "POST /events": durable.events_endpoint(public=True)},
)


class Context(Protocol):
    """What the host says about an invocation."""

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the invocation may still take."""
        ...


def on_request(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Answer one HTTP request."""
    try:
        return _as_result(site.handle(_as_request(event), max_wait=_seconds_left(context)))
    finally:
        durable.stop(MARGIN)


def on_timer(event: object, context: Context) -> dict[str, Any]:
    """Execute due runs, and say when there is something to do again."""
    try:
        begun = durable.run_due(_seconds_left(context))
        due = durable.next_due()
        return {"begun": begun, "next_due": None if due is None else due.isoformat()}
    finally:
        durable.stop(MARGIN)


def _seconds_left(context: Context) -> float:
    return max(0.0, context.get_remaining_time_in_millis() / 1000 - MARGIN)


def _as_request(event: dict[str, Any]) -> Request:
    http = event["requestContext"]["http"]
    query = event.get("rawQueryString") or ""
    body = event.get("body") or ""
    return Request(
        method=http["method"],
        url=f"https://{event['requestContext']['domainName']}{event['rawPath']}?{query}",
        headers=list(event["headers"].items()),
        body=base64.b64decode(body) if event.get("isBase64Encoded") else body.encode(),
    )


def _as_result(response: Response) -> dict[str, Any]:
    assert isinstance(response.body, bytes)  # no handler here streams its body
    return {
        "statusCode": response.status,
        "headers": {name: value for name, value in response.headers.raw if name != "set-cookie"},
        "cookies": [value for name, value in response.headers.raw if name == "set-cookie"],
        "body": base64.b64encode(response.body).decode(),
        "isBase64Encoded": True,
    }
