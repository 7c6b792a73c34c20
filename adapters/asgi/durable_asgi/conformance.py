"""What the conformance suite judges: ``durable_asgi.conformance:subject``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from durable_asgi._adapter import endpoint_adapter
from durable_asgi._serving import create_endpoint_server
from durable_asgi._types import ASGIApplication, Receive, Scope, Send
from durable_core import Durable
from durable_core.adapters import Routes

__all__ = ["ASGISubject", "subject"]


class ASGISubject:
    """The adapter on the server of this package."""

    name = "durable-asgi"
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
            "mounting",
            "native-routes",
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
        self, endpoint: ASGIApplication, prefix: str, template: str, *, durable: Durable[Any]
    ) -> Iterator[str]:
        """Serve an endpoint as Starlette and FastAPI do: what they found is in the scope."""
        names = re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", template)

        async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                found = re.fullmatch(names, scope["path"].removeprefix(prefix))
                params = found.groupdict() if found is not None else {}
                route = SimpleNamespace(path_format=template, methods={"GET"})
                framework = {"router": None, "route": route, "app_root_path": prefix}
                scope = {**scope, **framework, "root_path": prefix, "path_params": params}
            await endpoint(scope, receive, send)

        with create_endpoint_server(mounted, durable=durable).listen() as server:
            yield server.url


subject = ASGISubject()
