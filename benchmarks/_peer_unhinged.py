"""The endpoint of n steps written for unhinged, as an ASGI application: ``/<steps>`` is the path.

Its own way to wait for a result looks every 50 ms, and its worker every 250 ms. Here the request
works itself: it executes a task that waits, its own or another one, until its own has ended.

The variable ``BENCH_DATABASE`` has the path of its database.
"""

from __future__ import annotations

import asyncio
import json
import os
from importlib import import_module
from typing import Any

__all__ = ["asgi"]

# The type checker's environment does not have it.
app: Any = import_module("unhinged").AsyncUnhinged(os.environ["BENCH_DATABASE"])
app.create_queue()


async def _work(number: int) -> dict[str, int]:
    return {"number": number}


async def _run(params: dict[str, int], task: Any) -> dict[str, int]:
    """Execute this many steps."""
    done = [
        await task.step(f"work {number}", lambda number=number: _work(number))
        for number in range(params["steps"])
    ]
    return {"sum": sum(each["number"] for each in done)}


app.register_task("run")(_run)


async def _result(steps: int) -> object:
    task_id = app.spawn("run", {"steps": steps})["task_id"]
    while not (found := app.fetch_task_result(task_id)).terminal:
        if not await app.work_batch():
            await asyncio.sleep(0.001)
    return found.result


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Run a task for each request; to be served without a lifespan."""
    await receive()
    body = json.dumps(await _result(int(scope["path"][1:]))).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
