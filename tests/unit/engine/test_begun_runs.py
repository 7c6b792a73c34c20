"""Each run is reported once when it begins, however it begins, and once when it ends."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from durable_core.api.step import sync_step
from durable_core.flow.completion import Completed
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.fact import Fact, RunFinished, RunStarted
from durable_core.ports.observer import Observer
from support.harness import Lab, lab, request, until


class Noting(Observer):
    """Keeps which runs began and ended."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []

    def notify(self, fact: Fact, /) -> None:
        if isinstance(fact, RunStarted):
            self.began.append(fact.run.id)
        elif isinstance(fact, RunFinished):
            self.ended.append(fact.run.id)


def told(completed: Completed) -> None:
    """Is called at the end of a run."""


def by_request(process: Lab) -> None:
    """A run whose client waits, and one that has a key."""
    endpoint = process.endpoint(lambda asked: sync_step.run("it", str), on_complete=told)
    endpoint.handle(request())
    endpoint.handle(request("/it", "POST", b"", idempotency_key="k"))


def by_queue(process: Lab) -> None:
    """A run that waits for a slot."""
    gate = threading.Event()
    endpoint = process.endpoint(
        lambda asked: sync_step.run("it", gate.wait, 20), concurrency=1, on_complete=told
    )
    first = threading.Thread(target=endpoint.handle, args=(request(),))
    first.start()
    until(lambda: len(process.records.list()) == 1)
    assert 302 == endpoint.handle(request()).status
    gate.set()
    first.join()


def by_preference(process: Lab) -> None:
    """A run whose client does not wait."""
    endpoint = process.endpoint(lambda asked: sync_step.run("it", str), on_complete=told)
    endpoint.handle(request(prefer="respond-async"))


def by_parent(process: Lab) -> None:
    """A run that another one invokes."""
    child = process.endpoint(lambda asked: "child", function_id="child", methods=("POST",))
    process.call(process.endpoint(lambda asked: sync_step.invoke("it", child, {}).status))


def by_copy(process: Lab) -> None:
    """A run that goes on from a step of another one."""
    process.endpoint(lambda asked: sync_step.run("it", str)).handle(request())
    [record] = process.records.list()
    process.durable.runs.resume_from(record.run.id, "it")


def by_cancellation(process: Lab) -> None:
    """A run that tells of one that was cancelled, by hand or with its parent."""
    child = process.endpoint(
        lambda asked: sync_step.sleep("nap", "1h"),
        function_id="child",
        methods=("POST",),
        on_complete=told,
    )
    parent = process.endpoint(lambda asked: sync_step.invoke("it", child, {}), on_complete=told)
    parent.handle(request(prefer="respond-async"))
    until(lambda: any(each.run.parent and not each.owner for each in process.records.list()))
    [record] = [each for each in process.records.list() if each.run.endpoint_key == "it"]
    process.durable.runs.cancel(record.run.id)


WAYS: list[Callable[[Lab], None]] = [
    *(by_request, by_queue, by_preference, by_parent, by_copy, by_cancellation)
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_reported_once(way: Callable[[Lab], Any]) -> None:
    """When it begins and when it ends."""
    noting = Noting()
    with lab(observers=[noting]) as process:
        way(process)
        until(lambda: all(each.ended_at for each in process.records.list()))
        stored = {each.run.id for each in process.records.list()}
        until(lambda: stored <= {*noting.ended})

    assert len(stored) >= 2
    assert dict.fromkeys(stored, 1) == Counter(noting.began) == Counter(noting.ended)


def test_a_streamed_response_is_followed() -> None:
    """The run that tells of its end is reported when that is stored."""
    noting = Noting()

    def handler(asked: Request) -> Response:
        return Response(body=iter((b"a", b"b")))

    with lab(observers=[noting]) as process:
        response = process.endpoint(handler, on_complete=told, record="always").handle(request())
        body: Any = response.body
        assert [b"a", b"b"] == list(body)
        until(lambda: len(noting.ended) == 2)

    assert 2 == len(set(noting.began)) == len(noting.began)
