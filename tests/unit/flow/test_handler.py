"""What becomes of a handler's outcome."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import BadRequest, HTTPError, NonRetriableError, RetryAfterError, StepError
from durable_core.flow.env import Limits
from durable_core.flow.wait_url import PRIVATE_HEADERS
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.retry import RetryPolicy
from support.harness import FakeClock, Lab, Ledger, WatchedStore, lab, request, until

Handler = Callable[[Request], Any]


def body_of(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


def with_steps(handler: Handler) -> Handler:
    """Give the handler a checkpoint before it begins."""

    def stepping(request: Request) -> object:
        sync_step.run("first", int)
        return handler(request)

    return stepping


def with_handoff(handler: Handler) -> Handler:
    """Give the handler a handoff before it begins."""

    def sleeping(request: Request) -> object:
        sync_step.sleep("nap", 0.01)
        return handler(request)

    return sleeping


everywhere = pytest.mark.parametrize("where", [lambda h: h, with_steps, with_handoff])


@everywhere
@pytest.mark.parametrize(
    ("response", "status"),
    [
        (Response.json({"a": 1}, 201, {"x-custom": "1", "set-cookie": "a=b"}), 201),
        (Response(status=204), 204),
        (Response(status=200, body=bytes(range(256))), 200),
        (Response.text("no such", 404), 404),
        (Response(status=302, headers={"location": "/elsewhere?x=1"}), 302),
    ],
)
def test_exact_response(
    where: Callable[[Handler], Handler], response: Response, status: int
) -> None:
    """The client gets the handler's own status, headers and body, wherever it waits.

    At a wait URL fields are added that keep what the URL opens with the client, and say until
    when it is kept.
    """
    with lab() as process:
        endpoint = process.endpoint(where(lambda request: response))
        got = endpoint.handle(request())
        private: list[tuple[str, str]] = []
        while "durable-run" in (got.headers.get("location") or ""):
            got = endpoint.handle(request("/it" + got.headers["location"]))
            private = [*PRIVATE_HEADERS, ("sunset", got.headers.get("sunset") or "")]

    assert (status, (*response.headers.raw, *private), response.body) == (
        got.status,
        got.headers.raw,
        got.body,
    )


@everywhere
def test_http_error(where: Callable[[Handler], Handler]) -> None:
    """An HTTPError is that response at once, and is never retried."""
    ledger = Ledger()

    def handler(request: Request) -> None:
        ledger.did("handler", None)
        raise HTTPError(409, "taken", {"x-why": "taken"})

    with lab() as process:
        response = process.call(process.endpoint(where(handler)))
    assert (409, "taken") == (response.status, response.headers["x-why"])
    assert b"taken" in body_of(response)
    assert ["handler"] == ledger.calls


def test_bad_requests() -> None:
    """A missing parameter and a malformed body are 400s that nobody has to write."""

    def handler(request: Request) -> object:
        sync_step.run("a", int)
        return request.query["cart"] if request.method == "GET" else request.json()

    with lab() as process:
        endpoint = process.endpoint(handler)
        assert 400 == endpoint.handle(request()).status
        assert 400 == endpoint.handle(request(method="POST", body=b"{")).status
        assert issubclass(BadRequest, HTTPError)


@everywhere
@pytest.mark.parametrize("value", [object(), {1: 2, "x": object()}, float("nan")])
def test_value_that_cannot_be_sent(where: Callable[[Handler], Handler], value: object) -> None:
    """A handler that returns what cannot be sent fails at once: it would do so again."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        return ledger.did("handler", value)

    with lab() as process:
        response = process.call(process.endpoint(where(handler)))
    assert 500 == response.status
    assert ["handler"] == ledger.calls


@pytest.mark.parametrize("retries", [0, 2])
def test_handler_errors_are_retried(retries: int) -> None:
    """An error outside steps retries the handler ``retries`` times; the client waits elsewhere."""
    ledger = Ledger()

    def handler(request: Request) -> None:
        ledger.did("handler", None)
        raise OSError("outside")

    with lab() as process:
        endpoint = process.endpoint(handler, retries=retries)
        first = endpoint.handle(request())
        assert (302 if retries else 500) == first.status
        last = process.follow(endpoint, first)
        assert 500 == last.status
        problem = json.loads(body_of(last))
        assert {"name": "OSError", "message": "outside"} == problem["error"]
        assert "application/problem+json" == last.headers["content-type"]
        assert retries + 1 == len(ledger.calls)
        assert min(retries, 1) == len(process.records.list())


