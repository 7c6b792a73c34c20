"""One connection to a server, used by one thread at a time."""

from __future__ import annotations

import select
import socket
import ssl
from typing import Any

from durable_core.errors import (
    ConnectFailedError,
    ConnectionLostError,
    RequestAbortedError,
    RequestTimeoutError,
)
from durable_core.runtime.http.abort import Abort
from durable_core.runtime.http.budget import Budget
from durable_core.wire.urls import Origin

__all__ = ["Connection", "connect", "is_own_timeout", "is_readable", "not_connected"]

_PIECE = 64 * 1024


class Connection:
    """A socket that tells its troubles in this library's errors."""

    __slots__ = ("_is_aborted", "_socket")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._is_aborted = False

    def open(
        self, address: Any, left: int, origin: Origin, tls: ssl.SSLContext | None, budget: Budget
    ) -> None:
        """Connect the socket to an address of the server, and speak TLS where ``tls`` is given.

        Args:
            address: of the socket.
            left: how many addresses are left, this one included.
            origin, tls, budget: see :func:`connect`.

        Raises:
            OSError: it did not succeed, or not in time; ``ssl.SSLError`` is one.
            RequestTimeoutError, RequestAbortedError.
        """
        try:
            self._socket.settimeout(budget.connecting(left))
            self._socket.connect(address)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self._socket = tls.wrap_socket(
                    self._socket, server_hostname=origin.host, do_handshake_on_connect=False
                )
                self._socket.settimeout(budget.connecting(left))
                self._raise_if_aborted()
                self._socket.do_handshake()
        except OSError:
            self._raise_if_aborted()
            raise
        self._raise_if_aborted()

    def send(self, data: bytes, budget: Budget) -> None:
        """Send all of the bytes, as fast as the server takes them.

        Raises:
            ConnectionLostError, RequestTimeoutError, RequestAbortedError.
        """
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            patience = budget.waiting()
            try:
                self._socket.settimeout(patience)
                self._socket.sendall(view[start : start + _PIECE])
            except OSError as error:
                raise self._explained(error, budget) from error

    def receive(self, budget: Budget) -> bytes:
        """Return what comes next; empty when the server has closed the connection.

        Raises:
            ConnectionLostError, RequestTimeoutError, RequestAbortedError.
        """
        patience = budget.waiting()
        try:
            self._socket.settimeout(patience)
            data = self._socket.recv(_PIECE)
        except OSError as error:
            raise self._explained(error, budget) from error
        self._raise_if_aborted()
        return data

    def is_stale(self) -> bool:
        """Tell whether an idle connection is dead: its end, or what nobody asked for, has come."""
        return is_readable(self._socket.fileno())

    def abort(self) -> None:
        """Wake the thread that uses it, which gets a ``RequestAbortedError``; from any thread."""
        self._is_aborted = True
        try:
            # The method of the plain socket: that of ssl would drop the state of TLS as well, and
            # the thread that reads could take ciphertext for the response.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            pass  # it is not connected yet, or not any more

    def close(self) -> None:
        """Close it, in the thread that uses it."""
        self._socket.close()

    def _explained(self, error: OSError, budget: Budget) -> Exception:
        self._raise_if_aborted()
        if is_own_timeout(error):
            return budget.idle_error()
        return ConnectionLostError(f"the connection broke: {error}")

    def _raise_if_aborted(self) -> None:
        if self._is_aborted:
            raise RequestAbortedError("the exchange was aborted")


def is_readable(fileno: int) -> bool:
    """Tell whether bytes or the end of the connection have come to this socket."""
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))


def is_own_timeout(error: OSError) -> bool:
    """Tell whether a time-out of ours has passed: the system's own (ETIMEDOUT) has a number."""
    return isinstance(error, TimeoutError) and error.errno is None


def connect(origin: Origin, tls: ssl.SSLContext | None, budget: Budget, abort: Abort) -> Connection:
    """Connect to a server, trying its addresses one after the other.

    Args:
        origin: the server.
        tls: for ``https``; it says how the certificate is verified.
        budget: the time that it may take, in equal shares for each address that is left; looking
            up the name takes as long as the system likes.
        abort: what ends it early.

    Raises:
        ConnectFailedError, RequestTimeoutError, RequestAbortedError.
    """
    try:
        addresses = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise not_connected(origin, error, budget) from error
    reason: OSError = OSError("its name has no address")
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        left = len(addresses) - tried
        try:
            return _connected(
                socket.socket(family, kind, protocol), address, left, origin, tls, budget, abort
            )
        except RequestTimeoutError:
            raise
        except OSError as error:
            reason = error
    raise not_connected(origin, reason, budget) from reason


def not_connected(origin: Origin, error: Exception, budget: Budget) -> Exception:
    """Return the error of a client for what has kept it from connecting."""
    if isinstance(error, OSError) and is_own_timeout(error):
        return budget.connect_error()
    return ConnectFailedError(f"no connection to {origin.authority}: {error}")


def _connected(
    sock: socket.socket,
    address: Any,
    left: int,
    origin: Origin,
    tls: ssl.SSLContext | None,
    budget: Budget,
    abort: Abort,
) -> Connection:
    connection = Connection(sock)
    try:
        with abort.calling(connection.abort):
            connection.open(address, left, origin, tls if origin.is_secure else None, budget)
    except BaseException:
        connection.close()
        raise
    return connection
