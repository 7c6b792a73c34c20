"""How a connection ends without the loss of what was sent on it."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

__all__ = ["linger"]

_LINGER_BYTES, _LINGER_SECONDS = 8 * 1024 * 1024, 2.0


def linger(connection: socket.socket) -> None:
    """Send no more, and read for a while what nobody wants.

    Closing a connection with unread data resets it, and the client may lose the answer. Returns
    when the client closes, after 2 seconds, or after 8 MiB.
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
