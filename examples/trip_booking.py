"""Booking trips, in steps that survive failures, restarts and ``kill -9``.

``python3 dev.py demo [--port 8000] [--store PATH]`` starts the server and prints commands to try.
Kill the server while a run sleeps, waits or retries, and start it again: the run continues after
its last finished step.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import secrets
from collections import Counter
from pathlib import Path

from durable_core import BadRequest, Durable, Request, Response, RetryPolicy, StepError
from durable_core.sync import step
from durable_wsgi import app, create_endpoint_server, endpoint_adapter

parser = argparse.ArgumentParser(description="Serve the trip booking demo.")
parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")
parser.add_argument("--store", type=Path, default=Path(".durable/trips.db"), metavar="PATH")
OPTIONS = parser.parse_args(None if __name__ == "__main__" else [])
LEDGER: Path = OPTIONS.store.absolute().with_suffix(".ledger")
WORD, NUMBER = r"[A-Za-z0-9_-]{1,40}", r"[0-9]{1,4}(\.[0-9]{1,3})?"

durable = Durable(
    id="trips",
    endpoint_adapter=endpoint_adapter,
    store=OPTIONS.store,
    retry=RetryPolicy(base="300ms"),  # by default the first retry comes after up to a second
)

# Handlers. When a run continues, its handler is called again from its start. Finished steps are
# not executed again: they return their stored results at once.


@durable.endpoint
def book(request: Request) -> Response:
    """Execute three steps. With ``flaky=2`` the second one fails twice and is retried."""
    trip, flaky = param(request, "trip", WORD), float(param(request, "flaky", NUMBER, "0"))
    booking = step.run("reserve-seat", reserve_seat, trip)
    try:
        attempts = step.run("charge-payment", charge_payment, trip, booking, flaky)
    except StepError as error:  # the last attempt has failed
        step.run("release-seat", record, trip, "release-seat", booking)
        return Response.json({"trip": trip, "error": error.message}, 402, {"x-trip": trip})
    step.run("send-ticket", record, trip, "send-ticket", booking)
    result = {"trip": trip, "booking": booking, "attempts": attempts}
    return Response.json(result, headers={"x-trip": trip})


@durable.endpoint
def nap(request: Request) -> Response:
    """Sleep. The sleep holds no thread, and a restart does not prolong it."""
    trip, seconds = param(request, "trip", WORD, "nap"), param(request, "seconds", NUMBER, "2")
    step.run("lie-down", record, trip, "lie-down")
    step.sleep("nap", f"{seconds}s")
    step.run("get-up", record, trip, "get-up")
    return Response.json({"trip": trip, "slept": float(seconds)}, headers={"x-trip": trip})


@durable.endpoint
def approval(request: Request) -> Response:
    """Wait for an event ``trip/approved`` whose ``data.trip`` is the ``trip`` of this request."""
    trip = param(request, "trip", WORD)
    step.run("ask", record, trip, "ask")
    event = step.wait_for_event("answer", event="trip/approved", match="data.trip", timeout="60s")
    return Response.json({"trip": trip, "approved": event is not None}, headers={"x-trip": trip})


def ledger(request: Request) -> dict[str, object]:
    """Count how often each step of a trip was executed. A plain route, not a durable one."""
    mine = f"{param(request, 'trip', WORD)} "
    return {"steps": Counter(line.split()[1] for line in ledger_lines() if line.startswith(mine))}


application = app(
    durable,
    {
        "GET /book": book,
        "GET /nap": nap,
        "GET /approval": approval,
        "GET /ledger": ledger,
        "POST /events": durable.events_endpoint(public=True),  # anybody may send events here
        "GET,HEAD,POST /dashboard/{path:path}": durable.dashboard(),  # for this machine only
    },
)

# The functions of the steps. Each call appends a line to a file, so calls can be counted later.


def reserve_seat(trip: str) -> str:
    booking = secrets.token_hex(4)  # random, but the same in every replay
    record(trip, "reserve-seat", booking)
    return booking


def charge_payment(trip: str, booking: str, flaky: float) -> int:
    attempts = record(trip, "charge-payment", booking)
    if attempts <= flaky:
        raise ConnectionError("the bank does not answer")
    return attempts


def record(trip: str, step_id: str, booking: str = "") -> int:
    """Append a line that survives a crash. Return how many equal lines the file has now."""
    line = f"{trip} {step_id} {booking}".rstrip()
    with LEDGER.open("ab", buffering=0) as file:
        file.write(f"{line}\n".encode())
        os.fsync(file.fileno())
    logging.info("trip %s: step %s", trip, step_id)
    return ledger_lines().count(line)


def ledger_lines() -> list[str]:
    # Text after the last line end is still being written.
    return LEDGER.read_text("utf-8").split("\n")[:-1] if LEDGER.exists() else []


def param(request: Request, name: str, pattern: str, default: str = "") -> str:
    text = request.query.get(name) or default
    if re.fullmatch(pattern, text) is None:
        raise BadRequest(f"?{name}= must be given, and match {pattern}")
    return text


def without_traceback(entry: logging.LogRecord) -> bool:
    entry.exc_info = None
    return True


HELP = """
Try, in another terminal:
  curl -i  '{url}/book?trip=T1'           three steps, no redirect
  curl -iL '{url}/book?trip=T2&flaky=2'   the payment fails twice: a redirect, then the result
  curl -iL '{url}/nap?seconds=2'          sleeps
  curl -iL '{url}/approval?trip=T3'       waits for the event that the next line sends
  curl '{url}/events' -d '{{"name": "trip/approved", "data": {{"trip": "T3"}}}}'
  curl '{url}/ledger?trip=T2'             how often each step was executed

Look at the runs, and act on them, in a browser:
  {url}/dashboard/

Stop it by Ctrl-C or kill -9 and start it again: runs continue. Anybody may send events here.
"""

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("durable").addFilter(without_traceback)  # one line per failure is enough
    try:
        server = create_endpoint_server(application).listen(OPTIONS.port)
    except OSError as error:
        parser.error(f"port {OPTIONS.port} cannot be had ({error}); choose another with --port")
    print(HELP.format(url=server.url), flush=True)
    server.serve_forever()
