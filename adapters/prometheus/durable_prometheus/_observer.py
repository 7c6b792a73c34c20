"""The observer that ``Durable(observers=[...])`` takes, and ``Durable.metrics`` shows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from durable_core import Durable
from durable_core.errors import ConfigurationError
from durable_core.observers import GAUGES, METRICS, Fact, Measures, Metric, Observer, read_gauge

__all__ = ["PrometheusObserver"]

#: Seconds. A step takes a millisecond, and a run may take days.
_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0, 3600.0, 86_400.0)
_OPENMETRICS = "application/openmetrics-text"


class PrometheusObserver(Observer):
    """Counts what happens to runs, in metrics of the Prometheus client library.

    Several applications of a process may share one. With ``PROMETHEUS_MULTIPROC_DIR`` the processes
    of a server count together, and whichever is scraped shows the sum.

    Args:
        registry: where the metrics are, and what :meth:`exposition` shows; that of the client
            library by default, with what else the process has in it.

    Raises:
        ConfigurationError: the registry has the metrics of another observer already.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = REGISTRY if registry is None else registry
        self._measures = Measures()
        self._gauges = _Gauges()
        self._metrics: dict[str, Counter | Histogram] = {}
        try:
            for metric in METRICS:
                self._metrics[metric.name] = _create(metric, self._registry)
        except ValueError as error:
            raise ConfigurationError(
                "the registry has the metrics of another PrometheusObserver: give one to several "
                "applications, or each a registry of its own (registry=)"
            ) from error
        self._registry.register(self._gauges)

    def watch(self, durable: Durable[Any]) -> None:
        """Read the gauges of an application, too, whenever it is scraped."""
        self._gauges.watch(durable)

    def notify(self, fact: Fact, /) -> None:
        """Count what happens."""
        for measured in self._measures.of(fact):
            metric = self._metrics[measured.metric.name].labels(**measured.labels)
            if isinstance(metric, Counter):
                metric.inc(measured.value)
            else:
                metric.observe(measured.value)

    def exposition(self, accept: str) -> tuple[str, bytes]:
        """Return the media type and the text of all metrics of the registry.

        Args:
            accept: the header ``Accept``: it may ask for OpenMetrics. What else it asks for is the
                text format of Prometheus.
        """
        # Only this of the header reaches the library: what a client sends must break nothing.
        encode, media_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in accept else "")
        return media_type, encode(self._shown())

    def _shown(self) -> CollectorRegistry:
        """Return what is shown: of all processes, if they count together."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self._registry
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        shared.register(self._gauges.of_store)
        return shared


def _create(metric: Metric, registry: CollectorRegistry) -> Counter | Histogram:
    name = _name_of(metric)
    if metric.kind == "counter":
        return Counter(name, metric.description, metric.labels, registry=registry)
    return Histogram(name, metric.description, metric.labels, registry=registry, buckets=_BUCKETS)


def _name_of(metric: Metric) -> str:
    """Return the name of a metric; the library adds ``_total`` to that of a counter."""
    unit = "_seconds" if metric.unit == "s" else ""
    return f"durable_{metric.name.replace('.', '_')}{unit}"


class _Gauges(Collector):
    """Reads the gauges of applications when they are scraped."""

    def __init__(self, metrics: Iterable[Metric] = GAUGES) -> None:
        self._metrics = tuple(metrics)
        self._watched: list[Durable[Any]] = []

    @property
    def of_store(self) -> _Gauges:
        """Those that are the same in each process of a store."""
        found = _Gauges(metric for metric in self._metrics if metric.scope == "store")
        found._watched = self._watched
        return found

    def watch(self, durable: Durable[Any]) -> None:
        """Read those of an application, too."""
        if not any(each is durable for each in self._watched):
            self._watched.append(durable)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield the names, without values: nothing is read when this is registered."""
        yield from map(_family_of, self._metrics)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges as they are now; an application that does not work here has none."""
        for metric in self._metrics:
            family = _family_of(metric)
            for durable in self._watched:
                value = read_gauge(metric, durable)
                if value is not None:
                    family.add_metric([durable.id], value)
            yield family


def _family_of(metric: Metric) -> GaugeMetricFamily:
    return GaugeMetricFamily(_name_of(metric), metric.description, labels=metric.labels)
