"""``step.fetch`` and a service that sends a byte now and then, for ever."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import StepError
from durable_core.http.request import Request
from support.harness import lab, until


@contextmanager
def dripping() -> Iterator[tuple[str, threading.Event]]:
    """Serve one client; yield the URL, and what is set once the client has gone."""
    gone, over = threading.Event(), threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            try:
                client.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
                while not over.wait(0.02):
                    client.sendall(b":\n")
            except OSError:
                gone.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", gone
    finally:
        over.set()
        thread.join()
        listener.close()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_the_time_is_over_for_the_connection_too(kind: str) -> None:
    """The attempt fails in time, and leaves neither a thread nor a connection behind."""
    with dripping() as (url, gone), lab() as process:
        options: Any = {"timeout": "200ms", "retries": 0}

        def plain(asked: Request) -> str:
            with pytest.raises(StepError, match="longer than"):
                sync_step.fetch("get", url, **options)
            return "over"

        async def asynchronous(asked: Request) -> str:
            with pytest.raises(StepError, match="longer than"):
                await step.fetch("get", url, **options)
            return "over"

        answer = process.call(process.endpoint(plain if kind == "def" else asynchronous))
        until(gone.is_set)
        until(lambda: not timed_threads())

    assert b'"over"' == answer.body


def timed_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "durable-timed-step"]
