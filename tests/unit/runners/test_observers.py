"""Observers: what they are notified of, in which order and context, and that they harm nothing."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import ConfigurationError, StoreError
from durable_core.flow.effects import Notify
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import Event
from durable_core.model.fact import (
    AttemptFailed,
    EventMatched,
    EventSent,
    Fact,
    ObservedRun,
    RunFinished,
    RunHandedOff,
    RunNoted,
    RunResumed,
    RunStarted,
    RunSuspended,
    StepFinished,
    StepStarted,
    StoreCommitted,
    StoreFault,
)
from durable_core.ports import Checkpoint
from durable_core.ports.observer import Observer
from durable_core.runners.observers import Observers
from support.harness import FakeClock, WatchedStore, lab, request, until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = ObservedRun(id="r", app="a", function_id="f", name="f", execution=1, started=NOW, labels={})
SPAN: ContextVar[str] = ContextVar("span", default="none")


class Noting(Observer):
    """Keeps all facts, and makes each execution and each attempt a span in ``SPAN``."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.commits: list[StoreCommitted] = []
        self.left: list[tuple[str, str | None]] = []

    def notify(self, fact: Fact, /) -> None:
        """Keep the fact; when others are committed is not told by one run."""
        if isinstance(fact, StoreCommitted):
            self.commits.append(fact)
        else:
            self.facts.append(fact)

    def execution(self, fact: RunStarted | RunResumed, /) -> AbstractContextManager[object]:
        """Return the span of an execution."""
        return self._span(type(fact).__name__)

    def attempt(self, fact: StepStarted, /) -> AbstractContextManager[object]:
        """Return the span of an attempt."""
        return self._span(f"{SPAN.get()}/{fact.step.id}#{fact.attempt}")

    @contextmanager
    def _span(self, name: str) -> Iterator[None]:
        token, error = SPAN.set(name), None
        try:
            yield
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            SPAN.reset(token)
            self.left.append((name, error))

    def shown(self) -> list[str]:
        """Return the facts in short."""
        return [_shown(fact) for fact in self.facts]


def _shown(fact: Fact) -> str:
    match fact:
        case StepStarted():
            return f"step {fact.step.id} {fact.step.kind} started, {fact.attempt}"
        case AttemptFailed():
            name = fact.step.id if fact.step is not None else "handler"
            return f"{name} failed, {fact.attempt}, {fact.error_name}, {fact.retry is not None}"
        case StepFinished():
            return f"step {fact.step.id} finished, {fact.attempts}, {fact.ok}"
        case EventSent() | EventMatched():
            return f"{type(fact).__name__} {fact.name} {fact.event_id}"
        case RunFinished():
            return f"finished {fact.status} {fact.http_status}"
        case RunHandedOff():
            return f"handed off {fact.reason}"
    return type(fact).__name__


