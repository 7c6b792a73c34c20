"""The proxy that the suite puts between clients and servers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread

import pytest

from durable_conformance.faulty_proxy import FaultyProxy
from support.ports import ReservedPort


class Echo(StreamRequestHandler):
    """Sends back each line."""

    timeout = 30

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


@pytest.fixture
def host() -> Iterator[str]:
    """A server, which in the end waits for its connections to be closed."""
    with ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        serving = Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield "{}:{}".format(*server.server_address)
        server.shutdown()
        serving.join()


def connect(proxy: FaultyProxy) -> socket.socket:
    name, _, port = proxy.host.partition(":")
    return socket.create_connection((name, int(port)), timeout=30)


def echoed(connection: socket.socket, line: bytes) -> bytes:
    connection.sendall(line)
    return connection.makefile("rb").readline()


def test_bytes_are_passed_on(host: str) -> None:
    """Both ways, on each connection its own; a client that goes is gone for the server, too."""
    with FaultyProxy(host) as proxy, connect(proxy) as one, connect(proxy) as two:
        assert [b"1\n", b"2\n", b"3\n"] == [
            echoed(one, b"1\n"),
            echoed(two, b"2\n"),
            echoed(one, b"3\n"),
        ]


def test_a_cut_breaks_connections(host: str) -> None:
    """Those there are end, and new ones are taken."""
    with FaultyProxy(host) as proxy, connect(proxy) as one:
        echoed(one, b"1\n")
        proxy.cut()
        assert b"" == one.recv(1)
        with connect(proxy) as two:
            assert b"2\n" == echoed(two, b"2\n")


def test_who_is_dead_takes_no_connections(host: str) -> None:
    """Those there are end, and new ones are refused; it may be told so twice."""
    with FaultyProxy(host) as proxy, connect(proxy) as one:
        echoed(one, b"1\n")
        proxy.die()
        assert b"" == one.recv(1)
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        proxy.die()


def test_a_server_that_is_not_there(host: str) -> None:
    """A client of it is let go."""
    with (
        ReservedPort() as nobody,
        FaultyProxy(f"127.0.0.1:{nobody.number}") as proxy,
        connect(proxy) as one,
    ):
        assert b"" == one.recv(1)