def test_handler_failures_are_not_reset_by_progress() -> None:
    """Handler failures count per run, whatever steps succeed in between."""
    ledger = Ledger()

    def handler(request: Request) -> None:
        ledger.did("handler", None)
        sync_step.run(f"s{len(ledger.calls)}", int)
        raise OSError("outside")

    with lab() as process:
        assert 500 == process.call(process.endpoint(handler, retries=2)).status
    assert 3 == len(ledger.calls)


@pytest.mark.parametrize(
    "error",
    [
        NonRetriableError("no"),
        ExceptionGroup("all", [NonRetriableError("a"), NonRetriableError("b")]),
    ],
)
def test_final_handler_errors(error: Exception) -> None:
    """NonRetriableError, alone or in a group of nothing else, is answered on the connection."""
    ledger = Ledger()

    def handler(request: Request) -> None:
        ledger.did("handler", None)
        raise error

    with lab() as process:
        assert 500 == process.endpoint(handler).handle(request()).status
    assert ["handler"] == ledger.calls


@pytest.mark.parametrize("how", ["itself", "cause", "group", "context"])
def test_uncaught_step_error_is_final(how: str) -> None:
    """A StepError that is not caught ends the run, also as a cause or in a group."""
    ledger = Ledger()

    def handler(request: Request) -> None:
        ledger.did("handler", None)
        try:
            sync_step.run("bad", ledger.fails, "bad", 9, NonRetriableError("no"), None)
        except StepError as error:
            if how == "cause":
                raise RuntimeError("because of a step") from error
            if how == "group":
                raise ExceptionGroup("several", [OSError("x"), error]) from None
            if how == "context":
                raise RuntimeError("another thing altogether")  # noqa: B904
            raise

    with lab() as process:
        assert 500 == process.call(process.endpoint(handler)).status
    assert (4 if how == "context" else 1) == ledger.counts()["handler"]


@pytest.mark.parametrize(("seconds", "expected"), [(5, 5), (200_000, 86_400)])
def test_retry_after_is_clamped(seconds: float, expected: float) -> None:
    """RetryAfterError sets the delay, up to 24 hours."""
    clock = FakeClock()

    def handler(request: Request) -> None:
        sync_step.run("busy", Ledger().fails, "busy", 9, RetryAfterError("busy", seconds), None)

    with lab(clock=clock, retry=RetryPolicy(base="7s", jitter=0.0)) as process:
        process.durable.start()
        keeper = process.engine.worker.scheduler  # type: ignore[union-attr]
        keeper.stop()  # else it tries again at once
        assert 302 == process.endpoint(handler).handle(request()).status
        [record] = process.records.list()
        assert record.due_at == clock.now() + expected * 1000


def test_back_off() -> None:
    """Without one, the delays of a step grow as the policy says."""
    clock = FakeClock()
    ledger = Ledger()
    delays: list[int] = []

    def handler(request: Request) -> None:
        sync_step.run("busy", ledger.fails, "busy", 9, OSError("busy"), None)

    policy = RetryPolicy(base="1s", jitter=0.0)
    with lab(clock=clock, retry=policy) as process:
        endpoint = process.endpoint(handler, retries=3)
        assert 302 == endpoint.handle(request()).status
        for attempts in (1, 2, 3):
            record = until(lambda n=attempts: len(ledger.calls) == n and _put_away(process))  # type: ignore[misc]
            delays.append(record.due_at - clock.now())
            clock.advance(delays[-1] / 1000)
            process.poke()
        until(lambda: process.records.list()[0].run.phase.ended)
    assert [1_000, 2_000, 4_000] == delays
    assert 4 == len(ledger.calls)


def _put_away(process: Lab) -> Any:
    [record] = process.records.list()
    return record if record.due_at is not None else None  # a claimed run keeps its phase at first


