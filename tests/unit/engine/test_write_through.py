"""Pushes that write to the connection themselves, in place of waking a task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from durable_core.api.step import step
from durable_core.api.stream import stream, sync_stream
from durable_core.codec.sse import KEEP_ALIVE
from durable_core.engine.stream_bodies import AsyncBody
from durable_core.http.request import Request
from support.harness import Lab
from support.streams import Reading, asks_stream

PAUSE = 0.003  # seconds after which a push may write at once again


class Client:
    """A connection, and the task that sends a body on it.

    Attributes:
        ready: what ``is_ready`` says.
        parts: what was sent.
        at_once: which of them were written by pushes.
        error: what ``write_now`` raises; None for nothing.
    """

    def __init__(self) -> None:
        self.ready = True
        self.parts: list[bytes] = []
        self.at_once: list[bytes] = []
        self.times: list[float] = []
        self.error: Exception | None = None

    def is_ready(self) -> bool:
        return self.ready

    def write_now(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.at_once.append(data)
        self.write(data)

    def write(self, data: bytes) -> None:
        self.parts.append(data)
        self.times.append(asyncio.get_running_loop().time())

    async def take(self, body: Any) -> None:
        assert isinstance(body, AsyncBody)
        body.write_through(self)
        try:
            async for part in body:
                self.write(part)
        finally:
            await body.aclose()

    @property
    def data(self) -> bytes:
        return b"".join(self.parts)

    async def until(self, text: str) -> None:
        async with asyncio.timeout(10):
            while text.encode() not in self.data:
                await asyncio.sleep(0)


def stream_to(client: Client, pushes: Callable[[], Awaitable[object]]) -> list[str]:
    """Have a step push to a client; return the events that it got."""

    async def handler(request: Request) -> str:
        await step.run("b", int)  # after it comes redirect_info
        await client.until("redirect_info")
        await asyncio.sleep(PAUSE)
        await step.run("a", pushes)
        return "done"

    async def exchange() -> list[str]:
        lab = Lab()
        response = await lab.endpoint(handler).handle_async(asks_stream())
        try:
            await client.take(response.body)
        finally:
            await lab.durable.stop_async(5.0)
        reading = Reading(response)
        reading._feed(client.data)
        return reading._ready

    return asyncio.run(exchange())


def test_a_push_has_written_when_it_returns() -> None:
    """No task has to have its turn before that."""
    client = Client()
    seen: list[int] = []

    async def pushes() -> None:
        for number in range(3):
            before = len(client.parts)
            stream.push(number)
            seen.append(len(client.parts) - before)
            await asyncio.sleep(PAUSE)

    events = stream_to(client, pushes)

    assert [1, 1, 1] == seen
    assert ["a: 0", "a: 1", "a: 2", "commit a", '200: "done"'] == events[-5:]


def test_a_client_that_is_behind_has_its_chunks_from_the_task() -> None:
    """In their order, with those that are written at once later."""
    client = Client()
    seen: list[int] = []

    async def pushes() -> None:
        for ready in (False, True, False, True):
            client.ready = ready
            before = len(client.parts)
            stream.push(ready)
            seen.append(len(client.parts) - before)
            await asyncio.sleep(PAUSE)

    events = stream_to(client, pushes)

    assert [0, 1, 0, 1] == seen
    assert ["a: False", "a: True", "a: False", "a: True"] == events[-6:-2]


def test_a_burst_is_sent_together() -> None:
    """A few pushes without a pause write at once; the others cost the one that pushes nothing."""
    client = Client()

    async def pushes() -> None:
        before = len(client.parts)
        for number in range(20):
            stream.push(number)
        assert 4 == len(client.parts) - before

    events = stream_to(client, pushes)

    assert [f"a: {number}" for number in range(20)] == events[-22:-2]


def test_other_threads_wake_the_task() -> None:
    """Nobody but its own loop may write to a connection."""
    client = Client()

    def push() -> None:
        sync_stream.push("there")

    async def pushes() -> None:
        before = len(client.at_once)
        await asyncio.to_thread(push)
        assert before == len(client.at_once)

    assert "a: there" in stream_to(client, pushes)


def test_a_failed_attempt() -> None:
    """Its rollback comes before what the next one pushes."""
    client = Client()
    attempts: list[int] = []

    async def pushes() -> None:
        attempts.append(1)
        stream.push(len(attempts))
        await asyncio.sleep(PAUSE)
        if len(attempts) < 2:
            raise ValueError("once")

    async def handler(request: Request) -> str:
        await step.run("a", pushes)
        return "done"

    async def exchange() -> list[str]:
        lab = Lab()
        endpoint = lab.endpoint(handler)
        first = Reading(await endpoint.handle_async(asks_stream()))
        events = [event async for event in first]
        url = first.redirect.replace("&durable-from=handoff", "")
        response = await endpoint.handle_async(asks_stream(url))
        await client.take(response.body)
        await lab.durable.stop_async(5.0)
        whole = Reading(response)
        whole._feed(client.data)
        assert ["meta", "a: 1", "rollback a"] == events[:3]
        return [event for event in whole._ready if event != "rollback a"]

    assert ["meta", "a: 2", "commit a", '200: "done"'] == asyncio.run(exchange())


def test_an_error_is_the_task_s() -> None:
    """The code that pushes cannot help it; the response is cut where the task sends it."""
    client = Client()
    pushed: list[str] = []

    async def pushes() -> None:
        client.error = OSError("no buffers")
        stream.push(1)
        pushed.append("without an error")

    with pytest.raises(OSError, match="no buffers"):
        stream_to(client, pushes)

    assert ["without an error"] == pushed


def test_an_event_that_cannot_be_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is the task's error, too: the chunk is in the stream, for all other readers."""
    client = Client()
    pushed: list[str] = []

    def encode(*_: object) -> bytes:
        raise ValueError("no bytes")

    async def pushes() -> None:
        monkeypatch.setattr("durable_core.flow.stream_reader.encode_chunk", encode)
        stream.push(1)
        pushed.append("without an error")

    with pytest.raises(ValueError, match="no bytes"):
        stream_to(client, pushes)

    assert ["without an error"] == pushed


