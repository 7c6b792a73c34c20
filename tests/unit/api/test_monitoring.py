"""The routes of those who watch a process: is it alive, is it ready, and its metrics."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from durable_core.api.adapter import HTTPHandler, endpoint_adapter
from durable_core.api.durable import Durable
from durable_core.api.step import step, sync_step
from durable_core.errors import ConfigurationError, StoreError
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.ports import WorkerRecord
from durable_core.ports.observer import Observer
from durable_core.routing import Application
from durable_core.runners.settings import Settings
from durable_core.stores.memory import MemoryStore
from support.harness import lab, request, until

both = pytest.mark.parametrize("kind", ["thread", "task"])


def ask(route: HTTPHandler, kind: str, asked: Request | None = None) -> Response:
    """Return the answer of a route, in a thread or in a task."""
    asked = asked or request()
    if kind == "task":
        return asyncio.run(route.handle_async(asked))
    return route.handle(asked)


def json_of(response: Response) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def reason_of(response: Response) -> tuple[int, str | None]:
    return response.status, json_of(response).get("reason")


@both
def test_health_starts_nothing(kind: str, tmp_path: Path) -> None:
    """A process that does not work yet is alive, and has no file afterwards."""
    durable = Durable(id="lab", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    response = ask(durable.health_endpoint(), kind)

    assert (200, {"alive": True, "app": "lab", "started": False}) == (
        response.status,
        json_of(response),
    )
    assert "no-store" == response.headers["cache-control"]
    assert [] == list(tmp_path.iterdir())


@both
def test_health_of_a_process(kind: str) -> None:
    """It says what runs here, but names no endpoint; without a scheduler it is not alive."""
    with lab() as process:
        process.endpoint(lambda asked: "ok")
        process.durable.start()
        route = process.durable.health_endpoint()
        shown = json_of(ask(route, kind))
        assert {**process.durable.health(), "alive": True} == {**shown, "endpoints": ["it"]}
        assert process.engine.worker is not None
        process.engine.worker.scheduler.stop()
        assert (503, False) == (ask(route, kind).status, json_of(ask(route, kind))["alive"])
        assert (503, "scheduler-ended") == reason_of(
            ask(process.durable.readiness_endpoint(), kind)
        )


@both
@pytest.mark.parametrize("on_demand", [False, True])
def test_ready(kind: str, on_demand: bool) -> None:
    """The process starts, as at any request, and may get others."""
    with lab(settings=Settings(on_demand=on_demand)) as process:
        response = ask(process.durable.readiness_endpoint(), kind)
        assert (200, {"ready": True, "app": "lab"}) == (response.status, json_of(response))
        assert process.durable.health()["started"]


def test_a_probe_of_an_event_loop_gives_it_to_handlers() -> None:
    """Handlers that are replayed run on the loop of the server, though only a probe has come."""
    with lab() as process:
        route = process.durable.readiness_endpoint()

        async def probe() -> bool:
            assert 200 == (await route.handle_async(request())).status
            assert process.engine.worker is not None
            is_adopted = process.engine.worker.loops.server_loop is asyncio.get_running_loop()
            await process.durable.stop_async()
            return is_adopted

        assert asyncio.run(probe())


@both
def test_a_drained_process_is_not_ready(kind: str) -> None:
    """It is alive: what it does is let go on."""
    with lab() as process:
        process.durable.start()
        process.durable.drain()
        response = ask(process.durable.readiness_endpoint(), kind)
        assert (503, "draining") == reason_of(response)
        assert "urn:durable:not-ready" == json_of(response)["type"]
        assert 200 == ask(process.durable.health_endpoint(), kind).status


@both
def test_a_process_that_stops_is_not_ready(kind: str) -> None:
    """While a step is in flight it answers, and that it will not go on."""
    began, may_end = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        may_end.wait(20)

    with lab() as process:
        endpoint = process.endpoint(lambda asked: sync_step.run("work", work))
        client = threading.Thread(target=endpoint.handle, args=(request(),))
        client.start()
        assert began.wait(20)
        stop = threading.Thread(target=process.durable.stop)
        stop.start()
        try:
            until(lambda: ask(process.durable.readiness_endpoint(), kind).status == 503)
            response = ask(process.durable.readiness_endpoint(), kind)
        finally:
            may_end.set()
            stop.join()
            client.join()

    assert (503, "stopping") == reason_of(response)


class Silent(MemoryStore):
    """A store that cannot be opened."""

    def open(self) -> None:
        raise StoreError("/secret/path/db is damaged")


class Forgetful(MemoryStore):
    """A store in which no process renews its lease."""

    def workers(self) -> Sequence[WorkerRecord]:
        return ()


@both
@pytest.mark.parametrize(
    ("store", "reason"), [(Silent, "store-unavailable"), (Forgetful, "lease-expired")]
)
def test_without_a_working_store(
    kind: str, store: type[MemoryStore], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not ready; why the store does not work is in the log, and not in the answer."""
    with lab(store()) as process:
        response = ask(process.durable.readiness_endpoint(), kind)
        assert (503, reason) == reason_of(response)
    assert b"secret" not in (response.body if isinstance(response.body, bytes) else b"")
    assert (reason == "store-unavailable") == ("/secret/path/db" in caplog.text)


