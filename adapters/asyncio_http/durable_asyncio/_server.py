"""A server to start from Python, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from functools import partial
from types import TracebackType
from typing import Self

from durable_asyncio._connection import Application
from durable_asyncio._listener import Listener
from durable_asyncio._sockets import MAX_CONNECTIONS, bind, check_most, url_of
from durable_asyncio._timeouts import Timeouts
from durable_core import Limits
from durable_core.api.adapter import ServedEngine
from durable_core.runtime.loops import LoopThread
from durable_core.runtime.signals import leaving_on_signals

__all__ = ["EndpointServer"]

_logger = logging.getLogger("durable.asyncio")


class EndpointServer:
    """Serves an application on an event loop in a background thread.

    It starts what works in the background of the application, and stops it in good order.

    Args:
        application: what to serve.
        durables: what to start and stop.
        limits: ``head`` and ``body`` are the limits of requests.
        timeouts: how long clients may take.
        ssl: serve HTTPS with it.
        max_connections: clients over so many are refused with 503.

    Raises:
        ValueError: ``max_connections`` is less than 1.
    """

    def __init__(
        self,
        application: Application,
        *,
        durables: tuple[ServedEngine, ...] = (),
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        ssl: ssl.SSLContext | None = None,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        check_most(max_connections)
        self._new_listener = partial(
            Listener,
            application,
            durables,
            limits=limits or Limits(),
            timeouts=timeouts or Timeouts(),
            tls=ssl,
            max_connections=max_connections,
        )
        self._lock = threading.RLock()
        self._serving: _Serving | None = None

    def listen(self, port: int = 0, host: str = "127.0.0.1") -> Self:
        """Serve in a background thread.

        Args:
            port: 0 takes a free one; see :attr:`port`.
            host: a name or an address, IPv4 or IPv6; ``"0.0.0.0"`` for all of IPv4, ``"::"`` for
                all of both.

        Returns:
            The server, which accepts connections by now.

        Raises:
            OSError: the address cannot be had.
            StoreError: a store cannot be opened.
            RuntimeError: the server listens already.
        """
        with self._lock:
            if self._serving is not None:
                raise RuntimeError("the server listens already")
            self._serving = _Serving(self._new_listener(), bind(host, port))
        _logger.info("serving on %s", self.url)
        return self

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._listening().port

    @property
    def url(self) -> str:
        """The URL of its root, as this machine can reach it."""
        return self._listening().url

    def serve_forever(self) -> None:
        """Block until SIGTERM, SIGINT or :meth:`close`; then close in good order.

        A second signal does not wait. Signals are heeded only where this is called in the main
        thread.

        Raises:
            RuntimeError: the server does not listen.
        """
        leaving = self._listening().leaving
        with leaving_on_signals(leaving.set):
            leaving.wait()
        self.close()

    def close(self, timeout: float = 10.0) -> None:
        """Accept no more, hand clients off, let steps and answers in flight finish, and close.

        Nothing happens if the server does not listen.

        Args:
            timeout: seconds to wait. Steps still in flight then will run again, and clients
                still connected are cut off.

        Raises:
            RuntimeError: called on the server's own event loop.
        """
        with self._lock:
            serving = self._serving
            if serving is None:
                return
            serving.refuse_own_loop()
            self._serving = None
            serving.end(timeout)

    def __enter__(self) -> Self:
        """Listen on a free port, unless it listens already."""
        return self if self._serving is not None else self.listen()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _listening(self) -> _Serving:
        if self._serving is None:
            raise RuntimeError("the server does not listen; call listen() first")
        return self._serving


class _Serving:
    """A listener on an event loop of its own, from its opening to its end."""

    def __init__(self, listener: Listener, sockets: list[socket.socket]) -> None:
        self.url = url_of(sockets[0], listener.scheme)
        self.port: int = sockets[0].getsockname()[1]
        self.leaving = threading.Event()
        self._listener = listener
        self._loop = LoopThread()
        try:
            self._loop.run(listener.open(sockets))
        except BaseException:
            self._loop.stop()
            raise

    def refuse_own_loop(self) -> None:
        if asyncio._get_running_loop() is self._loop.loop:
            raise RuntimeError("a server cannot be closed on its own event loop, which it needs")

    def end(self, timeout: float) -> None:
        self.leaving.set()
        try:
            self._loop.run(self._listener.drain(timeout))
        finally:
            self._loop.stop()
