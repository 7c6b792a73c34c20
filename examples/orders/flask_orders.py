"""The order service in Flask: ``flask --app flask_orders run`` in this folder."""

from __future__ import annotations

import os
from typing import Any

import flask
from shop import PRICES, charge, reserve, ship

from durable_core import Durable, Event
from durable_core.sync import step
from durable_flask import endpoint_adapter, install

durable = Durable(
    id="orders",
    endpoint_adapter=endpoint_adapter,
    store=os.environ.get("ORDERS_STORE", ".durable/orders.db"),
)
app = flask.Flask(__name__)
install(app, durable)


@app.post("/orders")
@durable.endpoint
def create_order() -> tuple[dict[str, Any], int]:
    wanted = flask.request.get_json()
    if wanted.get("item") not in PRICES:
        flask.abort(422)
    order = step.run("reserve", reserve, wanted["item"])
    price = step.run("charge", charge, order, wanted["item"])
    step.wait_for_event("packed", event="order/packed", match="data.customer", timeout="7 days")
    parcel = step.run("ship", ship, order)
    return {"order": order, "price": price, "parcel": parcel}, 201


@app.post("/packed")
def packed() -> tuple[str, int]:
    durable.send(Event("order/packed", {"customer": flask.request.get_json()["customer"]}))
    return "", 204
