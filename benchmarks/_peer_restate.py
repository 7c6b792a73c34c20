"""The endpoint of n steps written for Restate: a service that its server calls over HTTP/2."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["app"]

restate: Any = import_module("restate")  # the type checker's environment does not have it
service = restate.Service("bench")


async def _work(number: int) -> dict[str, int]:
    return {"number": number}


async def _run(ctx: Any, steps: int) -> dict[str, int]:
    done = [await ctx.run_typed(f"step-{number}", _work, number=number) for number in range(steps)]
    return {"sum": sum(each["number"] for each in done)}


service.handler("run")(_run)
app = restate.app([service])