class Flaky:
    """A function that fails once, and says in which span it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls == 1:
            raise ValueError("not yet")
        return SPAN.get()


def json_of(response: Response) -> Any:
    """Return the JSON of a whole body."""
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def handler_of(flaky: Flaky) -> Any:
    def handler(request: Request) -> dict[str, object]:
        first = sync_step.run("first", SPAN.get)
        again = sync_step.run("flaky", flaky)
        sent = sync_step.send_event("tell", Event("told", {"to": "me"}, id="e1"))
        heard = sync_step.wait_for_event("hear", event="told-back", timeout="1h")
        return {"first": first, "again": again, "sent": sent, "heard": heard is not None}

    return handler


def async_handler_of(flaky: Flaky) -> Any:
    async def handler(request: Request) -> dict[str, object]:
        first = await step.run("first", SPAN.get)
        again = await step.run("flaky", flaky)
        sent = await step.send_event("tell", Event("told", {"to": "me"}, id="e1"))
        heard = await step.wait_for_event("hear", event="told-back", timeout="1h")
        return {"first": first, "again": again, "sent": sent, "heard": heard is not None}

    return handler


@pytest.mark.parametrize("make", [handler_of, async_handler_of])
def test_the_facts_of_a_run(make: Any) -> None:
    """Each is told once and in order, in both kinds of handlers; a replayed step tells nothing."""
    told, flaky = Noting(), Flaky()
    with lab(observers=[told]) as process:
        endpoint = process.endpoint(make(flaky))
        first = endpoint.handle(request())
        until(lambda: "step hear wait started, 1" in told.shown())
        process.durable.send(Event("told-back", id="e2"))
        last = process.follow(endpoint, first)

    assert isinstance(last.body, bytes)
    assert b"first" in last.body, last.body
    replays = [fact for fact in told.shown() if fact not in ("RunResumed", "RunSuspended")]
    assert [
        "RunStarted",
        "step first run started, 1",
        "step first finished, 1, True",
        "step flaky run started, 1",
        "flaky failed, 1, ValueError, True",
        "handed off step-retry",
        "step flaky run started, 2",
        "step flaky finished, 2, True",
        "EventSent told e1",
        "step tell finished, 1, True",
        "step hear wait started, 1",
        "EventSent told-back e2",
        "EventMatched told-back e2",
        "step hear finished, 1, True",
        "finished completed 200",
    ] == replays
    assert flaky.calls == 2


@pytest.mark.parametrize("make", [handler_of, async_handler_of])
def test_contexts(make: Any) -> None:
    """A span is current in the functions of steps, in threads too, and ends with their error."""
    told, flaky = Noting(), Flaky()
    with lab(observers=[told]) as process:
        endpoint = process.endpoint(make(flaky))
        first = endpoint.handle(request())
        until(lambda: "step hear wait started, 1" in told.shown())
        process.durable.send(Event("told-back", id="e2"))
        last = json_of(process.follow(endpoint, first))

    assert "RunStarted/first#1" == last["first"]
    assert last["again"].endswith("/flaky#2")
    failed = [span for span in told.left if span[1] is not None]
    assert [("RunStarted/flaky#1", "ValueError")] == failed
    assert "RunStarted" in dict(told.left)


def test_a_branch_and_a_time_limit_see_the_span() -> None:
    """The threads of ``step.parallel`` and of ``timeout=`` have the context of the attempt."""

    def handler(request: Request) -> list[str]:
        timed = sync_step.options(timeout="1m").run("timed", SPAN.get)
        both = sync_step.parallel("both", lambda: sync_step.run("one", SPAN.get))
        return [timed, *both]

    with lab(observers=[Noting()]) as process:
        last = process.call(process.endpoint(handler))

    assert ["RunStarted/timed#1", "RunStarted/one#1"] == json_of(last)


class Broken(Observer):
    """Raises wherever it can, and swallows what it is left with."""

    def notify(self, fact: Fact, /) -> None:
        raise RuntimeError("notify")

    @contextmanager
    def execution(self, fact: RunStarted | RunResumed, /) -> Iterator[None]:
        yield
        raise RuntimeError("execution")

    def attempt(self, fact: StepStarted, /) -> AbstractContextManager[object]:
        return Swallowing()


class Swallowing(AbstractContextManager[object]):
    def __exit__(self, *left: object) -> bool:
        return True


def test_an_observer_that_raises_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once; the run, and the observers after it, see nothing of it."""
    told, flaky = Noting(), Flaky()

    def handler(request: Request) -> str:
        return sync_step.run("flaky", flaky)

    with lab(observers=[Broken(), told]) as process:
        last = process.call(process.endpoint(handler))

    assert 200 == last.status
    assert "flaky failed, 1, ValueError, True" in told.shown()
    lines = [record.message for record in caplog.records if "has raised" in record.message]
    assert 1 == len(lines), lines


def test_a_run_that_fails() -> None:
    """The attempts of the handler are told, then the end, with the error and what it said."""
    told = Noting()

    def handler(request: Request) -> str:
        raise KeyError("seat")

    with lab(observers=[told]) as process:
        process.call(process.endpoint(handler, retries=0))

    assert ["RunStarted", "handler failed, 1, KeyError, False", "finished failed None"] == (
        told.shown()
    )
    finished = told.facts[-1]
    assert isinstance(finished, RunFinished)
    assert ("KeyError: 'seat'", KeyError) == (finished.reason, type(finished.error))


