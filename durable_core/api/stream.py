"""Streaming to the client from inside a run: ``push`` and ``pipe``, for both kinds of handlers."""

from __future__ import annotations

from contextlib import aclosing, closing
from typing import Any

from durable_core.codec.json import JSONCodec
from durable_core.flow.attempt import StepAttempt, Stream, StreamOwner
from durable_core.flow.scope import CURRENT_RUN

__all__ = ["AsyncStreaming", "Streaming", "stream", "sync_stream"]

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
            _push(where, _encode(data))


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
            The chunks, text; ``""`` outside a run.

        Raises:
            TypeError: it is something else, or has chunks of another type.
            Exception: whatever the source raises; it is closed then, if it is a generator or was
                made by the function.
        """
        where = _where()
        if where is None:
            return ""
        from durable_core.api.sources import TextChunks, read_async

        text = TextChunks()
        async with aclosing(read_async(source)) as chunks:
            async for chunk in chunks:
                _push_text(where, text.add(chunk))
        _push_text(where, text.end())
        return text.join()


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
        from durable_core.api.sources import TextChunks, read_sync

        text = TextChunks()
        with closing(read_sync(source)) as chunks:
            for chunk in chunks:
                _push_text(where, text.add(chunk))
        _push_text(where, text.end())
        return text.join()


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
        _push(where, _encode(text))


def _encode(data: object) -> str:
    try:
        return _CODEC.encode(data)
    except TypeError as error:
        raise TypeError(f"what is pushed cannot be sent: {error}") from error
