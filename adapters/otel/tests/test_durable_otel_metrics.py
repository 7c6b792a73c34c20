"""Metrics of runs, by the real SDK and its reader in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from durable_core import Durable, NonRetriableError, Request, sync
from durable_core import endpoint_adapter as core_adapter
from durable_core.testing import harness
from support.telemetry import Telemetry, telemetry_of


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with telemetry_of() as made:
        yield made


def test_metrics(telemetry: Telemetry) -> None:
    """Runs by status, attempts, handoffs by reason, events, and what the process does now."""
    durable = Durable(id="shop", endpoint_adapter=core_adapter, observers=[telemetry.observer])

    @durable.endpoint(function_id="order")
    def order(request: Request) -> str:
        sync.step.run("charge", str.upper, "x")
        sync.step.wait_for_event("packed", event="packed", timeout="1h")
        return "done"

    @durable.endpoint(function_id="broken", retries=0)
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
