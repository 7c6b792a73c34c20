"""A server to start from Python, for development and tests.

It is ``wsgiref`` made strict. Production belongs to servers such as waitress and gunicorn.
"""

from __future__ import annotations

import logging
import threading
import time
from wsgiref.types import WSGIApplication

from durable_core import Limits
from durable_core.adapters import (
    Server,
    check_max_connections,
    default_max_connections,
    stop_on_signals,
    url_of,
)
from durable_wsgi._app import Startable
from durable_wsgi._listener import Listener

__all__ = ["EndpointServer"]

_logger = logging.getLogger("durable.wsgi")
_CLIENT_TIMEOUT = 30.0
_MAX_CONNECTIONS = 200


class EndpointServer(Server["_Serving"]):
    """Serves a WSGI application, with a thread for each connection, for development and tests.

    It starts what works in the background of the application, and stops it in good order.

    Args:
        application: what to serve.
        durables: what to start and stop.
        limits: ``head`` is the limit of a request's line and header fields.
        client_timeout: seconds that a client may take for its whole request, and a second more for
            each 1,000 bytes of it that have come, and for taking in 64 KiB of a response.
        max_connections: clients over so many are refused with 503. By default 200, or less where
            the process may open fewer files.

    Raises:
        ValueError: ``max_connections`` is less than 1.
    """

    def __init__(
        self,
        application: WSGIApplication,
        *,
        durables: tuple[Startable, ...] = (),
        limits: Limits | None = None,
        client_timeout: float = _CLIENT_TIMEOUT,
        max_connections: int | None = None,
    ) -> None:
        head = (limits or Limits()).head
        most = default_max_connections(_MAX_CONNECTIONS)
        if max_connections is not None:
            most = check_max_connections(max_connections)

        def start(host: str, port: int) -> _Serving:
            listener = Listener(
                application,
                host,
                port,
                head_limit=head,
                timeout=client_timeout,
                max_connections=most,
            )
            return _Serving(listener, durables, most)

        super().__init__(start)


class _Serving:
    """A listener, and the thread that accepts what comes to it."""

    def __init__(
        self, listener: Listener, durables: tuple[Startable, ...], max_connections: int
    ) -> None:
        try:
            for durable in durables:
                durable.start(server_threads=max_connections)
        except BaseException:
            listener.server_close()
            raise
        self.port: int = listener.server_port
        self.url = url_of(listener.socket)
        self._listener = listener
        self._durables = durables
        self._thread = threading.Thread(target=listener.accept, name="durable-wsgi", daemon=True)
        self._thread.start()
        _logger.info("serving on %s", self.url)

    def wait(self) -> None:
        with stop_on_signals(self._listener.stop, self._listener.waker.fileno()):
            self._thread.join()

    def end(self, timeout: float) -> None:
        listener = self._listener
        deadline = time.monotonic() + timeout
        listener.stop()
        self._thread.join()
        listener.server_close()
        listener.refuse_unread()
        self._stop_durables(deadline)
        if not listener.wait_until_idle(max(0.0, deadline - time.monotonic())):
            _logger.warning("clients were still connected after %s s and were cut off", timeout)
            listener.drop()
        # A request that was on its way to its handler meanwhile may have started it again.
        self._stop_durables(deadline)

    def _stop_durables(self, deadline: float) -> None:
        for durable in self._durables:
            durable.stop(max(0.0, deadline - time.monotonic()))
