"""Handlers that stream, and what a client hears of them."""

from __future__ import annotations

from durable_core.api.step import step, sync_step
from durable_core.api.stream import stream, sync_stream
from durable_core.http.request import Request

__all__ = [
    "TWO_STEPS",
    "push",
    "push_async",
    "sleepy",
    "sleepy_async",
    "two_steps",
    "two_steps_async",
]


TWO_STEPS = [
    *("meta", "a: from a", "commit a", "redirect", "b: from b", "commit b"),
    '200: "done"',
]


def push(text: object, result: object = 1) -> object:
    sync_stream.push(text)
    return result


async def push_async(text: object, result: object = 1) -> object:
    stream.push(text)
    return result


def two_steps(request: Request) -> object:
    sync_step.run("a", push, "from a")
    sync_step.run("b", push, "from b")
    return "done"


async def two_steps_async(request: Request) -> object:
    await step.run("a", push_async, "from a")
    await step.run("b", push_async, "from b")
    return "done"


def sleepy(request: Request) -> object:
    sync_step.run("a", push, "sync-data")
    sync_step.sleep("nap", 60)
    sync_step.run("b", push, "async-data")
    return "done"


async def sleepy_async(request: Request) -> object:
    await step.run("a", push_async, "sync-data")
    await step.sleep("nap", 60)
    await step.run("b", push_async, "async-data")
    return "done"
