"""Endpoints for clients of other languages, as ``def`` and as ``async def`` handlers.

``python -m support.interop_sample durable_wsgi.conformance sync`` serves them in a process of its
own, which prints its URL and may be killed.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from durable_core import (
    Durable,
    NonRetriableError,
    Request,
    Response,
    RetryPolicy,
    StepError,
    step,
    stream,
)
from durable_core.routing import Routes
from durable_core.stores.memory import MemoryStore
from durable_core.sync import step as sync_step
from durable_core.sync import stream as sync_stream

__all__ = ["IDS", "READ", "SERVERS", "served"]

HEADERS = {"x-my-header": "my-value"}
NAP = "0.5s"


def make_durable(adapter: Any, store: Any) -> Durable[Any]:
    """Return an application.

    A retry comes late enough for a client to be there: what an attempt pushed that has failed
    before it came is not kept for it.
    """
    return Durable(
        id="interop", endpoint_adapter=adapter, store=store, retry=RetryPolicy(base="800ms")
    )


#: Released for each chunk of a flaky step that its client has read.
READ = threading.Semaphore(0)


class Flaky:
    """Fails every other time that a step calls it, and so each first attempt.

    What an attempt has pushed is not shown to a client that comes to it after the failure, so each
    attempt waits until that has been read.
    """

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()

    def fail_once(self, key: str) -> None:
        assert READ.acquire(timeout=20), "the client has not read the chunk"
        self._calls[key] += 1
        if self._calls[key] % 2:
            raise RuntimeError("the first attempt fails")


def pushes(data: str) -> Callable[[], str]:
    """Return a function for a step that pushes once."""

    def push() -> str:
        sync_stream.push(data)
        return data

    return push


def pushes_and_fails_once(data: str, flaky: Flaky) -> Callable[[], str]:
    """Return a function for a step that pushes, and then fails the first time."""

    def push() -> str:
        sync_stream.push(data)
        flaky.fail_once(data)
        return data

    return push


def pushes_and_fails() -> None:
    """Push, and fail for good."""
    sync_stream.push("partial")
    raise NonRetriableError("oh no", public="oh no")


def fails() -> None:
    """Fail for good."""
    raise NonRetriableError("oh no")


def block() -> None:
    """Never end."""
    threading.Event().wait()


def echo(request: Request) -> Response:
    """Return the header that the client sent, without any step."""
    return Response.json(request.headers.get("x-custom"))


def sync_routes(durable: Durable[Any]) -> Routes:
    """Return the routes of ``def`` handlers."""
    flaky = Flaky()

    def plain(request: Request) -> Response:
        sync_step.run("a", lambda: 1)
        return Response.json("All done", 202, HEADERS)

    def streaming(request: Request) -> Response:
        sync_step.run("a", pushes("chunk a"))
        sync_step.run("b", pushes("chunk b"))
        return Response.json("All done", 202, HEADERS)

    def napping(request: Request) -> Response:
        sync_step.run("a", lambda: 1)
        sync_step.sleep("nap", NAP)
        sync_step.run("b", lambda: 2)
        return Response.json("All done", 202, HEADERS)

    def napping_stream(request: Request) -> Response:
        sync_step.run("a", pushes("chunk a"))
        sync_step.sleep("nap", NAP)
        sync_step.run("b", pushes("chunk b"))
        return Response.json("All done", 202, HEADERS)

    def flaky_steps(request: Request) -> Response:
        sync_step.run("a", pushes_and_fails_once("sync-data", flaky))
        sync_step.run("b", pushes_and_fails_once("async-data", flaky))
        return Response.json("All done", 202, HEADERS)

    def final(request: Request) -> Response:
        sync_step.run("a", pushes_and_fails)
        return Response.json("never")

    def caught(request: Request) -> Response:
        sync_step.sleep("nap", NAP)
        try:
            sync_step.run("a", fails)
        except StepError as error:
            sync_step.sleep("later", NAP)
            return Response.json(error.message, 500)
        return Response.json("never")

    def endless(request: Request) -> Response:
        sync_step.run("b", pushes("last"))
        sync_step.run("c", block)
        return Response.json("never")

    def napping_endless(request: Request) -> Response:
        sync_step.run("a", pushes("first"))
        sync_step.sleep("nap", NAP)
        return endless(request)

    handlers = (plain, streaming, napping, napping_stream, flaky_steps, final, caught)
    return wrapped(durable, (*handlers, endless, napping_endless, echo))


def async_routes(durable: Durable[Any]) -> Routes:
    """Return the routes of ``async def`` handlers, which do the same."""
    flaky = Flaky()

    async def push(data: str) -> str:
        stream.push(data)
        return data

    async def plain(request: Request) -> Response:
        await step.run("a", lambda: 1)
        return Response.json("All done", 202, HEADERS)

    async def streaming(request: Request) -> Response:
        await step.run("a", push, "chunk a")
        await step.run("b", push, "chunk b")
        return Response.json("All done", 202, HEADERS)

    async def napping(request: Request) -> Response:
        await step.run("a", lambda: 1)
        await step.sleep("nap", NAP)
        await step.run("b", lambda: 2)
        return Response.json("All done", 202, HEADERS)

    async def napping_stream(request: Request) -> Response:
        await step.run("a", push, "chunk a")
        await step.sleep("nap", NAP)
        await step.run("b", push, "chunk b")
        return Response.json("All done", 202, HEADERS)

    async def flaky_steps(request: Request) -> Response:
        await step.run("a", pushes_and_fails_once("sync-data", flaky))
        await step.run("b", pushes_and_fails_once("async-data", flaky))
        return Response.json("All done", 202, HEADERS)

    async def final(request: Request) -> Response:
        await step.run("a", pushes_and_fails)
        return Response.json("never")

    async def caught(request: Request) -> Response:
        await step.sleep("nap", NAP)
        try:
            await step.run("a", fails)
        except StepError as error:
            await step.sleep("later", NAP)
            return Response.json(error.message, 500)
        return Response.json("never")

    async def endless(request: Request) -> Response:
        await step.run("b", push, "last")
        await step.run("c", block)
        return Response.json("never")

    async def napping_endless(request: Request) -> Response:
        await step.run("a", push, "first")
        await step.sleep("nap", NAP)
        return await endless(request)

    async def aecho(request: Request) -> Response:
        return echo(request)

    aecho.__name__ = "echo"

    handlers = (plain, streaming, napping, napping_stream, flaky_steps, final, caught)
    return wrapped(durable, (*handlers, endless, napping_endless, aecho))


def wrapped(durable: Durable[Any], handlers: Sequence[Callable[..., Any]]) -> Routes:
    """Return a route for each handler, at its name."""
    return {f"GET /{handler.__name__}": durable.endpoint(handler) for handler in handlers}


ROUTES = {"sync": sync_routes, "async": async_routes}

#: Which adapters serve which face.
SERVERS = [
    ("durable_wsgi.conformance", "sync"),
    ("durable_wsgi.conformance", "async"),
    ("durable_asgi.conformance", "async"),
    ("durable_asyncio.conformance", "async"),
    ("durable_asyncio.conformance", "sync"),
]
IDS = [f"{module.partition('.')[0]}-{face}" for module, face in SERVERS]


@contextmanager
def served(subject_module: str, face: str, store: Any) -> Iterator[str]:
    """Serve by an adapter; yield the URL."""
    subject = import_module(subject_module).subject
    durable = make_durable(subject.endpoint_adapter, store)
    with subject.serve(ROUTES[face](durable), durable=durable) as url:
        yield url
    durable.stop()


def main(subject_module: str, face: str) -> None:
    """Serve until the standard input ends."""
    with served(subject_module, face, MemoryStore()) as url:
        print(url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
