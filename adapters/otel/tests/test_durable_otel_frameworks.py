"""Below the spans that the instrumentation packages of frameworks make."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import django
import flask
import pytest
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.trace import SpanKind

import durable_django
import durable_flask
import durable_starlette
from durable_core import Durable, RetryPolicy, step
from durable_core.sync import step as sync_step
from support.harness import until
from support.telemetry import Telemetry, telemetry_of

#: An ``async def`` handler waits for shorter pauses, and is not replayed.
RETRY = RetryPolicy(base="200ms", jitter=0)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with telemetry_of() as made:
        yield made


class Charge:
    """A step's function that fails once, with a span of its own."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._tracer = telemetry.provider.get_tracer("mine")
        self.calls = 0

    def __call__(self) -> str:
        with self._tracer.start_as_current_span("own"):
            self.calls += 1
            if self.calls == 1:
                raise ConnectionError("once")
            return "paid"


def application(telemetry: Telemetry, adapter: Any, folder: Path) -> Any:
    return Durable(
        id="shop",
        endpoint_adapter=adapter,
        store=folder / "db",
        observers=[telemetry.observer],
        retry=RETRY,
    )


def assert_one_tree(telemetry: Telemetry) -> None:
    """The span of the request has both executions below it; each has what the framework does.

    The user's spans are below the attempts, and these are below the executions.
    """
    servers = [span for span in telemetry.spans if span.kind is SpanKind.SERVER]
    assert "order" not in map(telemetry.parent, servers)  # a replay is no request of a client
    first, replay = telemetry.named("order")
    assert [servers[0].context.span_id] * 2 == [
        span.parent.span_id for span in (first, replay) if span.parent is not None
    ]
    attempts = telemetry.named("charge")
    assert [False, True] == [span.status.is_ok or span.status.is_unset for span in attempts]
    assert ["charge", "charge"] == [telemetry.parent(span) for span in telemetry.named("own")]
    spans = {span.context.span_id: span for span in telemetry.spans}
    for execution, attempt in zip((first, replay), attempts, strict=True):
        above = []
        while attempt.parent is not None and attempt.parent.span_id in spans:
            attempt = spans[attempt.parent.span_id]
            above.append(attempt.context.span_id)
        assert execution.context.span_id in above
    assert 1 == len({span.context.trace_id for span in (first, replay, *attempts, servers[0])})


@pytest.mark.parametrize("headers", [{}, {"traceparent": PARENT}], ids=["alone", "in-a-trace"])
def test_fastapi(telemetry: Telemetry, tmp_path: Path, headers: dict[str, str]) -> None:
    """An ``async def`` route, and its replay."""
    durable = application(telemetry, durable_starlette.endpoint_adapter, tmp_path)
    charge = Charge(telemetry)
    app = FastAPI(lifespan=durable.lifespan)

    async def order(item: str) -> str:
        return await step.run("charge", charge)

    app.get("/orders/{item}")(durable.endpoint(function_id="order")(order))

    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=telemetry.provider, exclude_spans=["send", "receive"]
    )
    with TestClient(app) as client:
        assert "paid" == client.get("/orders/7", headers=headers).json()
        until(lambda: len(telemetry.named("order")) == 2)
    assert_one_tree(telemetry)


@pytest.mark.parametrize("headers", [{}, {"traceparent": PARENT}], ids=["alone", "in-a-trace"])
def test_flask(telemetry: Telemetry, tmp_path: Path, headers: dict[str, str]) -> None:
    """A view, and its replay in a thread of the engine."""
    durable = application(telemetry, durable_flask.endpoint_adapter, tmp_path)
    charge = Charge(telemetry)
    app = flask.Flask("shop")
    durable_flask.install(app, durable)

    def order(item: str) -> str:
        return sync_step.run("charge", charge)

    app.get("/orders/<item>")(durable.endpoint(function_id="order")(order))

    instrumentor: Any = FlaskInstrumentor()
    instrumentor.instrument_app(app, tracer_provider=telemetry.provider)
    try:
        client = app.test_client()
        assert "paid" == client.get("/orders/7", headers=headers, follow_redirects=True).text
        until(lambda: len(telemetry.named("order")) == 2)
    finally:
        instrumentor.uninstrument_app(app)
        durable.stop()
    assert_one_tree(telemetry)


@pytest.fixture
def urls() -> Iterator[Any]:
    """A Django that is set up, and the module of its routes, to be filled."""
    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="of the tests")
        django.setup()
    module: Any = ModuleType("urls_of_otel")
    sys.modules[module.__name__] = module
    middleware = ["durable_django.DurableMiddleware"]
    with override_settings(ROOT_URLCONF=module.__name__, MIDDLEWARE=middleware):
        yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize("headers", [{}, {"traceparent": PARENT}], ids=["alone", "in-a-trace"])
def test_django(telemetry: Telemetry, tmp_path: Path, urls: Any, headers: dict[str, str]) -> None:
    """A ``def`` view, and its replay."""
    durable = application(telemetry, durable_django.endpoint_adapter, tmp_path)
    charge = Charge(telemetry)

    def order(request: HttpRequest, item: str) -> HttpResponse:
        return HttpResponse(sync_step.run("charge", charge))

    urls.urlpatterns = [path("orders/<item>", durable.endpoint(function_id="order")(order))]
    durable_django.install(durable)
    instrumentor: Any = DjangoInstrumentor()
    instrumentor.instrument(tracer_provider=telemetry.provider)
    try:
        answer: Any = Client().get("/orders/7", headers=headers, follow=True)
        assert b"paid" == answer.content
        until(lambda: len(telemetry.named("order")) == 2)
    finally:
        instrumentor.uninstrument()
        durable.stop()
    assert_one_tree(telemetry)
