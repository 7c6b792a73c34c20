"""What the conformance suite calls servers with: its ``--client``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from durable_client import ClientResponse, fetch_with_stream, fetch_with_stream_async

__all__ = ["clients"]


def _in_a_task(url: str, **options: Any) -> ClientResponse:
    return asyncio.run(fetch_with_stream_async(url, **options))


#: Both functions, by the names that reports show.
clients: Mapping[str, Callable[..., ClientResponse]] = {
    "threads": fetch_with_stream,
    "tasks": _in_a_task,
}
