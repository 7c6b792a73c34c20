"""What handed-off clients get, where the application makes it, and clients that join a run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from durable_core import Event, Request, Response
from durable_core.api.adapter import HTTPHandler
from durable_core.api.step import step, sync_step
from durable_core.flow.env import Limits
from support.harness import Lab, lab, request

KINDS = pytest.mark.parametrize("kind", ["def", "async"])
LOOPS = pytest.mark.parametrize("on_loop", [False, True], ids=["thread", "loop"])


@pytest.fixture
def process() -> Iterator[Lab]:
    with lab() as made:
        yield made


def waiting(process: Lab, kind: str, **options: Any) -> HTTPHandler:
    """Return an endpoint that waits for an event."""

    def plain(request: Request) -> str:
        sync_step.wait_for_event("go", event="go", timeout="1h")
        return "gone"

    async def coroutine(request: Request) -> str:
        await step.wait_for_event("go", event="go", timeout="1h")
        return "gone"

    return process.endpoint(plain if kind == "def" else coroutine, **options)


def ask(endpoint: HTTPHandler, on_loop: bool, asked: Request, wait: float = 0.05) -> Response:
    """Ask in a thread or on an event loop."""
    if not on_loop:
        return endpoint.handle(asked, max_wait=wait)
    return asyncio.run(endpoint.handle_async(asked, max_wait=wait))


def ticket(run_id: str, token: str, wait_url: str) -> Response:
    """Make the response of a handoff."""
    headers = {"x-run": run_id, "x-token": token, "link": wait_url}
    return Response.text("later", 202, headers)


async def ticket_async(run_id: str, token: str, wait_url: str) -> Response:
    """As :func:`ticket`, in a task."""
    await asyncio.sleep(0)
    return ticket(run_id, token, wait_url)


@KINDS
@LOOPS
@pytest.mark.parametrize("make", [ticket, ticket_async])
def test_a_function(
    process: Lab, kind: str, on_loop: bool, make: Callable[[str, str, str], Any]
) -> None:
    """It makes the response of run id, token and wait URL; the token is kept from caches."""
    endpoint = waiting(process, kind, async_response=make)
    answer = ask(endpoint, on_loop, request("/it?a=1", "POST"))
    process.durable.send(Event("go"))

    assert (202, b"later") == (answer.status, answer.body)
    assert "no-store" == answer.headers["cache-control"]
    assert "no-referrer" == answer.headers["referrer-policy"]
    url = urlsplit(answer.headers["link"])
    query = {"durable-run": answer.headers["x-run"], "durable-token": answer.headers["x-token"]}
    assert ("/it", query) == (url.path, dict(parse_qsl(url.query)))
    final = endpoint.handle(request(f"/it?{url.query}"), max_wait=20)
    assert b'"gone"' == final.body


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/wait?b=2", "/wait?b=2&runId="),
        ("https://x.example/w", "https://x.example/w?runId="),
        (lambda run_id, token: f"https://x.example/{run_id}", "https://x.example/"),
    ],
)
def test_the_wait_url_of_the_application(process: Lab, target: Any, expected: str) -> None:
    """``async_redirect_url`` makes the URL that the function gets."""
    endpoint = waiting(process, "def", async_response=ticket, async_redirect_url=target)
    assert endpoint.handle(request()).headers["link"].startswith(expected)


def test_a_function_that_says_how_it_is_cached(process: Lab) -> None:
    """What the response says itself is kept."""

    def private(run_id: str, token: str, wait_url: str) -> Response:
        return Response.text("x", headers={"cache-control": "private"})

    endpoint = waiting(process, "def", async_response=private)
    assert ("private",) == endpoint.handle(request()).headers.get_all("cache-control")


def broken(run_id: str, token: str, wait_url: str) -> Response:
    raise ValueError("no ticket")


def nonsense(run_id: str, token: str, wait_url: str) -> Any:
    return {"run": run_id}


def streamed(run_id: str, token: str, wait_url: str) -> Response:
    return Response(body=iter([b"x"]))


@KINDS
@LOOPS
@pytest.mark.parametrize("make", [broken, nonsense, streamed])
def test_a_function_that_fails(
    process: Lab, kind: str, on_loop: bool, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning is logged, and the client is redirected."""
    caplog.set_level(logging.WARNING, "durable")
    endpoint = waiting(process, kind, async_response=make)
    answer = ask(endpoint, on_loop, request("/it", "POST"))
    assert 303 == answer.status
    assert answer.headers["location"].startswith("?durable-run=")
    assert 1 == caplog.text.count("async_response returned no Response")


@pytest.mark.parametrize(
    ("value", "error"), [("later", ValueError), (202, TypeError), (b"token", TypeError)]
)
def test_what_is_refused(process: Lab, value: Any, error: type[Exception]) -> None:
    """An option of another form is refused when the endpoint is made."""
    with pytest.raises(error, match="async_response must be"):
        waiting(process, "def", async_response=value)


@KINDS
def test_a_preference(process: Lab, kind: str) -> None:
    """A client that prefers not to wait gets the application's response, too."""
    endpoint = waiting(process, kind, async_response=ticket)
    answer = endpoint.handle(request("/it", "POST", prefer="respond-async"))
    assert (202, b"later") == (answer.status, answer.body)
    assert "respond-async" == answer.headers["preference-applied"]


# -- clients that join a run by its key -------------------------------------------------------


