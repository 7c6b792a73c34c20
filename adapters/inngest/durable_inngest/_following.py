"""A client that wants the run as an event stream, while it is attached."""

from __future__ import annotations

import asyncio
from typing import Protocol

from durable_core.flow.current import Face
from durable_core.model.response import Response
from durable_core.runtime.host import Host
from durable_core.runtime.pool import DaemonPool
from durable_core.runtime.running import Running
from durable_core.runtime.settings import Registered
from durable_core.runtime.tasks import TaskRun
from durable_core.runtime.threads import ThreadRun
from durable_inngest._execution import RemoteExecution
from durable_inngest._streams import Channel, Emitter

__all__ = ["follow", "stream_response"]

#: Proxies and caches must neither keep nor buffer a stream.
_HEADERS = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache, no-store"),
    ("x-accel-buffering", "no"),
    ("referrer-policy", "no-referrer"),
)


class _Node(Host, Protocol):
    """What this needs of its node."""

    servers: DaemonPool
    running: Running


def follow(
    node: _Node, ex: RemoteExecution, endpoint: Registered, loop: asyncio.AbstractEventLoop
) -> Channel:
    """Run an execution for a client that gets its stream; return that.

    Args:
        node: hosts the run.
        ex: the execution.
        endpoint: has the handler.
        loop: where the handler runs, if it is ``async def``.
    """
    channel = Channel()
    emitter = Emitter(ex.run.id, channel)
    ex.followed, ex.stream = True, emitter
    if ex.link is not None:
        ex.link.emitter = emitter
    execute = node.flows.execute(ex)
    if endpoint.face is Face.ASYNC:
        run = TaskRun(node, ex, endpoint.handler, loop=loop)
        loop.call_soon_threadsafe(node.running.in_task, run, execute, emitter.end)
    else:
        thread = ThreadRun(node, ex, endpoint.handler, own_thread=True)
        done = node.servers.submit(node.running.in_thread, thread, execute)
        done.add_done_callback(lambda _: emitter.end())
    return channel


def stream_response(channel: Channel, *, asynchronous: bool) -> Response:
    """Return the response whose body is the stream."""
    body = channel.chunks() if asynchronous else iter(channel)
    return Response(headers=_HEADERS, body=body)
