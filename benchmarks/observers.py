"""How much processor time observers take: none, one that does nothing, OpenTelemetry, Prometheus.

Endpoints of three steps are called directly, by 16 threads (``def``) or tasks (``async def``), in
turns. As in ``cpu`` the time is that of all threads of the process, and the database is in a memory
file system if the machine has one. Spans go through a ``BatchSpanProcessor`` to an exporter that
forgets them, so what a network would take is not in the figures, and what the SDK takes is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import process_time

from _floor import Floor
from _inprocess import call_from_tasks, call_from_threads
from _measure import (
    Burst,
    arguments,
    interleaved,
    machine,
    quantile,
    ratio,
    save_json,
    show,
    work_folder,
)
from _subjects import Async, Subjects
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from prometheus_client import CollectorRegistry

from durable_core import Durable, endpoint_adapter
from durable_core.observers import Observer
from durable_otel import OpenTelemetryObserver
from durable_prometheus import PrometheusObserver

_MEMORY = Path("/dev/shm")
_STEPS, _CLIENTS = 3, 16


class _Silent(Observer):
    """Takes all facts, and does nothing."""


class _Forgetful(SpanExporter):
    """Exports nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def _opentelemetry(sampler: Sampler) -> Observer:
    provider = TracerProvider(sampler=ParentBased(sampler))
    provider.add_span_processor(BatchSpanProcessor(_Forgetful()))
    return OpenTelemetryObserver(
        tracer_provider=provider, meter_provider=MeterProvider([InMemoryMetricReader()])
    )


def _observers() -> dict[str, list[Observer]]:
    return {
        "none": [],
        "silent": [_Silent()],
        "otel": [_opentelemetry(ALWAYS_ON)],
        "otel, not sampled": [_opentelemetry(ALWAYS_OFF)],
        "prometheus": [PrometheusObserver(CollectorRegistry())],
    }


def _subjects(folder: Path) -> dict[str, Subjects]:
    """Return the endpoints over a store for each kind of observer."""
    made, floor = {}, Floor(folder / "floor.db")
    for number, (name, observers) in enumerate(_observers().items()):
        durable = Durable(
            id="bench",
            endpoint_adapter=endpoint_adapter,
            store=folder / f"ours-{number}.db",
            observers=observers,
        )
        made[name] = Subjects(durable, floor)
    return made


def _requests(subjects: dict[str, Subjects], seconds: float, rounds: int) -> Iterator[list[object]]:
    """Yield a row for each kind of handler and of observer."""
    calls: dict[str, Callable[[], Burst]] = {
        name: partial(call_from_threads, each.sync("ours", _STEPS), _CLIENTS, seconds)
        for name, each in subjects.items()
    }
    yield from _rows("def", calls, rounds)
    with asyncio.Runner() as runner:
        calls = {
            name: partial(_run, runner, each.asynchronous("ours", _STEPS), seconds)
            for name, each in subjects.items()
        }
        yield from _rows("async def", calls, rounds)
        for each in subjects.values():
            runner.run(each.durable.stop_async())


def _run(runner: asyncio.Runner, handle: Async, seconds: float) -> Burst:
    return runner.run(call_from_tasks(handle, _CLIENTS, seconds))


def _rows(
    kind: str, calls: Mapping[str, Callable[[], Burst]], rounds: int
) -> Iterator[list[object]]:
    """Yield the processor time of a request with each observer, and the ratio to that with none."""

    def timed(call: Callable[[], Burst]) -> Burst:
        began = process_time()
        latencies = call().latencies
        return Burst(latencies, process_time() - began)

    turns = interleaved({name: partial(timed, call) for name, call in calls.items()}, rounds)
    for name, bursts in turns.items():
        taken = quantile([1e6 / each.rate for each in bursts], 0.1)
        yield [kind, name, taken, ratio(bursts, turns["none"], lambda each: 1 / each.rate)]


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    options = arguments(__doc__).parse_args()
    seconds, rounds = (0.03, 10) if options.quick else (0.3, 20)
    parent = options.folder or (_MEMORY if _MEMORY.is_dir() else None)
    with work_folder(parent) as folder:
        facts = machine(folder)
        subjects = _subjects(folder)
        requests = list(_requests(subjects, seconds, rounds))
    head = ("handler", "observer", "us", "to none")
    show(f"processor time of a request with {_STEPS} steps", head, requests)
    save_json(options.json, {"machine": facts, "requests": requests})


if __name__ == "__main__":
    main()
