"""The answer to HEAD."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeAlias

import pytest

from durable_core.api.effects import drive, drive_in_task
from durable_core.api.endpoint import strip_body_for_head
from durable_core.http.response import Response
from support.harness import Lab, lab

Ask: TypeAlias = Callable[[Response, Lab], Response]


class Streams:
    """Makes streamed bodies, and notes in which threads they were made to their end."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def plain(self) -> Iterator[bytes]:
        yield b"a"
        yield b"b"
        self.threads.append(threading.get_ident())

    async def asynchronous(self) -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(0)
        yield b"b"
        self.threads.append(threading.get_ident())


def on_a_loop(response: Response, process: Lab) -> Response:
    return asyncio.run(drive_in_task(strip_body_for_head(response), process.durable.engine))


def in_this_thread(response: Response, process: Lab) -> Response:
    return drive(strip_body_for_head(response), process.durable.engine)


each_server = pytest.mark.parametrize("ask", [in_this_thread, on_a_loop])
each_kind = pytest.mark.parametrize("kind", ["plain", "asynchronous"])


@each_server
def test_bytes_stay(ask: Ask) -> None:
    """They show how long the body would be."""
    response = Response(body=b"abc")
    with lab() as process:
        assert response is ask(response, process)


@each_server
@each_kind
def test_streamed_bodies(kind: str, ask: Ask) -> None:
    """They are made to their end, for nobody; status and headers are those of GET.

    A plain iterable may block, and an async one needs a loop: each is made where that may be.
    """
    streams = Streams()
    with lab() as process:
        body = getattr(streams, kind)()
        answer = ask(Response(status=203, headers={"x-a": "b"}, body=body), process)

    assert (203, "b", b"") == (answer.status, answer.headers["x-a"], answer.body)
    is_here = (kind == "plain") == (ask is in_this_thread)
    assert [is_here] == [each == threading.get_ident() for each in streams.threads]


@each_server
@each_kind
def test_broken_bodies(kind: str, ask: Ask) -> None:
    """The error is that of the body."""

    def plain() -> Iterator[bytes]:
        yield b"a"
        raise ZeroDivisionError

    async def asynchronous() -> AsyncIterator[bytes]:
        yield b"a"
        raise ZeroDivisionError

    body = plain() if kind == "plain" else asynchronous()
    with lab() as process, pytest.raises(ZeroDivisionError):
        ask(Response(body=body), process)
