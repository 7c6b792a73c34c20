"""The applications of ``native.py``: each handler once as it is, and once durable.

``/bare/N`` and ``/ours/N`` have N steps; those of a bare handler are plain calls.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import django
import flask
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from fastapi import FastAPI

import durable_django
import durable_flask
import durable_starlette
from durable_core import Durable, step
from durable_core.sync import step as sync_step

__all__ = ["FOLDER", "STEPS", "django_asgi", "django_wsgi", "fastapi_app", "flask_app"]

FOLDER = "BENCH_FOLDER"
STEPS = (0, 1, 3)

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

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


def django_wsgi() -> Any:
    """Return the application for waitress, with ``def`` views."""
    durable = _set_up_django()
    for steps in STEPS:
        urlpatterns.append(path(f"bare/{steps}", _view(_bare(steps))))
        urlpatterns.append(path(f"ours/{steps}", durable.endpoint(_view(_durable(steps)))))
    durable.start()
    return get_wsgi_application()


def django_asgi() -> Any:
    """Return the application for uvicorn, with ``async def`` views."""
    durable = _set_up_django()
    for steps in STEPS:
        urlpatterns.append(path(f"bare/{steps}", _view_async(_bare_async(steps))))
        ours = durable.endpoint(_view_async(_durable_async(steps)))
        urlpatterns.append(path(f"ours/{steps}", ours))
    durable.start()
    return get_asgi_application()


#: Of Django.
urlpatterns: list[Any] = []


def _set_up_django() -> Durable[Any]:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=[
            "durable_django.DurableMiddleware",
            "django.middleware.common.CommonMiddleware",
        ],
        ROOT_URLCONF=__name__,
        SECRET_KEY="of the benchmark",
    )
    django.setup()
    durable = Durable(id="bench", endpoint_adapter=durable_django.endpoint_adapter, store=_store())
    durable_django.install(durable)
    return durable


def _view(handler: Callable[[], Any]) -> Callable[[HttpRequest], JsonResponse]:
    def view(request: HttpRequest) -> JsonResponse:
        return JsonResponse(handler())

    return _named(view, handler.__name__)


def _view_async(handler: Callable[[], Any]) -> Callable[[HttpRequest], Any]:
    async def view(request: HttpRequest) -> JsonResponse:
        return JsonResponse(await handler())

    return _named(view, handler.__name__)


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


def _named(handler: HandlerT, name: str) -> HandlerT:
    handler.__name__ = handler.__qualname__ = name
    return handler
