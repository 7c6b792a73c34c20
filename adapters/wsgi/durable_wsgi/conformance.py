"""What the conformance suite judges: ``durable_wsgi.conformance:subject``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.util import shift_path_info

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
            "latin-1-fields",
            "head-limit",
            "mounting",
        }
    )
    endpoint_adapter = endpoint_adapter

    @contextmanager
    def serve(self, routes: Routes, *, durable: Durable[Any]) -> Iterator[str]:
        """Serve on a free port; yield the URL."""
        with create_endpoint_server(routes, durable=durable).listen() as server:
            yield server.url

    @contextmanager
    def mount(
        self, endpoint: WSGIApplication, prefix: str, template: str, *, durable: Durable[Any]
    ) -> Iterator[str]:
        """Serve an endpoint below a prefix, which is moved to ``SCRIPT_NAME``."""

        def mounted(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            for _ in range(prefix.count("/")):
                shift_path_info(environ)
            return endpoint(environ, start_response)

        with create_endpoint_server(mounted, durable=durable).listen() as server:
            yield server.url


subject = WSGISubject()
