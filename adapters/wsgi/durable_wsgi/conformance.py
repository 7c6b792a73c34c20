"""What the conformance suite judges: ``durable_wsgi.conformance:subject``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from durable_core import Durable
from durable_core.adapters import Routes
from durable_wsgi._adapter import endpoint_adapter
from durable_wsgi._serving import create_endpoint_server

__all__ = ["WSGISubject", "subject"]


class WSGISubject:
    """The adapter on the server of this package."""

    name = "durable-wsgi"
    capabilities = frozenset(
        {
            "sync-handlers",
            "async-handlers",
            "streaming",
            "expect-continue",
            "raw-path",
            "repeated-fields",
            "head-limit",
        }
    )
    endpoint_adapter = endpoint_adapter

    @contextmanager
    def serve(self, routes: Routes, *, durable: Durable[Any]) -> Iterator[str]:
        """Serve on a free port; yield the URL."""
        with create_endpoint_server(routes, durable=durable).listen() as server:
            yield server.url


subject = WSGISubject()
