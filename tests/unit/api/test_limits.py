"""Flow limits of endpoints: concurrency, queues, rates, and singleton runs."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias, cast
from unittest.mock import patch

import pytest

from durable_core import (
    BadRequest,
    Concurrency,
    Durable,
    Event,
    NonRetriableError,
    RateLimit,
    Request,
    Response,
    Settings,
    Singleton,
    endpoint_adapter,
    step,
)
from durable_core.api.endpoint import Endpoint
from durable_core.engine.embedded import embedded
from durable_core.engines import EmbeddedEngine
from durable_core.errors import ConfigurationError, SingletonError
from durable_core.stores import MemoryStore
from durable_core.sync import step as sync_step
from support.harness import AT_ONCE, FakeClock, until

Start: TypeAlias = "Callable[..., App]"

KINDS = pytest.mark.parametrize("kind", ["def", "async"])


def customer(request: Request) -> str:
    return request.query["customer"]


class App:
    """An application with one endpoint of each kind, whose runs work until they are let go.

    Attributes:
        begun: the trips whose step was begun, in that order.
    """

    def __init__(
        self, store: Any, clock: Any = None, settings: Settings | None = None, **options: Any
    ) -> None:
        engine = EmbeddedEngine(store, clock=clock, settings=settings)
        self.durable: Durable[Any] = Durable(
            id="shop", endpoint_adapter=endpoint_adapter, engine=engine, retry=AT_ONCE
        )
        self.begun: list[str] = []
        self.is_broken = False
        self._gates: dict[str, threading.Event] = {}
        self._pool = ThreadPoolExecutor(16)

        def work(trip: str) -> str:
            self.begun.append(trip)
            self._gate(trip).wait(20)
            if self.is_broken:
                raise NonRetriableError("broken")
            return trip

        @self.durable.endpoint(**options)
        def plain(request: Request) -> str:
            if "wait" in request.query:
                sync_step.wait_for_event("go", event="go", timeout="1h")
            return sync_step.run("work", work, request.query["trip"])

        @self.durable.endpoint(**options)
        async def coroutine(request: Request) -> str:
            if "wait" in request.query:
                await step.wait_for_event("go", event="go", timeout="1h")
            return await step.run("work", work, request.query["trip"])

        self.endpoints: dict[str, Endpoint] = {"def": plain, "async": coroutine}

    def _gate(self, trip: str) -> threading.Event:
        return self._gates.setdefault(trip, threading.Event())

    def ask(self, kind: str, trip: str, query: str = "", **headers: str) -> Response:
        """Send one request and return what it is answered first."""
        url = f"http://localhost/?trip={trip}&{query}"
        request = Request(method=headers.pop("method", "GET"), url=url, headers=headers)
        return self.endpoints[kind].handle(request, max_wait=0.05)

    def begin(self, kind: str, trip: str, query: str = "") -> Future[Response]:
        """Send one request in the background; return once its step is being executed."""
        asked = self._pool.submit(self.ask, kind, trip, query)
        until(lambda: trip in self.begun)
        return asked

    def follow(self, kind: str, redirect: Response) -> Response:
        """Wait for the response at the wait URL."""
        request = Request(method="GET", url=f"http://localhost/{redirect.headers['location']}")
        return self.endpoints[kind].handle(request, max_wait=20)

    def go(self, *trips: str) -> None:
        """Let steps end."""
        for trip in trips:
            self._gate(trip).set()

    def count(self, status: Any) -> int:
        """Return how many runs have this status."""
        return len(self.durable.runs.list(status=status))

    def stop(self) -> None:
        """Let everything go, and stop."""
        self.go(*self._gates)
        self.durable.stop()
        self._pool.shutdown()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., App]]:
    """Return a function that makes an application; all of them share a store."""
    with ExitStack() as stack:

        def started(**options: Any) -> App:
            app = App(options.pop("store", tmp_path / "db"), **options)
            stack.callback(app.stop)
            return app

        yield started


# Concurrency


@KINDS
def test_runs_wait_their_turn(start: Start, kind: str) -> None:
    """Past the limit a client is handed off at once; its run goes on when it is its turn."""
    app = start(concurrency=1)
    first = app.begin(kind, "a")
    second, third = app.ask(kind, "b"), app.ask(kind, "c")
    assert (302, 302) == (second.status, third.status)
    assert 2 == app.count("queued")
    assert ["a"] == app.begun
    app.go("a")
    assert (200, b'"a"') == (first.result(20).status, first.result().body)
    until(lambda: ["a", "b"] == app.begun)
    app.go("b")
    until(lambda: ["a", "b", "c"] == app.begun)
    app.go("c")
    assert b'"b"' == app.follow(kind, second).body
    assert b'"c"' == app.follow(kind, third).body


def test_a_queued_client_is_handed_off_as_the_endpoint_says(start: Start) -> None:
    """By a token, or to a URL of the application."""
    app = start(concurrency=1, async_redirect_url=lambda run_id, token: f"/wait/{run_id}/{token}")
    app.begin("def", "a")
    assert app.ask("def", "b").headers["location"].startswith("/wait/")
    app = start(concurrency=1, async_response="token", store=MemoryStore())
    app.begin("async", "a")
    answer = app.ask("async", "b")
    assert isinstance(answer.body, bytes)
    assert (200, ["run_id", "token"]) == (answer.status, sorted(json.loads(answer.body)))


@KINDS
def test_a_queued_client_may_follow_the_stream(start: Start, kind: str) -> None:
    """It reads the stream of its run to the end, once the run has had its turn."""
    app = start(concurrency=1)
    first = app.begin(kind, "a")
    url = "http://localhost/?trip=b"
    request = Request(method="GET", url=url, headers={"accept": "text/event-stream"})
    answer = app.endpoints[kind].handle(request, max_wait=20)
    assert 200 == answer.status
    app.go("a", "b")
    first.result(20)
    assert not isinstance(answer.body, bytes)
    events = b"".join(cast(Iterable[bytes], answer.body))
    assert b"event: inngest.response" in events, events


@KINDS
def test_a_run_that_waits_leaves_its_slot(start: Start, kind: str) -> None:
    """Others are executed meanwhile; when it goes on it waits its turn like any other."""
    app = start(concurrency=1)
    waiting = app.ask(kind, "a", "wait")
    until(lambda: 1 == app.count("suspended"))
    app.begin(kind, "b")
    app.durable.send(Event("go"))
    until(lambda: 1 == app.count("queued"))
    assert ["b"] == app.begun
    app.go("a", "b")
    assert b'"a"' == app.follow(kind, waiting).body
    assert ["b", "a"] == app.begun


def pass_millisecond() -> None:
    """Wait until the clock shows the next millisecond: runs of one have no order."""
    begun = time.time_ns() // 1_000_000
    until(lambda: time.time_ns() // 1_000_000 > begun)


@KINDS
def test_keys_take_turns(start: Start, kind: str) -> None:
    """A key with many runs does not keep the others waiting; its own runs go in order."""
    app = start(concurrency=(Concurrency(1), Concurrency(1, key=customer)))
    app.begin(kind, "a1", "customer=a")
    for trip in ("a2", "a3"):
        assert 302 == app.ask(kind, trip, "customer=a").status
        pass_millisecond()
    for name in ("b", "c"):
        assert 302 == app.ask(kind, f"{name}1", f"customer={name}").status
    app.go("a1", "a2", "a3", "b1", "c1")
    until(lambda: 5 == app.count("completed"))
    assert ["a1", "b1", "c1", "a2", "a3"] == app.begun


@KINDS
def test_a_key_has_a_limit_of_its_own(start: Start, kind: str) -> None:
    """Runs of another key begin although one key has no slot left."""
    app = start(concurrency=Concurrency(1, key=customer))
    app.begin(kind, "a1", "customer=a")
    assert 302 == app.ask(kind, "a2", "customer=a").status
    app.begin(kind, "b1", "customer=b")
    assert 1 == app.count("queued")


def test_the_limit_holds_across_applications_of_a_store(start: Start) -> None:
    """Whichever of them a request comes to; and whichever has a slot to give."""
    one, other = start(concurrency=1), start(concurrency=1)
    one.begin("def", "a")
    assert 302 == other.ask("def", "b").status
    assert [] == other.begun
    one.go("a", "b")
    other.go("b")
    until(lambda: 2 == other.count("completed"))
    assert ["b"] == one.begun[1:] + other.begun


def test_a_queued_run_can_be_cancelled_and_is_not_deleted(start: Start) -> None:
    """It is never executed; its clients learn that it was cancelled."""
    app = start(concurrency=1)
    app.begin("def", "a")
    redirect = app.ask("def", "b")
    [queued] = app.durable.runs.list(status="queued")
    assert not app.durable.runs.delete(queued.id)
    assert app.durable.runs.cancel(queued.id)
    assert 410 == app.follow("def", redirect).status
    app.go("a")
    until(lambda: 1 == app.count("completed"))
    assert ["a"] == app.begun


def test_a_cancelled_run_leaves_its_slot(start: Start) -> None:
    """The next one goes on."""
    app = start(concurrency=1)
    app.begin("def", "a")
    redirect = app.ask("def", "b")
    [running] = app.durable.runs.list(status="running")
    app.durable.runs.cancel(running.id)
    app.go("b")
    assert b'"b"' == app.follow("def", redirect).body


def test_a_run_that_goes_on_after_a_failure_waits_its_turn(start: Start) -> None:
    """``retry`` and ``resume_from`` begin nothing past the limit."""
    app = start(concurrency=1)
    app.is_broken = True
    app.go("a")
    app.ask("def", "a")
    [failed] = app.durable.runs.list(status="failed")
    app.is_broken = False
    app.begin("def", "b")
    app.durable.runs.resume_from(failed.id, "work")
    assert app.durable.runs.retry(failed.id)
    until(lambda: 2 == app.count("queued"))
    assert ["a", "b"] == app.begun
    app.go("b")
    until(lambda: 3 == app.count("completed"))
    assert ["a", "b", "a", "a"] == app.begun


def test_a_deployment_may_change_the_limit(start: Start) -> None:
    """Runs that the code before has queued go on under the new limit, and also without one."""
    app = start(concurrency=1)
    app.begin("def", "a")
    for trip in ("b", "c"):
        app.ask("def", trip)
    more = start(concurrency=2)
    more.durable.start()
    until(lambda: ["b"] == more.begun)
    for old in (app, more):
        old.durable.stop(0.1)
    unlimited = start()
    unlimited.durable.start()
    until(lambda: {"a", "b", "c"} == set(unlimited.begun))


def test_a_process_without_the_code_leaves_the_queue_as_it_is(start: Start, tmp_path: Path) -> None:
    """It knows no limit of an endpoint that it does not know: another process may have the code."""
    app = start(concurrency=1)
    app.begin("def", "a")
    app.ask("def", "b")
    app.durable.stop(0.1)
    engine = EmbeddedEngine(tmp_path / "db")
    other = Durable(id="shop", endpoint_adapter=endpoint_adapter, engine=engine)
    other.endpoint(function_id="other")(lambda request: None)
    try:
        assert 0 == other.run_due(5)
        assert 1 == len(other.runs.list(status="queued"))
    finally:
        other.stop()


def test_queued_runs_are_executed_on_demand(start: Start) -> None:
    """``run_due`` executes those that have a slot, in order, until none is due."""
    app = start(concurrency=1, settings=Settings(on_demand=True))
    app.begin("def", "a")
    for trip in ("b", "c"):
        app.ask("def", trip)
    assert app.durable.next_due() is None
    app.go("a", "b", "c")
    until(lambda: 1 == app.count("completed"))
    assert app.durable.next_due() is not None
    app.durable.run_due("20s")
    assert ["a", "b", "c"] == app.begun


def test_a_slot_that_is_left_during_a_round_is_taken(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``run_due`` looks once more if a run has ended since it looked for due ones."""
    monkeypatch.setattr("durable_core.engine.scheduler._PAUSE", 0.01)
    app = start(concurrency=1, settings=Settings(on_demand=True))
    engine = embedded(app.durable.engine)
    look = engine.store.next_due
    ended: list[int | None] = []

    def end_after_look(*args: Any, **options: Any) -> int | None:
        due = look(*args, **options)
        if app.begun == ["a", "b"] and not ended:
            ended.append(due)
            app.go("b")
            until(lambda: 2 == app.count("completed") and engine.health()["live_runs"] == 0)
        return due

    app.begin("def", "a")
    for trip in ("b", "c"):
        app.ask("def", trip)
    app.go("a", "c")
    until(lambda: 1 == app.count("completed"))
    monkeypatch.setattr(engine.store, "next_due", end_after_look)
    app.durable.run_due("20s")
    assert [None] == ended
    assert ["a", "b", "c"] == app.begun


