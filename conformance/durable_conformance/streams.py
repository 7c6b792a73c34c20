"""Event streams as the cases of the suite read them: one short text for each event."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Self
from urllib.parse import urlsplit

from durable_conformance.wire import Client, Connection, head_of
from durable_core.codec.sse import ServerSentEvent, SSEDecoder
from durable_core.machine.step_ids import hash_step_id

__all__ = ["StreamReader", "read_whole_stream"]

_NAMES = {hash_step_id(name): name for name in ("a", "b")}


class StreamReader:
    """One connection on which an event stream is read.

    Attributes:
        redirect: the target of redirect_info, once that has been read.
        ids: the id of each event.
    """

    def __init__(self, server: Client, target: str, last_event_id: str = "") -> None:
        fields = [("accept", "text/event-stream")]
        if last_event_id:
            fields.append(("last-event-id", last_event_id))
        self.redirect = ""
        self.ids: list[str] = []
        self._decoder = SSEDecoder()
        self._connection: Connection = server.connect()
        self._connection.send(head_of("GET", target, server.host, fields))
        self.head = self._connection.receive_head()
        self._events = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _read(self) -> Iterator[str]:
        for piece in self._connection.pieces(self.head):
            for event in self._decoder.feed(piece):
                self.ids.append(event.id)
                if event.event == "inngest.redirect_info":
                    url = urlsplit(_member(event, "url"))
                    self.redirect = f"{url.path}?{url.query}"
                yield _describe(event)

    def take(self, count: int) -> list[str]:
        """Return the next events, waiting for them."""
        return [next(self._events) for _ in range(count)]

    def rest(self) -> list[str]:
        """Return all further events, to the end of the stream."""
        return list(self._events)


def read_whole_stream(server: Client, target: str, last_event_id: str = "") -> list[str]:
    """Return all events of a stream."""
    with StreamReader(server, target, last_event_id) as reader:
        return reader.rest()


def _member(event: ServerSentEvent, name: str) -> str:
    value: str = json.loads(event.data)[name]
    return value


def _describe(event: ServerSentEvent) -> str:
    """Return the type without its prefix, and the data as it is on the wire but for ids."""
    kind, data = event.event.removeprefix("inngest."), event.data
    if kind in ("metadata", "redirect_info"):
        return kind
    for step_id, name in _NAMES.items():
        data = data.replace(step_id, name)
    return f"{kind} {data}"
