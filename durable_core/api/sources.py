"""What a stream can pipe: iterables, files and functions that make one, read chunk by chunk."""

from __future__ import annotations

import asyncio
import codecs
import contextvars
import inspect
import io
import json
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator
from contextlib import aclosing, closing
from typing import Any

from durable_core.codec.sse import SSEDecoder
from durable_core.codec.ui_messages import UIChunk, check_ui_chunk
from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = ["TextChunks", "UIChunks", "pipe_async", "pipe_sync", "read_async", "read_sync"]

#: How much of a file is read at a time at most, bytes or characters.
_FILE_CHUNK = 64 * 1024
_END = object()
_ALLOWED = (
    "allowed are iterables of str or bytes, file objects, a str, and functions that return one"
)


class TextChunks:
    """Turns chunks of str or UTF-8 bytes into text, wherever the bytes are cut."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._texts: list[str] = []

    def add(self, chunk: object) -> tuple[str, ...]:
        """Return the text that is complete with this chunk, if there is any.

        Raises:
            TypeError: the chunk is neither.
        """
        if isinstance(chunk, str):
            text = self._decoder.decode(b"", True) + chunk
            self._decoder.reset()
        elif isinstance(chunk, (bytes, bytearray, memoryview)):
            text = self._decoder.decode(bytes(chunk))
        else:
            raise TypeError(f"a piped chunk must be str or bytes, not {type(chunk).__name__}")
        return self._keep(text)

    def end(self) -> tuple[str, ...]:
        """Return what is left of a character that was cut off, if there is anything."""
        return self._keep(self._decoder.decode(b"", True))

    def _keep(self, text: str) -> tuple[str, ...]:
        self._texts.append(text)
        return (text,) if text else ()

    def join(self) -> str:
        """Return the whole text."""
        return "".join(self._texts)


class UIChunks:
    """Takes the chunks of an encoded UI message stream out of it, wherever that is cut."""

    def __init__(self) -> None:
        self._decoder = SSEDecoder()
        self._text = TextChunks()
        self._texts: list[str] = []

    def add(self, part: object) -> Iterator[UIChunk]:
        """Yield the chunks that are complete with this part of the stream.

        Raises:
            TypeError: the part is neither str nor bytes, or a chunk is malformed.
            ValueError: an event is no JSON, or no chunk.
        """
        for text in self._text.add(part):
            for event in self._decoder.feed(text.encode("utf-8", "replace")):
                if event.data == "[DONE]":
                    continue
                chunk = check_ui_chunk(json.loads(event.data))
                if chunk["type"] == "text-delta":
                    self._texts.append(chunk["delta"])
                yield chunk

    def end(self) -> tuple[()]:
        """See that nothing is left over.

        Raises:
            ValueError: the stream ends in the middle of an event.
        """
        if self._decoder.is_inside_event:
            raise ValueError("a UI message stream has ended in the middle of an event")
        return ()

    def join(self) -> str:
        """Return the text of the message."""
        return "".join(self._texts)


def pipe_sync(source: Any, chunks: TextChunks | UIChunks, push: Callable[[object], None]) -> str:
    """Push what ``chunks`` makes of the parts of a plain source; return the text of all."""
    with closing(read_sync(source)) as parts:
        for part in parts:
            for chunk in chunks.add(part):
                push(chunk)
    for chunk in chunks.end():
        push(chunk)
    return chunks.join()


async def pipe_async(
    source: Any, chunks: TextChunks | UIChunks, push: Callable[[object], None]
) -> str:
    """As :func:`pipe_sync`, for a source of either kind."""
    async with aclosing(read_async(source)) as parts:
        async for part in parts:
            for chunk in chunks.add(part):
                push(chunk)
    for chunk in chunks.end():
        push(chunk)
    return chunks.join()


def read_sync(source: Any) -> Generator[object, None, None]:
    """Yield the chunks of a plain source.

    Raises:
        TypeError: it is none.
    """
    made = _is_factory(source)
    if made:
        source = source()
    if _is_async(source) or inspect.isawaitable(source):
        _close(source, made=True)
        raise TypeError(
            f"stream.pipe of 'def' handlers reads plain sources, not {type(source).__name__}; "
            "only 'async def' handlers can await"
        )
    try:
        yield from _chunks(source)
    finally:
        _close(source, made=made)


async def read_async(source: Any) -> AsyncGenerator[object, None]:
    """Yield the chunks of a source; a plain one is read in a thread of its own.

    Raises:
        TypeError: it is none.
    """
    made = _is_factory(source)
    if made:
        source = source()
        if inspect.isawaitable(source):
            source = await source
    if not _is_async(source):
        async with aclosing(_read_in_thread(source, made=made)) as chunks:
            async for chunk in chunks:
                yield chunk
        return
    try:
        if _has_async_read(source):
            while chunk := await source.read(_FILE_CHUNK):
                yield chunk
        else:
            async for chunk in source:
                yield chunk
    finally:
        if made or inspect.isasyncgen(source):
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()


async def _read_in_thread(source: Any, *, made: bool) -> AsyncGenerator[object, None]:
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    pool = DaemonThreadPool(1, "durable-pipe")

    def in_thread(call: Callable[..., Any], *args: object) -> asyncio.Future[Any]:
        return loop.run_in_executor(pool, lambda: context.run(call, *args))

    chunks, is_cancelled = _chunks(source), False
    try:
        while (chunk := await in_thread(next, chunks, _END)) is not _END:
            yield chunk
    except asyncio.CancelledError:
        is_cancelled = True  # the source may block for ever; it is closed when it does not
        raise
    finally:
        closed = pool.submit(context.run, _close_both, chunks, source, made)
        pool.shutdown()
        if not is_cancelled:
            await asyncio.shield(asyncio.wrap_future(closed))


def _close_both(chunks: Any, source: Any, made: bool) -> None:
    chunks.close()
    _close(source, made=made)


def _chunks(source: Any) -> Generator[object, None, None]:
    if isinstance(source, (str, bytes, bytearray, memoryview)):
        yield source  # not character by character
    elif hasattr(source, "read"):
        read = _reader_of(source)
        while chunk := read():
            yield chunk
    elif isinstance(source, Iterable):
        yield from source
    else:
        raise TypeError(f"cannot pipe an object of type {type(source).__name__}; {_ALLOWED}")


def _reader_of(file: Any) -> Callable[[], object]:
    """Return what reads the next chunk: as soon as there is something, where the file can that."""
    if hasattr(file, "read1"):
        return lambda: file.read1(_FILE_CHUNK)
    if isinstance(file, io.TextIOBase):
        return lambda: file.readline(_FILE_CHUNK)
    return lambda: file.read(_FILE_CHUNK)


def _is_factory(source: object) -> bool:
    return callable(source) and not hasattr(source, "read") and not _is_iterable(source)


def _is_iterable(source: object) -> bool:
    return isinstance(source, (Iterable, AsyncIterable))


def _is_async(source: Any) -> bool:
    return isinstance(source, AsyncIterable) or _has_async_read(source)


def _has_async_read(source: Any) -> bool:
    return inspect.iscoroutinefunction(getattr(source, "read", None))


def _close(source: Any, *, made: bool) -> None:
    """Close a source that nobody else will close."""
    if made or inspect.isgenerator(source):
        close = getattr(source, "close", None)
        if close is not None:
            close()
