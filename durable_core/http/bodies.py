"""Streamed bodies, which whoever reads one closes in the end."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

__all__ = ["open_body", "open_body_async"]


@contextmanager
def open_body(body: Iterable[bytes]) -> Iterator[Iterable[bytes]]:
    """Give a body to who reads it; close it in the end if it can be closed, read or not."""
    try:
        yield body
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()


@asynccontextmanager
async def open_body_async(body: AsyncIterable[bytes]) -> AsyncIterator[AsyncIterable[bytes]]:
    """Do the same for a body that is read on an event loop."""
    try:
        yield body
    finally:
        close = getattr(body, "aclose", None)
        if close is not None:
            await close()
