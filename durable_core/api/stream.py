"""Streaming to the client from inside a run, for both kinds of handlers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
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
            _push(where, data)

    def ui_message(self, chunk: Mapping[str, object]) -> None:
        """Send one chunk of the UI message stream protocol, which ``useChat`` of the AI SDK reads.

        As :meth:`push`, for endpoints with ``ui_messages=``; a client that reads the events of the
        run gets the chunk as its data. The chunks ``start``, ``finish-step``, ``finish`` and
        ``[DONE]`` are sent by the engine; those of an encoder only say what is in them.

        Args:
            chunk: a JSON object as the protocol has it, such as ``{"type": "text-delta", "id": "1",
                "delta": "It"}``. Members that are None are left out.

        Raises:
            TypeError: it is no mapping, a member is of the wrong type, or no JSON.
            ValueError: there is no such chunk, or a member is missing or not allowed.
            LimitExceededError: see :meth:`push`.
        """
        from durable_core.codec.ui_messages import check_ui_chunk  # few handlers need it

        self.push(check_ui_chunk(chunk))


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
        from durable_core.api.sources import TextChunks, pipe_async

        return await pipe_async(source, TextChunks(), functools.partial(_push, where))

    async def pipe_ui_messages(self, source: Any) -> str:
        """Send every chunk of an encoded UI message stream, and return the text of its message.

        It takes what encoders write, such as ``VercelAIAdapter(...).encode_stream(...)`` of
        pydantic-ai, or the body of another server's response: server-sent events.

        Args:
            source: as for :meth:`pipe`; it may be cut anywhere.

        Returns:
            The text of all ``text-delta`` chunks; ``""`` outside a run.

        Raises:
            TypeError, ValueError: it has something else than such chunks; see :meth:`ui_message`.
            Exception: whatever the source raises.
        """
        where = _where()
        if where is None:
            return ""
        from durable_core.api.sources import UIChunks, pipe_async

        return await pipe_async(source, UIChunks(), functools.partial(_push, where))


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
        from durable_core.api.sources import TextChunks, pipe_sync

        return pipe_sync(source, TextChunks(), functools.partial(_push, where))

    def pipe_ui_messages(self, source: Any) -> str:
        """Send every chunk of an encoded UI message stream; see AsyncStreaming.pipe_ui_messages.

        Args:
            source: as for :meth:`pipe`.
        """
        where = _where()
        if where is None:
            return ""
        from durable_core.api.sources import UIChunks, pipe_sync

        return pipe_sync(source, UIChunks(), functools.partial(_push, where))


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


def _push(where: _Where, data: object) -> None:
    text = _encode(data)
    source, inside = where
    opened: Stream | None = source.stream
    if opened is None:
        opened = source.open_stream()
    if opened is not None:
        opened.push(inside, text)


def _encode(data: object) -> str:
    try:
        return _CODEC.encode(data)
    except TypeError as error:
        raise TypeError(f"what is pushed cannot be sent: {error}") from error
