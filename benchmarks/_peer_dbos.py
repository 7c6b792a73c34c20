"""The endpoint of n steps written for DBOS, as an ASGI application: ``/<steps>`` is the path.

The variable ``BENCH_DATABASE`` has the URL of its database.
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from typing import Any

__all__ = ["asgi"]

DBOS: Any = import_module("dbos").DBOS  # the type checker's environment does not have it
DBOS(
    config={
        "name": "bench",
        "system_database_url": os.environ["BENCH_DATABASE"],
        "run_admin_server": False,
        "log_level": "ERROR",
    }
)


async def _work(number: int) -> dict[str, int]:
    return {"number": number}


async def _run(steps: int) -> dict[str, int]:
    done = [await work(number) for number in range(steps)]
    return {"sum": sum(each["number"] for each in done)}


work = DBOS.step()(_work)
workflow = DBOS.workflow()(_run)
DBOS.launch()


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Run a workflow for each request; to be served without a lifespan."""
    await receive()
    body = json.dumps(await workflow(int(scope["path"][1:]))).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
