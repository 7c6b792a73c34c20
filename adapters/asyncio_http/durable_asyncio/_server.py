"""A server to start from Python, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from functools import partial

from durable_asyncio._listener import Listener, max_connections_of
from durable_asyncio._timeouts import Timeouts, timeouts_of
from durable_core.adapters import (
    App,
    EngineLifecycle,
    LoopThread,
    Server,
    SignalEvent,
    bind,
    stop_on_signals,
    url_of,
)

__all__ = ["EndpointServer"]

_logger = logging.getLogger("durable.asyncio")


class EndpointServer(Server["_Serving"]):
    """Serves an application on an event loop in a background thread.

    It starts what works in the background of the application, and stops it in good order.

    Args:
        application: what to serve.
        durables: what to start and stop.
        timeouts: how long clients may take.
        ssl: serve HTTPS with it.
        max_connections: clients over so many are refused with 503. By default 10,000, or less where
            the process may open fewer files.

    Raises:
        ValueError: ``max_connections`` is less than 1.
    """

    def __init__(
        self,
        application: App,
        *,
        durables: tuple[EngineLifecycle, ...] = (),
        timeouts: Timeouts | None = None,
        ssl: ssl.SSLContext | None = None,
        max_connections: int | None = None,
    ) -> None:
        most = max_connections_of(max_connections)
        new_listener = partial(
            Listener,
            application,
            durables,
            timeouts=timeouts_of(timeouts),
            tls=ssl,
            max_connections=most,
        )
        super().__init__(lambda host, port: _Serving(new_listener(), bind(host, port)))

    def close(self, timeout: float = 10.0) -> None:
        """Accept no more, hand clients off, let steps and answers in flight finish, and close.

        Nothing happens if the server does not listen.

        Args:
            timeout: seconds to wait. Steps still in flight then will run again, and clients
                still connected are cut off.

        Raises:
            RuntimeError: called on the server's own event loop.
        """
        serving = self._serving
        if serving is not None:
            serving.refuse_own_loop()
        super().close(timeout)


class _Serving:
    """A listener on an event loop of its own, from its opening to its end."""

    def __init__(self, listener: Listener, sockets: list[socket.socket]) -> None:
        self.url = url_of(sockets[0], listener.scheme)
        self.port: int = sockets[0].getsockname()[1]
        self._leaving = SignalEvent()
        self._listener = listener
        self._loop = LoopThread()
        try:
            self._loop.run(listener.open(sockets))
        except BaseException:
            self._loop.stop()
            raise
        _logger.info("serving on %s", self.url)

    def wait(self) -> None:
        with stop_on_signals(self._leaving.set):
            self._leaving.wait()

    def refuse_own_loop(self) -> None:
        if asyncio._get_running_loop() is self._loop.loop:
            raise RuntimeError("a server cannot be closed on its own event loop, which it needs")

    def end(self, timeout: float) -> None:
        self._leaving.set()
        try:
            self._loop.run(self._listener.drain(timeout))
        finally:
            self._loop.stop()