def test_debug_shows_the_trace() -> None:
    """With ``debug`` the problem has the stack trace."""

    def handler(request: Request) -> None:
        raise NonRetriableError("look here")

    with lab(debug=True) as process:
        problem = json.loads(body_of(process.endpoint(handler).handle(request())))
    assert "look here" in problem["traceback"]
    assert "test_handler.py" in problem["traceback"]


def _charge() -> None:
    raise NonRetriableError("the card is refused")


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("slept", [False, True])
def test_debug_shows_the_trace_of_a_step(slept: bool, asynchronous: bool) -> None:
    """The frames of the step that failed are there, in the first execution and in a replay."""

    def handler(request: Request) -> None:
        try:
            sync_step.run("charge", _charge)
        except StepError:
            if slept:
                sync_step.sleep("nap", 0.01)
            raise

    async def handler_async(request: Request) -> None:
        try:
            await step.run("charge", _charge)
        except StepError:
            if slept:
                await step.sleep("nap", 0.01)
            raise

    with lab(debug=True) as process:
        endpoint = process.endpoint(handler_async if asynchronous else handler)
        trace = json.loads(body_of(process.call(endpoint)))["traceback"]
    assert 'in _charge\n    raise NonRetriableError("the card is refused")' in trace
    assert "What step 'charge' raised:" in trace
    assert 1 == trace.count('step.run("charge", _charge)')


def test_a_trace_is_kept_for_debugging_only() -> None:
    """Without ``debug`` neither the client nor the store has it."""

    def handler(request: Request) -> None:
        sync_step.run("charge", _charge)

    with lab(debug=False) as process:
        response = process.endpoint(handler).handle(request())
        [run] = process.records.list()
        [memo] = process.records.get(run.run.id).memos
    assert b"_charge" not in body_of(response)
    assert "_charge" not in memo.value


def test_exception_to_response() -> None:
    """The adapter's translation of a framework's exceptions goes before retries."""

    class NotFoundError(Exception):
        pass

    def translate(error: Exception) -> Response | None:
        return Response.text("translated", 404) if isinstance(error, NotFoundError) else None

    def handler(request: Request) -> None:
        sync_step.run("a", int)
        raise NotFoundError

    with lab() as process:
        response = process.endpoint(handler, exception_to_response=translate).handle(request())
    assert (404, b"translated") == (response.status, response.body)


def test_broken_exception_to_response() -> None:
    """A translation that fails counts as the handler's own failure."""
    ledger = Ledger()

    def translate(error: Exception) -> Response | None:
        raise LookupError("in the translation")

    def handler(request: Request) -> None:
        ledger.did("handler", None)
        raise OSError("x")

    with lab() as process:
        response = process.call(
            process.endpoint(handler, exception_to_response=translate, retries=1)
        )
    assert 500 == response.status
    assert b"in the translation" in body_of(response)
    assert 2 == len(ledger.calls)


# Streamed bodies


def chunks(count: int, error: Exception | None = None) -> Iterator[bytes]:
    for n in range(count):
        yield b"%d" % n
    if error is not None:
        raise error


