"""What following in a thread adds to ``tests/unit/api/test_fetching.py``: its threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from durable_core.codec.stream_events import Chunk, Final
from durable_core.errors import ConnectionLostError, RequestAbortedError
from durable_core.http.headers import Headers
from durable_core.model.outgoing import OutgoingRequest
from durable_core.ports.http import Fetched
from durable_core.runtime.http.abort import Abort
from durable_core.runtime.http.outgoing import Requests
from durable_core.runtime.http.thread_follower import OpenFetch, ThreadFollower
from durable_core.wire.following import Following
from support.stream_clients import sse

WAIT = "http://a/?durable-run=1&durable-token=2"
SSE = {"content-type": "text/event-stream"}


def follower(fetch: OpenFetch, abort: Abort | None = None) -> ThreadFollower:
    machine = Following(
        method="GET", url=WAIT, headers=Headers(), repeatable=True, uniform=lambda: 0.0
    )
    return ThreadFollower(
        machine,
        fetch=fetch,
        waits=True,
        requests=Requests(body=None, idle_timeout=None),
        deliver=lambda event: None,
        timeout=60,
        abort=abort or Abort(),
    )


def test_any_number_of_connections_leaves_no_trace() -> None:
    """After a hundred breaks there are no more threads, and no more to close, than at the first."""
    numbers = iter(range(1000))
    most = 0

    @contextmanager
    def fetch(request: OutgoingRequest, abort: Abort) -> Iterator[Fetched]:
        nonlocal most
        number = next(numbers)
        most = max(most, len(following._open) + len(following._closed))
        yield Fetched(200, SSE, body(number))

    def body(number: int) -> Iterator[bytes]:
        yield b"retry: 0\n\n"
        if number == 100:
            yield sse(Final(status=200))
        yield sse(Chunk(data=number), id=str(number))
        raise ConnectionLostError("broken")

    following = follower(fetch)
    following.run()

    assert most <= 3
    assert "durable-stream" not in {thread.name for thread in threading.enumerate()}


def test_a_thread_that_is_told_to_close_says_nothing_more() -> None:
    """The response of the machine stands, whatever the transport raises when it is closed."""
    aborted = threading.Event()

    @contextmanager
    def fetch(request: OutgoingRequest, abort: Abort) -> Iterator[Fetched]:
        with abort.calling(aborted.set):
            yield Fetched(200, SSE, body())

    def body() -> Iterator[bytes]:
        yield sse(Final(status=204))
        assert aborted.wait(10)
        raise LookupError("closed")

    assert 204 == follower(fetch).run().status


def test_a_connection_that_is_being_opened_is_closed() -> None:
    """The transport is told, and its thread waited for."""
    opened = threading.Event()

    @contextmanager
    def fetch(request: OutgoingRequest, abort: Abort) -> Iterator[Fetched]:
        with abort.calling(opened.set):
            assert opened.wait(10)
            yield Fetched(200, SSE, [])

    abort = Abort()
    abort.set()
    with pytest.raises(RequestAbortedError):
        follower(fetch, abort).run()

    assert opened.is_set()