@pytest.mark.parametrize(("readers", "expected"), [(4, True), (5, False)])
def test_many_readers_take_turns(readers: int, expected: bool) -> None:
    """A push writes to a few readers; to more it would take long, and other tasks would wait."""
    clients = [Client() for _ in range(readers)]
    go = asyncio.Event()
    seen: list[bool] = []

    async def pushes() -> None:
        await go.wait()
        for client in clients[1:]:
            await client.until("inngest.commit")
        await asyncio.sleep(PAUSE)
        stream.push("x")
        seen.extend(b'"x"' in client.data for client in clients)

    async def handler(request: Request) -> str:
        await step.run("b", int)
        await step.run("a", pushes)
        return "done"

    async def exchange() -> None:
        lab = Lab()
        endpoint = lab.endpoint(handler)
        response = await endpoint.handle_async(asks_stream())
        tasks = [asyncio.create_task(clients[0].take(response.body))]
        await clients[0].until("redirect_info")
        reading = Reading(response)
        reading._feed(clients[0].data)
        url = reading.redirect.replace("&durable-from=handoff", "")
        for client in clients[1:]:
            other = await endpoint.handle_async(asks_stream(url))
            tasks.append(asyncio.create_task(client.take(other.body)))
        go.set()
        await asyncio.gather(*tasks)
        await lab.durable.stop_async(5.0)

    asyncio.run(exchange())

    assert [expected] * readers == seen
    assert [1] * readers == [client.data.count(b'"x"') for client in clients]


def test_a_part_that_was_written_at_once_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comment that keeps a connection open comes after a time without an event."""
    monkeypatch.setattr("durable_core.flow.stream_reader._KEEP_ALIVE_MS", 1000)
    client = Client()
    silences: list[float] = []

    async def pushes() -> None:
        await asyncio.sleep(0.1)
        stream.push("x")
        async with asyncio.timeout(10):
            while client.parts[-1] != KEEP_ALIVE:
                await asyncio.sleep(0.001)
        assert b'"x"' in client.parts[-2]
        assert client.parts[-2] == client.at_once[-1]
        silences.append(client.times[-1] - client.times[-2])

    stream_to(client, pushes)

    assert 0.95 <= silences[0] < 1.7  # not twice that time, less what went before the push
