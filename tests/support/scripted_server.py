"""A server on a real socket that does to each connection what its script says."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

__all__ = ["Heard", "Peer", "Script", "ScriptedServer", "chunked", "plain", "sse_head"]

_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A request as the server got it; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


class Peer:
    """The server's end of one connection."""

    def __init__(self, server: ScriptedServer, sock: socket.socket, number: int) -> None:
        self._server = server
        self._socket = sock
        self._file = sock.makefile("rb")
        self.number = number

    def hear(self) -> Heard:
        """Read a request; raises ``EOFError`` when the client closes instead."""
        line = self._file.readline()
        if not line:
            raise EOFError
        method, target, _ = line.decode("latin-1").split(" ")
        headers = {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding") == "chunked":
            body = self._chunks()
        else:
            body = self._file.read(int(headers.get("content-length", "0")))
        heard = Heard(method, target, headers, body, self.number)
        self._server.heard.append(heard)
        return heard

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._file.readline(), 16):
            body += self._file.read(size)
            self._file.readline()
        self._file.readline()
        return body

    def say(self, *parts: bytes | str) -> None:
        """Send bytes."""
        for part in parts:
            self._socket.sendall(part.encode() if isinstance(part, str) else part)

    def answer(self, data: bytes | str) -> Heard:
        """Read a request, and send this for an answer."""
        heard = self.hear()
        self.say(data)
        return heard

    def wait_for_close(self) -> None:
        """Return when the client has closed the connection."""
        try:
            while self._socket.recv(4096):
                pass
        except ConnectionError:
            pass

    def reset(self) -> None:
        """Break the connection off, as a crashed host does."""
        self._file.close()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self._socket.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()


Script = Callable[[Peer], object]


class ScriptedServer:
    """Serves the first connection by the first script, and so on; a context.

    When it ends, it waits for all scripts, and raises what one of them raised.
    """

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self._scripts = scripts
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self._is_ending = False
        self.heard: list[Heard] = []
        self.port: int = self._listener.getsockname()[1]
        scheme = "http" if tls is None else "https"
        self.origin = f"{scheme}://{'127.0.0.1' if tls is None else 'localhost'}:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, kind: object, *args: object) -> None:
        self._is_ending = True
        # Wake the thread that accepts: closing alone would not.
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        for thread in self._threads:
            thread.join(_PATIENCE)
        self._listener.close()
        alive = [thread for thread in self._threads if thread.is_alive()]
        if kind is None and self._failures:
            raise self._failures[0]
        assert kind is not None or not alive, "a script does not end"

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        for number, script in enumerate(self._scripts):
            sock, _ = self._listener.accept()
            if self._is_ending:
                sock.close()
                return
            sock.settimeout(_PATIENCE)
            self._start(self._serve, script, sock, number)

    def _serve(self, script: Script, sock: socket.socket, number: int) -> None:
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            peer = Peer(self, sock, number)
        except OSError:
            sock.close()  # the client does not trust us
            return
        try:
            script(peer)
        except EOFError:
            pass  # the client needed no more
        except BaseException as error:
            self._failures.append(error)
        finally:
            peer.close()


def plain(body: bytes | str = b"", status: str = "200 OK", headers: Sequence[str] = ()) -> bytes:
    """Return a response with a Content-Length."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", *headers, f"content-length: {len(content)}", "", ""]
    return "\r\n".join(lines).encode() + content


def chunked(*parts: bytes) -> bytes:
    """Return these bytes, each as a chunk."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


def sse_head(*headers: str) -> bytes:
    """Return the head of an event stream that ends with its connection."""
    lines = ["HTTP/1.1 200 OK", "content-type: text/event-stream", *headers, "", ""]
    return "\r\n".join(lines).encode()
