"""A client that sends what it is told to, and shows what came back."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

from support.harness import until

__all__ = ["Reply", "ask", "ask_and_leave", "connect", "exchange", "read_reply", "until_first"]

_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A response; header names are in lower case, repeated fields are kept."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def get(self, name: str) -> str | None:
        """Return the first value of a header field."""
        return next((value for known, value in self.headers if known == name), None)

    def get_all(self, name: str) -> list[str]:
        """Return all values of a header field."""
        return [value for known, value in self.headers if known == name]

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Open a connection."""
    return socket.create_connection((host, port), timeout=_TIMEOUT)


def read_reply(connection: socket.socket, method: str = "GET") -> Reply:
    """Read one response."""
    response = HTTPResponse(connection, method=method)
    try:
        response.begin()
        headers = tuple((name.lower(), value) for name, value in response.getheaders())
        return Reply(response.status, response.reason, headers, response.read())
    finally:
        response.close()


def ask(
    port: int,
    method: str,
    target: str,
    *,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
    host: str = "127.0.0.1",
) -> Reply:
    """Send one request, and return the response to it. ``target`` may hold any Latin-1 text."""
    fields = [("Host", f"localhost:{port}"), ("Connection", "close"), *headers]
    if body is not None:
        fields.append(("Content-Length", str(len(body))))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    head = "".join(f"{line}\r\n" for line in (*lines, ""))
    with connect(port, host) as connection:
        connection.sendall(head.encode("latin-1") + (body or b""))
        return read_reply(connection, method)


def ask_and_leave(port: int, target: str, may_leave: Callable[[], object]) -> None:
    """Send a GET request, and close the connection once it may, before there is an answer."""
    with connect(port) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
        until(may_leave)
        connection.setblocking(False)
        try:
            answer = connection.recv(1000)
        except BlockingIOError:
            return
    raise AssertionError(f"the server has answered: {answer!r}")


def exchange(port: int, data: bytes) -> bytes:
    """Send bytes, and return all that comes back until the connection is closed.

    Raises:
        ConnectionResetError: the server reset it.
    """
    with connect(port) as connection:
        connection.sendall(data)
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError as failure:
            # The server was quicker and has reset the connection. Reading says so.
            if failure.errno != errno.ENOTCONN:
                raise
        return b"".join(iter(lambda: connection.recv(65536), b""))


def until_first(client: socket.socket) -> None:
    """Wait for the first of a stream: the body of a response has been begun."""
    data = b""
    while not data.partition(b"\r\n\r\n")[2]:
        more = client.recv(1000)
        assert more, data
        data += more
