"""Streaming to the client from inside a run: ``push`` and ``pipe``, for both kinds of handlers."""

from __future__ import annotations

import asyncio
import codecs
import contextvars
import inspect
import io
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable
from contextlib import aclosing, closing
from typing import Any

from durable_core.codec.json import JSONCodec
from durable_core.flow.attempt import StepAttempt, Stream, StreamOwner
from durable_core.flow.scope import CURRENT_RUN
from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = [
    "AsyncStreaming",
    "Streaming",
    "TextChunks",
    "read_async",
    "read_sync",
    "stream",
    "sync_stream",
]


# --- sources --------------------------------------------------------------------------------------
#
# What can be piped: iterables, files and functions that make one, read chunk by chunk.

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

    def add(self, chunk: object) -> str:
        """Return the text that is complete with this chunk; it may be empty.

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
        self._texts.append(text)
        return text

    def end(self) -> str:
        """Return what is left of a character that was cut off."""
        text = self._decoder.decode(b"", True)
        self._texts.append(text)
        return text

    def joined(self) -> str:
        """Return the whole text."""
        return "".join(self._texts)


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


# --- stream ---------------------------------------------------------------------------------------

_CODEC = JSONCodec()


class _Streaming:
    """What both faces have."""

    def push(self, data: object) -> None:
        """Send one chunk to whoever reads the stream of the run.

        Inside a step the chunk belongs to the step's current attempt: it is stored with the step's
        checkpoint, and void if the attempt fails. Outside steps it is never void; when the handler
        is replayed, what it pushed before is known by its place, not by its value. Outside a run,
        in code that a step has left behind, and in a handler that is being put away (its
        ``finally`` blocks), nothing happens.

        It never waits for a client, and does not fail because of one. Any thread may call it that
        runs in the context of the handler.

        Args:
            data: what JSON can hold: str, int, finite float, bool, None, list, dict with str keys.

        Raises:
            TypeError: it is something else; the message names the part.
            LimitExceededError: the step or the run has streamed too much (``Limits.stream_step``,
                ``Limits.stream_run``).
        """
        where = _where()
        if where is not None:
            _push(where, _encoded(data))


class AsyncStreaming(_Streaming):
    """Streaming for ``async def`` handlers: ``from durable_core import stream``."""

    async def pipe(self, source: Any) -> str:
        """Send every chunk of a source of text as it comes, and return the whole text.

        The result may be that of the step: ``await step.run("write", write)``, where ``write``
        returns ``await stream.pipe(source)``. The chunks belong to the step that calls ``pipe``.
        It goes on when no client reads any more. Outside a run nothing is read.

        Args:
            source: an async or plain iterable of str or bytes, an async or plain file object, a
                str, or a function that returns one of these (or a coroutine of one). Bytes are
                UTF-8, whose characters may be cut anywhere; what is none becomes U+FFFD. A plain
                iterable or file is read in a thread.

        Returns:
            The chunks, joined; ``""`` outside a run.

        Raises:
            TypeError: it is something else, or has chunks of another type.
            Exception: whatever the source raises; it is closed then, if it is a generator or was
                made by the function.
        """
        where = _where()
        if where is None:
            return ""
        text = TextChunks()
        async with aclosing(read_async(source)) as chunks:
            async for chunk in chunks:
                _push_text(where, text.add(chunk))
        _push_text(where, text.end())
        return text.joined()


class Streaming(_Streaming):
    """Streaming for ``def`` handlers: ``from durable_core.sync import stream``.

    Also for the plain functions that steps of ``async def`` handlers call.
    """

    def pipe(self, source: Any) -> str:
        """Send every chunk of a source of text, and return the text; see AsyncStreaming.pipe.

        Args:
            source: a plain iterable of str or bytes, a plain file object, a str, or a function
                that returns one of these.
        """
        where = _where()
        if where is None:
            return ""
        text = TextChunks()
        with closing(read_sync(source)) as chunks:
            for chunk in chunks:
                _push_text(where, text.add(chunk))
        _push_text(where, text.end())
        return text.joined()


#: Streaming for ``async def`` handlers.
stream = AsyncStreaming()
#: Streaming for ``def`` handlers.
sync_stream = Streaming()

_Where = tuple[StreamOwner, StepAttempt | None]


def _where() -> _Where | None:
    """Return the run that the calling code belongs to, and the step."""
    scope = CURRENT_RUN.get()
    if scope is None:
        return None
    if isinstance(scope, StepAttempt):
        return None if scope.owner is None else (scope.owner, scope)
    return scope.ex, None


def _push(where: _Where, text: str) -> None:
    source, inside = where
    opened: Stream | None = source.stream
    if opened is None:
        opened = source.open_stream()
    if opened is not None:
        opened.push(inside, text)


def _push_text(where: _Where, text: str) -> None:
    if text:
        _push(where, _encoded(text))


def _encoded(data: object) -> str:
    try:
        return _CODEC.encode(data)
    except TypeError as error:
        raise TypeError(f"what is pushed cannot be sent: {error}") from error