def test_a_client_on_demand_has_those_before_it_executed(start: Start) -> None:
    """A run that a client waits for would else never have its turn."""
    app = start(concurrency=1, settings=Settings(on_demand=True))
    app.begin("def", "a")
    app.ask("def", "b")
    pass_millisecond()
    last = app.ask("def", "c")
    app.go("a", "b", "c")
    assert b'"c"' == app.follow("def", last).body
    assert ["a", "b", "c"] == app.begun


def test_a_queue_has_a_limit(start: Start) -> None:
    """A request for one more run is answered 503, and leaves nothing."""
    app = start(concurrency=1, queue_limit=1)
    app.begin("def", "a")
    assert 302 == app.ask("def", "b").status
    answer = app.ask("def", "c")
    assert (503, "5") == (answer.status, answer.headers["retry-after"])
    assert isinstance(answer.body, bytes)
    assert b"urn:durable:queue-full" in answer.body
    assert 2 == len(app.durable.runs.list())


def test_without_a_queue(start: Start) -> None:
    """``queue_limit=0``: a request has a slot, or is refused."""
    app = start(concurrency=1, queue_limit=0)
    app.begin("async", "a")
    assert 503 == app.ask("async", "b").status
    app.go("a")
    until(lambda: 1 == app.count("completed"))
    app.go("b")
    assert 200 == app.ask("async", "b").status


