"""The example of embedding works as it says, and is short."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from durable_core import Durable, Request, Response
from durable_core.adapters import HTTPHandler
from support.docs_pages import run_page
from support.source_tree import ROOT

EXAMPLE = ROOT / "examples" / "embed_custom_server.py"


def test_it_serves_and_stops(tmp_path: Path) -> None:
    """A client that follows redirects is greeted after the nap; Ctrl-C ends it."""
    with subprocess.Popen(
        [sys.executable, EXAMPLE, "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            with urllib.request.urlopen(f"{url}/greet?name=ada&nap=0.05s", timeout=30) as answer:
                body = answer.read()
        finally:
            server.send_signal(signal.SIGINT)

    assert b"Hello Ada\n" == body
    assert 0 == server.returncode
    assert (tmp_path / ".durable" / "embedded.db").is_file()


class _Stream:
    """A body that notes that it was closed."""

    def __init__(self) -> None:
        self.closed = False
        self._left = [b"two", b"one"]

    def close(self) -> None:
        """Note it."""
        self.closed = True

    def __iter__(self) -> Iterator[bytes]:
        while self._left:
            yield self._left.pop()


async def _stream_async() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


def test_the_recipes_of_the_page_take_bodies_of_any_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes, plain and async iterables, from `handle` as from `handle_async`; each is closed."""
    monkeypatch.chdir(tmp_path)
    page = run_page(ROOT / "docs" / "howto" / "embed.md")
    durable: Durable[HTTPHandler] = page["durable"]
    streams = [_Stream(), _Stream()]

    @durable.endpoint(function_id="plain")
    def plain(request: Request) -> Response:
        return Response(body=streams[-1])

    @durable.endpoint(function_id="async")
    async def asynchronous(request: Request) -> Response:
        return Response(body=_stream_async())

    asked = Request(method="GET", url="http://localhost/greet?name=ada")
    endpoints = (page["greet"], plain, asynchronous)
    try:
        got = [page["body_of"](each.handle(asked)) for each in endpoints]
    finally:
        durable.stop()
    assert [b"Hello Ada\n", b"onetwo", b"onetwo"] == got

    async def collect() -> list[bytes]:
        durable.start()
        try:
            return [
                b"".join([chunk async for chunk in page["chunks"](await each.handle_async(asked))])
                for each in endpoints
            ]
        finally:
            await durable.stop_async()

    streams.pop()
    assert got == asyncio.run(collect())
    assert streams[-1].closed


def test_it_is_short() -> None:
    """Under 60 lines."""
    assert len(EXAMPLE.read_text("utf-8").splitlines()) < 60
