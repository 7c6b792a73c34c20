"""The suite's client is strict: what is no whole response is an error."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from durable_conformance.wire import Client, Reply, WireError

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], Client]]:
    """Serve some bytes to the first client, and close."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []

        def answer(data: bytes) -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(data)

        def start(data: bytes) -> Client:
            threads.append(threading.Thread(target=answer, args=(data,)))
            threads[-1].start()
            return Client(f"http://127.0.0.1:{listener.getsockname()[1]}")

        yield start
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (OK + b"Content-Length: 4\r\n\r\nbody", b"body"),
        (CHUNKED + b"3;x=1\r\nbod\r\n1\r\ny\r\n0\r\nT: 1\r\n\r\n", b"body"),
        (OK + b"\r\nbody", b"body"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 204 \r\n\r\n", b""),
    ],
)
def test_whole_responses(serve: Callable[[bytes], Client], data: bytes, body: bytes) -> None:
    """Whatever the framing, the body is what was sent."""
    assert body == serve(data).ask("GET", "/").body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/2 200 OK\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b"Content-Length: 5\r\n\r\nbody",
        OK + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
        OK + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip\r\n\r\nbody",
        CHUNKED + b"4\r\nbody\r\n",
        CHUNKED + b"3\r\nbody\r\n0\r\n\r\n",
        CHUNKED + b"x\r\n",
    ],
)
def test_broken_responses(serve: Callable[[bytes], Client], data: bytes) -> None:
    """A response that breaks off, or has two meanings, is an error."""
    with pytest.raises(WireError):
        serve(data).ask("GET", "/")


def test_repeated_fields_stay_apart() -> None:
    """They can be had one by one."""
    reply = Reply(200, "OK", (("a", "1"), ("b", "2"), ("a", "3")))

    assert (["1", "3"], "1", None) == (reply.all("a"), reply.get("a"), reply.get("c"))


@pytest.mark.parametrize("url", ["127.0.0.1:80", "https://h:1", "http://h", "http://h:80/path"])
def test_base_urls(url: str) -> None:
    """A subject's URL is that of a server's root."""
    with pytest.raises(WireError):
        Client(url)
