"""The sockets that a server listens on."""

from __future__ import annotations

import errno
import select
import socket
from typing import Any

__all__ = ["BACKLOG", "MAX_CONNECTIONS", "bind", "check_most", "has_hung_up"]

#: So many clients are served at a time, unless said otherwise.
MAX_CONNECTIONS = 10_000
#: Connections that wait to be accepted.
BACKLOG = 1024
#: What a host without an address family answers.
_NO_FAMILY = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def bind(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for all addresses of a host, all with the same port.

    Args:
        host: a name or an address, IPv4 or IPv6; ``"0.0.0.0"`` for all of IPv4, ``"::"`` for all
            of both.
        port: 0 takes a free one.

    Raises:
        OSError: an address cannot be had.
    """
    if host == "::" and socket.has_dualstack_ipv6():
        return [_listening(socket.AF_INET6, (host, port), dualstack=True)]
    bound: list[socket.socket] = []
    missing: OSError | None = None
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, *_, address in dict.fromkeys(found):
            taken = bound[0].getsockname()[1] if bound else port
            try:
                bound.append(_listening(family, (address[0], taken, *address[2:])))
            except OSError as error:
                if error.errno not in _NO_FAMILY:
                    raise
                missing = error
        if missing is not None and not bound:
            raise missing
    except BaseException:
        for each in bound:
            each.close()
        raise
    return bound


def check_most(most: int) -> int:
    """Return a number of connections.

    Raises:
        ValueError: it is no whole number above 0.
    """
    if type(most) is not int or most < 1:
        raise ValueError(f"max_connections must be a whole number above 0, not {most!r}")
    return most


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


def _listening(
    family: socket.AddressFamily, address: tuple[Any, ...], *, dualstack: bool = False
) -> socket.socket:
    return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=dualstack)
