"""Streamed response bodies: sent as they come, kept for the wait URL, recorded at their end."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from contextlib import nullcontext
from typing import Any

from durable_core.errors import ControlSignal, StoreError
from durable_core.flow.asks import Ask, Flow
from durable_core.flow.drive import drive_async, drive_sync
from durable_core.flow.execution import Execution
from durable_core.flow.serve import finish_streaming
from durable_core.model.response import Response
from durable_core.runtime.logs import run_logger

__all__ = ["tee"]


class _ResponseCutError(Exception):
    """The client went away before the whole body was sent."""


def tee(ex: Execution, response: Response, perform: Callable[[Ask], Any]) -> Response:
    """Return the response with a body that records the run's end when it is exhausted.

    Args:
        ex: the execution; its run is in phase RESPONDING.
        response: a response whose body is an iterable.
        perform: answers Asks, in the thread or on the loop that iterates the body.
    """
    record = _Record(ex, response)
    if isinstance(response.body, AsyncIterable):
        body: Any = _tee_async(response.body, record, perform)
    else:
        assert not isinstance(response.body, bytes)
        body = _tee_sync(response.body, record, perform)
    return Response(status=response.status, headers=response.headers, body=body)


class _Record:
    """What has been sent so far, until it is too much to keep."""

    def __init__(self, ex: Execution, response: Response) -> None:
        self.ex = ex
        self._response = response
        self._kept: bytearray | None = bytearray()

    def add(self, chunk: bytes) -> None:
        """Keep a chunk."""
        if self._kept is not None:
            self._kept += chunk
            if len(self._kept) > self.ex.env.limits.response_stored:
                self._kept = None

    def end(self, error: Exception | None) -> Flow[None]:
        """Return the flow that records the end."""
        body = None if self._kept is None else bytes(self._kept)
        return finish_streaming(self.ex, self._response, body, error)

    def failed(self, error: BaseException) -> None:
        """Log that the end could not be recorded; the run will be failed by whoever takes it."""
        log = run_logger(self.ex.run.id, self.ex.run.function_id)
        log.error("the end of the streamed response could not be recorded: %r", error)


def _tee_sync(
    body: Iterable[bytes], record: _Record, perform: Callable[[Ask], Any]
) -> Generator[bytes, None, None]:
    error: Exception | None = _ResponseCutError("the client went away")
    try:
        for chunk in body:
            record.add(chunk)
            yield chunk
        error = None
    except Exception as broken:
        error = broken
        raise
    finally:
        try:
            drive_sync(record.end(error), perform, nullcontext())
        except (StoreError, ControlSignal) as lost:
            record.failed(record.ex.fault or lost)
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()


async def _tee_async(
    body: AsyncIterable[bytes], record: _Record, perform: Callable[[Ask], Any]
) -> AsyncIterator[bytes]:
    error: Exception | None = _ResponseCutError("the client went away")
    try:
        async for chunk in body:
            record.add(chunk)
            yield chunk
        error = None
    except Exception as broken:
        error = broken
        raise
    finally:
        try:
            await drive_async(record.end(error), perform)
        except (StoreError, ControlSignal) as lost:
            record.failed(record.ex.fault or lost)
        finally:
            close = getattr(body, "aclose", None)
            if close is not None:
                await close()
