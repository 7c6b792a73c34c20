"""Streamed bodies: kept, recorded at their end, closed once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from durable_core.api.step import step
from durable_core.errors import StoreError
from durable_core.flow.env import Limits
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Phase
from durable_core.ports import Checkpoint
from durable_core.sync import step as sync_step
from support.harness import Lab, lab, request, until, until_async

Handler = Callable[[Request], Any]


class Body:
    """A body of two chunks that notes its end; it may break after the first, or at its end."""

    def __init__(self, *, breaks: bool = False, closes: bool = True) -> None:
        self.closed = 0
        self.taken = 0
        self._breaks = breaks
        self._closes = closes

    def take(self) -> bytes | None:
        self.taken += 1
        if self.taken == 2 and self._breaks:
            raise ZeroDivisionError("half way")
        return {1: b"one ", 2: b"two"}.get(self.taken)

    def note_end(self) -> None:
        self.closed += 1
        if not self._closes:
            raise ZeroDivisionError("it does not close")


class SyncBody(Body, Iterator[bytes]):
    def __next__(self) -> bytes:
        if (chunk := self.take()) is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        self.note_end()


class AsyncBody(Body, AsyncIterator[bytes]):
    async def __anext__(self) -> bytes:
        if (chunk := self.take()) is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        self.note_end()


def streaming(face: str, body: SyncBody | AsyncBody, *, steps: bool = True) -> Handler:
    """Return a handler of that kind that streams this body after a step."""

    async def handler(request: Request) -> Response:
        if steps:
            await step.run("first", lambda: None)
        return Response(status=201, body=body)

    def sync_handler(request: Request) -> Response:
        if steps:
            sync_step.run("first", lambda: None)
        return Response(status=201, body=body)

    return handler if face == "async" else sync_handler


async def take_all(response: Response) -> bytes:
    """Iterate a body as an asynchronous server does."""
    body = response.body
    assert not isinstance(body, bytes)
    if isinstance(body, AsyncIterator):
        return b"".join([chunk async for chunk in body])
    return await asyncio.to_thread(lambda: b"".join(body))  # type: ignore[arg-type]


async def close(response: Response) -> None:
    """Close a body as an asynchronous server does."""
    body: Any = response.body
    if hasattr(body, "aclose"):
        await body.aclose()
    else:
        await asyncio.to_thread(body.close)


def phases(process: Lab) -> list[Phase]:
    return [each.run.phase for each in process.records.list()]


each_face = pytest.mark.parametrize("face", ["async", "sync"])
each_kind = pytest.mark.parametrize("kind", [AsyncBody, SyncBody])
Kind = type[AsyncBody] | type[SyncBody]


@each_face
@each_kind
def test_body_is_sent_and_kept(face: str, kind: Kind) -> None:
    """Any kind of body of any kind of handler goes out, and is the run's result afterwards."""
    body = kind()

    async def main() -> None:
        response = await endpoint.handle_async(request())
        assert [Phase.RESPONDING] == phases(process)
        assert (201, b"one two") == (response.status, await take_all(response))
        await process.durable.stop_async()

    with lab() as process:
        endpoint = process.endpoint(streaming(face, body))
        asyncio.run(main())
        (run,) = process.records.list()
        stored = process.store.result("lab", run.run.id)

    assert Phase.COMPLETED == run.run.phase
    assert b"one two" == getattr(stored, "body", None)
    assert 1 == body.closed


@each_face
@each_kind
def test_body_that_breaks_fails_its_run(face: str, kind: Kind) -> None:
    """What has begun is not made again; the error passes on to the server."""
    body = kind(breaks=True)

    async def main() -> None:
        response = await endpoint.handle_async(request())
        with pytest.raises(ZeroDivisionError):
            await take_all(response)
        await close(response)
        await process.durable.stop_async()

    with lab() as process:
        endpoint = process.endpoint(streaming(face, body))
        asyncio.run(main())
        assert [Phase.FAILED] == phases(process)
    assert 1 == body.closed


@each_face
@each_kind
@pytest.mark.parametrize("chunks", [0, 1])
def test_body_that_is_closed_early(face: str, kind: Kind, chunks: int) -> None:
    """A client that left, even before the first chunk, leaves no run that never ends."""
    body = kind()

    async def main() -> None:
        response = await endpoint.handle_async(request())
        taken: Any = response.body
        for _ in range(chunks):
            assert b"one " == (
                await anext(taken) if kind is AsyncBody else await asyncio.to_thread(next, taken)
            )
        await close(response)
        await close(response)
        assert b"" == await take_all(response)
        await process.durable.stop_async()

    with lab() as process:
        endpoint = process.endpoint(streaming(face, body))
        asyncio.run(main())
        assert [Phase.FAILED] == phases(process)
    assert (chunks, 1) == (body.taken, body.closed)