def test_a_repeated_request_is_not_queued_twice(start: Start) -> None:
    """It joins the run that has its key, queued or not."""
    app = start(concurrency=1)
    app.begin("def", "a")
    for _ in range(2):
        app.ask("def", "b", **{"idempotency-key": '"k"'})
    assert 1 == app.count("queued")


def test_head_is_limited_as_get(start: Start) -> None:
    """It has a run, too."""
    app = start(concurrency=1, methods=("GET", "HEAD"))
    app.begin("def", "a")
    assert 302 == app.ask("def", "b", method="HEAD").status
    assert 1 == app.count("queued")


# Rates


@KINDS
def test_a_rate_limit(start: Start, kind: str) -> None:
    """So many runs begin at once, and then one after each part of the period."""
    clock = FakeClock()
    app = start(rate_limit=RateLimit(2, "10s"), clock=clock)
    app.go("a")
    assert [200, 200] == [app.ask(kind, "a").status for _ in range(2)]
    refused = app.ask(kind, "a")
    assert (429, "5") == (refused.status, refused.headers["retry-after"])
    assert isinstance(refused.body, bytes)
    assert b"urn:durable:rate-limited" in refused.body
    clock.advance(4.9)
    assert (429, "1") == (app.ask(kind, "a").status, app.ask(kind, "a").headers["retry-after"])
    clock.advance(0.1)
    assert [200, 429] == [app.ask(kind, "a").status for _ in range(2)]
    assert 3 == len(app.durable.runs.list())


