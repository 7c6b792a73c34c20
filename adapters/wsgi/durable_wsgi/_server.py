"""A server to start from Python, for development, tests and small services."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Self
from wsgiref.types import WSGIApplication

from durable_core import Limits
from durable_core.runtime.signals import leaving_on_signals
from durable_wsgi._app import Startable
from durable_wsgi._listener import Listener

__all__ = ["EndpointServer"]

_logger = logging.getLogger("durable.wsgi")
_CLIENT_TIMEOUT = 30.0
_WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


class EndpointServer:
    """Serves a WSGI application, with a thread for each connection.

    It starts what works in the background of the application, and stops it in good order.

    Args:
        application: what to serve.
        durables: what to start and stop.
        limits: ``head`` is the limit of a request's line and header fields.
        client_timeout: the most seconds that a client may take to send or receive something.
    """

    def __init__(
        self,
        application: WSGIApplication,
        *,
        durables: tuple[Startable, ...] = (),
        limits: Limits | None = None,
        client_timeout: float = _CLIENT_TIMEOUT,
    ) -> None:
        self._application = application
        self._durables = durables
        self._limits = limits or Limits()
        self._client_timeout = client_timeout
        self._lock = threading.RLock()
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None

    def listen(self, port: int = 0, host: str = "127.0.0.1") -> Self:
        """Serve in a background thread.

        Args:
            port: 0 takes a free one; see :attr:`port`.
            host: a name or an address, IPv4 or IPv6; ``"0.0.0.0"`` or ``"::"`` for all.

        Returns:
            The server, which accepts connections by now.

        Raises:
            OSError: the address cannot be had.
            StoreError: a store cannot be opened.
            RuntimeError: the server listens already.
        """
        with self._lock:
            if self._listener is not None:
                raise RuntimeError("the server listens already")
            head, timeout = self._limits.head, self._client_timeout
            listener = Listener(self._application, host, port, head, timeout)
            try:
                for durable in self._durables:
                    durable.start()
            except BaseException:
                listener.server_close()
                raise
            thread = threading.Thread(target=listener.accept, name="durable-wsgi", daemon=True)
            thread.start()
            self._listener, self._thread = listener, thread
        _logger.info("serving on %s", self.url)
        return self

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._listening().server_port

    @property
    def url(self) -> str:
        """The URL of its root, as this machine can reach it."""
        listener = self._listening()
        host = _WILDCARDS.get(listener.server_name, listener.server_name)
        return f"http://{f'[{host}]' if ':' in host else host}:{listener.server_port}"

    def serve_forever(self) -> None:
        """Block until SIGTERM, SIGINT or :meth:`close`; then close in good order.

        A second signal does not wait. Signals are heeded only where this is called in the main
        thread.

        Raises:
            RuntimeError: the server does not listen.
        """
        listener, thread = self._listening(), self._thread
        assert thread is not None
        with leaving_on_signals(listener.stop, listener.waker.fileno()):
            thread.join()
        self.close()

    def close(self, timeout: float = 10.0) -> None:
        """Accept no more, hand clients off, let steps and answers in flight finish, and close.

        Nothing happens if the server does not listen.

        Args:
            timeout: seconds to wait. Steps still in flight then will run again, and clients
                still connected are cut off.
        """
        with self._lock:
            listener, thread = self._listener, self._thread
            if listener is None or thread is None:
                return
            self._listener = self._thread = None
            deadline = time.monotonic() + timeout
            listener.stop()
            thread.join()
            listener.server_close()
            listener.refuse_unread()
            self._stop_durables(deadline)
            if not listener.wait_until_idle(max(0.0, deadline - time.monotonic())):
                _logger.warning("clients were still connected after %s s and were cut off", timeout)
                listener.drop()
            # A request that was on its way to its handler meanwhile may have started it again.
            self._stop_durables(deadline)

    def __enter__(self) -> Self:
        """Listen on a free port, unless it listens already."""
        return self if self._listener is not None else self.listen()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _listening(self) -> Listener:
        if self._listener is None:
            raise RuntimeError("the server does not listen; call listen() first")
        return self._listener

    def _stop_durables(self, deadline: float) -> None:
        for durable in self._durables:
            durable.stop(max(0.0, deadline - time.monotonic()))
