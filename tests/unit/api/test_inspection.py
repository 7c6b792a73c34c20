"""What people are shown of an application, besides its runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.fernet import Fernet

from durable_core.adapters import client_of
from durable_core.api.inspection import EndpointInfo, StreamedChunk
from durable_core.api.step import step, sync_step
from durable_core.api.stream import sync_stream
from durable_core.errors import (
    BodyNotStoredError,
    ConfigurationError,
    EncryptionKeyError,
    RunNotFoundError,
)
from durable_core.flow.limits import Concurrency, RateLimit, Singleton
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.retry import RetryPolicy
from durable_core.model.event import Event
from durable_core.stores.encrypted import EncryptedStore
from durable_core.stores.memory import MemoryStore
from support.harness import AT_ONCE, FakeClock, Lab, lab, request, until


def a_run(process: Lab, handler: Any, **options: Any) -> str:
    """Make an endpoint of a handler, have it run, and return the id of the run."""
    process.endpoint(handler, **options).handle(request("/it?q=1", body=b'{"a": 1}'))
    until(lambda: process.durable.runs.list())
    return process.durable.runs.list()[0].id


def test_the_request_and_the_response_of_a_run() -> None:
    """They are as they came, but for credentials, whose names are known."""

    def handler(request: Request) -> Response:
        sync_step.run("a", int)
        return Response.json({"ok": True}, 201, {"x-a": "b"})

    with lab() as process:
        endpoint = process.endpoint(handler)
        endpoint.handle(
            Request(
                method="POST",
                url="http://host/it?q=1",
                headers={"authorization": "Bearer 1", "x-b": "c"},
                body=b"body",
            )
        )
        [run] = process.durable.runs.list()
        stored, response = (
            process.durable.runs.request(run.id),
            process.durable.runs.response(run.id),
        )
    assert ("POST", "http://host/it?q=1", b"body") == (stored.method, stored.url, stored.body)
    assert [("x-b", "c")] == [*stored.headers.raw]
    assert ["authorization"] == [*stored.headers.withheld]
    assert response is not None
    assert (201, "b", b'{"ok":true}') == (response.status, response.headers["x-a"], response.body)


def test_what_is_not_stored() -> None:
    """A body that is left out is an error, and no empty one."""

    def handler(request: Request) -> str:
        sync_step.run("a", int)
        return "secret"

    with lab() as process:
        runs = process.durable.runs
        run_id = a_run(process, handler, omit_request_body=True, omit_response_body=True)
        with pytest.raises(BodyNotStoredError):
            _ = runs.request(run_id).body
        with pytest.raises(LookupError, match="the body of the response is not kept"):
            runs.response(run_id)
        for read in (runs.request, runs.response, runs.streamed):
            with pytest.raises(RunNotFoundError, match="nobody"):
                read("nobody")


def test_a_run_that_goes_on_has_no_response() -> None:
    """What it waits for is shown: since when, until when, and what the event must have."""

    def handler(request: Request) -> None:
        sync_step.wait_for_event("answer", event="ok", match="data.q", timeout="1h")

    clock = FakeClock()
    with lab(clock=clock) as process:
        run_id = a_run(process, handler)
        assert process.durable.runs.response(run_id) is None
        [waiting] = process.durable.runs.get(run_id).steps
    began = datetime.fromtimestamp(clock.now() / 1000, UTC)
    assert ("ok", {"data.q": "1"}, began) == (waiting.event, waiting.match, waiting.started)


def test_the_trace_of_a_step() -> None:
    """With ``debug`` the trace of the last error is kept, also of a step that is tried again."""

    def handler(request: Request) -> None:
        sync_step.run("a", int, "no number")

    with lab(debug=True, retry=RetryPolicy(base="1h", max="1h", jitter=0)) as process:
        run_id = a_run(process, handler)
        until(lambda: process.durable.runs.get(run_id).steps[0].status == "retrying")
        [failing] = process.durable.runs.get(run_id).steps
    assert failing.trace is not None
    assert failing.trace.startswith("Traceback")
    assert "invalid literal" in failing.trace


def test_what_a_run_has_streamed() -> None:
    """Chunks that are kept, with the step that pushed them."""

    def push(text: str) -> None:
        sync_stream.push(text)

    def handler(request: Request) -> str:
        sync_step.run("a", push, "one")
        sync_stream.push({"two": 2})
        sync_step.run("b", push, "three")
        return "end"

    with lab() as process:
        run_id = a_run(process, handler)
        chunks = list(process.durable.runs.streamed(run_id))
    assert [
        StreamedChunk(step="a", data="one"),
        StreamedChunk(step=None, data={"two": 2}),
        StreamedChunk(step="b", data="three"),
    ] == chunks


def test_a_wait_query_opens_the_run() -> None:
    """The wait route answers it with the response of the run."""

    def handler(request: Request) -> str:
        sync_step.run("a", int)
        return "end"

    with lab() as process:
        run_id = a_run(process, handler)
        query = process.durable.runs.wait_query(run_id)
        proxy = process.durable.endpoint_proxy()
        response = proxy.handle(request(f"/wait?{query}"))
    assert (200, b'"end"') == (response.status, response.body)


def test_events_and_what_they_woke() -> None:
    """The newest first; a wait whose time is over was not woken by the events before it."""

    def handler(request: Request) -> None:
        sync_step.wait_for_event("a", event="go", timeout="1h")
        sync_step.wait_for_event("b", event="never", timeout="1h")

    clock = FakeClock()
    with lab(clock=clock) as process:
        run_id = a_run(process, handler)
        process.durable.send([Event("other", id="1"), Event("go", {"x": 1}, id="2")])
        until(lambda: len(process.durable.runs.get(run_id).steps) == 2)
        clock.advance(3700)
        process.poke()
        until(lambda: process.durable.runs.get(run_id).status == "completed")
        events = process.durable.recent_events()
        with pytest.raises(ValueError, match="limit must be 1 to 1000"):
            process.durable.recent_events(0)
    assert [("go", "2", (run_id,)), ("other", "1", ())] == [
        (each.name, each.id, each.woke) for each in events
    ]
    assert {"x": 1} == events[0].data


def test_processes_and_what_is_due() -> None:
    """A process is listed with its lease; what is due is so whether or not somebody knows it."""

    def handler(request: Request) -> None:
        sync_step.sleep("nap", "1h")

    clock, store = FakeClock(), MemoryStore()
    with lab(store, clock=clock) as process:
        a_run(process, handler)
        [own] = process.durable.processes()
        assert process.durable.oldest_due() is None
    assert (process.durable.id, True) == (own.app, own.lease_until.tzinfo is UTC)
    clock.advance(3700)
    looking = Lab(store, clock=clock)
    due = looking.durable.oldest_due()
    assert due is not None
    assert 100 == clock.now() / 1000 - due.timestamp()
    assert [] == looking.durable.processes()


def test_endpoints_and_their_limits() -> None:
    """Each once, with what bounds its runs."""

    def plain(request: Request) -> None: ...

    async def bounded(request: Request) -> None:
        await step.run("a", int)

    with lab() as process:
        process.endpoint(plain, function_id="a")
        process.endpoint(
            bounded,
            function_id="b",
            name="B",
            version="1",
            retries=7,
            run_timeout="2m",
            concurrency=(Concurrency(3), Concurrency(1, key=lambda request: "k")),
            queue_limit=9,
            rate_limit=RateLimit(10, "1m"),
            singleton=Singleton("attach"),
        )
        found = process.durable.endpoints()
    assert [
        EndpointInfo(
            function_id="a",
            name=None,
            kind="def",
            retries=3,
            run_timeout=None,
            concurrency=None,
            concurrency_per_key=None,
            queue_limit=None,
            rate_limit=None,
            singleton=None,
        ),
        EndpointInfo(
            function_id="b",
            name="B",
            kind="async def",
            retries=7,
            run_timeout=120.0,
            concurrency=3,
            concurrency_per_key=1,
            queue_limit=9,
            rate_limit=(10, 60.0),
            singleton="attach",
        ),
    ] == found


def test_what_is_encrypted_is_not_shown_without_the_key() -> None:
    """A run is shown with what is in clear text; its request, response and stream are refused."""

    def push(text: str) -> None:
        sync_stream.push(text)

    def handler(request: Request) -> None:
        sync_step.run("a", push, "secret")
        sync_step.run("b", int, "secret")

    inner = MemoryStore()
    keys = {"k": Fernet(Fernet.generate_key())}
    with lab(EncryptedStore(inner, keys=keys, match_key=b"x" * 16), retry=AT_ONCE) as process:
        run_id = a_run(process, handler, record_arguments=True)
        until(lambda: process.durable.runs.get(run_id).status == "failed")
    runs = Lab(inner).durable.runs
    a, b = runs.get(run_id).steps

    assert ("completed", "failed") == (a.status, b.status)
    assert ("a", "b", {"left_out": True}) == (a.name, b.name, b.arguments)
    assert "secret" not in repr((a, b, *runs.history(run_id)))
    for read in (runs.request, runs.response, lambda run_id: list(runs.streamed(run_id))):
        with pytest.raises(EncryptionKeyError, match="this process has no keys"):
            read(run_id)


def test_other_engines_are_refused() -> None:
    """What is kept elsewhere is not known here."""

    class Elsewhere:
        name = "the engine of somebody else"

    from durable_core.api.inspection import processes

    with pytest.raises(ConfigurationError, match="needs the embedded engine"):
        processes(Elsewhere())  # type: ignore[arg-type]


def test_where_a_request_comes_from() -> None:
    """The server's word is kept where a router adds parameters, and is nobody's by default."""
    here = Request(method="GET", url="http://host/", client="10.0.0.7")

    assert "10.0.0.7" == client_of(here.with_path_params({"a": "b"}).with_principal("anna"))
    assert "" == client_of(Request(method="GET", url="http://host/"))
