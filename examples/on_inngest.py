"""An order that waits for its approval, on an Inngest server.

Start a development server and this program. Then place an order and approve it::

    npx inngest-cli@latest dev --no-discovery
    INNGEST_DEV=1 python examples/on_inngest.py
    curl -L 'http://127.0.0.1:8000/order?id=7&item=tea' &
    curl -X POST http://127.0.0.1:8000/events -d '{"name": "order/approved", "data": {"id": "7"}}'

Without ``engine=`` the same program runs without an Inngest server.
"""

from __future__ import annotations

from durable_asgi import app, endpoint_adapter, serve_endpoint
from durable_core import Durable, Request, Response, step
from durable_inngest import InngestEngine

durable = Durable(id="orders", endpoint_adapter=endpoint_adapter, engine=InngestEngine())


def reserve(item: str) -> dict[str, str]:
    """Take the item from the shelf."""
    return {"item": item, "shelf": "A3"}


@durable.endpoint
async def order(request: Request) -> Response:
    """Reserve the item, wait for the approval of this order, and return the outcome."""
    reserved = await step.run("reserve", reserve, request.query["item"])
    approval = await step.wait_for_event(
        "approval", event="order/approved", match="data.id", timeout="1h"
    )
    status = 201 if approval is not None else 504
    return Response.json({"reserved": reserved, "approved": approval is not None}, status)


application = app(
    durable, {"GET /order": order, "POST /events": durable.events_endpoint(public=True)}
)

if __name__ == "__main__":
    serve_endpoint(application, port=8000)
