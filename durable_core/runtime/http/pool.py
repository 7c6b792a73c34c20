"""What a client keeps between requests, be it for threads or for tasks."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from durable_core.runtime.http.idle import IdleConnections, PoolLimits
from durable_core.wire.urls import Origin

__all__ = ["Pool", "Pooled"]


class Pooled(Protocol):
    """A connection that can be kept."""

    def is_stale(self) -> bool:
        """Tell whether an idle connection is dead."""
        ...


PooledT = TypeVar("PooledT", bound=Pooled)


class Pool(Generic[PooledT]):
    """Idle connections that are alive, and how the next ones speak TLS; for any number of threads.

    Args:
        limits: how many connections are kept, and how long.
        tls: for ``https``; by default what ``ssl.create_default_context()`` gives.
        drop: closes a connection that is not kept; it does not block.
    """

    __slots__ = ("_drop", "_idle", "_lock", "_tls")

    def __init__(
        self, limits: PoolLimits, tls: ssl.SSLContext | None, drop: Callable[[PooledT], object]
    ) -> None:
        self._lock = threading.Lock()
        self._idle: IdleConnections[PooledT] = IdleConnections(limits)
        self._tls = tls
        self._drop = drop

    def tls_for(self, origin: Origin) -> ssl.SSLContext | None:
        """Return how to speak TLS with a server; None if that is plain ``http``."""
        if not origin.is_secure:
            return None
        with self._lock:
            if self._tls is None:  # made late, for it reads the system's certificates
                self._tls = ssl.create_default_context()
            return self._tls

    def take(self, origin: Origin) -> PooledT | None:
        """Return a kept connection that is alive, as far as can be seen; None without one."""
        while True:
            with self._lock:
                expired = self._idle.expire(time.monotonic())
                connection = self._idle.take(origin)
            self._drop_all(expired)
            if connection is None or not connection.is_stale():
                return connection
            self._drop(connection)

    def give_back(self, connection: PooledT, origin: Origin, is_reusable: bool) -> None:
        """Keep a connection that has served a request, within the limits and if it can be used."""
        surplus = [connection]
        if is_reusable:
            with self._lock:
                surplus = self._idle.put(origin, connection, time.monotonic())
        self._drop_all(surplus)

    def clear(self) -> list[PooledT]:
        """Keep none of the connections any longer, and return them; they are still to be closed."""
        with self._lock:
            return self._idle.clear()

    def _drop_all(self, connections: Iterable[PooledT]) -> None:
        for connection in connections:
            self._drop(connection)
