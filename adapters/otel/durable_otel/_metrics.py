"""Instruments for the metrics of the library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation

from durable_core import Durable
from durable_core.observers import GAUGES, METRICS, Fact, Measures, Metric, read_gauge

__all__ = ["Metrics"]

#: Seconds. A step takes a millisecond, and a run may take days.
_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0, 3600.0, 86_400.0)


class Metrics:
    """The instruments of a meter."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._measures = Measures()
        self._watched: list[Durable[Any]] = []
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in METRICS:
            self._create(metric)

    def _create(self, metric: Metric) -> None:
        name, unit, text = f"durable.{metric.name}", metric.unit, metric.description
        if metric.kind == "counter":
            self._counters[metric.name] = self._meter.create_counter(name, unit, text)
        else:
            self._histograms[metric.name] = self._meter.create_histogram(
                name, unit, text, explicit_bucket_boundaries_advisory=_BUCKETS
            )

    def count(self, fact: Fact) -> None:
        """Record what a fact changes."""
        for measured in self._measures.of(fact):
            metric = measured.metric
            attributes = {_ATTRIBUTES[name]: value for name, value in measured.labels.items()}
            if metric.kind == "counter":
                self._counters[metric.name].add(int(measured.value), attributes)
            else:
                self._histograms[metric.name].record(measured.value, attributes)

    def watch(self, durable: Durable[Any]) -> None:
        """Read the gauges of an application, too, whenever metrics are collected."""
        if any(each is durable for each in self._watched):
            return
        self._watched.append(durable)
        if len(self._watched) == 1:
            for metric in GAUGES:
                self._meter.create_observable_gauge(
                    f"durable.{metric.name}",
                    [self._callback(metric)],
                    unit=metric.unit,
                    description=metric.description,
                )

    def _callback(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            for durable in self._watched:
                value = read_gauge(metric, durable)
                if value is not None:
                    yield Observation(value, {_ATTRIBUTES["app"]: durable.id})

        return observe


#: The attribute for each label.
_ATTRIBUTES = {
    "app": "durable.app",
    "endpoint": "durable.endpoint",
    "error": "error.type",
    "event": "durable.event.name",
    "kind": "durable.step.kind",
    "outcome": "durable.outcome",
    "reason": "durable.reason",
    "status": "durable.status",
    "step": "durable.step.name",
}
