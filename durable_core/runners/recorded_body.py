"""Streamed response bodies: sent as they come, kept for the wait URL, recorded at their end.

The end is recorded once: when the body is exhausted, when it raises, or when the server closes it
before that, be it before the first chunk. How the body is iterated decides how the record is
written, whatever kind of handler it came from.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from durable_core.commit_queue import CommitFuture
from durable_core.errors import ControlSignal, StoreError
from durable_core.flow.driver import drive_async, drive_sync
from durable_core.flow.effects import AwaitDurable, DrainSteps, Effect, Flow, Notify, Submit
from durable_core.flow.execution import Execution, StoredExecution
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
    recorder = _BodyRecorder(ex, response, host)
    body: Iterable[bytes] | AsyncIterable[bytes]
    if isinstance(response.body, AsyncIterable):
        body = _AsyncRecordedBody(response.body, recorder)
    else:
        assert not isinstance(response.body, bytes)
        body = _SyncRecordedBody(response.body, recorder)
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
        self._observers = host.observers
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
            if isinstance(effect, Notify):
                self._observers.perform(effect)
                return None
            if isinstance(effect, DrainSteps):
                return None  # the handler has ended
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


_END: Any = object()


@dataclass(frozen=True, slots=True)
class _NextChunk:
    """Make the next chunk, or return ``_END``."""

    waits: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class _RecordEnd:
    """Record the end of the run, with what the body has raised."""

    waits: ClassVar[bool] = True
    error: Exception | None


@dataclass(frozen=True, slots=True)
class _CloseBody:
    """Close the handler's own body."""

    waits: ClassVar[bool] = True


class _RecordedBody:
    """What becomes of a body, whichever way it is iterated: flows for the two classes below."""

    def __init__(self, recorder: _BodyRecorder) -> None:
        self._recorder = recorder
        self._ended = False

    def next_chunk(self) -> Generator[Any, Any, bytes]:
        """Return the next chunk; ``_END`` after the last one."""
        if self._ended:
            return cast("bytes", _END)
        try:
            chunk: bytes = yield _NextChunk()
            if chunk is not _END:
                self._recorder.add(chunk)
        except BaseException as broken:
            yield from self._end(broken if isinstance(broken, Exception) else _ResponseCutError())
            raise
        if chunk is _END:
            yield from self._end(None)
        return chunk

    def close(self) -> Generator[Any, Any, None]:
        """Record that the response was cut short, unless it was not; close the body."""
        yield from self._end(_ResponseCutError())

    def _end(self, error: Exception | None) -> Generator[Any, Any, None]:
        if self._ended:
            return
        self._ended = True
        try:
            yield _RecordEnd(error)
        finally:
            yield _CloseBody()


class _SyncRecordedBody(Iterator[bytes]):
    """A body that is iterated in threads, one at a time."""

    def __init__(self, body: Iterable[bytes], recorder: _BodyRecorder) -> None:
        self._body = body
        self._chunks: Iterator[bytes] | None = None
        self._recorder = recorder
        self._flows = _RecordedBody(recorder)

    def __next__(self) -> bytes:
        chunk = drive_sync(self._flows.next_chunk(), self._perform, nullcontext())
        if chunk is _END:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Record the end, if that was not done; close the body."""
        drive_sync(self._flows.close(), self._perform, nullcontext())

    def _perform(self, effect: Any) -> object:
        if isinstance(effect, _NextChunk):
            if self._chunks is None:
                self._chunks = iter(self._body)
            return next(self._chunks, _END)
        if isinstance(effect, _RecordEnd):
            self._recorder.end(effect.error)
            return None
        close = getattr(self._body, "close", None)
        return None if close is None else close()


class _AsyncRecordedBody(AsyncIterator[bytes]):
    """A body that is iterated on an event loop."""

    def __init__(self, body: AsyncIterable[bytes], recorder: _BodyRecorder) -> None:
        self._body = body
        self._chunks: AsyncIterator[bytes] | None = None
        self._recorder = recorder
        self._flows = _RecordedBody(recorder)

    async def __anext__(self) -> bytes:
        chunk = await drive_async(self._flows.next_chunk(), self._perform)
        if chunk is _END:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Record the end, if that was not done; close the body."""
        await drive_async(self._flows.close(), self._perform)

    async def _perform(self, effect: Any) -> object:
        if isinstance(effect, _NextChunk):
            if self._chunks is None:
                self._chunks = aiter(self._body)
            return await anext(self._chunks, _END)
        if isinstance(effect, _RecordEnd):
            # A framework may cancel this task again and again; that must not leave a run open.
            return await asyncio.shield(self._recorder.end_async(effect.error))
        close = getattr(self._body, "aclose", None)
        return None if close is None else await close()
