"""The observer that ``Durable(observers=[...])`` takes, and its instruments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from durable_core import Durable, HTTPError
from durable_core.observers import (
    GAUGES,
    METRICS,
    Fact,
    Measures,
    Metric,
    ObservedRun,
    Observer,
    RunHandedOff,
    RunResumed,
    RunStarted,
    StepStarted,
    read_gauge,
)

__all__ = ["OpenTelemetryObserver"]

_SCOPE = "durable_otel"
_propagator = TraceContextTextMapPropagator()


class OpenTelemetryObserver(Observer):
    """Makes spans and metrics of what happens to runs.

    A span for each execution of a handler, and within it one for each attempt of a step; none for
    the time in which a run sleeps or waits, and none for steps that are replayed. The spans of a
    run are in the trace of its request, also when another process goes on with it days later.

    Args:
        tracer_provider: makes the tracer; the global one by default.
        meter_provider: makes the meter; the global one by default.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        self._metrics = _Metrics(metrics.get_meter(_SCOPE, meter_provider=meter_provider))

    def watch(self, durable: Durable[Any]) -> None:
        """Measure what an application does in this process, too: runs, clients, lateness.

        The lateness is asked from the store whenever metrics are collected.
        """
        self._metrics.watch(durable)

    def notify(self, fact: Fact, /) -> None:
        """Count what happens; note on the current span that a client was handed off."""
        self._metrics.count(fact)
        if isinstance(fact, RunHandedOff):
            trace.get_current_span().add_event(
                "durable.handed_off", {"durable.reason": fact.reason, "durable.run.id": fact.run.id}
            )

    def trace_context(self, run: ObservedRun, /) -> str | None:
        """Return the current span, which the run then belongs to.

        That is the span that instrumentation has made for the request, or that of the run which
        invokes this one. Without one it is the span that the client has sent. Without that, too, a
        span is made that says when the run began; it ends at once.
        """
        if trace.get_current_span().get_span_context().is_valid:
            return _traceparent()
        if run.traceparent is not None:
            return None
        name = f"start {run.function_id}"
        with self._tracer.start_as_current_span(name, attributes=_attributes_of(run)):
            return _traceparent()

    def trace_headers(self) -> Mapping[str, str]:
        """Return the fields of the global propagators, and ``traceparent`` in any case."""
        headers: dict[str, str] = {}
        propagate.inject(headers)
        _propagator.inject(headers)
        return headers

    def execution(self, fact: RunStarted | RunResumed, /) -> AbstractContextManager[Span]:
        """Return the span of an execution of a handler.

        The first one is below the current span, if there is one. Else it is below the span that the
        run belongs to, as each replay is. All are linked to that span.
        """
        run = fact.run
        origin = _origin_of(run)
        linked = trace.get_current_span(origin).get_span_context()
        is_first = isinstance(fact, RunStarted)
        is_nested = is_first and trace.get_current_span().get_span_context().is_valid
        return self._span(
            run.function_id,
            context=None if is_nested else origin,
            kind=SpanKind.SERVER if is_first and not is_nested else SpanKind.INTERNAL,
            links=[Link(linked)] if linked.is_valid else [],
            attributes={
                **_attributes_of(run),
                "durable.execution": run.execution,
                **({} if run.key is None else {"durable.run.key": run.key}),
                **({} if run.version is None else {"durable.version": run.version}),
                **({} if run.method is None else {"http.request.method": run.method}),
                **({} if run.path is None else {"url.path": run.path}),
                **{f"durable.label.{name}": value for name, value in run.labels.items()},
            },
        )

    def attempt(self, fact: StepStarted, /) -> AbstractContextManager[Span]:
        """Return the span of an attempt of a step's function; it ends with the error, if any."""
        return self._span(
            fact.step.name,
            attributes={
                "durable.app": fact.run.app,
                "durable.endpoint": fact.run.function_id,
                "durable.run.id": fact.run.id,
                "durable.step.id": fact.step.id,
                "durable.step.kind": fact.step.kind,
                "durable.attempt": fact.attempt,
            },
        )

    @contextmanager
    def _span(self, name: str, **options: Any) -> Iterator[Span]:
        """Make a span the current one. It ends with what is raised."""
        started = self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False, **options
        )
        with started as span:
            try:
                yield span
            except BaseException as error:
                _record(span, error)
                raise


def _record(span: Span, error: BaseException) -> None:
    """Note an error on a span; a refused client (a status below 500) is no error of the server."""
    if isinstance(error, HTTPError):
        span.set_attribute("http.response.status_code", error.status)
        if error.status < 500:
            return
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else _full_name(kind)
    span.set_attribute("error.type", name)
    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, f"{kind.__name__}: {error}"))


def _full_name(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _attributes_of(run: ObservedRun) -> dict[str, str]:
    return {
        "durable.app": run.app,
        "durable.run.id": run.id,
        "durable.run.name": run.name,
        "durable.endpoint": run.function_id,
    }


def _traceparent() -> str | None:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


def _origin_of(run: ObservedRun) -> context.Context:
    """Return a context whose span is the one that the run belongs to."""
    carrier = {} if run.traceparent is None else {"traceparent": run.traceparent}
    return _propagator.extract(carrier, context.Context())


# --- metrics --------------------------------------------------------------------------------------

#: Seconds. A step takes a millisecond, and a run may take days.
_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0, 3600.0, 86_400.0)


class _Metrics:
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
