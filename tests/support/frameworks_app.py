"""Django and Flask with durable endpoints beside their own routes, for servers in processes.

The store and the database lie in the folder of the store that the environment names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from durable_core import Durable, Request, Response
from durable_core.sync import step
from durable_wsgi import app, endpoint_adapter
from support.stopping_app import STORE

__all__ = ["django_application", "flask_application"]

Application = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]


def _health(durable: Durable[Any]) -> Callable[[Request], object]:
    return lambda request: durable.health()


def django_application(*, closes: bool = True) -> Application:
    """Return Django with an endpoint that uses its database.

    Args:
        closes: close the connections after each execution, as the documentation has it.
    """
    folder = Path(os.environ[STORE]).parent
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": folder / "django.sqlite3"}
    import_module("django.conf").settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": {**sqlite, "CONN_MAX_AGE": 0}},
        ROOT_URLCONF=(),
        SECRET_KEY="for tests",
    )
    import_module("django").setup()
    database = import_module("django.db")
    close_old_connections, connection = database.close_old_connections, database.connection

    @contextmanager
    def database_connections(request: Request) -> Iterator[None]:
        close_old_connections()
        try:
            yield
        finally:
            close_old_connections()

    def count() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return int(cursor.fetchone()[0])

    durable: Durable[Any] = Durable(
        id="django",
        endpoint_adapter=endpoint_adapter,
        store=os.environ[STORE],
        around=database_connections if closes else None,
    )

    @durable.endpoint
    def order(request: Request) -> Response:
        before = step.run("before", count)
        step.sleep("nap", 0.2)
        return Response.json([before, step.run("after", count)])

    shop = app(durable, {"GET /shop/order": order, "GET /health": _health(durable)})
    site = import_module("django.core.wsgi").get_wsgi_application()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        ours = environ["PATH_INFO"].startswith(("/shop/", "/health"))
        chosen: Application = shop if ours else site
        return chosen(environ, start_response)

    application.durables = [durable]  # type: ignore[attr-defined]
    return application


def flask_application() -> Any:
    """Return Flask with an endpoint that uses its application context."""
    from flask import Flask, current_app
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    site = Flask("site")
    site.config["CURRENCY"] = "EUR"
    durable: Durable[Any] = Durable(
        id="flask",
        endpoint_adapter=endpoint_adapter,
        store=os.environ[STORE],
        around=lambda request: site.app_context(),
    )

    @durable.endpoint
    def order(request: Request) -> Response:
        before = step.run("before", lambda: current_app.config["CURRENCY"])
        step.sleep("nap", 0.2)
        return Response.json([before, step.run("after", lambda: current_app.config["CURRENCY"])])

    @site.get("/hello")
    def hello() -> str:
        return "hello"

    shop = app(durable, {"GET /order": order})
    health = app(durable, {"GET /": _health(durable)})
    site.wsgi_app = DispatcherMiddleware(  # type: ignore[method-assign]
        site.wsgi_app, {"/shop": shop, "/health": health}
    )
    site.durables = [durable]  # type: ignore[attr-defined]
    return site