class Plain(Observer):
    """An observer that has no metrics."""


class Scraped(Observer):
    """An observer with one metric."""

    def __init__(self) -> None:
        self.watched: list[Durable[Any]] = []
        self.threads: list[str] = []

    def watch(self, durable: Durable[Any]) -> None:
        self.watched.append(durable)

    def exposition(self, accept: str) -> tuple[str, bytes]:
        self.threads.append(threading.current_thread().name)
        return "text/x-own", f"asked {accept}".encode()


@both
def test_metrics(kind: str) -> None:
    """The observer gives them, for the media types that are accepted; the loop is not blocked."""
    observer = Scraped()
    with lab(observers=[Plain(), observer]) as process:
        route = process.durable.metrics()
        response = ask(route, kind, request(accept="text/plain"))

    assert [process.durable] == observer.watched
    assert ("text/x-own", b"asked text/plain") == (response.headers["content-type"], response.body)
    assert (kind == "thread") == (observer.threads == [threading.current_thread().name])


@pytest.mark.parametrize(
    ("observers", "has"), [([], "none"), ([Plain()], "none"), ([Scraped()] * 2, "several")]
)
def test_metrics_need_one_observer(observers: list[Observer], has: str) -> None:
    """The error says which package has one."""
    with (
        lab(observers=observers) as process,
        pytest.raises(ConfigurationError, match=f"durable-prometheus.*'lab' has {has}"),
    ):
        process.durable.metrics()


@both
@pytest.mark.parametrize("name", ["health_endpoint", "readiness_endpoint", "metrics"])
def test_methods(kind: str, name: str) -> None:
    """GET and HEAD are answered; OPTIONS says so, and all else is refused."""
    with lab(observers=[Scraped()]) as process:
        route = getattr(process.durable, name)()
        answers = [
            ask(route, kind, request("/it", method)) for method in ("HEAD", "OPTIONS", "POST")
        ]

    assert [200, 204, 405] == [answer.status for answer in answers]
    assert ["GET, HEAD, OPTIONS"] * 2 == [answer.headers["allow"] for answer in answers[1:]]
    assert repr(route).endswith("Route of lab>")


@both
def test_beside_endpoints(kind: str) -> None:
    """They are routes of an application as all others."""

    async def handler(asked: Request) -> str:
        return await step.run("it", str)

    with lab(observers=[Scraped()]) as process:
        routes = {
            "GET /order": process.endpoint(handler),
            "GET /health": process.durable.health_endpoint(),
            "GET /ready": process.durable.readiness_endpoint(),
            "GET /metrics": process.durable.metrics(),
        }
        app = Application(process.durable, routes)
        paths = ("/order", "/health", "/ready", "/metrics", "/other")
        statuses = [ask(app, kind, request(path)).status for path in paths]

    assert [200, 200, 200, 200, 404] == statuses
