"""Observers that trace: the context of a run, and what requests of steps carry of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.api.webhook import Webhook
from durable_core.http.request import Request
from durable_core.model.fact import Fact, ObservedRun, RunResumed, RunStarted, StepStarted
from durable_core.ports.observer import Observer
from support.harness import lab, request, until
from support.service import service

SENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
GIVEN = "00-11111111111111111111111111111111-2222222222222222-01"
SPAN: ContextVar[str] = ContextVar("span", default="none")
both = pytest.mark.parametrize("kind", ["def", "async def"])


class Tracer(Observer):
    """Gives each run a trace context, and says in which span a request is made."""

    def __init__(self, traceparent: Any = None) -> None:
        self.traceparent = traceparent
        self.facts: list[Fact] = []
        self.asked: list[tuple[str, str | None]] = []

    def notify(self, fact: Fact, /) -> None:
        self.facts.append(fact)

    def execution(self, fact: RunStarted | RunResumed, /) -> AbstractContextManager[object]:
        return self._span(type(fact).__name__)

    def attempt(self, fact: StepStarted, /) -> AbstractContextManager[object]:
        return self._span(f"{SPAN.get()}/{fact.step.id}#{fact.attempt}")

    @contextmanager
    def _span(self, name: str) -> Iterator[None]:
        token = SPAN.set(name)
        try:
            yield
        finally:
            SPAN.reset(token)

    def trace_context(self, run: ObservedRun, /) -> str | None:
        self.asked.append((SPAN.get(), run.traceparent))
        traceparent: str | None = self.traceparent
        return traceparent

    def trace_headers(self) -> Mapping[str, str]:
        return {"traceparent": GIVEN, "x-span": SPAN.get()}


@pytest.mark.parametrize("key", [None, "k1"])
@pytest.mark.parametrize(("given", "kept"), [(None, SENT), (GIVEN, GIVEN)])
def test_the_context_of_a_run(given: str | None, kept: str, key: str | None) -> None:
    """An observer gives it, else the request; it is stored, also with a run that has a key."""
    tracer = Tracer(given)
    headers = {"traceparent": SENT} | ({} if key is None else {"idempotency_key": key})
    token = SPAN.set("request")
    try:
        with lab(observers=[tracer]) as process:
            endpoint = process.endpoint(lambda asked: sync_step.run("it", str))
            endpoint.handle(request("/it", "POST", b"", **headers))
            [record] = process.records.list()
    finally:
        SPAN.reset(token)

    assert [("request", SENT)] == tracer.asked
    assert kept == record.run.traceparent
    assert {kept} == {fact.run.traceparent for fact in tracer.facts if isinstance(fact, RunStarted)}


@pytest.mark.parametrize("given", ["nonsense", 7, GIVEN.upper() + "x"])
def test_a_wrong_context_is_no_harm(given: object, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, once, and that of the request counts."""
    with lab(observers=[Tracer(given)]) as process:
        endpoint = process.endpoint(lambda asked: sync_step.run("it", str))
        for _ in range(2):
            endpoint.handle(request(traceparent=SENT))
        kept = {record.run.traceparent for record in process.records.list()}

    assert {SENT} == kept
    assert 1 == sum("has raised" in message for message in caplog.messages)


class Broken(Observer):
    """Raises in what it is asked for traces."""

    def trace_context(self, run: ObservedRun, /) -> str | None:
        raise RuntimeError("no context")

    def trace_headers(self) -> Mapping[str, str]:
        raise RuntimeError("no headers")


class Malformed(Observer):
    """Returns fields that no request can have."""

    def trace_headers(self) -> Mapping[str, str]:
        return {"trace\r\nparent": "x"}


@both
def test_requests_carry_the_context_of_their_attempt(kind: str) -> None:
    """``step.fetch`` asks with it, unless the caller has given a field; others may be broken."""

    def plain(asked: Request) -> None:
        sync_step.fetch("get", other.url)
        sync_step.fetch("own", other.url, headers={"Traceparent": SENT})

    async def asynchronous(asked: Request) -> None:
        await step.fetch("get", other.url)
        await step.fetch("own", other.url, headers={"Traceparent": SENT})

    with (
        service(lambda *_: (200, {}, b"")) as other,
        lab(observers=[Broken(), Tracer(), Malformed()]) as process,
    ):
        process.call(process.endpoint(plain if kind == "def" else asynchronous))

    got = [(asked.headers["traceparent"], asked.headers["x-span"]) for asked in other.asked]
    assert [(GIVEN, "RunStarted/get#1"), (SENT, "RunStarted/own#1")] == got


def test_without_observers_nothing_is_added() -> None:
    """A request has what the caller gave it."""
    with service(lambda *_: (200, {}, b"")) as other, lab() as process:
        endpoint = process.endpoint(lambda asked: sync_step.fetch("get", other.url).ok)
        process.call(endpoint, request(traceparent=SENT))

    assert "traceparent" not in other.asked[0].headers


@both
def test_children_and_webhooks_are_in_the_trace(kind: str) -> None:
    """A child gets its context where it is invoked; a run that tells of an end, that of the run."""
    tracer = Tracer()

    def plain(asked: Request) -> object:
        return sync_step.invoke("child", child, {"a": 1})

    async def asynchronous(asked: Request) -> object:
        return await step.invoke("child", child, {"a": 1})

    with (
        service(lambda *_: (200, {}, b"")) as other,
        lab(observers=[tracer]) as process,
    ):
        told = Webhook(other.url, secret="whsec_" + "A" * 32)
        child = process.endpoint(lambda asked: "child", function_id="child", methods=("POST",))
        parent = process.endpoint(plain if kind == "def" else asynchronous, on_complete=told)
        process.call(parent, request(traceparent=SENT))
        until(lambda: bool(other.asked))
        until(lambda: len([each for each in process.records.list() if each.ended_at]) == 3)
        kept = {each.run.endpoint_key: each.run.traceparent for each in process.records.list()}

    assert {"it": SENT, "child": SENT, "it (on_complete)": SENT} == kept
    assert [("none", SENT), ("RunStarted", SENT)] == tracer.asked
    assert [(GIVEN, "RunResumed/deliver#1")] == [
        (asked.headers["traceparent"], asked.headers["x-span"]) for asked in other.asked
    ]


def test_a_webhook_is_in_the_trace_of_its_request() -> None:
    """Also where nobody observes, and the run is stored only when it ends."""
    with service(lambda *_: (200, {}, b"")) as other, lab() as process:
        told = Webhook(other.url, secret="whsec_" + "A" * 32)
        endpoint = process.endpoint(lambda asked: "done", on_complete=told)
        endpoint.handle(request(traceparent=SENT))
        until(lambda: bool(other.asked))
        kept = [record.run.traceparent for record in process.records.list()]

    assert [SENT, SENT] == kept


def test_lines_about_a_run_have_its_trace_id(caplog: pytest.LogCaptureFixture) -> None:
    """The records of the library do; None where a run is in no trace."""
    caplog.set_level(logging.INFO, "durable")
    with lab() as process:
        endpoint = process.endpoint(lambda asked: sync_step.sleep("nap", "1h"))
        endpoint.handle(request(traceparent=SENT))
        endpoint.handle(request())

    lines = [vars(record).get("trace_id") for record in caplog.records if "run_id" in vars(record)]
    assert [SENT[3:35], SENT[3:35], None, None] == lines