@each_face
@each_kind
def test_client_that_leaves_when_the_answer_is_there(face: str, kind: Kind) -> None:
    """A response that its client can no longer take is closed, by whoever had it last."""
    body = kind()

    async def main() -> None:
        asking = asyncio.create_task(endpoint.handle_async(request()))
        while phases(process) != [Phase.RESPONDING]:
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until_async(lambda: body.closed)
        await process.durable.stop_async()

    with lab() as process:
        endpoint = process.endpoint(streaming(face, body))
        asyncio.run(main())
        assert [Phase.FAILED] == phases(process)
    assert 1 == body.closed


@each_kind
def test_cancelled_again_and_again(kind: Kind) -> None:
    """A framework that goes on cancelling cannot keep the end from being recorded."""

    async def main() -> None:
        response = await endpoint.handle_async(request())
        closing = asyncio.create_task(close(response))
        for _ in range(3):
            await asyncio.sleep(0)
            closing.cancel()
        await asyncio.wait((closing,))
        await until_async(lambda: phases(process) == [Phase.FAILED])
        await process.durable.stop_async()

    with lab() as process:
        endpoint = process.endpoint(streaming("async", kind()))
        asyncio.run(main())


@each_kind
def test_body_without_a_record(kind: Kind) -> None:
    """Without a checkpoint there is no run to record an end of; the body is the handler's own."""
    body = kind()

    async def main() -> None:
        response = await endpoint.handle_async(request())
        assert body is response.body
        assert b"one two" == await take_all(response)
        await process.durable.stop_async()

    with lab() as process:
        endpoint = process.endpoint(streaming("async", body, steps=False))
        asyncio.run(main())
        assert [] == phases(process)


@each_kind
def test_body_too_large_to_keep(kind: Kind) -> None:
    """It goes out whole, and the wait URL says that it has not been kept."""

    async def main() -> None:
        response = await endpoint.handle_async(request())
        assert b"one two" == await take_all(response)
        await process.durable.stop_async()

    with lab(limits=Limits(response_stored=6)) as process:
        endpoint = process.endpoint(streaming("async", kind()))
        asyncio.run(main())
        (run,) = process.records.list()
        stored = process.store.result("lab", run.run.id)

    assert Phase.COMPLETED == run.run.phase
    assert getattr(stored, "body", b"") is None


@each_kind
def test_end_that_cannot_be_recorded(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """The client has its response all the same; the log says that the run has no end."""

    def fault(writes: Any) -> None:
        if any(isinstance(write, Checkpoint) for write in writes):
            raise StoreError("the disk is gone")

    async def main() -> None:
        response = await endpoint.handle_async(request())
        process.watched.fault = fault
        with caplog.at_level(logging.ERROR, "durable"):
            assert b"one two" == await take_all(response)
        process.watched.fault = None
        await process.durable.stop_async()

    with lab() as process:
        endpoint = process.endpoint(streaming("async", kind()))
        asyncio.run(main())
    assert any("could not be recorded" in message for message in caplog.messages)


@pytest.mark.parametrize("served", ["thread", "loop"])
@pytest.mark.parametrize("closes", [True, False])
@each_face
@each_kind
def test_a_store_that_fails_before_the_head(
    face: str, kind: Kind, served: str, closes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is asked to come again, as where a whole body cannot be stored.

    The body is closed. An error of that changes nothing, and is logged.
    """
    body = kind(closes=closes)

    def fault(writes: Any) -> None:
        if any(isinstance(write, Checkpoint) for write in writes):
            raise StoreError("the disk is full")

    with lab() as process:
        endpoint = process.endpoint(streaming(face, body))
        process.watched.fault = fault
        if served == "loop":
            response = asyncio.run(endpoint.handle_async(request()))
        else:
            response = endpoint.handle(request())
        process.watched.fault = None

    assert (503, "1") == (response.status, response.headers["retry-after"])
    assert isinstance(response.body, bytes)
    assert 0 == body.taken
    assert 1 == body.closed
    assert closes != ("could not be closed" in caplog.text)


@each_face
def test_stop_waits_for_the_end_of_a_response(face: str) -> None:
    """A response that is sent whole while its process stops is its run's result."""
    body = SyncBody()

    async def main() -> None:
        response = await process.endpoint(streaming(face, body)).handle_async(request())
        chunks: Any = response.body
        assert b"one " == next(chunks)
        node = process.engine.worker
        assert node is not None
        stopping = asyncio.create_task(process.durable.stop_async(10.0))
        await asyncio.to_thread(until, lambda: node.stopping)
        assert not stopping.done()
        assert b"two" == await asyncio.to_thread(lambda: b"".join(chunks))
        await stopping
        assert [Phase.COMPLETED] == phases(process)

    with lab() as process:
        asyncio.run(main())
