"""Our engines as subjects of the conformance suite, behind a server that conforms."""

from __future__ import annotations

import atexit
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from durable_asgi.conformance import subject as server
from durable_conformance.deployment import wait_until_idle
from durable_core import Durable, RetryPolicy
from durable_core.engines import EmbeddedEngine
from durable_core.ports import Store
from durable_core.routing import Routes
from durable_core.stores.memory import MemoryStore
from durable_inngest import InngestEngine
from support.inngest_server import InngestServer

__all__ = ["EmbeddedSubject", "InngestSubject", "embedded", "inngest"]


class EmbeddedSubject:
    """The embedded engine.

    Args:
        make_store: makes the store that the applications of one id share.
    """

    name = "embedded-engine"
    capabilities = frozenset(
        {
            *("sync-handlers", "async-handlers", "runs", "early-events"),
            *("event-ids", "attached-failures", "request-fields"),
        }
    )

    def __init__(self, make_store: Callable[[], Store] = MemoryStore) -> None:
        self._stores: dict[str, Store] = defaultdict(make_store)

    def application(self, id: str) -> Durable[Any]:
        """Return an application on the store of its id."""
        return Durable(
            id=id,
            endpoint_adapter=server.endpoint_adapter,
            engine=EmbeddedEngine(self._stores[id]),
            retry=RetryPolicy(base="1ms", max="1ms"),
        )

    def serve(self, routes: Routes, *, durable: Durable[Any]) -> AbstractContextManager[str]:
        """Serve by uvicorn."""
        return server.serve(routes, durable=durable)

    def settle(self, durable: Durable[Any]) -> None:
        """Wait until no run is in anybody's hands."""
        wait_until_idle(durable)


class InngestSubject:
    """The engine that works with an Inngest server; here, with an imitation of one.

    What it does not declare is the server's, by its protocol: runs are listed by its pages alone
    (`runs`), an event is matched with the waits that there are when it comes, and with no later one
    (`early-events`), and which of two events with one id counts is for it to say (`event-ids`). A
    step that fails for good ends the client's request, for only a call of the server's can tell the
    handler (`attached-failures`); and of a request's header fields it keeps but the content type
    (`request-fields`).
    """

    name = "inngest-engine"
    capabilities = frozenset({"sync-handlers", "async-handlers"})

    def __init__(self) -> None:
        self._server: InngestServer | None = None

    @property
    def server(self) -> InngestServer:
        """The server, started when it is first needed."""
        if self._server is None:
            self._server = InngestServer()
            self._server.start()
            atexit.register(self._server.stop)
        return self._server

    def application(self, id: str) -> Durable[Any]:
        """Return an application that the server knows by an origin of its own."""
        url = self.server.url
        self.server.hosts.setdefault(_origin(id), None)
        return Durable(
            id=id,
            endpoint_adapter=server.endpoint_adapter,
            engine=InngestEngine(
                is_dev=True, base_url=url, event_base_url=url, serve_origin=_origin(id)
            ),
            retry=RetryPolicy(base="1ms", max="1ms"),
        )

    @contextmanager
    def serve(self, routes: Routes, *, durable: Durable[Any]) -> Iterator[str]:
        """Serve by uvicorn, and tell the server where."""
        with server.serve(routes, durable=durable) as url:
            self.server.hosts[_origin(durable.id)] = url
            yield url
            self.server.hosts[_origin(durable.id)] = None

    def settle(self, durable: Durable[Any]) -> None:
        """Wait until the server calls nobody."""
        self.server.until(lambda: not self.server.is_busy)


def _origin(id: str) -> str:
    return f"http://{id}.example"


embedded = EmbeddedSubject()
inngest = InngestSubject()
