"""Handlers of the tests of the Inngest engine, and how often their steps were called."""

from __future__ import annotations

from collections import Counter
from typing import Any

from durable_core import Request, step
from durable_core.sync import step as sync_step

__all__ = ["CALLS", "called", "naps", "two", "two_sync"]

#: By the name of the step; the fixture ``server`` clears it.
CALLS: Counter[str] = Counter()


def called(name: str) -> str:
    """Count the call and return the name."""
    CALLS[name] += 1
    return name


async def two(request: Request) -> list[Any]:
    """Two steps."""
    return [await step.run("a", called, "a"), await step.run("b", called, "b")]


def two_sync(request: Request) -> list[Any]:
    """The same for a ``def`` handler."""
    return [sync_step.run("a", called, "a"), sync_step.run("b", called, "b")]


async def naps(request: Request) -> list[Any]:
    """A nap after the first of three steps."""
    first = await step.run("a", called, "a")
    await step.sleep("nap", "20ms")
    return [first, await step.run("b", called, "b"), await step.run("c", called, "c")]
