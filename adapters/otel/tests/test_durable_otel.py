"""Spans of runs, by the real SDK and its exporter in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, TraceFlags

from durable_core import Durable, HTTPError, LogContext, Request, step, sync
from durable_core import endpoint_adapter as core_adapter
from durable_core.observers import Fact, Observer
from durable_core.testing import harness
from durable_otel import OpenTelemetryObserver
from support.service import service
from support.telemetry import Telemetry, attributes_of, telemetry_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
both = pytest.mark.parametrize("kind", ["def", "async def"])
Handler = Callable[[Request], Any]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with telemetry_of() as made:
        yield made


def application(telemetry: Telemetry, **options: Any) -> Any:
    """Return an application that is observed."""
    return Durable(
        id="shop", endpoint_adapter=core_adapter, observers=[telemetry.observer], **options
    )


def handler_of(kind: str, tracer: trace.Tracer) -> Handler:
    """Return a handler of a step that fails once and has a span of its own, and of a sleep."""
    attempts = []

    def work() -> str:
        with tracer.start_as_current_span("own"):
            attempts.append(1)
            if len(attempts) == 1:
                raise ConnectionError("once")
            return "done"

    def of_threads(request: Request) -> str:
        result = sync.step.run("work", work)
        sync.step.sleep("nap", "1 day")
        return result

    async def of_tasks(request: Request) -> str:
        result = await step.run("work", work)
        await step.sleep("nap", "1 day")
        return result

    return of_threads if kind == "def" else of_tasks


@both
@pytest.mark.parametrize("headers", [{}, {"traceparent": PARENT}], ids=["alone", "in-a-trace"])
def test_spans(telemetry: Telemetry, kind: str, headers: Mapping[str, str]) -> None:
    """One for each execution and for each attempt, none for the sleep and for what is replayed.

    All are in one trace, that of the client if it has one; each execution is below the span that
    the run belongs to, and linked to it.
    """
    durable = application(telemetry)
    endpoint = durable.endpoint(function_id="order")(
        handler_of(kind, telemetry.provider.get_tracer("mine"))
    )
    with harness(durable) as t:
        reply = t.client(endpoint).get("/", headers=headers)
        t.advance("2 days")
        assert 200 == reply.result().status
        [run] = t.runs()

    names = [span.name for span in telemetry.spans]
    start = {} if headers else {"start order": 1}
    assert {"order": 3, "work": 2, "own": 2, **start} == {
        name: names.count(name) for name in set(names)
    }
    origin = (TRACE, SPAN) if headers else ids(telemetry.span("start order"))
    expected = PARENT if headers else traceparent_of(telemetry.span("start order"))
    assert expected == run.traceparent
    assert {origin[0]} == {ids(span)[0] for span in telemetry.spans}
    executions = telemetry.named("order")
    assert [origin] * 3 == [parent_ids(span) for span in executions]
    assert [origin] * 3 == [link_ids(span) for span in executions]
    assert [run.id] * 3 == [attributes_of(span)["durable.run.id"] for span in executions]
    assert [1, 2, 3] == [attributes_of(span)["durable.execution"] for span in executions]
    assert [SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.INTERNAL] == [
        span.kind for span in executions
    ]


def ids(span: ReadableSpan) -> tuple[str, str]:
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def traceparent_of(span: ReadableSpan) -> str:
    return f"00-{'-'.join(ids(span))}-{span.context.trace_flags:02x}"


def parent_ids(span: ReadableSpan) -> tuple[str, str]:
    assert span.parent is not None
    return f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}"


def link_ids(span: ReadableSpan) -> tuple[str, str]:
    [link] = span.links
    return f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}"


def test_what_a_span_says(telemetry: Telemetry) -> None:
    """The error of an attempt is on its span, and a user's span is within it, in threads, too."""
    durable = application(telemetry, version="v1")
    endpoint = durable.endpoint(function_id="order", name="Order", labels={"tier": "gold"})(
        handler_of("async def", telemetry.provider.get_tracer("mine"))
    )
    with harness(durable) as t:
        t.client(endpoint).get("/orders/7?secret=1")
        t.advance("2 days")
        [run] = t.runs()

    failed, succeeded = telemetry.named("work")
    assert {
        "durable.app": "shop",
        "durable.endpoint": "order",
        "durable.run.id": run.id,
        "durable.step.id": "work",
        "durable.step.kind": "run",
        "durable.attempt": 1,
        "error.type": "ConnectionError",
    } == attributes_of(failed)
    assert 2 == attributes_of(succeeded)["durable.attempt"]
    assert (False, True) == (failed.status.is_ok, succeeded.status.is_ok)
    assert "once" == (failed.events[0].attributes or {})["exception.message"]
    own = telemetry.named("own")
    assert [failed.context.span_id, succeeded.context.span_id] == [
        span.parent.span_id for span in own if span.parent is not None
    ]
    first = telemetry.named("order")[0]
    assert {
        "durable.app": "shop",
        "durable.endpoint": "order",
        "durable.run.id": run.id,
        "durable.run.name": "Order",
        "durable.execution": 1,
        "durable.version": "v1",
        "durable.label.tier": "gold",
        "http.request.method": "GET",
        "url.path": "/orders/7",
    } == attributes_of(first)
    assert ["durable.handed_off"] == [event.name for event in first.events]
    assert first.status.is_unset  # it was handed off, which is no error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (HTTPError(404, "no such order"), (True, 404, None)),
        (HTTPError(503), (False, 503, "durable_core.errors.HTTPError")),
        (ValueError("bad"), (False, None, "ValueError")),
    ],
    ids=["refused", "unavailable", "failed"],
)
@both
def test_errors_of_a_handler(
    telemetry: Telemetry, kind: str, error: Exception, expected: tuple[bool, int | None, str | None]
) -> None:
    """What it raises is on the span of the execution; a refused client is no error."""

    def plain(request: Request) -> None:
        raise error

    async def asynchronous(request: Request) -> None:
        raise error

    durable = application(telemetry)
    options: Any = {"function_id": "it", "retries": 0}
    endpoint = durable.endpoint(**options)(plain if kind == "def" else asynchronous)
    with harness(durable) as t:
        t.client(endpoint).get("/")

    span = telemetry.span("it")
    attributes = attributes_of(span)
    assert expected == (
        span.status.is_unset,
        attributes.get("http.response.status_code"),
        attributes.get("error.type"),
    )


