"""Ports for servers that are told theirs, or that are to come back on the same one."""

from __future__ import annotations

import socket
import sys
from types import TracebackType
from typing import Self

__all__ = ["ReservedPort", "has_ipv6"]


class ReservedPort:
    """A port of 127.0.0.1 that the system gives to nobody else; a context that lets it go.

    A port that was merely found free may be gone when the server binds it, or while a killed
    server is being started again: each bind to port 0 and each client's end of a connection takes
    one of the same range. Linux lets a server listen on a port that another socket is bound to,
    where both allow it and the other does not listen. Elsewhere nothing is held.

    Attributes:
        number: the port.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]
        if sys.platform != "linux":
            self._socket.close()

    def close(self) -> None:
        """Let it go."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def has_ipv6() -> bool:
    """Tell whether this machine has an IPv6 address of its own."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
