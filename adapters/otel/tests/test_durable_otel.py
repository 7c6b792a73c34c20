"""Spans and metrics, by the real SDK and its exporters in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flask
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import durable_flask
import durable_starlette
from durable_core import Durable, NonRetriableError, Request, step, sync
from durable_core import endpoint_adapter as core_adapter
from durable_core.testing import harness
from durable_otel import OpenTelemetryObserver

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Telemetry:
    """What was exported."""

    exporter: InMemorySpanExporter
    provider: TracerProvider
    reader: InMemoryMetricReader
    observer: OpenTelemetryObserver

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def span(self, name: str) -> ReadableSpan:
        """Return the one span of that name."""
        [found] = [span for span in self.spans if span.name == name]
        return found

    def metrics(self) -> dict[str, list[tuple[dict[str, Any], float]]]:
        """Return the points of each metric: its attributes, and its value or count."""
        data: Any = self.reader.get_metrics_data()
        return {
            metric.name: [
                (dict(point.attributes), point.value if hasattr(point, "value") else point.count)
                for point in metric.data.data_points
            ]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader])
    observer = OpenTelemetryObserver(tracer_provider=provider, meter_provider=meters)
    yield Telemetry(exporter, provider, reader, observer)
    provider.shutdown()
    meters.shutdown()


Handler = Callable[[Request], Any]


def handler_of(kind: str, tracer: trace.Tracer) -> Handler:
    """Return a handler of a step that fails once and has a span of its own, and of a sleep."""
    attempts = []

    def work() -> str:
        with tracer.start_as_current_span("own"):
            attempts.append(1)
            if len(attempts) == 1:
                raise ConnectionError("once")
            return "done"

    def of_threads(request: Request) -> str:
        result = sync.step.run("work", work)
        sync.step.sleep("nap", "1 day")
        return result

    async def of_tasks(request: Request) -> str:
        result = await step.run("work", work)
        await step.sleep("nap", "1 day")
        return result

    return of_threads if kind == "def" else of_tasks


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("headers", [{}, {"traceparent": PARENT}], ids=["alone", "in-a-trace"])
def test_spans(telemetry: Telemetry, kind: str, headers: dict[str, str]) -> None:
    """One for each execution and for each attempt, none for the sleep and for what is replayed."""
    durable: Any = Durable(id="shop", endpoint_adapter=core_adapter, observers=[telemetry.observer])
    endpoint = durable.endpoint(name="order")(
        handler_of(kind, telemetry.provider.get_tracer("mine"))
    )
    with harness(durable) as t:
        reply = t.client(endpoint).get("/", headers=headers)
        t.advance("2 days")
        assert 200 == reply.result().status
        run_id = t.runs()[0].id

    names = [span.name for span in telemetry.spans]
    assert {"order": 3, "work": 2, "own": 2} == {name: names.count(name) for name in set(names)}
    executions = [span for span in telemetry.spans if span.name == "order"]
    assert [run_id] * 3 == [(span.attributes or {})["durable.run.id"] for span in executions]
    first, *replays = executions
    traces = {span.context.trace_id for span in replays}
    origin = int(PARENT.split("-")[1], 16) if headers else first.links[0].context.trace_id
    assert {origin} == traces
    assert [origin] * 3 == [span.links[0].context.trace_id for span in executions]


def test_what_a_span_says(telemetry: Telemetry) -> None:
    """The error of an attempt is on its span, and a user's span is within it, in threads, too."""
    durable = Durable(
        id="shop", endpoint_adapter=core_adapter, observers=[telemetry.observer], version="v1"
    )
    endpoint = durable.endpoint(name="order", labels={"tier": "gold"})(
        handler_of("async def", telemetry.provider.get_tracer("mine"))
    )
    with harness(durable) as t:
        t.client(endpoint).get("/")
        t.advance("2 days")

    failed, succeeded = [span for span in telemetry.spans if span.name == "work"]
    assert (1, 2) == tuple(
        (each.attributes or {})["durable.attempt"] for each in (failed, succeeded)
    )
    assert (False, True) == (failed.status.is_ok, succeeded.status.is_ok)
    assert "once" == (failed.events[0].attributes or {})["exception.message"]
    own = [span for span in telemetry.spans if span.name == "own"]
    assert [failed.context.span_id, succeeded.context.span_id] == [
        span.parent.span_id for span in own if span.parent is not None
    ]
    first = next(span for span in telemetry.spans if span.name == "order")
    attributes = first.attributes or {}
    assert ("shop", "v1", "gold") == (
        attributes["durable.app"],
        attributes["durable.version"],
        attributes["durable.label.tier"],
    )
    assert ["durable.handed_off"] == [event.name for event in first.events]
    assert first.status.is_ok or first.status.is_unset  # it was handed off, which is no error