async def achunks(count: int, error: Exception | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks(count, error):
        await asyncio.sleep(0)
        yield chunk


@pytest.mark.parametrize("asynchronous", [False, True])
def test_streamed_body_in_async_is_collected(asynchronous: bool) -> None:
    """A streamed body whose client waits elsewhere is collected, and sent from there."""

    def sync(request: Request) -> Response:
        sync_step.sleep("nap", "1h")
        return Response(status=206, body=chunks(5))

    async def async_(request: Request) -> Response:
        await step.sleep("nap", "1h")
        return Response(status=206, body=achunks(5))

    clock = FakeClock()
    with lab(clock=clock) as process:
        response = process.sleep_through(process.endpoint(async_ if asynchronous else sync), clock)
    assert (206, b"01234") == (response.status, response.body)


def test_async_body_of_a_def_handler_in_async() -> None:
    """A ``def`` handler may return an asynchronous body; it is collected on a loop."""

    def handler(request: Request) -> Response:
        sync_step.sleep("nap", "1h")
        return Response(body=achunks(3))

    clock = FakeClock()
    with lab(clock=clock) as process:
        assert b"012" == process.sleep_through(process.endpoint(handler), clock).body


def test_oversized_body_in_async_is_a_problem() -> None:
    """A streamed body that cannot be kept fails the run with a problem."""

    def handler(request: Request) -> Response:
        sync_step.sleep("nap", "1h")
        return Response(body=chunks(1000))

    clock = FakeClock()
    with lab(clock=clock, limits=Limits(response_stored=100)) as process:
        response = process.sleep_through(process.endpoint(handler), clock)
    assert 500 == response.status
    assert b"response-too-large" in body_of(response)


class Closable:
    """A body of three chunks that is no generator, for a thread and for a task."""

    def __init__(self, closed: list[str]) -> None:
        self.closed = closed
        self.left = [b"0", b"1", b"2"]

    def close(self) -> None:
        self.closed.append("thread")

    async def aclose(self) -> None:
        self.closed.append("task")


class PlainClosable(Closable):
    def __iter__(self) -> Iterator[bytes]:
        return iter(self.left)


class AsyncClosable(Closable):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.left:
            yield chunk


@pytest.mark.parametrize(
    ("kind", "how"), [(PlainClosable, "thread"), (AsyncClosable, "task")], ids=["plain", "async"]
)
@pytest.mark.parametrize("most", [2, 100], ids=["oversized", "whole"])
def test_a_collected_body_is_closed(kind: type[Any], how: str, most: int) -> None:
    """A body that is read for a client that waits elsewhere is closed, even if not read whole."""
    closed: list[str] = []

    def handler(request: Request) -> Response:
        sync_step.sleep("nap", "1h")
        return Response(body=kind(closed))

    clock = FakeClock()
    with lab(clock=clock, limits=Limits(response_stored=most)) as process:
        process.sleep_through(process.endpoint(handler), clock)
    assert [how] == closed


def test_body_that_raises_in_async_is_retried() -> None:
    """Where nothing was sent yet, an error in the body is one of the handler."""
    ledger = Ledger()

    def handler(request: Request) -> Response:
        sync_step.sleep("nap", "1h")
        ledger.did("handler", None)
        return Response(body=chunks(3, OSError("torn") if len(ledger.calls) == 1 else None))

    clock = FakeClock()
    with lab(clock=clock) as process:
        assert b"012" == process.sleep_through(process.endpoint(handler), clock, naps=2).body
    assert 2 == len(ledger.calls)


def test_large_whole_response_in_async() -> None:
    """A whole body is kept as it is."""
    body = b"x" * 3_000_000

    def handler(request: Request) -> Response:
        sync_step.sleep("nap", "1h")
        return Response(body=body)

    clock = FakeClock()
    with lab(clock=clock) as process:
        response = process.sleep_through(process.endpoint(handler), clock)
    assert body == response.body


def test_stop_hands_an_attached_client_off() -> None:
    """A run of which nothing was stored is, at a stop, stored and handed off, not lost."""
    store = WatchedStore()

    async def main() -> Response:
        process = Lab(store)
        started = asyncio.Event()

        async def handler(request: Request) -> str:
            started.set()
            if len(store.log) == 0:
                await asyncio.Event().wait()
            return "end"

        endpoint = process.endpoint(handler)
        client = asyncio.create_task(endpoint.handle_async(request()))
        await started.wait()
        await process.durable.stop_async(5)
        first = await client
        assert 302 == first.status
        final = await endpoint.handle_async(request("/it" + first.headers["location"]))
        await process.durable.stop_async(5)
        return final

    assert b'"end"' == asyncio.run(main()).body


def test_http_error_in_a_step_is_the_response() -> None:
    """It is not tried again; uncaught it is what the client gets, at once."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        error = HTTPError(404, "no such user", {"x-tried": "u"})
        return sync_step.run("find", ledger.fails, "find", 9, error, None)

    with lab() as process:
        response = process.endpoint(handler).handle(request())
    assert (404, "u") == (response.status, response.headers["x-tried"])
    assert {"find": 1} == ledger.counts()
