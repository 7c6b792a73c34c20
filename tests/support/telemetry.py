"""OpenTelemetry's SDK, which exports to memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from durable_otel import OpenTelemetryObserver

__all__ = ["Telemetry", "attributes_of", "telemetry_of"]


class Telemetry:
    """What was exported.

    Args:
        sampler: which traces are; all by default.
    """

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader])
        self.observer = OpenTelemetryObserver(
            tracer_provider=self.provider, meter_provider=self.meters
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in the order in which they began."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the spans of that name."""
        return [span for span in self.spans if span.name == name]

    def span(self, name: str) -> ReadableSpan:
        """Return the one span of that name."""
        [found] = self.named(name)
        return found

    def parent(self, span: ReadableSpan) -> str | None:
        """Return the name of a span's parent; None if it has none, or one from outside."""
        names = {each.context.span_id: each.name for each in self.spans}
        return None if span.parent is None else names.get(span.parent.span_id)

    def metrics(self) -> dict[str, list[tuple[dict[str, Any], float]]]:
        """Return the points of each metric: its attributes, and its value or count."""
        data: Any = self._reader.get_metrics_data()
        return {
            metric.name: [
                (dict(point.attributes), point.value if hasattr(point, "value") else point.count)
                for point in metric.data.data_points
            ]
            for resource in (() if data is None else data.resource_metrics)
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    """Return the attributes of a span."""
    return dict(span.attributes or {})


@contextmanager
def telemetry_of(sampler: Sampler | None = None) -> Iterator[Telemetry]:
    """Give a telemetry, and shut it down afterwards."""
    made = Telemetry(sampler)
    try:
        yield made
    finally:
        made.provider.shutdown()
        made.meters.shutdown()
