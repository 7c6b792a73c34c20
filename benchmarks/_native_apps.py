"""The applications of ``native.py``: each handler once as it is, and once durable.

``/bare/N`` and ``/ours/N`` have N steps; those of a bare handler are plain calls.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
from fastapi import FastAPI

import durable_flask
import durable_starlette
from durable_core import Durable, step
from durable_core.sync import step as sync_step

__all__ = ["FOLDER", "STEPS", "fastapi_app", "flask_app"]

FOLDER = "BENCH_FOLDER"
STEPS = (0, 1, 3)

_IDS = tuple(f"step-{number}" for number in range(max(STEPS)))

logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # no warning per queued request


def _work(number: int) -> int:
    return number


async def _work_async(number: int) -> int:
    return number


def _store() -> Path:
    return Path(os.environ[FOLDER]) / "ours.db"


def fastapi_app() -> FastAPI:
    """Return the application for uvicorn; ``def`` handlers are below ``/def``."""
    durable = Durable(
        id="bench", endpoint_adapter=durable_starlette.endpoint_adapter, store=_store()
    )
    app = FastAPI(lifespan=durable.lifespan)
    for steps in STEPS:
        app.get(f"/bare/{steps}")(_bare_async(steps))
        app.get(f"/ours/{steps}")(durable.endpoint(_durable_async(steps)))
        app.get(f"/def/bare/{steps}")(_bare(steps))
        app.get(f"/def/ours/{steps}")(durable.endpoint(_durable(steps)))
    return app


def flask_app() -> flask.Flask:
    """Return the application for waitress."""
    durable = Durable(id="bench", endpoint_adapter=durable_flask.endpoint_adapter, store=_store())
    app = flask.Flask("bench")
    durable_flask.install(app, durable)
    for steps in STEPS:
        app.get(f"/bare/{steps}")(_bare(steps))
        app.get(f"/ours/{steps}")(durable.endpoint(_durable(steps)))
    durable.start()
    return app


def _bare_async(steps: int) -> Callable[[], Any]:
    async def handler() -> dict[str, int]:
        return {"sum": sum([await _work_async(number) for number in range(steps)])}

    return _named(handler, f"bare_async_{steps}")


def _durable_async(steps: int) -> Callable[[], Any]:
    async def handler() -> dict[str, int]:
        done = [await step.run(_IDS[number], _work_async, number) for number in range(steps)]
        return {"sum": sum(done)}

    return _named(handler, f"durable_async_{steps}")


def _bare(steps: int) -> Callable[[], Any]:
    def handler() -> dict[str, int]:
        return {"sum": sum([_work(number) for number in range(steps)])}

    return _named(handler, f"bare_{steps}")


def _durable(steps: int) -> Callable[[], Any]:
    def handler() -> dict[str, int]:
        done = [sync_step.run(_IDS[number], _work, number) for number in range(steps)]
        return {"sum": sum(done)}

    return _named(handler, f"durable_{steps}")


def _named(handler: Callable[[], Any], name: str) -> Callable[[], Any]:
    handler.__name__ = handler.__qualname__ = name
    return handler
