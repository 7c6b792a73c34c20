"""Callers without a server: threads or tasks that call a handler for some time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from time import perf_counter

from _measure import Burst

from durable_core import Request, Response

__all__ = ["call_from_tasks", "call_from_threads", "make_request"]


def make_request() -> Request:
    """Return a new request with the headers of a browser."""
    return Request(
        method="GET",
        url="http://127.0.0.1:8000/bench?cart=42",
        headers=(
            ("host", "127.0.0.1:8000"),
            ("user-agent", "bench/1.0"),
            ("accept", "*/*"),
            ("accept-encoding", "gzip, deflate"),
        ),
    )


def call_from_threads(
    handler: Callable[[Request], Response], threads: int, seconds: float
) -> Burst:
    """Call the handler from this many threads at the same time."""
    latencies: list[list[float]] = [[] for _ in range(threads)]
    ready = threading.Barrier(threads + 1)

    def caller(taken: list[float]) -> None:
        ready.wait()
        end = perf_counter() + seconds
        began = perf_counter()
        while began < end:
            _check(handler(make_request()))
            ended = perf_counter()
            taken.append(ended - began)
            began = ended

    callers = [threading.Thread(target=caller, args=(taken,)) for taken in latencies]
    for thread in callers:
        thread.start()
    ready.wait()
    began = perf_counter()
    for thread in callers:
        thread.join()
    took = perf_counter() - began
    return Burst([each for taken in latencies for each in taken], took)


async def call_from_tasks(
    handler: Callable[[Request], Awaitable[Response]], tasks: int, seconds: float
) -> Burst:
    """Call the handler from this many tasks of the current loop."""
    latencies: list[float] = []
    end = perf_counter() + seconds

    async def caller() -> None:
        began = perf_counter()
        while began < end:
            _check(await handler(make_request()))
            ended = perf_counter()
            latencies.append(ended - began)
            began = ended
            await asyncio.sleep(0)

    began = perf_counter()
    await asyncio.gather(*(caller() for _ in range(tasks)))
    return Burst(latencies, perf_counter() - began)


def _check(response: Response) -> None:
    if response.status != 200:
        raise AssertionError(f"the benchmark got {response.status}: {response.body!r}")
