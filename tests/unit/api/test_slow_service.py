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

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
_COMMENT = b":\n"
#: The beginning of a long record of the handshake.
_TLS = b"\x16\x03\x03\x3f\xff\x02"


@contextmanager
def dripping(part: bytes) -> Iterator[tuple[str, threading.Event]]:
    """Serve one client a response of which a part comes again and again.

    Args:
        part: a piece of the head or of the body; nothing for one of the greeting of TLS.

    Yields:
        The URL, and what is set once the client has gone.
    """
    gone, over = threading.Event(), threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            try:
                client.sendall(
                    _HEAD if part == _COMMENT else b"HTTP/1.1 200 OK\r\n" if part else _TLS
                )
                while not over.wait(0.02):
                    client.sendall(part or b"\0")
            except OSError:
                gone.set()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http{'' if part else 's'}://127.0.0.1:{listener.getsockname()[1]}/", gone
    finally:
        over.set()
        thread.join()
        listener.close()


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("def", _COMMENT),
        ("def", b"x-more: x\r\n"),
        ("def", b"x"),
        ("def", b""),
        ("async def", _COMMENT),
        ("async def", b"x"),
    ],
)
def test_the_time_is_over_for_the_connection_too(kind: str, part: bytes) -> None:
    """The attempt fails in time, and leaves neither a thread nor a connection behind."""
    with dripping(part) as (url, gone), lab() as process:
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
