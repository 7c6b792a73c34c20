"""A server to start from Python, for development, tests and small services."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from durable_asgi._types import ASGIApplication
from durable_core.api.adapter import ServedEngine
from durable_core.errors import ConfigurationError
from durable_core.runtime.signals import leaving_on_signals

if TYPE_CHECKING:
    from durable_asgi._uvicorn import BackgroundServer

__all__ = ["EndpointServer"]

_BACKLOG = 1024
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class EndpointServer:
    """Serves an ASGI application by uvicorn, which must be installed.

    It starts what works in the background of the application, and stops it in good order.

    Args:
        application: what to serve.
        durables: what to start and stop.
    """

    def __init__(
        self, application: ASGIApplication, *, durables: tuple[ServedEngine, ...] = ()
    ) -> None:
        self._application = application
        self._durables = durables
        self._lock = threading.RLock()
        self._server: BackgroundServer | None = None
        self._address: tuple[str, int] = ("", 0)

    def listen(self, port: int = 0, host: str = "127.0.0.1") -> Self:
        """Serve in a background thread.

        Args:
            port: 0 takes a free one; see :attr:`port`.
            host: a name or an address, IPv4 or IPv6; ``"0.0.0.0"`` or ``"::"`` for all.

        Returns:
            The server, which accepts connections by now.

        Raises:
            ConfigurationError: uvicorn is not installed.
            OSError: the address cannot be had.
            StoreError: a store cannot be opened.
            RuntimeError: the server listens already, or the application refused to start.
        """
        with self._lock:
            if self._server is not None:
                raise RuntimeError("the server listens already")
            server_class = _background_server()
            listener = _bound(host, port)
            self._address = listener.getsockname()[:2]
            server = server_class(self._application, self._durables, listener)
            server.launch()
            self._server = server
        return self

    @property
    def port(self) -> int:
        """The port it listens on."""
        self._listening()
        return self._address[1]

    @property
    def url(self) -> str:
        """The URL of its root, as this machine can reach it."""
        self._listening()
        name, port = self._address
        host = _WILDCARDS.get(name, name)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def serve_forever(self) -> None:
        """Block until SIGTERM, SIGINT or :meth:`close`; then close in good order.

        A second signal does not wait. Signals are heeded only where this is called in the main
        thread.

        Raises:
            RuntimeError: the server does not listen.
        """
        server = self._listening()
        with leaving_on_signals(server.leave):
            server.join()
        self.close()

    def close(self, timeout: float = 10.0) -> None:
        """Accept no more, hand clients off, let steps and answers in flight finish, and close.

        Nothing happens if the server does not listen.

        Args:
            timeout: seconds to wait. Steps still in flight then will run again, and clients
                still connected are cut off.
        """
        with self._lock:
            server, self._server = self._server, None
            if server is not None:
                server.end(timeout)

    def __enter__(self) -> Self:
        """Listen on a free port, unless it listens already."""
        return self if self._server is not None else self.listen()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _listening(self) -> BackgroundServer:
        if self._server is None:
            raise RuntimeError("the server does not listen; call listen() first")
        return self._server


def _background_server() -> type[BackgroundServer]:
    try:
        from durable_asgi._uvicorn import BackgroundServer
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "EndpointServer runs on uvicorn, which is not installed (pip install uvicorn); "
            "without it, name the application to an ASGI server of your choice"
        ) from error
    return BackgroundServer


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)
