"""A client that sends the bytes it is told to, and is strict about those that come back."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import urljoin, urlsplit

__all__ = ["Client", "Connection", "Fields", "Reply", "WireError", "head_of", "patience"]

_MOST_HOPS = 20
_WITHOUT_BODY = (204, 304)
#: Header fields to be sent, names as they are.
Fields: TypeAlias = Sequence[tuple[str, str]]


def patience() -> float:
    """Return for how many seconds a case waits for what must happen.

    The environment variable ``DURABLE_CONFORMANCE_PATIENCE`` says so; 30 by default.
    """
    return float(os.environ.get("DURABLE_CONFORMANCE_PATIENCE", "30"))


class WireError(AssertionError):
    """What came back is not a whole HTTP/1.1 response."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response; ``fields`` are as they came, names in lower case, repeated ones apart."""

    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]
    body: bytes = b""

    def get(self, name: str) -> str | None:
        """Return the first value of a field."""
        return next(iter(self.all(name)), None)

    def all(self, name: str) -> list[str]:
        """Return every value of a field."""
        return [value for known, value in self.fields if known == name]

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


def head_of(method: str, target: str, host: str, fields: Fields = ()) -> bytes:
    """Return the head of a request; all text is sent as Latin-1."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in fields]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1")


class Connection:
    """One connection to a server."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=patience())
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Go away."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes. A server that does not want them any more is no error: it has answered."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def end(self) -> None:
        """Say that nothing more will be sent."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def receive(self, method: str = "GET") -> Reply:
        """Return the next final response, whole.

        Raises:
            WireError: it is malformed or breaks off.
        """
        head = self.receive_head()
        while 100 <= head.status < 200:
            head = self.receive_head()
        body = b"".join(self.pieces(head, method))
        return Reply(head.status, head.reason, head.fields, body)

    def receive_head(self) -> Reply:
        """Return the next response without its body, which :meth:`pieces` yields."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                raise WireError(f"the response breaks off in its head: {self._buffer!r}")
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        version, status, reason = (*line.split(" ", 2), "", "")[:3]
        if version not in ("HTTP/1.1", "HTTP/1.0") or not status.isdigit():
            raise WireError(f"no status line: {line!r}")
        return Reply(int(status), reason, tuple(_field(each) for each in lines))

    def pieces(self, head: Reply, method: str = "GET") -> Iterator[bytes]:
        """Yield the body as it comes.

        Raises:
            WireError: it breaks off, or its framing is malformed or ambiguous.
        """
        lengths, codings = head.all("content-length"), head.all("transfer-encoding")
        if len(lengths) > 1 or (lengths and codings):
            raise WireError(f"ambiguous framing: {lengths}, {codings}")
        if method == "HEAD" or head.status in _WITHOUT_BODY:
            return
        if codings:
            if codings != ["chunked"]:
                raise WireError(f"unknown transfer coding: {codings}")
            yield from self._chunks()
        elif lengths:
            yield from self._exactly(int(lengths[0]))
        else:
            yield from self._until_end()

    def rest(self) -> bytes:
        """Return all that comes until the server closes; a reset counts as closing."""
        try:
            return b"".join(self._until_end())
        except ConnectionResetError:
            return self._buffer

    def _more(self) -> bool:
        data = b"" if self._ended else self._socket.recv(65536)
        self._buffer += data
        self._ended = not data
        return bool(data)

    def _until_end(self) -> Iterator[bytes]:
        while self._buffer or self._more():
            yield self._take(len(self._buffer))

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            if not self._buffer and not self._more():
                raise WireError(f"the body breaks off, {size} bytes are missing")
            piece = self._take(min(size, len(self._buffer)))
            size -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while True:
            text = self._line().partition(b";")[0].strip()
            try:
                size = int(text, 16)
            except ValueError:
                raise WireError(f"no chunk size: {text!r}") from None
            if size == 0:
                while self._line():
                    pass  # trailers
                return
            yield from self._exactly(size)
            if self._line():
                raise WireError("a chunk is longer than announced")

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if not self._more():
                raise WireError("the body breaks off between chunks")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _take(self, size: int) -> bytes:
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        return piece


class Client:
    """Talks to the server at a base URL."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        if parts.scheme != "http" or not parts.hostname or not parts.port or parts.path.strip("/"):
            raise WireError(f"serve() must yield an URL like http://127.0.0.1:80, not {base_url!r}")
        self.host, self.port = parts.netloc, parts.port
        self._address = (parts.hostname, parts.port)

    def connect(self) -> Connection:
        """Open a connection."""
        return Connection(*self._address)

    def ask(
        self, method: str, target: str, *, fields: Fields = (), body: bytes | None = None
    ) -> Reply:
        """Send one request, and return the response to it."""
        length = [] if body is None else [("Content-Length", str(len(body)))]
        closing = [("Connection", "close"), *fields, *length]
        with self.connect() as connection:
            connection.send(head_of(method, target, self.host, closing) + (body or b""))
            return connection.receive(method)

    def exchange(self, data: bytes, *, end: bool = False) -> bytes:
        """Send bytes, and return all that comes back until the server closes.

        Args:
            data: to be sent.
            end: say that nothing more will be sent; some servers take that for a client gone.
        """
        with self.connect() as connection:
            connection.send(data)
            if end:
                connection.end()
            return connection.rest()

    def goto(self, target: str, location: str, method: str = "GET") -> tuple[str, Reply]:
        """Ask where the answer to ``target`` sent its client; return the new target, too."""
        here = f"http://{self.host}{target}"
        there = urlsplit(urljoin(here, location))
        if there.netloc != self.host:
            raise WireError(f"the redirect leads to another server: {location!r}")
        target = f"{there.path or '/'}{'?' * bool(there.query)}{there.query}"
        return target, self.ask(method, target)

    def follow(self, target: str, reply: Reply, method: str = "GET") -> Reply:
        """Go wherever redirects lead, as ``curl -L`` does; return the first other answer.

        Args:
            target: what was asked for.
            reply: the answer.
            method: GET or HEAD.
        """
        for _ in range(_MOST_HOPS):
            location = reply.get("location")
            if reply.status not in (302, 303) or location is None:
                return reply
            target, reply = self.goto(target, location, method)
        raise WireError(f"more than {_MOST_HOPS} redirects")


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or name != name.strip():
        raise WireError(f"no header field: {line!r}")
    return name.lower(), value.strip(" \t")