def test_parallel_branches(telemetry: Telemetry) -> None:
    """Each attempt is below the execution, and the user's spans are below their own attempts.

    In threads of ``parallel``, in tasks of the handler, and in tasks that a step's function makes.
    """
    tracer = telemetry.provider.get_tracer("mine")

    def work(name: str) -> None:
        with tracer.start_as_current_span(f"own {name}"):
            pass

    async def work_in_tasks(name: str) -> None:
        async def inner(number: int) -> None:
            work(f"{name}{number}")

        await asyncio.gather(inner(1), inner(2))

    def of_threads(request: Request) -> None:
        sync.step.parallel(
            "branches",
            lambda: sync.step.run("a", work, "a"),
            lambda: sync.step.run("b", work, "b"),
            lambda: sync.step.options(timeout="1m").run("c", work, "c"),
        )

    async def of_tasks(request: Request) -> None:
        await asyncio.gather(step.run("d", work_in_tasks, "d"), step.run("e", work, "e"))
        async with asyncio.TaskGroup() as group:
            group.create_task(step.run("f", work_in_tasks, "f"))

    durable = application(telemetry)
    endpoints = [
        durable.endpoint(function_id=each.__name__)(each) for each in (of_threads, of_tasks)
    ]
    with harness(durable) as t:
        for endpoint in endpoints:
            assert 200 == t.client(endpoint).get("/").status

    parents = {span.name: telemetry.parent(span) for span in telemetry.spans}
    assert {f"own {name}": name[0] for name in ("a", "b", "c", "d1", "d2", "e", "f1", "f2")} == {
        name: parent for name, parent in parents.items() if name.startswith("own")
    }
    assert ["of_threads"] * 3 + ["of_tasks"] * 3 == [parents[name] for name in "abcdef"]


@both
def test_children_are_in_the_trace(telemetry: Telemetry, kind: str) -> None:
    """Executions of a child are below that execution of its parent which has invoked it."""

    def child(request: Request) -> str:
        return sync.step.run("work", str)

    def plain(request: Request) -> object:
        return sync.step.invoke("child", invoked, {})

    async def asynchronous(request: Request) -> object:
        return await step.invoke("child", invoked, {})

    durable = application(telemetry)
    invoked = durable.endpoint(function_id="child", methods=("POST",))(child)
    parent = durable.endpoint(function_id="parent")(plain if kind == "def" else asynchronous)
    with harness(durable) as t:
        reply = t.client(parent).get("/", headers={"traceparent": PARENT})
        t.advance("1s")
        assert 200 == reply.result().status

    first = telemetry.named("parent")[0]
    assert ids(first) == parent_ids(telemetry.span("child"))
    assert "child" == telemetry.parent(telemetry.span("work"))