def test_metrics(telemetry: Telemetry) -> None:
    """Runs by status, attempts, handoffs by reason, events, and what the process does now."""
    durable = Durable(id="shop", endpoint_adapter=core_adapter, observers=[telemetry.observer])

    @durable.endpoint(name="order")
    def order(request: Request) -> str:
        sync.step.run("charge", str.upper, "x")
        sync.step.wait_for_event("packed", event="packed", timeout="1h")
        return "done"

    @durable.endpoint(name="broken", retries=0)
    def broken(request: Request) -> str:
        raise NonRetriableError("no")

    telemetry.observer.watch(durable)
    with harness(durable) as t:
        t.client(order).get("/")
        t.send("packed")
        t.client(broken).get("/")
        found = telemetry.metrics()

    def of(name: str, **attributes: str) -> list[float]:
        wanted = {f"durable.{key}": value for key, value in attributes.items()}
        return [value for known, value in found[name] if wanted.items() <= known.items()]

    assert [1] == of("durable.runs.started", endpoint="order")
    assert [1] == of("durable.runs.ended", endpoint="order", status="completed")
    assert [1] == of("durable.runs.ended", endpoint="broken", status="failed")
    assert [1] == of("durable.runs.handed_off", endpoint="order", reason="wait")
    assert [1] == [value for _, value in found["durable.events.matched"]]
    assert [1] == [value for known, value in found["durable.attempts.failed"]]
    names = {known["durable.step.name"] for known, _ in found["durable.step.duration"]}
    assert {"charge", "packed"} == names
    gauges = ("durable.runs.live", "durable.clients.waiting", "durable.runs.lateness")
    assert [[0], [0], [0]] == [[value for _, value in found[name]] for name in gauges]


def test_below_fastapi(telemetry: Telemetry, tmp_path: Path) -> None:
    """The execution is within the span of the request that FastAPI's instrumentation makes."""
    durable = Durable(
        id="shop",
        endpoint_adapter=durable_starlette.endpoint_adapter,
        store=tmp_path / "db",
        observers=[telemetry.observer],
    )
    app = FastAPI(lifespan=durable.lifespan)

    @app.get("/orders")
    @durable.endpoint
    async def order() -> str:
        return await step.run("charge", str.upper, "x")

    FastAPIInstrumentor.instrument_app(app, tracer_provider=telemetry.provider)
    with TestClient(app) as client:
        assert "X" == client.get("/orders").json()
    assert_nested(telemetry)


def test_below_flask(telemetry: Telemetry, tmp_path: Path) -> None:
    """The same for Flask's."""
    durable = Durable(
        id="shop",
        endpoint_adapter=durable_flask.endpoint_adapter,
        store=tmp_path / "db",
        observers=[telemetry.observer],
    )
    app = flask.Flask("shop")
    durable_flask.install(app, durable)

    @app.get("/orders")
    @durable.endpoint
    def order() -> str:
        return sync.step.run("charge", str.upper, "x")

    instrumentor: Any = FlaskInstrumentor()
    instrumentor.instrument_app(app, tracer_provider=telemetry.provider)
    try:
        assert "X" == app.test_client().get("/orders").text
    finally:
        instrumentor.uninstrument_app(app)
        durable.stop()
    assert_nested(telemetry)


def assert_nested(telemetry: Telemetry) -> None:
    """The step is within the execution, and that is within the request of the server."""
    by_id = {span.context.span_id: span for span in telemetry.spans}
    charge = telemetry.span("charge")
    assert charge.parent is not None
    execution = by_id[charge.parent.span_id]
    assert "durable.run.id" in (execution.attributes or {})
    assert execution.parent is not None
    assert trace.SpanKind.SERVER == by_id[execution.parent.span_id].kind
