"""A trip booker: a FastAPI application with a page that shows each step, and a kill button.

``python3 dev.py example trip_booker [--port 8000]`` serves it. A second process starts the server
again whenever it dies, as systemd or Kubernetes would. The page reads on where its run goes on. If
the run was not stored yet, it sends the same request again, with the same ``Idempotency-Key``.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, Field
from supervised import add_page, serve

from durable_core import Durable, NonRetriableError, RetryPolicy, step, stream
from durable_starlette import endpoint_adapter

STORE = Path(os.environ.get("TRIPS_STORE", ".durable/trip_booker.db"))
#: How long a real airline takes to answer, in seconds.
SLOWNESS = float(os.environ.get("TRIPS_SLOWNESS", "1.5"))

durable = Durable(
    id="trip-booker",
    endpoint_adapter=endpoint_adapter,
    store=STORE,
    retry=RetryPolicy(base="500ms"),
)
app = FastAPI(title="Trip booker", lifespan=durable.lifespan)
add_page(app)


class Trip(BaseModel):
    """What the traveller wants."""

    destination: Annotated[str, Field(min_length=1, max_length=60)]


class Booking(BaseModel):
    """What the traveller gets."""

    destination: str
    flight: str
    hotel: str
    car: str


@app.post("/trips", status_code=201)
@durable.endpoint
async def book_trip(trip: Trip) -> Booking:
    """Book a flight, a hotel and a car. If one cannot be had, what was booked is cancelled."""
    booked = step.options(undo=cancel, retries=2)
    flight = await booked.run("flight", book, "flight", trip.destination)
    hotel, car = await asyncio.gather(
        booked.run("hotel", book, "hotel", trip.destination),
        booked.run("car", book, "car", trip.destination),
    )
    await step.sleep("the airline confirms", SLOWNESS)
    await step.run("ticket", send_ticket, flight)
    return Booking(destination=trip.destination, flight=flight, hotel=hotel, car=car)


async def book(what: str, destination: str) -> str:
    """Call the company that has it. The car company fails at first; nothing flies to Atlantis."""
    stream.push(f"looking for a {what} ...")
    await asyncio.sleep(SLOWNESS)
    if what == "car" and step.attempt == 1:
        raise ConnectionError("the car company does not answer")
    if what == "hotel" and destination == "Atlantis":
        raise NonRetriableError("there is no hotel any more")
    number = f"{what}-{destination}-{os.urandom(2).hex()}"
    stream.push(f"booked {number}")
    return number


async def cancel(number: str) -> None:
    """Give a booking back."""
    stream.push(f"cancelled {number}")


async def send_ticket(flight: str) -> None:
    """Send the ticket, exactly as often as this step is executed: once."""
    stream.push(f"sent the ticket of {flight}")


if __name__ == "__main__":
    serve(app, __file__)