@both
def test_requests_of_steps_carry_the_context(telemetry: Telemetry, kind: str) -> None:
    """A server that ``step.fetch`` asks sees the attempt as the parent of what it does."""

    def plain(request: Request) -> None:
        sync.step.fetch("get", other.url, client=given)

    async def asynchronous(request: Request) -> None:
        await step.fetch("get", other.url)

    with (
        service(lambda *_: (200, {}, b"")) as other,
        httpx.Client() as given,
        harness(durable := application(telemetry)) as t,
    ):
        endpoint = durable.endpoint(function_id="it")(plain if kind == "def" else asynchronous)
        assert 200 == t.client(endpoint).get("/").status

    assert traceparent_of(telemetry.span("get")) == other.asked[0].headers["traceparent"]


def test_instrumented_clients_say_it_themselves(telemetry: Telemetry) -> None:
    """The span of an instrumented client goes before, as it is the nearest one."""
    with service(lambda *_: (200, {}, b"")) as other, httpx.Client() as given:
        HTTPXClientInstrumentor.instrument_client(given, tracer_provider=telemetry.provider)
        durable = application(telemetry)

        def handler(request: Request) -> None:
            sync.step.fetch("fetch", other.url, client=given)

        with harness(durable) as t:
            t.client(durable.endpoint(handler)).get("/")

    [client] = [span for span in telemetry.spans if span.kind is SpanKind.CLIENT]
    assert "fetch" == telemetry.parent(client)
    assert traceparent_of(client) == other.asked[0].headers["traceparent"]


def test_what_is_not_sampled_stays_so() -> None:
    """A run that begins in no trace is sampled once: its replays do as its first execution."""
    with telemetry_of(ParentBased(ALWAYS_OFF)) as telemetry:
        durable = application(telemetry)
        endpoint = durable.endpoint(handler_of("def", telemetry.provider.get_tracer("mine")))
        with harness(durable) as t:
            t.client(endpoint).get("/")
            t.advance("2 days")
            [run] = t.runs()

    assert [] == telemetry.spans
    assert run.traceparent is not None
    assert not int(run.traceparent[-2:], 16) & TraceFlags.SAMPLED


class Broken(Observer):
    """Raises whenever it can."""

    def notify(self, fact: Fact, /) -> None:
        raise RuntimeError("broken")

    execution = attempt = trace_context = trace_headers = notify  # type: ignore[assignment]


def test_beside_a_broken_observer(telemetry: Telemetry) -> None:
    """What another observer raises costs no span."""
    durable = Durable(
        id="shop", endpoint_adapter=core_adapter, observers=[Broken(), telemetry.observer]
    )
    endpoint = durable.endpoint(function_id="order")(
        handler_of("def", telemetry.provider.get_tracer("mine"))
    )
    with harness(durable) as t:
        t.client(endpoint).get("/")
        t.advance("2 days")

    assert 3 == len(telemetry.named("order"))


def test_log_records_have_the_trace(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """Those of the library about a run, and with ``LogContext`` those of the user's code."""
    mine = logging.getLogger("of_this_test")
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(context := LogContext())

    def handler(request: Request) -> None:
        sync.step.run("log", lambda: mine.info("in a step"))
        sync.step.sleep("nap", "1m")

    durable = application(telemetry)
    endpoint = durable.endpoint(function_id="it")(handler)
    try:
        with harness(durable) as t:
            t.client(endpoint).get("/")
            t.advance("2m")
    finally:
        caplog.handler.removeFilter(context)

    [trace_id] = {ids(span)[0] for span in telemetry.spans}
    records = [each for each in caplog.records if vars(each).get("run_id") is not None]
    assert {"durable", "of_this_test"} == {record.name for record in records}
    assert {trace_id} == {vars(record)["trace_id"] for record in records}


def test_exported_by_otlp() -> None:
    """A collector gets the spans, with their attributes and links, by the OTLP exporter."""
    with service(lambda *_: (200, {}, b"")) as collector:
        provider = TracerProvider()
        exporter = OTLPSpanExporter(
            endpoint=f"{collector.url}/v1/traces", compression=Compression.NoCompression
        )
        provider.add_span_processor(BatchSpanProcessor(exporter))
        durable = Durable(
            id="shop",
            endpoint_adapter=core_adapter,
            observers=[OpenTelemetryObserver(tracer_provider=provider)],
        )
        endpoint = durable.endpoint(function_id="order")(lambda request: sync.step.run("it", str))
        with harness(durable) as t:
            t.client(endpoint).get("/", headers={"traceparent": PARENT})
        provider.shutdown()

    requests = [ExportTraceServiceRequest.FromString(asked.body) for asked in collector.asked]
    spans = {
        span.name: span
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert {"order", "it"} == set(spans)
    assert (TRACE, SPAN) == (spans["order"].trace_id.hex(), spans["order"].parent_span_id.hex())
    assert [SPAN] == [link.span_id.hex() for link in spans["order"].links]
    assert spans["order"].span_id == spans["it"].parent_span_id
