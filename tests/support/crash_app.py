"""An application made to be killed, set up by the environment variables ``CRASH_*``.

Every endpoint exists twice, below ``/sync`` as ``def`` and below ``/async`` as ``async def``. Each
takes ``trip``, the name under which it writes to the ledger. A file ``<trip>.<point>`` in the gates
folder keeps whoever comes to that point there until it is removed; ``<trip>.<point>@<pid>`` does so
for one process only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from durable_core import (
    Durable,
    Event,
    HTTPError,
    Limits,
    Request,
    Response,
    RetryPolicy,
    Settings,
    step,
    sync,
)
from durable_core.engines import EmbeddedEngine
from durable_core.routing import Target
from durable_core.sync import stream
from durable_core.webhooks import Completed
from durable_wsgi import app, endpoint_adapter
from support.ledger import Ledger

__all__ = ["application", "durable"]

_TICK = 0.002
_STORE = Path(os.environ["CRASH_STORE"])
_GATES = Path(os.environ["CRASH_GATES"])
_LEDGER = Ledger(Path(os.environ["CRASH_LEDGER"]))

logging.basicConfig(level=logging.INFO, stream=sys.stderr)

_settings = Settings(
    busy_timeout=float(os.environ.get("CRASH_BUSY", "5")),
    heartbeat="1ms",
    lease=float(os.environ.get("CRASH_LEASE", "15")),
    worker_threads=int(os.environ.get("CRASH_WORKERS", "8")),
    worker_tasks=int(os.environ.get("CRASH_WORKERS", "100")),
)
# Set afterwards, so that a lease can run out before it is renewed, which users cannot ask for.
object.__setattr__(_settings, "heartbeat", float(os.environ.get("CRASH_HEARTBEAT", "3")))

durable = Durable(
    id="crash",
    endpoint_adapter=endpoint_adapter,
    engine=EmbeddedEngine(
        _STORE,
        token_ttl=float(os.environ.get("CRASH_TOKEN_TTL", "3600")),
        settings=_settings,
    ),
    retry=RetryPolicy(base=int(os.environ.get("CRASH_RETRY_MS", "1000")) / 1000, jitter=0),
    limits=Limits(crashes=int(os.environ.get("CRASH_TAKEOVERS", "1000"))),
)


# -- what steps do -----------------------------------------------------------------------------


def _closed(trip: str, point: str) -> bool:
    gate = _GATES / f"{trip}.{point}"
    return gate.exists() or gate.with_name(f"{gate.name}@{os.getpid()}").exists()


def _pass(trip: str, point: str) -> None:
    while _closed(trip, point):
        time.sleep(_TICK)


async def _pass_async(trip: str, point: str) -> None:
    while _closed(trip, point):
        await asyncio.sleep(_TICK)


def _work(trip: str, point: str) -> dict[str, object]:
    _LEDGER.add(trip, point, "begin")
    _pass(trip, point)
    _LEDGER.add(trip, point, "end")
    return {"point": point, "pid": os.getpid()}


async def _work_async(trip: str, point: str) -> dict[str, object]:
    _LEDGER.add(trip, point, "begin")
    await _pass_async(trip, point)
    _LEDGER.add(trip, point, "end")
    return {"point": point, "pid": os.getpid()}


def _flaky(trip: str, failures: int) -> int:
    """Fail so many times, counted by the ledger; return which attempt this is."""
    _LEDGER.add(trip, "flaky", "begin")
    _pass(trip, "flaky")
    attempt = len(_LEDGER.find(trip, "flaky", "begin"))
    if attempt <= failures:
        _LEDGER.add(trip, "flaky", "fail")
        raise RuntimeError(f"attempt {attempt} fails")
    _LEDGER.add(trip, "flaky", "end")
    return attempt


def _between(trip: str, point: str) -> None:
    _LEDGER.add(trip, point, "at")
    _pass(trip, point)


async def _between_async(trip: str, point: str) -> None:
    _LEDGER.add(trip, point, "at")
    await _pass_async(trip, point)


def _trip(request: Request) -> str:
    trip: str = request.query["trip"]
    return trip


def _booked(trip: str, parts: Sequence[object]) -> Response:
    """The response that every test compares to the last byte."""
    return Response.json(
        {"trip": trip, "parts": list(parts)},
        201,
        (("x-trip", trip), ("set-cookie", "a=1; Path=/"), ("set-cookie", "b=2; Path=/")),
    )


def _exact(kind: str) -> Response:
    if kind == "missing":
        raise HTTPError(404, "no such trip")
    if kind == "empty":
        return Response(status=204, headers=(("x-kind", kind),))
    if kind == "binary":
        headers = (("content-type", "application/octet-stream"), ("x-kind", kind))
        return Response(headers=headers, body=bytes(range(256)) * 64)
    return _booked(kind, [])


# -- `def` handlers ----------------------------------------------------------------------------


@durable.endpoint
def steps_sync(request: Request) -> Response:
    """Three steps with places between them."""
    trip = _trip(request)
    parts = []
    for name in ("a", "b", "c"):
        parts.append(sync.step.run(name, _work, trip, name))
        _between(trip, f"after-{name}")
    return _booked(trip, [part["point"] for part in parts])


@durable.endpoint(concurrency=1)
def turn_sync(request: Request) -> Response:
    """A step of which one at a time is executed."""
    trip = _trip(request)
    sync.step.run("a", _work, trip, "a")
    return _booked(trip, ["turn"])


def _tell(completed: Completed) -> None:
    _work(str(completed.key), "told")


@durable.endpoint(on_complete=_tell, key=_trip)
def told_sync(request: Request) -> Response:
    """Somebody is told when it has ended."""
    return _booked(_trip(request), ["told"])


@durable.endpoint
def many_sync(request: Request) -> Response:
    """As many steps as asked for."""
    trip = _trip(request)
    for number in range(int(request.query["n"])):
        sync.step.run(f"s{number}", int, number)
    return _booked(trip, [])


@durable.endpoint
def nap_sync(request: Request) -> Response:
    """A sleep between two steps."""
    trip = _trip(request)
    sync.step.run("a", _work, trip, "a")
    sync.step.sleep("nap", float(request.query["seconds"]))
    sync.step.run("b", _work, trip, "b")
    return _booked(trip, ["nap"])


@durable.endpoint
def wait_sync(request: Request) -> Response:
    """A wait for an event between two steps."""
    trip = _trip(request)
    sync.step.run("a", _work, trip, "a")
    came = sync.step.wait_for_event("wait", event="go", match="data.trip", timeout="60s")
    sync.step.run("b", _work, trip, "b")
    return _booked(trip, [came.data if came else None])


@durable.endpoint
def retry_sync(request: Request) -> Response:
    """A step that fails as often as asked for, between two others."""
    trip = _trip(request)
    sync.step.run("a", _work, trip, "a")
    attempts = sync.step.run("flaky", _flaky, trip, int(request.query["failures"]))
    sync.step.run("b", _work, trip, "b")
    return _booked(trip, [attempts])


@durable.endpoint
def gather_sync(request: Request) -> Response:
    """Steps of one id, one after the other: threads would need ids of their own."""
    trip = _trip(request)
    parts = [sync.step.run("save", _work, trip, f"save-{n}")["point"] for n in range(3)]
    return _booked(trip, parts)


@durable.endpoint
def exact_sync(request: Request) -> Response:
    """A short sleep, so that the response goes through the wait URL."""
    sync.step.sleep("nap", 0.5)
    return _exact(request.query["kind"])


@durable.endpoint
def send_sync(request: Request) -> Response:
    """An event, sent between two steps."""
    trip = _trip(request)
    sync.step.run("a", _work, trip, "a")
    ids = sync.step.send_event("tell", Event("go", {"trip": trip}))
    sync.step.run("b", _work, trip, "b")
    return _booked(trip, [len(ids)])


@durable.endpoint
def stream_sync(request: Request) -> Response:
    """A body in two pieces with a place between them."""
    trip = _trip(request)
    sync.step.run("a", _work, trip, "a")
    return Response(headers=(("x-trip", trip),), body=_pieces(trip))


def _pieces(trip: str) -> Iterator[bytes]:
    yield b"first "
    _between(trip, "middle")
    yield b"second"


def _chat(trip: str, point: str) -> str:
    """Push words before and after a gate; whoever executes this says so in them."""
    _LEDGER.add(trip, point, "begin")
    stream.push(f"{point} 1 {os.getpid()}")
    stream.push(f"{point} 2 {os.getpid()}")
    _pass(trip, point)
    stream.push(f"{point} 3 {os.getpid()}")
    _LEDGER.add(trip, point, "end")
    return point


@durable.endpoint
def chat_sync(request: Request) -> Response:
    """Two steps that stream."""
    trip = _trip(request)
    parts = [sync.step.run(point, _chat, trip, point) for point in ("a", "b")]
    return _booked(trip, parts)


@durable.endpoint
def fork_sync(request: Request) -> Response:
    """A step that forks, and waits for its child."""
    trip = _trip(request)
    code = sync.step.run("fork", _fork)
    sync.step.run("b", _work, trip, "b")
    return _booked(trip, [code])


def _fork() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- `async def` handlers ----------------------------------------------------------------------


@durable.endpoint
async def steps_async(request: Request) -> Response:
    """Three steps with places between them."""
    trip = _trip(request)
    parts = []
    for name in ("a", "b", "c"):
        parts.append(await step.run(name, _work_async, trip, name))
        await _between_async(trip, f"after-{name}")
    return _booked(trip, [part["point"] for part in parts])


@durable.endpoint(concurrency=1)
async def turn_async(request: Request) -> Response:
    """A step of which one at a time is executed."""
    trip = _trip(request)
    await step.run("a", _work_async, trip, "a")
    return _booked(trip, ["turn"])


@durable.endpoint
async def many_async(request: Request) -> Response:
    """As many steps as asked for."""
    trip = _trip(request)
    for number in range(int(request.query["n"])):
        await step.run(f"s{number}", _number, number)
    return _booked(trip, [])


async def _number(number: int) -> int:
    return number


@durable.endpoint
async def nap_async(request: Request) -> Response:
    """A sleep between two steps."""
    trip = _trip(request)
    await step.run("a", _work_async, trip, "a")
    await step.sleep("nap", float(request.query["seconds"]))
    await step.run("b", _work_async, trip, "b")
    return _booked(trip, ["nap"])


@durable.endpoint
async def wait_async(request: Request) -> Response:
    """A wait for an event between two steps."""
    trip = _trip(request)
    await step.run("a", _work_async, trip, "a")
    came = await step.wait_for_event("wait", event="go", match="data.trip", timeout="60s")
    await step.run("b", _work_async, trip, "b")
    return _booked(trip, [came.data if came else None])


@durable.endpoint
async def retry_async(request: Request) -> Response:
    """A step that fails as often as asked for, between two others."""
    trip = _trip(request)
    await step.run("a", _work_async, trip, "a")
    attempts = await step.run("flaky", _flaky, trip, int(request.query["failures"]))
    await step.run("b", _work_async, trip, "b")
    return _booked(trip, [attempts])


@durable.endpoint
async def gather_async(request: Request) -> Response:
    """Steps of one id at the same time."""
    trip = _trip(request)
    parts = await asyncio.gather(
        *[step.run("save", _work_async, trip, f"save-{n}") for n in range(3)]
    )
    return _booked(trip, [part["point"] for part in parts])


@durable.endpoint
async def send_async(request: Request) -> Response:
    """An event, sent between two steps."""
    trip = _trip(request)
    await step.run("a", _work_async, trip, "a")
    ids = await step.send_event("tell", Event("go", {"trip": trip}))
    await step.run("b", _work_async, trip, "b")
    return _booked(trip, [len(ids)])


@durable.endpoint
async def stream_async(request: Request) -> Response:
    """A body in two pieces with a place between them."""
    trip = _trip(request)
    await step.run("a", _work_async, trip, "a")
    return Response(headers=(("x-trip", trip),), body=_pieces_async(trip))


async def _pieces_async(trip: str) -> AsyncIterator[bytes]:
    yield b"first "
    await _between_async(trip, "middle")
    yield b"second"


@durable.endpoint
async def chat_async(request: Request) -> Response:
    """Two steps that stream."""
    trip = _trip(request)
    parts = [await step.run(point, _chat, trip, point) for point in ("a", "b")]
    return _booked(trip, parts)


@durable.endpoint
async def fork_async(request: Request) -> Response:
    """A step that forks, and waits for its child."""
    trip = _trip(request)
    code = await step.run("fork", _fork)
    await step.run("b", _work_async, trip, "b")
    return _booked(trip, [code])


@durable.endpoint
async def exact_async(request: Request) -> Response:
    """A short sleep, so that the response goes through the wait URL."""
    await step.sleep("nap", 0.5)
    return _exact(request.query["kind"])


# -- served ------------------------------------------------------------------------------------

_ROUTES: dict[str, Target] = {
    "GET,POST /sync/steps": steps_sync,
    "GET /sync/turn": turn_sync,
    "GET /sync/told": told_sync,
    "GET /sync/many": many_sync,
    "GET /sync/nap": nap_sync,
    "GET /sync/wait": wait_sync,
    "GET /sync/retry": retry_sync,
    "GET /sync/gather": gather_sync,
    "GET /sync/send": send_sync,
    "GET /sync/stream": stream_sync,
    "GET /sync/fork": fork_sync,
    "GET /sync/chat": chat_sync,
    "GET,POST /sync/exact": exact_sync,
    "GET,POST /async/steps": steps_async,
    "GET /async/turn": turn_async,
    "GET /async/many": many_async,
    "GET /async/nap": nap_async,
    "GET /async/wait": wait_async,
    "GET /async/retry": retry_async,
    "GET /async/gather": gather_async,
    "GET /async/send": send_async,
    "GET /async/stream": stream_async,
    "GET /async/fork": fork_async,
    "GET /async/chat": chat_async,
    "GET,POST /async/exact": exact_async,
    "GET /health": lambda request: durable.health(),
    "POST /events": durable.events_endpoint(public=True),
}

application = app(durable, _ROUTES)

if "CRASH_START_AT_IMPORT" in os.environ:
    durable.start()
