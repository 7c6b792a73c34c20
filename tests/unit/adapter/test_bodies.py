"""The chunks of streamed bodies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextvars import ContextVar

import pytest

from durable_core.adapter.bodies import END, AsyncChunks, ThreadIterator, aiter_body, iter_body
from durable_core.runners.event_loops import LoopThread
from support.harness import until_async

WHO: ContextVar[str] = ContextVar("who", default="nobody")


class Body:
    """A plain body that notes the threads in which it is iterated and closed."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = iter(chunks)
        self.threads: list[int] = []
        self.closed: list[int] = []

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.threads.append(threading.get_ident())
        return next(self._chunks)

    def close(self) -> None:
        self.closed.append(threading.get_ident())


async def made(body: Iterable[bytes] | AsyncIterable[bytes]) -> list[bytes]:
    """Return all chunks, closing the body as a server does."""
    chunks = aiter_body(body)
    try:
        return await rest(chunks)
    finally:
        await chunks.close()


async def rest(chunks: AsyncChunks) -> list[bytes]:
    """Return what is left of a body."""
    found = []
    while (chunk := await chunks.next()) is not END:
        found.append(chunk)
    return found


def test_async_bodies() -> None:
    """An async generator is iterated, and ended where it is not exhausted."""
    ended: list[str] = []

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            ended.append("ended")

    async def main() -> None:
        assert [b"a", b"b"] == await made(body())
        chunks = aiter_body(body())
        assert b"a" == await chunks.next()
        assert 1 == len(ended)
        await chunks.close()

    asyncio.run(main())
    assert 2 == len(ended)


def test_plain_bodies_have_a_thread_of_their_own() -> None:
    """One thread iterates all of a body and closes it; others have others."""
    one, other = Body(b"a", b"b"), Body(b"c")

    async def main() -> None:
        chunks, others = aiter_body(one), aiter_body(other)
        assert b"a" == await chunks.next()
        assert b"c" == await others.next()
        assert [b"b"] == await rest(chunks)
        await chunks.close()
        await others.close()

    asyncio.run(main())
    threads = {*one.threads, *one.closed}

    assert (1, 1, 1) == (len(threads), len(one.closed), len(other.closed))
    assert threads.isdisjoint({*other.threads, threading.get_ident()})


def test_plain_bodies_keep_the_context() -> None:
    """A generator sees the variables of the task that sends it, and what it has set itself."""

    def body() -> Iterator[bytes]:
        yield WHO.get().encode()
        WHO.set("body")
        yield b""
        yield WHO.get().encode()

    async def main() -> None:
        WHO.set("task")
        assert [b"task", b"", b"body"] == await made(body())
        assert "task" == WHO.get()

    asyncio.run(main())


def test_anything_can_be_iterated() -> None:
    """A body may have nothing to close, or be closed itself, or not be begun."""

    class File:
        closed = 0

        def __iter__(self) -> Iterator[bytes]:
            return iter((b"x",))

        def close(self) -> None:
            self.closed += 1

    file, unused = File(), Body(b"x")

    async def main() -> None:
        assert [b"a", b"b"] == await made([b"a", b"b"])
        assert [b"x"] == await made(file)
        await aiter_body(unused).close()

    asyncio.run(main())
    assert (1, 0, 1) == (file.closed, len(unused.threads), len(unused.closed))


def test_broken_bodies() -> None:
    """The error is that of the body, which is closed."""

    class Broken(Body):
        def __next__(self) -> bytes:
            raise ZeroDivisionError

    body = Broken()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(made(body))

    assert 1 == len(body.closed)


def test_closing_waits_for_the_chunk_that_is_made() -> None:
    """A body is never closed while it runs, also where the task is cancelled again and again."""
    making, go_on = threading.Event(), threading.Event()
    ended = threading.Event()

    def body() -> Iterator[bytes]:
        try:
            making.set()
            assert go_on.wait(60)
            yield b"a"
            raise AssertionError("nobody asks for more")
        finally:
            ended.set()

    async def main() -> None:
        task = asyncio.create_task(made(body()))
        await asyncio.to_thread(making.wait, 60)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert not ended.is_set()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(ended.wait, 60)

    asyncio.run(main())


def test_async_bodies_in_a_thread() -> None:
    """One task of the given loop iterates all of an async body, and closes it."""
    tasks: list[asyncio.Task[None] | None] = []
    ended: list[str] = []

    async def body() -> AsyncIterator[bytes]:
        try:
            for chunk in (b"a", b"b", b"c"):
                tasks.append(asyncio.current_task())
                async with asyncio.timeout(60):  # which another task could not leave
                    yield chunk
        finally:
            tasks.append(asyncio.current_task())
            ended.append(WHO.get())

    loop = LoopThread()
    chunks = iter_body(body(), loop.run)
    assert [b"a", b"b"] == [chunks.next(), chunks.next()]
    chunks.close()
    loop.stop()

    assert (["nobody"], 1, 3) == (ended, len(set(tasks)), len(tasks))


def test_broken_async_bodies_in_a_thread() -> None:
    """The error is that of the body; closing it afterwards does nothing."""

    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        raise ZeroDivisionError

    loop = LoopThread()
    chunks = iter_body(body(), loop.run)
    assert b"a" == chunks.next()
    with pytest.raises(ZeroDivisionError):
        chunks.next()
    chunks.close()
    loop.stop()


def test_plain_bodies_in_a_thread() -> None:
    """They are iterated and closed where they are asked for."""
    body = Body(b"a", b"b")
    chunks = iter_body(body, lambda coroutine: pytest.fail("there is nothing to be awaited"))
    assert [b"a", b"b", END] == [chunks.next(), chunks.next(), chunks.next()]
    chunks.close()

    assert {threading.get_ident()} == {*body.threads, *body.closed}


def test_an_iterator_in_a_thread() -> None:
    """One thread iterates the body and closes it once, whoever asks for that, and how often."""
    read, left, unread = Body(b"a", b"b"), Body(b"a", b"b"), Body(b"a")

    async def main() -> None:
        chunks = ThreadIterator(read)
        assert [b"a", b"b"] == [chunk async for chunk in chunks]
        chunks.close()
        await chunks.aclose()
        chunks = ThreadIterator(left)
        assert b"a" == await anext(chunks)
        chunks.close()
        assert [] == [chunk async for chunk in chunks]
        await ThreadIterator(unread).aclose()

    asyncio.run(main())
    assert (1, 1, 1) == (len(read.closed), len(left.closed), len(unread.closed))
    assert [] == unread.threads
    assert 1 == len({*left.threads, *left.closed})


def test_an_iterator_in_a_thread_that_cannot_be_closed(caplog: pytest.LogCaptureFixture) -> None:
    """Who waits for it gets the error; for the others it is logged."""

    class Stuck(Body):
        def close(self) -> None:
            raise ZeroDivisionError("it does not close")

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await ThreadIterator(Stuck(b"a")).aclose()
        assert "" == caplog.text
        ThreadIterator(Stuck(b"a")).close()
        await until_async(lambda: "could not be closed" in caplog.text)

    asyncio.run(main())