def test_facts_say_which_run() -> None:
    """Id, endpoint, labels, version and trace context are there from the first fact on."""
    told, trace = Noting(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    def handler(request: Request) -> None:
        sync_step.options(name="Say hello").run("hello", str)

    with lab(observers=[told], version="v1") as process:
        endpoint = process.endpoint(handler, labels={"shop": "7"}, name="greet")
        endpoint.handle(request(traceparent=trace))

    started, step_started = told.facts[:2]
    assert isinstance(started, RunStarted)
    run = started.run
    assert ("lab", "it", "greet", 1) == (run.app, run.function_id, run.name, run.execution)
    assert ({"shop": "7"}, "v1", trace) == (dict(run.labels), run.version, run.traceparent)
    assert isinstance(step_started, StepStarted)
    assert ("hello", "Say hello") == (step_started.step.id, step_started.step.name)
    assert run.id == step_started.run.id
    assert timedelta(0) == started.at.utcoffset()


def test_suspension_says_until_when() -> None:
    """A run that sleeps is told as suspended until it is due, then as resumed."""
    told, clock = Noting(), FakeClock()

    def handler(request: Request) -> str:
        sync_step.sleep("nap", "1h")
        return "ok"

    with lab(clock=clock, observers=[told]) as process:
        process.sleep_through(process.endpoint(handler), clock)

    [suspended] = [fact for fact in told.facts if isinstance(fact, RunSuspended)]
    assert timedelta(hours=1) == suspended.until - suspended.at
    assert [
        *("RunStarted", "step nap sleep started, 1", "handed off sleep", "RunSuspended"),
        *("RunResumed", "step nap finished, 1, True", "finished completed 200"),
    ] == told.shown()


def test_a_streamed_response() -> None:
    """The run is told as finished when the body has been sent to its end."""
    told = Noting()

    def handler(request: Request) -> Response:
        return Response(body=iter([b"a", b"b"]))

    with lab(observers=[told]) as process:
        response = process.endpoint(handler, record="always").handle(request())
        assert ["RunStarted"] == told.shown()
        assert isinstance(response.body, Iterator)
        assert b"ab" == b"".join(response.body)

    assert ["RunStarted", "finished completed 200"] == told.shown()


def test_a_streamed_response_that_breaks() -> None:
    """The run is told as failed, with what the body has raised."""
    told = Noting()

    def chunks() -> Iterator[bytes]:
        yield b"a"
        raise ValueError("no more")

    def handler(request: Request) -> Response:
        return Response(body=chunks())

    with lab(observers=[told]) as process:
        response = process.endpoint(handler, record="always").handle(request())
        assert isinstance(response.body, Iterator)
        with pytest.raises(ValueError, match="no more"):
            list(response.body)

    finished = told.facts[-1]
    assert isinstance(finished, RunFinished)
    assert ("failed", "ValueError: no more") == (finished.status, finished.reason)


def test_cancelling() -> None:
    """A cancelled run is told by the process that cancels it, with the reason."""
    told, clock = Noting(), FakeClock()

    def handler(request: Request) -> None:
        sync_step.sleep("nap", "1h")

    with lab(clock=clock, observers=[told]) as process:
        process.endpoint(handler).handle(request())
        until(process.suspended)
        [record] = process.records.list()
        assert process.durable.runs.cancel(record.run.id, reason="sold out")

    finished = told.facts[-1]
    assert isinstance(finished, RunFinished)
    assert ("cancelled", "the run was cancelled: sold out") == (finished.status, finished.reason)


def undoable(request: Request) -> None:
    sync_step.options(undo=undo_nothing).run("reserve", SPAN.get)
    sync_step.sleep("nap", "1h")


async def undoable_async(request: Request) -> None:
    await step.options(undo=undo_nothing).run("reserve", SPAN.get)
    await step.sleep("nap", "1h")


def undo_nothing(result: object) -> str:
    return SPAN.get()


@pytest.mark.parametrize("handler", [undoable, undoable_async])
def test_the_steps_that_undo_a_cancelled_run(handler: Any) -> None:
    """They are told as any step, with a context of their own; then the run has ended."""
    told, clock = Noting(), FakeClock()
    with lab(clock=clock, observers=[told]) as process:
        process.endpoint(handler).handle(request())
        until(process.suspended)
        [record] = process.records.list()
        assert process.durable.runs.cancel(record.run.id)
        until(lambda: told.shown()[-1] == "finished cancelled 410")

    undone = told.shown().index("step (undo) reserve run started, 1")
    assert "step (undo) reserve finished, 1, True" == told.shown()[undone + 1]
    assert "RunResumed/(undo) reserve#1" in dict(told.left)


def test_store_faults() -> None:
    """A store that fails is told with its error, and the run that it has cut short."""
    told, store = Noting(), WatchedStore()

    def handler(request: Request) -> None:
        sync_step.run("a", str)
        sync_step.run("b", str)

    def fault(writes: Any) -> None:
        if any(isinstance(write, Checkpoint) for write in writes):
            raise StoreError("disk full")

    with lab(store, observers=[told]) as process:
        endpoint = process.endpoint(handler)
        process.durable.start()
        store.fault = fault
        assert 503 == endpoint.handle(request()).status
        store.fault = None

    faults = [fact for fact in told.facts if isinstance(fact, StoreFault)]
    assert faults
    assert "disk full" == str(faults[0].error)
    assert faults[0].run is not None


def test_commits_are_reported() -> None:
    """How many writes a transaction had, and how long it took; only to observers."""
    told = Noting()
    with lab(observers=[told]) as process:
        process.watched.seconds = 0.002
        process.endpoint(lambda asked: sync_step.run("it", str)).handle(request())

    assert {"lab"} == {fact.app for fact in told.commits}
    assert [len(batch) for batch in process.watched.batches] == [
        fact.writes for fact in told.commits
    ]
    assert min(fact.seconds for fact in told.commits) >= 0.002


WITH_LINES = (RunHandedOff, RunSuspended, RunResumed, RunFinished, AttemptFailed, StoreFault)


def test_lines_of_the_log_are_those_of_facts(caplog: pytest.LogCaptureFixture) -> None:
    """The log is an observer: each line about a run is the message of a fact, word for word."""
    told, flaky = Noting(), Flaky()

    def handler(request: Request) -> str:
        return sync_step.run("flaky", flaky)

    with caplog.at_level(logging.INFO, "durable"), lab(observers=[told]) as process:
        process.call(process.endpoint(handler))
        until(lambda: any("finished" in line for line in told.shown()))

    logged = [each.getMessage() for each in caplog.records if each.getMessage().startswith("run ")]
    assert [
        f"run {fact.run.id}: {fact.message}"
        for fact in told.facts
        if isinstance(fact, WITH_LINES) and fact.message and fact.run is not None
    ] == logged
    assert "failed, attempt 1 of 4, and will be retried" in logged[0]


@pytest.mark.parametrize(
    ("level", "observers", "made"),
    [
        (logging.WARNING, [], []),
        (logging.INFO, [], ["made"]),
        (logging.WARNING, [Noting()], ["made"]),
    ],
)
def test_a_fact_that_nobody_hears_is_not_made(
    level: int, observers: list[Observer], made: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A fact is made for an observer, or for a log that takes its level; else not at all."""
    calls: list[str] = []

    def make() -> Fact:
        calls.append("made")
        return RunNoted(run=RUN, at=NOW, level=logging.INFO, message="x", error=None)

    with caplog.at_level(level, logger="durable"):
        Observers(observers).perform(Notify(make))

    assert made == calls


def test_threads() -> None:
    """Facts of a ``def`` handler's steps come in the thread that calls them."""
    threads: list[tuple[str, int]] = []

    class Where(Observer):
        def notify(self, fact: Fact, /) -> None:
            threads.append((type(fact).__name__, threading.get_ident()))

    def handler(request: Request) -> int:
        return sync_step.run("where", threading.get_ident)

    with lab(observers=[Where()]) as process:
        called = json_of(process.call(process.endpoint(handler)))

    assert {("RunStarted", called), ("StepStarted", called), ("StepFinished", called)} <= (
        set(threads)
    )


@pytest.mark.parametrize("observer", [Observer, object(), print])
def test_what_is_no_observer_is_refused(observer: Any) -> None:
    """A class, or an object without the methods, is a ConfigurationError at once."""
    with pytest.raises(ConfigurationError, match=r"durable_core\.observers\.Observer"):
        lab(observers=[observer]).__enter__()