def test_a_rate_limit_of_each_key(start: Start) -> None:
    """Keys are counted apart; a request that joins a run does not count."""
    app = start(rate_limit=RateLimit(1, "1h", key=customer))
    app.go("a")
    key = {"idempotency-key": '"k"'}
    assert [200, 200] == [app.ask("def", "a", "customer=a", **key).status for _ in range(2)]
    assert [200, 429] == [app.ask("def", "a", "customer=b").status for _ in range(2)]


# Singleton


@KINDS
def test_a_second_run_is_rejected(start: Start, kind: str) -> None:
    """While the first has not ended, also while it waits; each key has a run of its own."""
    app = start(singleton=Singleton(key=customer))
    app.go("a")
    first = app.ask(kind, "a", "wait&customer=a")
    until(lambda: 1 == app.count("suspended"))
    second = app.ask(kind, "a", "customer=a")
    assert (409, "5") == (second.status, second.headers["retry-after"])
    assert isinstance(second.body, bytes)
    assert b"urn:durable:already-running" in second.body
    assert 200 == app.ask(kind, "a", "customer=b").status
    app.durable.send(Event("go"))
    assert 200 == app.follow(kind, first).status
    assert 200 == app.ask(kind, "a", "customer=a").status


@KINDS
def test_a_second_request_is_attached(start: Start, kind: str) -> None:
    """It gets the response of the run; a client with other credentials must not, and gets 409."""
    app = start(singleton="attach")
    first = app.begin(kind, "a")
    second = app.ask(kind, "b")
    assert 302 == second.status
    assert 409 == app.ask(kind, "b", authorization="Bearer other").status
    app.go("a")
    assert b'"a"' == first.result(20).body == app.follow(kind, second).body
    assert ["a"] == app.begun


