"""The embedded engine as a subject of the conformance suite, behind a server that conforms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from durable_asgi.conformance import subject as server
from durable_conformance.stage import until_at_rest
from durable_core import Durable, RetryPolicy, Settings
from durable_core.api.application import Routes
from durable_core.ports import Store
from durable_core.runtime.memory_store import MemoryStore

__all__ = ["EmbeddedSubject", "embedded"]


class EmbeddedSubject:
    """The embedded engine.

    Args:
        make_store: makes the store that the applications of one id share.
    """

    name = "embedded-engine"
    capabilities = frozenset(
        {"sync-handlers", "async-handlers", "runs", "early-events", "request-fields"}
    )

    def __init__(self, make_store: Callable[[], Store] = MemoryStore) -> None:
        self._stores: dict[str, Store] = defaultdict(make_store)

    def application(self, id: str) -> Durable[Any]:
        """Return an application on the store of its id."""
        return Durable(
            id=id,
            endpoint_adapter=server.endpoint_adapter,
            store=self._stores[id],
            retry=RetryPolicy(base_ms=1, max_ms=1),
            settings=Settings(settle_time=0.01),
        )

    def serve(self, routes: Routes, *, durable: Durable[Any]) -> AbstractContextManager[str]:
        """Serve by uvicorn."""
        return server.serve(routes, durable=durable)

    def settle(self, durable: Durable[Any]) -> None:
        """Wait until no run is in anybody's hands."""
        until_at_rest(durable)


embedded = EmbeddedSubject()
