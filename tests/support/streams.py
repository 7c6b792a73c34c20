"""Event streams as tests read and write them: one short text for each event."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from durable_core.codec.sse import ServerSentEvent, SSEDecoder
from durable_core.codec.stream_events import (
    Chunk,
    Commit,
    Final,
    Metadata,
    RedirectInfo,
    Rollback,
    load_stream_event,
)
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.step_ids import hash_step_id

__all__ = ["Reading", "asks_stream", "described", "kept", "read", "second_request"]

_NAMES = {hash_step_id(name): name for name in "abcdefghij"}


def asks_stream(url: str = "/it", method: str = "GET", **headers: str) -> Request:
    """Return a request for an event stream; ``_`` in header names stands for ``-``."""
    fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
    target = url if "://" in url else f"http://test{url}"
    return Request(method=method, url=target, headers=[("accept", "text/event-stream"), *fields])


def described(event: ServerSentEvent) -> str:
    """Return an event in a few words: ``"meta"``, ``"a: 1"``, ``"commit a"``, ``"200: done"``."""
    loaded = load_stream_event(event.event, event.data)
    match loaded:
        case Metadata():
            return "meta"
        case Chunk(data=data, step_id=step):
            return f"{_name(step)}: {data}"
        case Commit(step_id=step):
            return f"commit {_name(step)}"
        case Rollback(step_id=step):
            return f"rollback {_name(step)}"
        case RedirectInfo():
            return "redirect"
        case Final(status=status, body=body, failed=failed):
            return f"{'failed ' if failed else ''}{status}: {body.decode()}"
    raise AssertionError(f"an event of an unknown type: {event}")


def _name(step_id: str | None) -> str:
    return "-" if step_id is None else _NAMES.get(step_id, step_id)


class Reading:
    """A response that is an event stream, read event by event.

    Attributes:
        ids: the id of each event read so far.
        redirect: the URL of redirect_info, once that has been read.
    """

    def __init__(self, response: Response) -> None:
        assert (200, "text/event-stream") == (response.status, response.headers["content-type"])
        self.response = response
        self.ids: list[str] = []
        self.redirect = ""
        self._body: Any = response.body
        self._decoder = SSEDecoder()
        self._ready: list[str] = []

    def __iter__(self) -> Iterator[str]:
        while True:
            while self._ready:
                yield self._ready.pop(0)
            part = next(self._body, None)
            if part is None:
                return
            self._feed(part)

    async def __aiter__(self) -> AsyncIterator[str]:
        while True:
            while self._ready:
                yield self._ready.pop(0)
            part = await anext(self._body, None)
            if part is None:
                return
            self._feed(part)

    def _feed(self, part: bytes) -> None:
        for event in self._decoder.feed(part):
            self.ids.append(event.id)
            loaded = load_stream_event(event.event, event.data)
            if isinstance(loaded, RedirectInfo):
                self.redirect = loaded.url
            self._ready.append(described(event))

    def take(self, count: int) -> list[str]:
        """Return the next events, waiting for them."""
        events = iter(self)
        return [next(events) for _ in range(count)]

    async def take_async(self, count: int) -> list[str]:
        """Return the next events, waiting for them."""
        events = aiter(self)
        return [await anext(events) for _ in range(count)]

    def close(self) -> None:
        """Go away."""
        self._body.close()


def read(response: Response) -> list[str]:
    """Return all events of a stream, to its end."""
    return list(Reading(response))


def second_request(reading: Reading, **headers: str) -> Request:
    """Return the request for the second stream, as redirect_info says."""
    return asks_stream(reading.redirect, **headers)


def kept(events: Iterable[str], match: Callable[[str], bool] = lambda _: True) -> list[str]:
    """Return what a client has in the end that keeps at a commit and drops at a rollback."""
    kept: list[str] = []
    tentative: dict[str, list[str]] = {}
    for event in events:
        kind, _, rest = event.partition(" ")
        if kind == "commit":
            kept += tentative.pop(rest, [])
        elif kind == "rollback":
            tentative.pop(rest, None)
        elif kind == "-:":
            kept.append(rest)
        elif kind.endswith(":") and kind[:-1] in _NAMES.values():
            tentative.setdefault(kind[:-1], []).append(rest)
    return [text for text in kept if match(text)]
