"""What the conformance suite judges: ``durable_asyncio.conformance:subject``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from durable_asyncio._adapter import endpoint_adapter
from durable_asyncio._serving import create_endpoint_server
from durable_core import Durable
from durable_core.adapters import Routes

__all__ = ["AsyncioSubject", "subject"]


class AsyncioSubject:
    """The adapter on the server of this package."""

    name = "durable-asyncio"
    capabilities = frozenset(
        {
            "sync-handlers",
            "async-handlers",
            "streaming",
            "client-disconnect",
            "detach-in-step",
            "keep-alive",
            "chunked-requests",
            "expect-continue",
            "raw-path",
            "repeated-fields",
            "separate-fields",
            "latin-1-fields",
            "head-limit",
        }
    )
    endpoint_adapter = endpoint_adapter

    @contextmanager
    def serve(self, routes: Routes, *, durable: Durable[Any]) -> Iterator[str]:
        """Serve on a free port; yield the URL."""
        with create_endpoint_server(routes, durable=durable).listen() as server:
            yield server.url


subject = AsyncioSubject()
