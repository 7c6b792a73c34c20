"""An application on the Inngest test server, served over real sockets in this process."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from durable_asgi import create_endpoint_server as asgi_server
from durable_asgi import endpoint_adapter as asgi_adapter
from durable_asyncio import create_endpoint_server as asyncio_server
from durable_asyncio import endpoint_adapter as asyncio_adapter
from durable_core import Durable, Request, RetryPolicy
from durable_inngest import InngestEngine
from durable_wsgi import create_endpoint_server as wsgi_server
from durable_wsgi import endpoint_adapter as wsgi_adapter
from support.inngest_server import InngestServer

__all__ = ["App", "Got", "serving"]

_INTERFACES: dict[str, tuple[Any, Any]] = {
    "asgi": (asgi_adapter, asgi_server),
    "asyncio": (asyncio_adapter, asyncio_server),
    "wsgi": (wsgi_adapter, wsgi_server),
}
QUICK = RetryPolicy(base="10ms", max="20ms", jitter=0)


@dataclass
class Got:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class App:
    """A served application, and a client of it."""

    def __init__(self, url: str, durable: Durable[Any]) -> None:
        self.url = url
        self.durable = durable

    def get(self, path: str, **options: Any) -> Got:
        return self.ask("GET", path, **options)

    def ask(
        self, method: str, path: str, *, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Got:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        try:
            connection.request(method, path, body or None, headers or {})
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Got(response.status, fields, response.read())
        finally:
            connection.close()

    def follow(self, method: str, path: str, **options: Any) -> Got:
        """Ask, and go where the client is sent, as curl -L does."""
        got = self.ask(method, path, **options)
        at = path.partition("?")[0]
        for _ in range(30):
            if got.status not in (302, 303):
                return got
            target = got.headers["location"]
            got = self.get(f"{at}{target}" if target.startswith("?") else target)
        raise AssertionError("too many redirects")


@contextmanager
def serving(
    server: InngestServer,
    handlers: Mapping[str, Callable[[Request], Any]],
    *,
    interface: str = "asgi",
    engine: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    **arguments: Any,
) -> Iterator[App]:
    """Serve handlers, by route, on the engine of that server."""
    made = InngestEngine(is_dev=True, base_url=server.url, event_base_url=server.url)
    if engine is not None:
        settings = {"base_url": server.url, "event_base_url": server.url, **engine}
        made = InngestEngine(**settings)
    adapter, create = _INTERFACES[interface]
    arguments.setdefault("retry", QUICK)
    arguments.setdefault("debug", True)  # the tests look at the texts of errors
    durable: Durable[Any] = Durable(
        id="interop", endpoint_adapter=adapter, engine=made, **arguments
    )
    endpoint: Any = durable.endpoint
    routes: dict[str, Any] = {
        route: endpoint(**(options or {}))(handler) for route, handler in handlers.items()
    }
    routes["GET /proxy"] = durable.endpoint_proxy()
    with create(routes, durable=durable).listen() as listening:
        yield App(listening.url, durable)
