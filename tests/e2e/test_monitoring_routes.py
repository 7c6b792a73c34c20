"""The routes of those who watch a process, by each adapter, as the how-to page mounts them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import django
import flask
import pytest
from django.conf import settings
from django.test import Client, override_settings
from django.urls import path
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

import durable_asgi
import durable_asyncio
import durable_django
import durable_flask
import durable_starlette
import durable_wsgi
from durable_core import Durable
from durable_prometheus import PrometheusObserver
from support.processes import fetch

#: Asks for a path; returns the status and the body.
Ask = Callable[[str], tuple[int, str]]


def made(adapter: Any, folder: Path) -> Any:
    """Return an application with metrics."""
    return Durable(
        id="shop",
        endpoint_adapter=adapter,
        store=folder / "db",
        observers=[PrometheusObserver(CollectorRegistry())],
    )


@contextmanager
def served(package: Any, folder: Path) -> Iterator[Ask]:
    """Serve the routes by the server of an adapter."""
    durable = made(package.endpoint_adapter, folder)
    routes = {
        "GET /health": durable.health_endpoint(),
        "GET,HEAD /ready": durable.readiness_endpoint(),
        "GET /metrics": durable.metrics(),
    }
    with package.create_endpoint_server(package.app(durable, routes)) as server:

        def ask(path: str) -> tuple[int, str]:
            answer = fetch(f"{server.url}{path}")
            return answer.status, answer.body.decode()

        yield ask


@contextmanager
def by_fastapi(folder: Path) -> Iterator[Ask]:
    durable = made(durable_starlette.endpoint_adapter, folder)
    app = FastAPI(lifespan=durable.lifespan)
    app.add_route("/health", durable.health_endpoint())
    app.add_route("/ready", durable.readiness_endpoint())
    app.add_route("/metrics", durable.metrics())
    with TestClient(app) as client:

        def ask(path: str) -> tuple[int, str]:
            answer = client.get(path)
            return answer.status_code, answer.text

        yield ask


@contextmanager
def by_flask(folder: Path) -> Iterator[Ask]:
    durable = made(durable_flask.endpoint_adapter, folder)
    app = flask.Flask("shop")
    durable_flask.install(app, durable)
    health, ready, metrics = (
        durable.health_endpoint(),
        durable.readiness_endpoint(),
        durable.metrics(),
    )
    app.add_url_rule("/health", "health", lambda: health)
    app.add_url_rule("/ready", "ready", lambda: ready)
    app.add_url_rule("/metrics", "metrics", lambda: metrics)

    def ask(path: str) -> tuple[int, str]:
        answer = app.test_client().get(path)
        return answer.status_code, answer.text

    try:
        yield ask
    finally:
        durable.stop()


@contextmanager
def by_django(folder: Path) -> Iterator[Ask]:
    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="of the tests")
        django.setup()
    durable = made(durable_django.endpoint_adapter, folder)
    urls: Any = ModuleType("urls_of_monitoring")
    urls.urlpatterns = [
        path("health", durable.health_endpoint().view),
        path("ready", durable.readiness_endpoint().view),
        path("metrics", durable.metrics().view),
    ]
    sys.modules[urls.__name__] = urls
    durable_django.install(durable)
    middleware = ["durable_django.DurableMiddleware"]
    try:
        with override_settings(ROOT_URLCONF=urls.__name__, MIDDLEWARE=middleware):

            def ask(path: str) -> tuple[int, str]:
                answer: Any = Client().get(path)
                return answer.status_code, answer.content.decode()

            yield ask
    finally:
        del sys.modules[urls.__name__]
        durable.stop()


WAYS: dict[str, Callable[[Path], AbstractContextManager[Ask]]] = {
    "wsgi": lambda folder: served(durable_wsgi, folder),
    "asgi": lambda folder: served(durable_asgi, folder),
    "asyncio": lambda folder: served(durable_asyncio, folder),
    "fastapi": by_fastapi,
    "flask": by_flask,
    "django": by_django,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_routes(way: str, tmp_path: Path) -> None:
    """The process is alive and ready, and shows its metrics, the gauges among them."""
    with WAYS[way](tmp_path) as ask:
        answers = {name: ask(f"/{name}") for name in ("ready", "health", "metrics")}

    assert (200, '{"ready":true,"app":"shop"}') == answers["ready"]
    assert (200, True) == (answers["health"][0], '"alive":true' in answers["health"][1])
    assert (200, True) == (
        answers["metrics"][0],
        '\ndurable_runs_live{app="shop"} 0.0\n' in answers["metrics"][1],
    )
