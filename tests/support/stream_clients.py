"""``fetch_with_stream`` and its twin for tasks behind one face, so that a test calls both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from durable_client import (
    Chunk,
    ClientResponse,
    Commit,
    Metadata,
    Rollback,
    fetch_with_stream,
    fetch_with_stream_async,
)
from durable_client._follow import DeliveredEvent
from durable_core.codec.sse import encode_event
from durable_core.codec.stream_events import StreamEvent, dump_stream_event

__all__ = ["CALLS", "Call", "Log", "fetch_in_task", "sse"]


#: Calls an endpoint with the arguments of ``fetch_with_stream``.
Call: TypeAlias = Callable[..., ClientResponse]


def fetch_in_task(url: str, **options: Any) -> ClientResponse:
    """Call in a task, on a loop of its own."""
    return asyncio.run(fetch_with_stream_async(url, **options))


CALLS: tuple[Call, ...] = (fetch_with_stream, fetch_in_task)


class Log:
    """What the callbacks were told, in order; give its ``callbacks`` to a call."""

    def __init__(self) -> None:
        self.events: list[DeliveredEvent] = []

    @property
    def callbacks(self) -> dict[str, Any]:
        names = ("on_metadata", "on_data", "on_commit", "on_rollback")
        return dict.fromkeys(names, self.events.append)

    @property
    def data(self) -> list[object]:
        return [event.data for event in self.events if isinstance(event, Chunk)]

    @property
    def kinds(self) -> list[str]:
        names = {Metadata: "metadata", Chunk: "data", Commit: "commit", Rollback: "rollback"}
        return [names[type(event)] for event in self.events]


def sse(*events: StreamEvent, id: str | None = None) -> bytes:
    """Return these events as a server sends them."""
    return b"".join(encode_event(*dump_stream_event(event), id=id) for event in events)
