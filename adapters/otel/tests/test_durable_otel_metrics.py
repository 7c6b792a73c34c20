"""Metrics of runs, by the real SDK and its reader in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeterProvider

from durable_core import Durable, NonRetriableError, Request, sync
from durable_core import endpoint_adapter as core_adapter
from durable_core.testing import harness
from durable_otel import OpenTelemetryObserver
from support.telemetry import Telemetry, telemetry_of


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with telemetry_of() as made:
        yield made


def test_metrics(telemetry: Telemetry) -> None:
    """Runs by status, attempts, handoffs by reason, events, and what the process does now."""
    durable: Any = Durable(id="shop", endpoint_adapter=core_adapter, observers=[telemetry.observer])
    attempts = []

    def charge() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError("once")

    def order(request: Request) -> str:
        sync.step.run("charge", charge)
        sync.step.wait_for_event("packed", event="packed", timeout="1h")
        return "done"

    def broken(request: Request) -> str:
        raise NonRetriableError("no")

    telemetry.observer.watch(durable)
    telemetry.observer.watch(durable)  # changes nothing
    with harness(durable) as t:
        reply = t.client(durable.endpoint(function_id="order")(order)).get("/orders/7")
        t.advance("10s")
        t.send("packed")
        assert 200 == reply.result().status
        t.client(durable.endpoint(function_id="broken", retries=0)(broken)).get("/")
        found = telemetry.metrics()

    def of(name: str) -> list[tuple[str, ...]]:
        """Return the values of the attributes beside the application, and the number, as texts."""
        points = [
            (*(each for key, each in known.items() if key != "durable.app"), f"{value:g}")
            for known, value in found[f"durable.{name}"]
        ]
        return sorted(points)

    assert [("broken", "1"), ("order", "1")] == of("runs.started")
    assert [("broken", "failed", "1"), ("order", "completed", "1")] == of("runs.ended")
    assert of("runs.ended") == of("run.duration")
    assert [("order", "step-retry", "1")] == of("runs.handed_off")
    assert [("order", "2")] == of("runs.resumed") == of("runs.suspended")
    assert [("order", "charge", "2")] == of("attempts.started")
    assert [
        ("broken", "", "NonRetriableError", "1"),
        ("order", "charge", "ConnectionError", "1"),
    ] == of("attempts.failed")
    assert [("order", "charge", "run", "ok", "1"), ("order", "packed", "wait", "ok", "1")] == of(
        "step.duration"
    )
    assert [("1",)] == of("events.sent")
    assert [("order", "packed", "1")] == of("events.matched")
    assert float(of("store.commit.duration")[0][0]) >= 4
    gauges = ("runs.live", "clients.waiting", "streams.open", "runs.oldest_due.age")
    assert [[("0",)]] * 4 == [of(name) for name in gauges]
    assert {"shop"} == {known["durable.app"] for points in found.values() for known, _ in points}


def test_an_application_that_does_not_work_has_no_gauges(telemetry: Telemetry) -> None:
    """Nothing is opened when they are collected; a stopped one has none either."""
    durable = Durable(id="shop", endpoint_adapter=core_adapter, observers=[telemetry.observer])
    telemetry.observer.watch(durable)
    assert {} == telemetry.metrics()
    with harness(durable):
        assert "durable.runs.live" in telemetry.metrics()
    assert "durable.runs.live" not in telemetry.metrics()


def test_spans_without_metrics() -> None:
    """A meter provider that does nothing leaves the spans."""
    with telemetry_of() as telemetry:
        observer = OpenTelemetryObserver(
            tracer_provider=telemetry.provider, meter_provider=NoOpMeterProvider()
        )
        durable = Durable(id="shop", endpoint_adapter=core_adapter, observers=[observer])
        observer.watch(durable)
        with harness(durable) as t:
            t.client(durable.endpoint(function_id="it")(lambda request: "ok")).get("/")
        assert {} == telemetry.metrics()
        assert 1 == len(telemetry.named("it"))
