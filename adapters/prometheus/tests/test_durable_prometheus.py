"""Metrics by the client library of Prometheus: what is counted, and how it is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from durable_core import Durable, NonRetriableError, Request, endpoint_adapter, sync
from durable_core.errors import ConfigurationError
from durable_core.observers import GAUGES, METRICS, Fact, Observer
from durable_core.testing import harness
from durable_prometheus import PrometheusObserver

LABELS = ("app", "endpoint", "step", "kind", "outcome", "event", "status", "reason", "error")
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


def application(observer: Observer, **options: Any) -> Any:
    return Durable(id="shop", endpoint_adapter=endpoint_adapter, observers=[observer], **options)


def scrape(durable: Any, accept: str = "") -> tuple[str, str]:
    """Return the media type and the text."""
    headers = {"accept": accept} if accept else {}
    response = durable.metrics().handle(Request(method="GET", url="http://x/", headers=headers))
    assert 200 == response.status
    return response.headers["content-type"], response.body.decode()


def samples(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the samples by name: the values of their labels, as in LABELS, and their own."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in parse_text(text):
        for sample in family.samples:
            values = tuple(sample.labels[name] for name in LABELS if name in sample.labels)
            found.setdefault(sample.name, {})[values] = sample.value
    return found


def test_what_is_counted() -> None:
    """Runs by status, attempts, handoffs by reason, events, commits, and what the process does."""
    durable = application(PrometheusObserver(CollectorRegistry()))
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

    with harness(durable) as t:
        reply = t.client(durable.endpoint(function_id="order")(order)).get("/orders/7")
        t.advance("10s")
        t.send("packed")
        assert 200 == reply.result().status
        t.client(durable.endpoint(function_id="broken", retries=0)(broken)).get("/")
        found = samples(scrape(durable)[1])

    shop = "shop"
    assert {(shop, "order"): 1, (shop, "broken"): 1} == found["durable_runs_started_total"]
    ended = {(shop, "order", "completed"): 1, (shop, "broken", "failed"): 1}
    assert ended == found["durable_runs_ended_total"]
    assert ended == found["durable_run_duration_seconds_count"]
    assert {(shop, "order", "step-retry"): 1} == found["durable_runs_handed_off_total"]
    assert {(shop, "order", "charge"): 2} == found["durable_attempts_started_total"]
    assert {
        (shop, "order", "charge", "ConnectionError"): 1,
        (shop, "broken", "", "NonRetriableError"): 1,
    } == found["durable_attempts_failed_total"]
    assert {
        (shop, "order", "charge", "run", "ok"): 1,
        (shop, "order", "packed", "wait", "ok"): 1,
    } == found["durable_step_duration_seconds_count"]
    assert found["durable_store_commit_duration_seconds_count"][(shop,)] >= 4
    for name in ("runs_live", "clients_waiting", "streams_open", "runs_oldest_due_age_seconds"):
        assert {(shop,): 0} == found[f"durable_{name}"]


def test_every_metric_is_shown() -> None:
    """Also before anything has happened; the gauges only where the application works."""
    durable = application(PrometheusObserver(CollectorRegistry()))
    text = scrape(durable)[1]

    helped = set(re.findall("^# HELP (durable_[a-z_]+) ", text, re.MULTILINE))
    assert len(METRICS) + len(GAUGES) == len({name for name in helped if "_created" not in name})
    assert "durable_runs_live" not in samples(text)


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        'application/openmetrics-text;version=nonsense;escaping="x"',
        "text/plain;version=x, application/openmetrics-text",
    ],
)
def test_openmetrics(accept: str) -> None:
    """It is shown to those who take it, whatever else they ask for."""
    kind, text = scrape(application(PrometheusObserver(CollectorRegistry())), accept)

    assert kind.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    families: Any = parse_openmetrics(text)  # type: ignore[no-untyped-call]
    assert any(family.name == "durable_runs_started" for family in families)


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=1.0.0;escaping=x", "image/png"])
def test_text(accept: str) -> None:
    """All others get the text format."""
    assert PLAIN == scrape(application(PrometheusObserver(CollectorRegistry())), accept)[0]


HOSTILE = 'a"} 1\nup{b="\\\u2028é'


def test_names_that_would_break_the_text() -> None:
    """They are escaped: of an endpoint, a step, an event and an error."""
    durable = application(PrometheusObserver(CollectorRegistry()))
    error = type(HOSTILE, (NonRetriableError,), {})

    def fail() -> None:
        raise error("no")

    def handler(request: Request) -> None:
        sync.step.wait_for_event("wait", event=HOSTILE, timeout="1h")
        sync.step.run(HOSTILE, fail)

    with harness(durable) as t:
        t.client(durable.endpoint(function_id=HOSTILE)(handler)).get("/")
        t.send(HOSTILE)
        found = samples(scrape(durable)[1])

    assert {("shop", HOSTILE, HOSTILE, HOSTILE)} <= set(found["durable_attempts_failed_total"])
    assert {("shop", HOSTILE, HOSTILE)} == set(found["durable_events_matched_total"])
    assert "up" not in found


def test_one_observer_for_several_applications() -> None:
    """Its metrics tell them apart; two observers cannot share a registry."""
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    first = application(observer)
    second: Any = Durable(id="other", endpoint_adapter=endpoint_adapter, observers=[observer])
    first.metrics()
    first.metrics()  # changes nothing
    with harness(first), harness(second):
        found = samples(scrape(second)[1])

    assert {("shop",): 0, ("other",): 0} == found["durable_runs_live"]
    with pytest.raises(ConfigurationError, match="another PrometheusObserver"):
        PrometheusObserver(registry)


def test_beside_a_broken_observer() -> None:
    """What another observer raises changes no count."""

    class Broken(Observer):
        def notify(self, fact: Fact, /) -> None:
            raise RuntimeError("broken")

    observer = PrometheusObserver(CollectorRegistry())
    durable: Any = Durable(
        id="shop", endpoint_adapter=endpoint_adapter, observers=[Broken(), observer]
    )
    with harness(durable) as t:
        t.client(durable.endpoint(function_id="it")(lambda request: "ok")).get("/")
        found = samples(scrape(durable)[1])
    assert {("shop", "it", "completed"): 1} == found["durable_runs_ended_total"]


def test_scraped_while_it_stops(tmp_path: Path) -> None:
    """A scrape in any moment is answered, with or without the gauges, and opens nothing again."""
    durable = application(PrometheusObserver(CollectorRegistry()), store=tmp_path / "db")
    durable.metrics()
    durable.start()
    done = threading.Event()
    failures: list[BaseException] = []

    def scrape_on() -> None:
        try:
            while not done.is_set():
                assert "durable_runs_started" in scrape(durable)[1]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=scrape_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    durable.drain()
    durable.stop()
    done.set()
    for thread in threads:
        thread.join()

    assert [] == failures
    assert not durable.health()["started"]
    assert "durable_runs_live" not in samples(scrape(durable)[1])
    with pytest.raises(Exception, match="is not open"):
        durable.engine.store.workers()


def test_the_registry_of_the_library_is_the_default() -> None:
    """So an application's own metrics are shown beside those of the runs."""
    program = (
        "import prometheus_client as p, durable_prometheus as d\n"
        "p.Counter('own', 'x').inc()\n"
        "text = d.PrometheusObserver().exposition('')[1]\n"
        "assert b'own_total 1.0' in text and b'durable_runs_started' in text, text\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


MULTI = """
import os, sys
from durable_core import Durable, Request, endpoint_adapter
from durable_core.stores import MemoryStore
from durable_prometheus import PrometheusObserver

durable = Durable(
    id="shop", store=MemoryStore(), endpoint_adapter=endpoint_adapter,
    observers=[PrometheusObserver()],
)
handler = durable.endpoint(function_id="it")(lambda request: "ok")
metrics = durable.metrics()
for _ in range(2):
    child = os.fork()
    if not child:
        handler.handle(Request(method="GET", url="http://x/"))
        durable.stop()
        os._exit(0)
    os.waitpid(child, 0)
handler.handle(Request(method="GET", url="http://x/"))
sys.stdout.buffer.write(metrics.handle(Request(method="GET", url="http://x/")).body)
durable.stop()
"""


def test_several_processes_count_together(tmp_path: Path) -> None:
    """The one that is scraped shows the sum, and of the gauges that of the store alone."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", MULTI], env=environment, check=True, capture_output=True, text=True
    )
    found = samples(done.stdout)

    assert {("shop", "it", "completed"): 3} == found["durable_runs_ended_total"]
    assert {("shop",): 0} == found["durable_runs_oldest_due_age_seconds"]
    assert "durable_runs_live" not in found
