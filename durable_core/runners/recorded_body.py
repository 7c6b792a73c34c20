"""Streamed response bodies: sent as they come, kept for the wait URL, recorded at their end.

The end is recorded once: when the body is exhausted, when it raises, or when the server closes it
before that, be it before the first chunk. How the body is iterated decides how the record is
written, whatever kind of handler it came from.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import nullcontext
from typing import Any, cast

from durable_core.commit_queue import CommitFuture
from durable_core.errors import ControlSignal, StoreError
from durable_core.flow.checkpoint import StoredExecution
from durable_core.flow.effects import AwaitDurable, Effect, Flow, Submit, drive_async, drive_sync
from durable_core.flow.execution import Execution
from durable_core.flow.handler import finish_streaming
from durable_core.http.response import Response
from durable_core.platform import run_logger
from durable_core.ports import CheckpointResult
from durable_core.runners.host import RunHost

__all__ = ["close_unsent", "record_body"]


class _ResponseCutError(Exception):
    """The client went away before the whole body was sent."""

    def __init__(self) -> None:
        super().__init__("the client went away")


def record_body(ex: Execution, response: Response, host: RunHost) -> Response:
    """Return the response with a body that records the run's end when it is exhausted or closed.

    Args:
        ex: the execution; its run is in phase RESPONDING.
        response: a response whose body is an iterable.
        host: where the end is recorded; it is not stopped before that.
    """
    record = _BodyRecorder(ex, response, host)
    body: Iterable[bytes] | AsyncIterable[bytes]
    if isinstance(response.body, AsyncIterable):
        body = _AsyncRecordedBody(response.body, record)
    else:
        assert not isinstance(response.body, bytes)
        body = _SyncRecordedBody(response.body, record)
    return Response(status=response.status, headers=response.headers, body=body)


async def close_unsent(response: Response, threads: Executor) -> None:
    """Close the body of a response that will not be sent.

    Args:
        response: what a client that is gone would have got.
        threads: where a body that is a plain iterable is closed.
    """
    if isinstance(response.body, AsyncIterable):
        close = getattr(response.body, "aclose", None)
        if close is not None:
            await close()
    else:
        close = getattr(response.body, "close", None)
        if close is not None:
            await asyncio.get_running_loop().run_in_executor(threads, close)


class _BodyRecorder:
    """What has been sent so far, until it is too much to keep."""

    def __init__(self, ex: Execution, response: Response, host: RunHost) -> None:
        self._ex = ex
        self._response = response
        self._queue = host.queue
        self._live = host.live
        self._kept: bytearray | None = bytearray()
        self._live.body_started(ex.run.id)

    def add(self, chunk: bytes) -> None:
        """Keep a chunk."""
        if self._kept is not None:
            self._kept += chunk
            if len(self._kept) > self._ex.env.limits.response_stored:
                self._kept = None

    def end(self, error: Exception | None) -> None:
        """Record the end, in this thread."""
        try:
            drive_sync(self._flow(error), self._performer(self._await_durable), nullcontext())
        except (StoreError, ControlSignal) as lost:
            self._lost(lost)
        finally:
            self._live.body_finished(self._ex.run.id)

    async def end_async(self, error: Exception | None) -> None:
        """Record the end, on this loop."""
        try:
            await drive_async(self._flow(error), self._performer(self._await_durable_async))
        except (StoreError, ControlSignal) as lost:
            self._lost(lost)
        finally:
            self._live.body_finished(self._ex.run.id)

    def _flow(self, error: Exception | None) -> Flow[None]:
        body = None if self._kept is None else bytes(self._kept)
        assert isinstance(self._ex, StoredExecution)  # only these end after their response began
        return finish_streaming(self._ex, self._response, body, error)

    def _performer(self, settle: Callable[[AwaitDurable], object]) -> Callable[[Effect], Any]:
        def perform(effect: Effect) -> object:
            if isinstance(effect, AwaitDurable):
                return settle(effect)
            assert isinstance(effect, Submit)  # recording an end asks for nothing else
            after = cast("tuple[CommitFuture[CheckpointResult], ...]", effect.after)
            return self._queue.submit(effect.write, after)

        return perform

    def _await_durable(self, effect: AwaitDurable) -> list[CheckpointResult]:
        tickets = cast("tuple[CommitFuture[CheckpointResult], ...]", effect.tickets)
        return [self._queue.wait(each) for each in tickets]

    async def _await_durable_async(self, effect: AwaitDurable) -> list[CheckpointResult]:
        queue = self._queue
        return [
            await queue.wait_async(cast("CommitFuture[CheckpointResult]", each))
            for each in effect.tickets
        ]

    def _lost(self, error: BaseException) -> None:
        """Log that the end could not be recorded; the run will be failed by whoever takes it."""
        log = run_logger(self._ex.run.id, self._ex.run.function_id)
        reason = self._ex.fault or error
        log.error("the end of the streamed response could not be recorded: %r", reason)


class _SyncRecordedBody(Iterator[bytes]):
    """A body that is iterated in threads, one at a time."""

    def __init__(self, body: Iterable[bytes], record: _BodyRecorder) -> None:
        self._body = body
        self._chunks: Iterator[bytes] | None = None
        self._record = record
        self._ended = False

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        try:
            if self._chunks is None:
                self._chunks = iter(self._body)
            chunk = next(self._chunks)
            self._record.add(chunk)
        except StopIteration:
            self._end(None)
            raise
        except BaseException as broken:
            self._end(broken if isinstance(broken, Exception) else _ResponseCutError())
            raise
        return chunk

    def close(self) -> None:
        """Record that the response was cut short, unless it was not; close the body."""
        self._end(_ResponseCutError())

    def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            self._record.end(error)
        finally:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()


class _AsyncRecordedBody(AsyncIterator[bytes]):
    """A body that is iterated on an event loop."""

    def __init__(self, body: AsyncIterable[bytes], record: _BodyRecorder) -> None:
        self._body = body
        self._chunks: AsyncIterator[bytes] | None = None
        self._record = record
        self._ended = False

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            if self._chunks is None:
                self._chunks = aiter(self._body)
            chunk = await anext(self._chunks)
            self._record.add(chunk)
        except StopAsyncIteration:
            await self._end(None)
            raise
        except BaseException as broken:
            await self._end(broken if isinstance(broken, Exception) else _ResponseCutError())
            raise
        return chunk

    async def aclose(self) -> None:
        """Record that the response was cut short, unless it was not; close the body."""
        await self._end(_ResponseCutError())

    async def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            # A framework may cancel this task again and again; that must not leave a run open.
            await asyncio.shield(self._record.end_async(error))
        finally:
            close = getattr(self._body, "aclose", None)
            if close is not None:
                await close()
