"""The applications of ``native.py``: as they are, written by hand, and with durable handlers.

``/N`` has N steps; those of a bare handler are plain calls, and those of the floor are stored by
hand. These two forms know nothing of Durable: our layer, our middleware and our look at the tasks
of the event loop would cost their handlers something, too. Those below ``/bare`` do pay for that:
they are bare handlers of an application that has durable ones.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import django
import flask
from _floor import Floor
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from fastapi import FastAPI
from fastapi import Request as FastAPIRequest
from starlette.routing import BaseRoute, Route

import durable_asgi
import durable_django
import durable_flask
import durable_starlette
from durable_core import Durable, Request, Response, step
from durable_core.sync import step as sync_step

__all__ = [
    "FOLDER",
    "FORM",
    "FREEZE",
    "STEPS",
    "django_asgi",
    "django_wsgi",
    "fastapi_app",
    "fastapi_route_app",
    "flask_app",
]

FOLDER = "BENCH_FOLDER"
#: ``bare``, ``floor`` (FastAPI's ``async def`` handlers alone) or ``ours``.
FORM = "BENCH_FORM"
#: There if the collector of cycles is not to look again at what an application has loaded.
FREEZE = "BENCH_FREEZE"
STEPS = (0, 1, 3, 10)

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

_IDS = tuple(f"step-{number}" for number in range(max(STEPS)))

logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # no warning per queued request


def _work(number: int) -> int:
    return number


async def _work_async(number: int) -> int:
    return number


def _durable(adapter: Any) -> Durable[Any] | None:
    """Return what makes handlers durable; None if they are not to be."""
    if os.environ[FORM] != "ours":
        return None
    store = Path(os.environ[FOLDER]) / "ours.db"
    return Durable(id="bench", endpoint_adapter=adapter, store=store)


def fastapi_app() -> FastAPI:
    """Return the application for uvicorn; ``def`` handlers are below ``/def``."""
    return _loaded(_fastapi_floor() if os.environ[FORM] == "floor" else _fastapi_app())


def fastapi_route_app() -> FastAPI:
    """Return the application in which ours are handlers of the core, on routes of FastAPI."""
    return _loaded(_fastapi_routes()) if os.environ[FORM] == "ours" else fastapi_app()


def _loaded(app: FastAPI) -> FastAPI:
    if FREEZE in os.environ:
        gc.collect()
        gc.freeze()
    return app


def _fastapi_app() -> FastAPI:
    durable = _durable(durable_starlette.endpoint_adapter)
    app = FastAPI() if durable is None else FastAPI(lifespan=durable.lifespan)
    for steps in STEPS:
        if durable is None:
            app.get(f"/{steps}")(_bare_async(steps))
            app.get(f"/def/{steps}")(_bare(steps))
        else:
            app.get(f"/{steps}")(durable.endpoint(_with_steps_async(steps)))
            app.get(f"/def/{steps}")(durable.endpoint(_with_steps(steps)))
            app.get(f"/bare/{steps}")(_bare_async(steps))
            app.get(f"/bare/def/{steps}")(_bare(steps))
    return app


def _fastapi_routes() -> FastAPI:
    durable = _durable(durable_asgi.endpoint_adapter)
    assert durable is not None
    routes: list[BaseRoute] = [
        Route(f"/{steps}", durable.endpoint(_of_the_core(_with_steps_async(steps))))
        for steps in STEPS
    ]
    return FastAPI(lifespan=durable.lifespan, routes=routes)


def _of_the_core(handler: Callable[[], Any]) -> Callable[[Request], Any]:
    async def of_the_core(request: Request) -> Response:
        return Response.json(await handler())

    return _named(of_the_core, handler.__name__)


def _fastapi_floor() -> FastAPI:
    floor = Floor(Path(os.environ[FOLDER]) / "floor.db")
    app = FastAPI()
    for steps in STEPS:
        app.get(f"/{steps}")(_floor_async(floor, steps))
    return app


def flask_app() -> flask.Flask:
    """Return the application for waitress."""
    durable = _durable(durable_flask.endpoint_adapter)
    app = flask.Flask("bench")
    if durable is not None:
        durable_flask.install(app, durable)
        durable.start()
    for steps in STEPS:
        handler = _bare(steps) if durable is None else durable.endpoint(_with_steps(steps))
        app.get(f"/{steps}")(handler)
        if durable is not None:
            app.get(f"/bare/{steps}")(_bare(steps))
    return app


def django_wsgi() -> Any:
    """Return the application for waitress, with ``def`` views."""
    durable = _set_up_django()
    for steps in STEPS:
        view = _view(_bare(steps) if durable is None else _with_steps(steps))
        urlpatterns.append(path(f"{steps}", view if durable is None else durable.endpoint(view)))
    return get_wsgi_application()


def django_asgi() -> Any:
    """Return the application for uvicorn, with ``async def`` views."""
    durable = _set_up_django()
    for steps in STEPS:
        view = _view_async(_bare_async(steps) if durable is None else _with_steps_async(steps))
        urlpatterns.append(path(f"{steps}", view if durable is None else durable.endpoint(view)))
    return get_asgi_application()


#: Of Django.
urlpatterns: list[Any] = []


def _set_up_django() -> Durable[Any] | None:
    durable = _durable(durable_django.endpoint_adapter)
    ours = [] if durable is None else ["durable_django.DurableMiddleware"]
    settings.configure(
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=[*ours, "django.middleware.common.CommonMiddleware"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="of the benchmark",
    )
    django.setup()
    if durable is not None:
        durable_django.install(durable)
        durable.start()
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


def _floor_async(floor: Floor, steps: int) -> Callable[[FastAPIRequest], Any]:
    async def handler(request: FastAPIRequest) -> dict[str, int]:
        headers = [(name.decode(), value.decode()) for name, value in request.headers.raw]
        asked = Request(method=request.method, url=str(request.url), headers=headers)
        run_id, done = floor.start("floor"), []
        for number in range(steps):
            done.append(await _work_async(number))
            is_last = number == steps - 1
            await floor.step_async(
                run_id,
                number,
                done[-1],
                request=None if number else asked,
                response=Response.json({"sum": sum(done)}) if is_last else None,
            )
        return {"sum": sum(done)}

    return _named(handler, f"floor_async_{steps}")


def _with_steps_async(steps: int) -> Callable[[], Any]:
    async def handler() -> dict[str, int]:
        done = [await step.run(_IDS[number], _work_async, number) for number in range(steps)]
        return {"sum": sum(done)}

    return _named(handler, f"durable_async_{steps}")


def _bare(steps: int) -> Callable[[], Any]:
    def handler() -> dict[str, int]:
        return {"sum": sum([_work(number) for number in range(steps)])}

    return _named(handler, f"bare_{steps}")


def _with_steps(steps: int) -> Callable[[], Any]:
    def handler() -> dict[str, int]:
        done = [sync_step.run(_IDS[number], _work, number) for number in range(steps)]
        return {"sum": sum(done)}

    return _named(handler, f"durable_{steps}")


def _named(handler: HandlerT, name: str) -> HandlerT:
    handler.__name__ = handler.__qualname__ = name
    return handler