@KINDS
def test_a_second_request_cancels_the_first(start: Start, kind: str) -> None:
    """Its clients get 410, and the new run goes on."""
    app = start(singleton="cancel")
    first = app.ask(kind, "a", "wait")
    until(lambda: 1 == app.count("suspended"))
    app.go("b")
    assert b'"b"' == app.ask(kind, "b").body
    gone = app.follow(kind, first)
    assert isinstance(gone.body, bytes)
    assert (410, True) == (gone.status, b"another run took its place" in gone.body)


@KINDS
@pytest.mark.parametrize(
    ("limits", "status"),
    [({"rate_limit": RateLimit(1, "1h")}, 429), ({"concurrency": 1, "queue_limit": 0}, 503)],
    ids=["rate", "queue"],
)
def test_a_request_that_is_refused_cancels_nothing(
    start: Start, kind: str, limits: dict[str, Any], status: int
) -> None:
    """The run that it would have replaced goes on."""
    app = start(singleton=Singleton("cancel", key=customer), **limits)
    app.ask(kind, "a", "wait&customer=ours")
    until(lambda: 1 == app.count("suspended"))
    if "concurrency" in limits:
        app.begin(kind, "busy", "customer=another")
    assert status == app.ask(kind, "b", "customer=ours").status
    assert (1, 0) == (app.count("suspended"), app.count("cancelled"))


def test_many_that_cancel_each_other(start: Start) -> None:
    """One run is left, however many requests come at once."""
    app = start(singleton="cancel")
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(app.ask, "async", str(n), "wait") for n in range(8)]
        statuses = {each.result(20).status for each in asked}
    assert {302} >= statuses - {409, 410}
    until(lambda: 1 == app.count("suspended") + app.count("running"))


def test_no_second_run_goes_on_after_a_failure(start: Start) -> None:
    """``retry`` and ``resume_from`` are refused while another run has the key."""
    app = start(singleton="reject")
    app.is_broken = True
    app.go("a")
    app.ask("def", "a")
    [failed] = app.durable.runs.list(status="failed")
    app.begin("def", "b")
    with pytest.raises(SingletonError, match="has its singleton key"):
        app.durable.runs.retry(failed.id)
    with pytest.raises(SingletonError, match="has its singleton key"):
        app.durable.runs.resume_from(failed.id, "work")
    assert "failed" == app.durable.runs.get(failed.id).status


