"""A proxy between a server and its clients, whose connections can be broken.

To a client, what a proxy does is what its server does: when all connections end in the middle of
a response and new ones are refused, the server has died.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from durable_conformance.wire import patience

__all__ = ["FaultyProxy"]

_PIECE = 65536


class FaultyProxy:
    """Passes bytes on, both ways; a context that serves.

    Args:
        host: of the server, as in a Host field.

    Attributes:
        host: where clients reach it.
    """

    def __init__(self, host: str) -> None:
        upstream = urlsplit(f"//{host}")
        self._server = (upstream.hostname, upstream.port)
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._threads: list[threading.Thread] = []
        self._is_dead = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._address = self._listener.getsockname()
        self._accepting = threading.Thread(target=self._accept, name="proxy")
        self.host = "{}:{}".format(*self._address)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.die()
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """Break every connection; new ones are taken."""
        with self._lock:
            for link in self._links:
                link.cut()

    def die(self) -> None:
        """Break every connection, and refuse new ones."""
        with self._lock:
            was_dead, self._is_dead = self._is_dead, True
        if not was_dead:
            socket.create_connection(self._address).close()  # closing alone wakes nobody
            self._accepting.join()
            self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._is_dead:
                client.close()
                return
            thread = threading.Thread(target=self._serve, args=(client,), name="proxy-connection")
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), self._connect() as server:
            link = _Link(client, server)
            with self._lock:
                self._links.add(link)
            if self._is_dead:  # which it may have become after this client was taken
                link.cut()
            link.run()
            with self._lock:
                self._links.remove(link)

    def _connect(self) -> socket.socket:
        return socket.create_connection(self._server, timeout=patience())


class _Link:
    """A client's connection, and the one to the server that belongs to it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client = client
        self._server = server

    def run(self) -> None:
        """Pass bytes on until either end is gone, and then let the other go."""
        requests = threading.Thread(target=self._copy, args=(self._client, self._server))
        requests.start()
        self._copy(self._server, self._client)
        requests.join()

    def cut(self) -> None:
        """Break it, from any thread."""
        for each in (self._client, self._server):
            with suppress(OSError):  # it is broken already
                each.shutdown(socket.SHUT_RDWR)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_PIECE):
                target.sendall(data)
        self.cut()
