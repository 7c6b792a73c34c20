"""How a connection of our own server ends."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress

__all__ = ["is_reset_on_close", "linger", "reset_on_close"]

#: As the option SO_LINGER: closing discards what is unsent, and resets the connection.
_RESET = struct.pack("ii", 1, 0)
_LINGER_BYTES, _LINGER_SECONDS = 8 * 1024 * 1024, 2.0


def reset_on_close(connection: socket.socket) -> None:
    """Have the connection reset when it is closed: the client sees that something is missing."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def is_reset_on_close(connection: socket.socket) -> bool:
    """Tell whether :func:`reset_on_close` was called."""
    option = connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET))
    return option == _RESET


def linger(connection: socket.socket) -> None:
    """Send no more, and read for a while what nobody wants.

    Closing a connection with unread data resets it, and the client may lose the answer.
    """
    deadline, most = time.monotonic() + _LINGER_SECONDS, _LINGER_BYTES
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while most > 0 and (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            chunk = connection.recv(65536)
            if not chunk:
                return
            most -= len(chunk)
