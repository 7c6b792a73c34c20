"""Ports for servers that are told theirs, or that are to come back on the same one."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["ReservedPort", "has_ipv6", "listening_ports"]


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


def listening_ports(pid: int) -> list[str]:
    """Return the local addresses of TCP sockets of a process that listen."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(link) if link.is_symlink() else ""
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return [each[1] for each in fields if each[3] == "0A" and each[9] in inodes]
