"""The observer that ``Durable(observers=[...])`` takes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from opentelemetry import context, metrics, trace
from opentelemetry.trace import Link, Span, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from durable_core import Durable
from durable_core.observers import (
    Fact,
    ObservedRun,
    Observer,
    RunHandedOff,
    RunResumed,
    RunStarted,
    StepStarted,
)
from durable_otel._metrics import Metrics

__all__ = ["OpenTelemetryObserver"]

_SCOPE = "durable_otel"
#: The digits of a run's id, a ULID.
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
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
        self._metrics = Metrics(metrics.get_meter(_SCOPE, meter_provider=meter_provider))

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

    def execution(self, fact: RunStarted | RunResumed, /) -> AbstractContextManager[Span]:
        """Return the span of an execution of a handler.

        The first one is below the span of the request, if there is one. A replay has no request: it
        is below the span that the client has sent with the request (``traceparent``), or in a trace
        that all replays of the run have in common. Both kinds are linked to that span.
        """
        run = fact.run
        origin = _origin_of(run)
        parent = None  # the current span
        if isinstance(fact, RunResumed):
            parent = trace.set_span_in_context(trace.NonRecordingSpan(origin), context.Context())
        return self._tracer.start_as_current_span(
            run.name,
            context=parent,
            links=[Link(origin)],
            attributes={
                "durable.app": run.app,
                "durable.run.id": run.id,
                "durable.endpoint": run.function_id,
                "durable.execution": run.execution,
                **({} if run.key is None else {"durable.run.key": run.key}),
                **({} if run.version is None else {"durable.version": run.version}),
                **{f"durable.label.{name}": value for name, value in run.labels.items()},
            },
        )

    def attempt(self, fact: StepStarted, /) -> AbstractContextManager[Span]:
        """Return the span of an attempt of a step's function; it ends with the error, if any."""
        return self._tracer.start_as_current_span(
            fact.step.name,
            attributes={
                "durable.run.id": fact.run.id,
                "durable.step.id": fact.step.id,
                "durable.step.kind": fact.step.kind,
                "durable.attempt": fact.attempt,
            },
        )


def _origin_of(run: ObservedRun) -> SpanContext:
    """Return the span that a run's request was sent in, or one that stands for the run.

    The id of a run and that of a trace have 128 bits each: without a request's span, the trace of
    the replays has the run's own id.
    """
    if run.traceparent is not None:
        carrier = {"traceparent": run.traceparent}
        span = trace.get_current_span(_propagator.extract(carrier, context.Context()))
        if span.get_span_context().is_valid:
            return span.get_span_context()
    trace_id = 0
    for digit in run.id:
        trace_id = trace_id * 32 + _CROCKFORD.index(digit)
    return SpanContext(
        trace_id=trace_id,
        span_id=trace_id % 2**64 or 1,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
