"""What can be piped."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.api.sources import TextChunks, read_async, read_sync


class AsyncFile:
    """A file whose ``read`` is a coroutine function."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    async def read(self, size: int) -> bytes:
        return self._file.read(min(size, 2))


def words() -> Iterator[str]:
    yield "a"
    yield "b"


async def words_async() -> AsyncIterator[str]:
    yield "a"
    yield "b"


async def words_later() -> list[str]:
    return ["a", "b"]


def all_of(source: Any) -> list[object]:
    async def read() -> list[object]:
        return [chunk async for chunk in read_async(source)]

    return asyncio.run(read())


SOURCES: list[Callable[[], Any]] = [
    lambda: ["a", "b"],
    lambda: words(),
    lambda: words,
    lambda: io.StringIO("ab"),
    lambda: io.BytesIO(b"ab"),
    lambda: io.BufferedReader(io.BytesIO(b"ab")),
    lambda: "ab",
    lambda: b"ab",
    lambda: lambda: io.BytesIO(b"ab"),
]
ASYNC_SOURCES: list[Callable[[], Any]] = [
    lambda: words_async(),
    lambda: words_async,
    lambda: words_later,
    lambda: AsyncFile(b"ab"),
]


def joined(chunks: list[object]) -> str:
    text = TextChunks()
    texts = [*(each for chunk in chunks for each in text.add(chunk)), *text.end()]

    assert "".join(texts) == text.join()
    return text.join()


@pytest.mark.parametrize("make", SOURCES, ids=range(len(SOURCES)))
def test_plain_sources(make: Callable[[], Any]) -> None:
    """Iterables, files, strings, and functions that make one; in both kinds of handlers."""
    assert "ab" == joined(list(read_sync(make())))
    assert "ab" == joined(all_of(make()))


@pytest.mark.parametrize("make", ASYNC_SOURCES, ids=range(len(ASYNC_SOURCES)))
def test_async_sources(make: Callable[[], Any]) -> None:
    """Async iterables, files, and functions that make something, awaited if need be."""
    assert "ab" == joined(all_of(make()))


@pytest.mark.parametrize("make", ASYNC_SOURCES, ids=range(len(ASYNC_SOURCES)))
def test_async_sources_in_def_handlers(make: Callable[[], Any]) -> None:
    """They are refused with a reason."""
    source = make()
    with pytest.raises(TypeError, match="'def' handlers reads plain sources"):
        list(read_sync(source))
    if hasattr(source, "aclose"):
        asyncio.run(source.aclose())


@pytest.mark.parametrize("source", [7, None, object()])
def test_what_cannot_be_piped(source: object) -> None:
    """Anything else is refused; the error says what is allowed."""
    with pytest.raises(TypeError, match="allowed are iterables"):
        list(read_sync(source))
    with pytest.raises(TypeError, match="allowed are iterables"):
        all_of(source)


def test_lines_of_a_text_file_are_chunks() -> None:
    """A text file is read as its lines come."""
    assert ["a\n", "b"] == list(read_sync(io.StringIO("a\nb")))


def test_a_plain_source_is_read_in_one_other_thread() -> None:
    """The event loop is not blocked; whoever is bound to a thread has one."""
    threads = set()

    def source() -> Iterator[str]:
        try:
            for letter in "abc":
                threads.add(threading.current_thread())
                yield letter
        finally:
            threads.add(threading.current_thread())

    all_of(source)

    assert 1 == len(threads)
    assert threading.current_thread() not in threads


@pytest.mark.parametrize("asynchronous", [False, True])
def test_generators_are_closed(asynchronous: bool) -> None:
    """Also when they are left early."""
    closed: list[int] = []

    def source() -> Iterator[str]:
        try:
            yield from "abc"
        finally:
            closed.append(1)

    async def leave() -> None:
        chunks = read_async(source())
        await anext(chunks)
        await chunks.aclose()

    if asynchronous:
        asyncio.run(leave())
    else:
        chunks = read_sync(source())
        next(chunks)
        chunks.close()

    assert [1] == closed


def test_an_async_generator_is_closed() -> None:
    """As the plain ones are."""
    closed: list[int] = []

    async def source() -> AsyncIterator[str]:
        try:
            yield "a"
            yield "b"
        finally:
            closed.append(1)

    async def leave() -> None:
        chunks = read_async(source())
        await anext(chunks)
        await chunks.aclose()

    asyncio.run(leave())
    assert [1] == closed


@given(st.text(), st.lists(st.integers(1, 4)))
def test_bytes_may_be_cut_anywhere(text: str, cuts: list[int]) -> None:
    """The text that comes out is the text that went in."""
    data, chunks = text.encode(), TextChunks()
    told: list[str] = []
    for cut in [*cuts, len(data)]:
        told += chunks.add(data[:cut])
        data = data[cut:]
    told += chunks.add(data)
    told += chunks.end()

    assert text == "".join(told) == chunks.join()


def test_what_is_no_utf8_is_replaced() -> None:
    """A character that is cut off for good too, be it by text that follows."""
    chunks = TextChunks()

    assert [(), ("\ufffda",), (), ("\ufffd",)] == [
        chunks.add(b"\xe2\x82"),
        chunks.add("a"),
        chunks.add(b"\xe2"),
        chunks.end(),
    ]


def test_chunks_of_another_type() -> None:
    """They are refused."""
    with pytest.raises(TypeError, match="must be str or bytes, not int"):
        TextChunks().add(1)


def test_a_source_that_blocks_can_be_cancelled() -> None:
    """Nobody waits for it, and it is closed when it has come back, though closing it fails."""
    reading, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def blocking() -> Iterator[str]:
        try:
            reading.set()
            assert go_on.wait(20)
            yield "late"
        finally:
            closed.set()
            raise OSError("cannot be closed")

    async def read() -> None:
        async for _ in read_async(blocking()):
            raise AssertionError("nothing was to be read")

    async def exchange() -> bool:
        task = asyncio.create_task(read())
        await asyncio.to_thread(reading.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        early = closed.is_set()
        go_on.set()
        assert await asyncio.to_thread(closed.wait, 10)
        return early

    assert not asyncio.run(exchange())
