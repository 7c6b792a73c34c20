"""What a server asks its operating system about a connection."""

from __future__ import annotations

import select
import socket

__all__ = ["has_hung_up"]


def has_hung_up(connection: socket.socket) -> bool:
    """Tell whether the peer has closed its side, even if much that it sent is still unread.

    Where the system does not tell (it has no ``POLLRDHUP``), only a broken connection is noticed.
    """
    if connection.fileno() < 0:
        return True
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(connection, getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))
