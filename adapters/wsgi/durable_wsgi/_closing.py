"""How a connection of our own server ends."""

from __future__ import annotations

import socket
import struct

__all__ = ["is_reset_on_close", "reset_on_close"]

#: As the option SO_LINGER: closing discards what is unsent, and resets the connection.
_RESET = struct.pack("ii", 1, 0)


def reset_on_close(connection: socket.socket) -> None:
    """Have the connection reset when it is closed: the client sees that something is missing."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def is_reset_on_close(connection: socket.socket) -> bool:
    """Tell whether :func:`reset_on_close` was called."""
    option = connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET))
    return option == _RESET
