"""The order service in FastAPI: ``uvicorn fastapi_orders:app --no-access-log`` in this folder."""

from __future__ import annotations

import os
from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel
from shop import charge, reserve, ship

from durable_core import Durable, Event, step
from durable_starlette import endpoint_adapter

durable = Durable(
    id="orders",
    endpoint_adapter=endpoint_adapter,
    store=os.environ.get("ORDERS_STORE", ".durable/orders.db"),
)
app = FastAPI(lifespan=durable.lifespan)


class OrderIn(BaseModel):
    item: Literal["tea", "cake"]
    customer: str


class OrderOut(BaseModel):
    order: str
    price: int
    parcel: str


class Packed(BaseModel):
    customer: str


@app.post("/orders", status_code=201)
@durable.endpoint
async def create_order(wanted: OrderIn) -> OrderOut:
    order = await step.run("reserve", reserve, wanted.item)
    price = await step.run("charge", charge, order, wanted.item)
    await step.wait_for_event(
        "packed", event="order/packed", match="data.customer", timeout="7 days"
    )
    parcel = await step.run("ship", ship, order)
    return OrderOut(order=order, price=price, parcel=parcel)


@app.post("/packed", status_code=204)
async def packed(by: Packed) -> None:
    await durable.send_async(Event("order/packed", {"customer": by.customer}))
