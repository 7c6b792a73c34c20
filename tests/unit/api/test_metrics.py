"""What is measured: few values of each label, and gauges that start nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from durable_core.api.durable import Durable
from durable_core.api.metrics import GAUGES, METRICS, OTHER, Measured, Measures, read_gauge
from durable_core.api.step import sync_step
from durable_core.api.stream import stream
from durable_core.errors import StoreError
from durable_core.http.request import Request
from durable_core.model.event import Event
from durable_core.model.fact import (
    AttemptFailed,
    EventMatched,
    Fact,
    ObservedRun,
    ObservedStep,
    RunFinished,
    StepStarted,
    StoreFault,
)
from durable_core.ports import Slots
from durable_core.ports.observer import Observer
from durable_core.runners.settings import Settings
from durable_core.stores.memory import MemoryStore
from support.harness import FakeClock, lab, request, until

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run_of(
    name: str = "GET /orders/1", *, key: str = "shop:order", age: float = 1.0
) -> ObservedRun:
    return ObservedRun(
        id="01J00000000000000000000000",
        app="shop",
        function_id=key,
        name=name,
        execution=1,
        started=NOW - timedelta(seconds=age),
        labels={"customer": name},
    )


def step_of(id: str, name: str | None = None) -> ObservedStep:
    return ObservedStep(id=id, name=name or id, kind="run")


def labels_of(measures: Measures, *facts: Fact) -> list[dict[str, str]]:
    return [dict(each.labels) for fact in facts for each in measures.of(fact)]


def test_what_a_client_chooses_is_in_no_label() -> None:
    """Neither the path of a request, nor the labels of a run; an endpoint has its identity."""
    facts = [
        RunFinished(run=run_of(f"GET /orders/{number}"), at=NOW, status="completed")
        for number in range(1000)
    ]
    found = labels_of(Measures(), *facts)

    wanted = {"app": "shop", "endpoint": "shop:order", "status": "completed"}
    assert [wanted] * 2000 == found


def test_steps_that_repeat_are_one() -> None:
    """Their index is left out; a name that the code has given stays as it is."""
    run = run_of()
    facts = [
        StepStarted(run=run, step=step_of(id, name), attempt=1, at=NOW)
        for id, name in (("save", None), ("save:1", None), ("save:23", None), ("a:1", "Part:1"))
    ]
    found = labels_of(Measures(), *facts)

    assert ["save", "save", "save", "Part:1"] == [labels["step"] for labels in found]


@pytest.mark.parametrize("label", ["step", "error", "event"])
def test_names_that_are_data_are_bounded(label: str) -> None:
    """After 500 of them the others are one; those that are known stay; long ones are cut."""
    run, measures = run_of(), Measures()

    def fact(name: str) -> Fact:
        if label == "event":
            return EventMatched(run=run, step=step_of("x"), name=name, event_id="", at=NOW)
        return AttemptFailed(
            run=run,
            step=step_of(name if label == "step" else "x"),
            attempt=1,
            at=NOW,
            started=NOW,
            error_name=name if label == "error" else "E",
            reason="",
        )

    names = [f"n{number}-{'x' * 200}" for number in range(600)]
    found = [each[label] for each in labels_of(measures, *map(fact, names))]
    assert 501 == len(set(found))
    assert [OTHER] * 100 == found[500:]
    assert names[0][:120] == found[0] == labels_of(measures, fact(names[0]))[0][label]


def test_each_measured_value_fits_its_metric() -> None:
    """It has the labels that the metric names, in their order, and is not below 0."""
    seen: list[Measured] = []

    class Watching(Observer):
        measures = Measures()

        def notify(self, fact: Fact, /) -> None:
            seen.extend(self.measures.of(fact))

    flaky: list[int] = []

    def fail_once() -> None:
        flaky.append(1)
        if len(flaky) == 1:
            raise ValueError("once")

    def handler(asked: Request) -> None:
        sync_step.run("flaky", fail_once)
        sync_step.send_event("tell", Event("told", {}))
        sync_step.wait_for_event("hear", event="heard", timeout="1m")

    observer = Watching()
    with lab(observers=[observer]) as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        until(lambda: any(each.metric.name == "events.sent" for each in seen))
        process.durable.send(Event("heard", {}))
        process.follow(endpoint, first)
        until(lambda: any(each.metric.name == "runs.ended" for each in seen))
    backwards = RunFinished(run=run_of(age=-60.0), at=NOW, status="failed")
    fault = StoreFault(app="shop", run=None, at=NOW, error=StoreError("no"), message="")
    observer.notify(backwards)
    observer.notify(fault)

    assert {each.name for each in METRICS} == {each.metric.name for each in seen}
    assert [] == [each for each in seen if each.metric.labels != tuple(each.labels)]
    assert [] == [each for each in seen if each.value < 0]
    assert len({each.name for each in (*METRICS, *GAUGES)}) == len(METRICS) + len(GAUGES)


def read(durable: Durable[Any]) -> dict[str, float | None]:
    return {metric.name: read_gauge(metric, durable) for metric in GAUGES}


NONE = dict.fromkeys(("runs.live", "clients.waiting", "streams.open", "runs.oldest_due.age"))


def test_gauges_of_a_process(tmp_path: Path) -> None:
    """They are read where it works; before and after that there are none, and nothing is opened."""
    path, clock = tmp_path / "db", FakeClock()
    durable = Durable(id="lab", store=path)
    assert NONE == read(durable)
    assert not path.exists()

    with lab(clock=clock) as process:
        process.durable.start()
        assert {**NONE, **dict.fromkeys(NONE, 0)} == read(process.durable)
        stopped = process.durable
    assert NONE == read(stopped)


def test_the_age_of_the_oldest_due_run() -> None:
    """It grows while no process takes the run."""
    clock = FakeClock()

    def handler(asked: Request) -> None:
        sync_step.sleep("nap", "10s")

    with lab(clock=clock, settings=Settings(on_demand=True)) as process:
        process.endpoint(handler).handle(request())
        assert 0 == read(process.durable)["runs.oldest_due.age"]
        clock.advance(25.0)
        assert 15 == read(process.durable)["runs.oldest_due.age"]


def test_a_store_that_does_not_answer() -> None:
    """Its gauge is left out; the others are there."""

    class Silent(MemoryStore):
        def next_due(self, app: str, keys: Sequence[str], *, slots: Sequence[Slots] = ()) -> int:
            raise StoreError("gone")

    with lab(Silent(), settings=Settings(on_demand=True)) as process:
        process.durable.start()
        found = read(process.durable)
    assert (None, 0) == (found["runs.oldest_due.age"], found["runs.live"])


def test_open_streams() -> None:
    """A client that reads a stream is counted for as long as it reads."""

    def handler(asked: Request) -> None:
        stream.push("a")
        sync_step.sleep("nap", "1h")

    with lab() as process:
        response = process.endpoint(handler).handle(request(accept="text/event-stream"))
        body: Any = response.body
        next(iter(body))
        assert 1 == read(process.durable)["streams.open"]
        body.close()
        assert 0 == read(process.durable)["streams.open"]
