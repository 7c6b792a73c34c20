"""The listening socket of our own server, and a thread for each of so many connections."""

from __future__ import annotations

import logging
import selectors
import socket
import socketserver
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import Any
from wsgiref.simple_server import WSGIServer
from wsgiref.types import WSGIApplication

from durable_core.adapters import BACKLOG, is_out_of_descriptors, is_reset_on_close
from durable_wsgi._connection import Connection, refuse

__all__ = ["Listener"]

_logger = logging.getLogger("durable.wsgi")
#: Seconds for which no client is accepted when the process is out of descriptors.
_BACK_OFF = 1.0


class Listener(socketserver.ThreadingMixIn, WSGIServer):
    """Binds at construction; :meth:`accept` serves until :meth:`stop` is called.

    Args:
        application: what answers.
        host: a name or an address, IPv4 or IPv6.
        port: 0 takes a free one.
        head_limit: the most bytes of a request's line and header fields.
        timeout: seconds that a client may take; see ``Connection``.
        max_connections: clients over so many are refused with 503.

    Raises:
        OSError: the address cannot be had.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = BACKLOG

    def __init__(
        self,
        application: WSGIApplication,
        host: str,
        port: int,
        *,
        head_limit: int,
        timeout: float,
        max_connections: int,
    ) -> None:
        self._most = max_connections
        self._is_full = self._is_exhausted = False
        self._open: set[Any] = set()
        self._changed = threading.Condition()
        self._woken, self.waker = socket.socketpair()
        self.waker.setblocking(False)
        self.address_family, address = _resolve(host, port)
        connection = partial(
            Connection, application=application, head_limit=head_limit, timeout=timeout
        )
        super().__init__(address, connection)
        self.socket.setblocking(False)  # a client may be gone again before it is accepted

    def server_bind(self) -> None:
        """Bind, without asking the name service who this is.

        Raises:
            OSError: the address cannot be had; the message names it, as ``create_server`` does.
        """
        try:
            socketserver.TCPServer.server_bind(self)
        except OSError as error:
            where = f"(while attempting to bind on address {self.server_address[:2]})"
            raise OSError(error.errno, f"{error.strerror} {where}") from None
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def server_close(self) -> None:
        """Close the listening socket; connections go on."""
        super().server_close()
        self._woken.close()
        self.waker.close()

    def accept(self) -> None:
        """Accept connections until :meth:`stop` is called."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            woken = selector.register(self._woken, selectors.EVENT_READ)
            while woken not in (key for key, _ in selector.select()):
                self.handle_request()
                if self._is_exhausted:
                    self._back_off(selector)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        try:
            accepted: tuple[socket.socket, Any] = super().get_request()
        except OSError as error:
            self._is_exhausted = is_out_of_descriptors(error)
            if self._is_exhausted:
                _logger.error("no client can be accepted: %s; waiting %s s", error, _BACK_OFF)
            raise
        return accepted

    def _back_off(self, selector: selectors.BaseSelector) -> None:
        """Wait for connections to end: the one that could not be accepted stays ready."""
        self._is_exhausted = False
        listening = selector.unregister(self.socket)
        selector.select(_BACK_OFF)
        selector.register(listening.fileobj, selectors.EVENT_READ)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse a client over the limit."""
        with self._changed:
            was_full, self._is_full = self._is_full, len(self._open) >= self._most
        if not self._is_full:
            return True
        if not was_full:
            _logger.warning("%d clients are connected: further ones are refused", self._most)
        refuse(request)
        return False

    def stop(self) -> None:
        """Let :meth:`accept` return. A signal handler may call it."""
        with suppress(OSError):
            self.waker.send(b"\0")

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own."""
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        try:
            if is_reset_on_close(request):
                self.close_request(request)
            else:
                super().shutdown_request(request)
        finally:
            with self._changed:
                self._open.discard(request)
                self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a connection has raised; that clients go away is nothing to be logged."""
        error = sys.exception()
        if isinstance(error, (ConnectionError, TimeoutError)):
            _logger.debug("%s: %s", client_address[0], error)
        else:
            _logger.error("a connection broke", exc_info=error)

    def refuse_unread(self) -> None:
        """End the connections whose requests have not come in whole; answers go out unhindered."""
        self._shut(socket.SHUT_RD)

    def drop(self) -> None:
        """End all connections."""
        self._shut(socket.SHUT_RDWR)

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until all connections are closed; False if some are open after so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout)

    def _shut(self, how: int) -> None:
        with self._changed:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(how)


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))
