"""An event loop is never blocked by a store whose reads may take long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable
from typing import Any

import pytest

from durable_core.api.step import step
from durable_core.errors import StoreError
from durable_core.flow.handoff import new_token
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.ports import Register, WorkerRecord
from durable_core.runners.store_reads import StoreReads
from support.harness import WatchedStore, lab, request, until


class Distant(WatchedStore):
    """A store as on a network; it notes what is read on which thread."""

    reads_are_fast = False

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[tuple[str, threading.Thread]] = []

    def event_seq(self, *args: Any) -> Any:
        self.readers.append(("event_seq", threading.current_thread()))
        return super().event_seq(*args)

    def result(self, *args: Any) -> Any:
        self.readers.append(("result", threading.current_thread()))
        return super().result(*args)

    def read_stream(self, *args: Any, **kwargs: Any) -> Any:
        self.readers.append(("read_stream", threading.current_thread()))
        return super().read_stream(*args, **kwargs)


async def naps(asked: Request) -> str:
    await step.run("one", int)
    await step.sleep("nap", 0.05)
    return await step.run("two", str, "end")


@pytest.mark.parametrize("streamed", [False, True])
def test_no_read_is_made_on_the_event_loop(streamed: bool) -> None:
    """Not for a new run, nor a step, nor a client that waits or reads a stream."""
    store = Distant()
    fields: dict[str, Any] = {"accept": "text/event-stream"} if streamed else {}

    async def read(response: Response) -> bytes:
        if isinstance(response.body, bytes):
            return response.body
        assert isinstance(response.body, AsyncIterable)
        return b"".join([chunk async for chunk in response.body])

    async def main() -> bytes:
        response = await endpoint.handle_async(request(**fields))
        body = await read(response)
        for _ in range(9):
            if streamed:
                [run_id] = store._runs
                token = new_token(process.engine.env, run_id)
                location = f"/?durable-run={run_id}&durable-token={token}"
                return await read(await endpoint.handle_async(request(location, **fields)))
            if response.status != 302:
                break
            location = response.headers["location"]
            response = await endpoint.handle_async(request(f"/{location}"))
            body = await read(response)
        return body

    with lab(store) as process:
        endpoint = process.endpoint(naps)
        process.durable.start()
        # Others may send events: each step asks the store how far they have come.
        other = WorkerRecord(id="p", host="elsewhere", pid=1, expires_at=2**50)
        store.commit([Register(worker=other)], wait=1.0)
        process.poke()
        until(lambda: process.engine.worker and process.engine.worker.scheduler._workers)
        main_thread = threading.current_thread()
        body = asyncio.run(main())

    assert b"end" in body
    read_on_loop = [name for name, thread in store.readers if thread is main_thread]
    assert {"event_seq", "result"} <= {name for name, _ in store.readers}
    assert [] == read_on_loop


def test_a_fast_store_is_read_in_place() -> None:
    """No thread is needed, and nothing is awaited."""

    async def main() -> None:
        reads = StoreReads(WatchedStore())
        assert threading.current_thread() is reads.call(threading.current_thread)
        assert 3 == await reads.wait(int, "3")
        reads.close()

    asyncio.run(main())


def test_after_the_end_the_store_answers_for_itself() -> None:
    """A closed store refuses at once, so that the loop may ask it."""

    def read() -> None:
        raise StoreError("closed")

    async def main() -> None:
        reads = StoreReads(Distant())
        assert 3 == await reads.wait(int, "3")
        reads.close()
        with pytest.raises(StoreError, match="closed"):
            await reads.wait(read)

    asyncio.run(main())
