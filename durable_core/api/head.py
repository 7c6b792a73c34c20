"""The answer to HEAD: that to GET, without its body."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable

from durable_core.api.engine import Engine
from durable_core.model.response import Response

__all__ = ["without_body", "without_body_async"]


def without_body(response: Response, engine: Engine) -> Response:
    """Return the answer to HEAD, in this thread.

    A streamed body is made all the same, for its run must end; one of bytes stays, as servers
    tell its length.

    Args:
        response: the answer to GET.
        engine: has made it.

    Raises:
        Exception: what a streamed body raised.
    """
    body = response.body
    if isinstance(body, bytes):
        return response
    if isinstance(body, AsyncIterable):
        engine.await_elsewhere(_exhaust_async(body))
    else:
        _exhaust(body)
    return Response(status=response.status, headers=response.headers)


async def without_body_async(response: Response, engine: Engine) -> Response:
    """As :func:`without_body`, on an event loop, which a plain iterable does not block."""
    body = response.body
    if isinstance(body, bytes):
        return response
    if isinstance(body, AsyncIterable):
        await _exhaust_async(body)
    else:
        await engine.call_in_thread(_exhaust, body)
    return Response(status=response.status, headers=response.headers)


def _exhaust(body: Iterable[bytes]) -> None:
    for _ in body:
        pass


async def _exhaust_async(body: AsyncIterable[bytes]) -> None:
    async for _ in body:
        pass
