"""From a ``Response`` to what a WSGI server takes (PEP 3333)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol, TypeVar
from wsgiref.types import StartResponse
from wsgiref.util import is_hop_by_hop

from durable_core import Response
from durable_core.adapter.messages import OutgoingHead, checked_chunk, prepare_response

__all__ = ["Answer", "Runner", "to_answer"]

T = TypeVar("T")

_logger = logging.getLogger("durable.wsgi")
_PHRASES = {int(status): status.phrase for status in HTTPStatus}
#: Statuses of responses that have no content, and no header fields about it.
_WITHOUT_CONTENT = (204, 304)
_END = object()


class Runner(Protocol):
    """Runs a coroutine on an event loop, and blocks until it is done."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T:
        """Return what the coroutine returns."""
        ...


class Answer(NamedTuple):
    """What a WSGI application gives its server."""

    status: str
    headers: list[tuple[str, str]]
    body: Iterable[bytes]

    def send(self, start_response: StartResponse) -> Iterable[bytes]:
        """Give it."""
        start_response(self.status, self.headers)
        return self.body


def to_answer(response: Response, *, head: bool = False, run: Runner | None = None) -> Answer:
    """Return the response in WSGI's form.

    The header fields are the response's own, with these exceptions: the length of a whole body is
    set; a missing content type is, for WSGI requires one; fields that are the server's business
    are dropped with a warning, and those about content where there can be none.

    Args:
        response: what to send.
        head: the request's method is HEAD: there is no body, and a streamed one is closed.
        run: where a body that is an async iterable is iterated; None for a loop of its own.
    """
    status = f"{response.status} {_PHRASES.get(response.status, 'Unknown')}"
    message = prepare_response(response, head=head)
    headers = _headers(response, message)
    if isinstance(response.body, bytes):
        body: Iterable[bytes] = [response.body] if response.body else []
    else:
        body = _streamed(response.body, run)
    if message.omit_body:
        if isinstance(body, _Stream):
            body.close()
        body = []
    return Answer(status, headers, body)


def _headers(response: Response, message: OutgoingHead) -> list[tuple[str, str]]:
    # A tab is allowed in HTTP, where it means the same as a space, but not in WSGI.
    fields = [
        (name, value.replace("\t", " ")) for name, value in message.fields if not _is_servers(name)
    ]
    if response.status in _WITHOUT_CONTENT:
        return [field for field in fields if field[0].lower() != "content-type"]
    if "content-type" not in response.headers:
        given = "application/octet-stream" if response.body else "text/plain"
        fields.append(("content-type", given))
    return fields


def _is_servers(name: str) -> bool:
    """Tell whether a field is for the server alone to set here (CGI has a field Status)."""
    if not is_hop_by_hop(name) and name.lower() != "status":
        return False
    _logger.warning("the response header %r was dropped: only the server may set it", name)
    return True


def _streamed(body: Iterable[bytes] | AsyncIterable[bytes], run: Runner | None) -> _Stream:
    if not isinstance(body, AsyncIterable):
        return _Stream(iter(body), getattr(body, "close", None))
    chunks = aiter(body)
    if run is not None:
        return _Stream(_blocking(chunks, run), lambda: run(_close(chunks)))
    own = asyncio.Runner()

    def close() -> None:
        with own:
            own.run(_close(chunks))

    return _Stream(_blocking(chunks, own.run), close)


class _Stream:
    """The chunks of a body, which the server closes when it has done with them."""

    def __init__(self, chunks: Iterator[bytes], close: Callable[[], object] | None) -> None:
        self._chunks = chunks
        self._close = close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return checked_chunk(next(self._chunks))

    def close(self) -> None:
        """Close the body, once."""
        close, self._close = self._close, None
        if close is not None:
            close()


def _blocking(chunks: AsyncIterator[bytes], run: Runner) -> Iterator[bytes]:
    while True:
        chunk = run(_next(chunks))
        if chunk is _END:
            return
        yield chunk


async def _next(chunks: AsyncIterator[bytes]) -> Any:
    return await anext(chunks, _END)


async def _close(chunks: AsyncIterator[bytes]) -> None:
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()