@KINDS
@LOOPS
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (303, "?durable-run=")),
        ({"async_response": "token"}, (200, None)),
        ({"async_response": "accepted"}, (202, "?durable-run=")),
        ({"async_redirect_url": "/results"}, (303, "/results?runId=")),
        ({"async_redirect_url": lambda run, token: f"/runs/{run}"}, (303, "/runs/")),
        ({"async_response": ticket}, (202, None)),
        ({"async_response": ticket_async}, (202, None)),
    ],
)
def test_a_client_that_joins(
    process: Lab, kind: str, on_loop: bool, options: Any, expected: tuple[int, str | None]
) -> None:
    """It gets what the first client gets, each with a token of its own."""
    endpoint = waiting(process, kind, **options)
    asked = request("/it", "POST", idempotency_key="k")
    answers = [ask(endpoint, on_loop, asked) for _ in range(2)]
    for answer in answers:
        location = answer.headers.get("location")
        status, prefix = expected
        assert status == answer.status
        assert location is None if prefix is None else (location or "").startswith(prefix)
    assert 1 == len(process.durable.runs.list())


def test_a_client_that_joins_by_a_preference(process: Lab) -> None:
    """Its own preference counts, not that of the first client."""
    endpoint = waiting(process, "def", async_response="token")
    assert 200 == endpoint.handle(request("/it", "POST", idempotency_key="k")).status
    asked = request("/it", "POST", idempotency_key="k", prefer="respond-async")
    answer = endpoint.handle(asked)
    assert (202, "respond-async") == (answer.status, answer.headers["preference-applied"])


@LOOPS
def test_a_quota_does_not_keep_a_client_from_its_run(on_loop: bool) -> None:
    """Who has a run may join it although no further one may begin."""
    limits = Limits(principal_live_runs=1)
    with lab(limits=limits) as process:
        endpoint = waiting(process, "def", authorize=lambda request: "ann")
        first = ask(endpoint, on_loop, request("/it", "POST", idempotency_key="k1"))
        worker = process.engine.worker
        assert worker is not None
        worker.quota._principals.clear()  # what is known of her is a second old
        again = ask(endpoint, on_loop, request("/it", "POST", idempotency_key="k1"))
        other = ask(endpoint, on_loop, request("/it", "POST", idempotency_key="k2"))
        changed = ask(endpoint, on_loop, request("/it", "POST", b"x", idempotency_key="k1"))
    assert [303, 303, 429, 422] == [each.status for each in (first, again, other, changed)]


def test_a_full_application(process: Lab) -> None:
    """The same holds for the limits of the application."""
    endpoint = waiting(process, "def")
    asked = request("/it", "POST", idempotency_key="k")
    assert 303 == endpoint.handle(asked).status
    worker = process.engine.worker
    assert worker is not None
    worker.quota.is_full = True
    assert 303 == endpoint.handle(asked, max_wait=0.05).status
    assert 503 == endpoint.handle(request("/it", "POST", idempotency_key="k2")).status


# -- what is stored of a request --------------------------------------------------------------


def test_the_fingerprint_is_keyed() -> None:
    """Without the secret nobody finds the credentials of a request by trying."""
    fingerprints = set()
    for secret in (b"a" * 16, b"b" * 16):
        with lab(secrets=[secret]) as process:
            endpoint = waiting(process, "def")
            asked = request("/it", "POST", idempotency_key="k", authorization="Basic x")
            assert 303 == endpoint.handle(asked, max_wait=0.05).status
            [(_, key)] = process.watched._keys.values()
            fingerprints.add(key.fingerprint)
    assert 2 == len(fingerprints)
    assert {"k1"} == {each.partition(".")[0] for each in fingerprints}


def test_a_secret_that_changes(process: Lab) -> None:
    """A request of before a rotation is known after it; after a revocation it is another one."""
    endpoint = waiting(process, "def")
    asked = request("/it", "POST", idempotency_key="k")
    answers = [endpoint.handle(asked)]
    process.engine.rotate_secrets()
    answers.append(endpoint.handle(asked))
    process.engine.rotate_secrets(revoke=True)
    answers.append(endpoint.handle(asked))
    assert [303, 303, 422] == [each.status for each in answers]


# -- event streams ----------------------------------------------------------------------------


def _read(endpoint: HTTPHandler, on_loop: bool, asked: Request) -> list[dict[str, str]]:
    """Return the events of a stream, up to its end."""

    async def read() -> bytes:
        answer = await endpoint.handle_async(asked, max_wait=0.05)
        assert not isinstance(answer.body, bytes)
        return b"".join([part async for part in answer.body])  # type: ignore[union-attr]

    if on_loop:
        data = asyncio.run(read())
    else:
        body: Any = endpoint.handle(asked, max_wait=0.05).body
        data = b"".join(body)
    events = [event for event in data.decode().split("\n\n") if not event.startswith(":")]
    return [
        dict(line.split(": ", 1) for line in event.splitlines() if ": " in line)
        for event in events
        if event
    ]


def test_a_joined_stream_goes_on(process: Lab) -> None:
    """A browser that joins by a key comes back to the same URL, as often as it has to."""
    endpoint = waiting(process, "def", key=lambda request: request.query.get("order"))
    url = "/it?order=7"
    assert 302 == endpoint.handle(request(url)).status
    last_id = ""
    for _ in range(3):
        headers: Any = {"last_event_id": last_id} if last_id else {}
        events = _read(endpoint, False, request(url, accept="text/event-stream", **headers))
        ids = [event["id"] for event in events if "id" in event]
        assert ids
        last_id = ids[-1]
    process.durable.send(Event("go"))
    process.follow(endpoint, endpoint.handle(request(url)))
    asked = request(url, accept="text/event-stream", last_event_id=last_id)
    events = _read(endpoint, True, asked)
    assert "gone" in events[-1]["data"]
    done = request(url, accept="text/event-stream", last_event_id=events[-1]["id"])
    assert 204 == endpoint.handle(done).status
    assert 1 == len(process.durable.runs.list())
