"""A chunk goes a short way: a push writes it to the connection itself, in few calls.

Were the chunk to wait for its turn of the event loop, the server would not have it when the push
returns. Calls are those of Python functions in files of this repository, as ``sys.setprofile`` sees
them. What the server and the event loop do comes on top, as under any event stream. Lower a limit
when a change makes it possible.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import durable_asgi
import durable_asyncio
from durable_core import Durable, Request, step, stream
from durable_core.stores import MemoryStore
from support.raw_http import connect
from support.source_tree import ROOT

GET = b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
#: Seconds after which a push may write at once again, however much was sent before.
PAUSE = 0.003
#: Ticks of the loop in which the task that has sent a chunk comes to wait for the next one.
_TICKS = 20


class Probe:
    """Notes what is called while it is entered, in one thread."""

    def __init__(self) -> None:
        self.ours: list[str] = []
        self.others: list[str] = []

    def __enter__(self) -> Probe:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            code = frame.f_code
            path = Path(code.co_filename)
            is_ours = path.is_relative_to(ROOT) and "site-packages" not in path.parts
            (self.ours if is_ours else self.others).append(code.co_qualname)


def call_push(module: Any) -> Probe:
    """Have a step push to a client that has read all before; return what was called.

    The step has pushed before, and the client has read that. So the server has sent all and waits,
    and what is remembered of a step is.
    """
    probe = Probe()
    was_read = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    pushes: list[int] = []
    durable: Durable[Any] = Durable(
        id="app", endpoint_adapter=module.endpoint_adapter, store=MemoryStore()
    )

    async def push() -> None:
        loops.append(asyncio.get_running_loop())
        stream.push("first")
        await was_read.wait()
        await asyncio.sleep(PAUSE)
        for _ in range(_TICKS):
            await asyncio.sleep(0)
        with probe:
            stream.push({"text": "x" * 80})
        pushes.append(1)

    @durable.endpoint
    async def handler(request: Request) -> str:
        await step.run("first", int)
        await step.run("push", push)
        return "done"

    with (
        module.create_endpoint_server(handler).listen(0) as server,
        connect(server.port) as client,
    ):
        client.sendall(GET)
        data = b""
        while b'"first"' not in data:
            data += client.recv(65536)
        loops[0].call_soon_threadsafe(was_read.set)
        while b"inngest.response" not in data:
            data += client.recv(65536)
    assert [1] == pushes
    return probe


@pytest.mark.parametrize(
    ("module", "write", "limit"),
    [
        (durable_asyncio, "StreamWriter.write", 26),
        (durable_asgi, "RequestResponseCycle.send", 24),
    ],
)
def test_a_push_writes_to_the_connection(module: Any, write: str, limit: int) -> None:
    """Before it returns, once, and in as many calls as Python 3.11 takes, or fewer."""
    probe = call_push(module)

    assert 1 == probe.others.count(write)
    assert limit >= len(probe.ours), probe.ours