# Mistakes


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"concurrency": 0}, "concurrency: limit must be an int from 1 to 10,000, not 0"),
        ({"concurrency": True}, "not True"),
        ({"concurrency": 1.5}, "concurrency must be a number, a Concurrency"),
        ({"concurrency": ()}, "at most one limit with a key and one without"),
        ({"concurrency": (Concurrency(1), Concurrency(2))}, "at most one limit with a key"),
        ({"queue_limit": 1}, "queue_limit= needs concurrency="),
        ({"concurrency": 1, "queue_limit": -1}, "queue_limit must be an int from 0"),
        ({"concurrency": 1, "omit_request_body": True}, "with queue_limit=0 no run is queued"),
        ({"rate_limit": 5}, "rate_limit must be a RateLimit, not 5"),
        ({"singleton": "skip"}, "singleton must be 'reject', 'attach' or 'cancel'"),
    ],
)
def test_bad_options(options: dict[str, Any], text: str) -> None:
    """Each is refused where the endpoint is defined, with what is allowed."""
    with pytest.raises((ValueError, TypeError), match=re.escape(text)):
        App(MemoryStore(), **options)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Concurrency(10_001), "concurrency: limit must be"),
        (lambda: Concurrency(1, key=cast(Any, "customer")), "concurrency: key must be a function"),
        (lambda: RateLimit(0, "1s"), "rate_limit: limit must be"),
        (lambda: RateLimit(1, "0.5s"), "rate_limit: period must be 1 second or more"),
        (lambda: RateLimit(1, "soon"), "rate_limit: period"),
        (lambda: RateLimit(1, "1s", key=cast(Any, 5)), "rate_limit: key must be a function"),
        (lambda: Singleton(cast(Any, "skip")), "singleton must be"),
        (lambda: Singleton(key=cast(Any, 5)), "singleton: key must be a function"),
    ],
)
def test_bad_values(make: Callable[[], object], text: str) -> None:
    """Each is refused when it is made."""
    with pytest.raises((ValueError, TypeError), match=text):
        make()


@KINDS
@pytest.mark.parametrize("option", ["concurrency", "rate_limit", "singleton"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "must return a str, not int"),
        ("", "must return 1 to 255 characters, not 0"),
        ("\ud800", "must return a text without lone surrogates"),
    ],
)
def test_a_function_that_returns_no_key(
    start: Start, kind: str, option: str, value: Any, text: str
) -> None:
    """The request fails with an error that names the option, and leaves no run."""
    app = start(**limited(option, lambda request: value), store=MemoryStore())
    with pytest.raises((TypeError, ValueError), match=f"the key of {option}= {text}"):
        app.ask(kind, "a")
    assert [] == app.durable.runs.list()


@pytest.mark.parametrize("option", ["concurrency", "rate_limit", "singleton"])
def test_a_function_that_raises(start: Start, option: str) -> None:
    """Its own error comes out, with a note of which function it was."""
    app = start(**limited(option, customer), store=MemoryStore())
    with pytest.raises(BadRequest, match="customer") as raised:
        app.ask("def", "a")
    assert [f"raised by the key of {option}="] == raised.value.__notes__


def limited(option: str, key: Any) -> dict[str, Any]:
    limits = {
        "concurrency": Concurrency(1, key=key),
        "rate_limit": RateLimit(1, "1s", key=key),
        "singleton": Singleton(key=key),
    }
    return {option: limits[option]}


def test_an_engine_without_a_store_refuses(tmp_path: Path) -> None:
    """The error names the engine and the options, where the endpoint is defined."""
    durable: Durable[Any] = Durable(id="shop", endpoint_adapter=endpoint_adapter)
    refused = pytest.raises(ConfigurationError, match="has no flow limits: concurrency=")
    with patch.object(EmbeddedEngine, "store", None), refused:
        durable.endpoint(concurrency=1)(customer)
