"""What the servers of adapters share: starting, stopping, and where they are."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from durable_core.adapter.server import Server, bind, url_of
from support.ports import has_ipv6


class Serving:
    """Notes how it ends; waits until then."""

    def __init__(self, host: str, port: int) -> None:
        self.port = port
        self.url = f"http://{host}:{port}"
        self.ends: list[float] = []
        self.waits = threading.Event()
        self._ended = threading.Event()

    def wait(self) -> None:
        self.waits.set()
        assert self._ended.wait(60)

    def end(self, timeout: float) -> None:
        self.ends.append(timeout)
        self._ended.set()


def test_listening() -> None:
    """It opens what serves where it was told to, and says where that is."""
    server = Server(Serving)

    assert server is server.listen(8000, "h")
    assert (8000, "http://h:8000") == (server.port, server.url)


def test_it_listens_once() -> None:
    """A server that listens must be closed before it listens again."""
    opened: list[Serving] = []

    def note(host: str, port: int) -> Serving:
        opened.append(Serving(host, port))
        return opened[-1]

    server = Server(note).listen(1)
    with pytest.raises(RuntimeError, match="listens already"):
        server.listen(2)
    server.close(3.0)
    server.close(4.0)  # nothing is left to close
    server.listen(5)

    assert [(1, [3.0]), (5, [])] == [(each.port, each.ends) for each in opened]


def test_it_must_listen_first() -> None:
    """What needs a server that listens says so."""
    server = Server(Serving)

    with pytest.raises(RuntimeError, match="call listen"):
        _ = server.port
    with pytest.raises(RuntimeError, match="call listen"):
        _ = server.url
    with pytest.raises(RuntimeError, match="call listen"):
        server.serve_forever()


def test_what_cannot_be_opened() -> None:
    """The error is the caller's, and the server may be told to listen again."""
    errors = [OSError("in use")]

    def fail_once(host: str, port: int) -> Serving:
        if errors:
            raise errors.pop()
        return Serving(host, port)

    server = Server(fail_once)
    with pytest.raises(OSError, match="in use"):
        server.listen(1)

    assert 2 == server.listen(2).port


def test_what_cannot_be_ended_in_good_order() -> None:
    """The error is the caller's; the server does not listen all the same."""

    class Broken(Serving):
        def end(self, timeout: float) -> None:
            raise OSError("no store")

    server = Server(Broken).listen(1)
    with pytest.raises(OSError, match="no store"):
        server.close()
    server.close()

    assert 2 == server.listen(2).port


def test_context() -> None:
    """It listens in the block, on the port that it had or on a free one, and is closed after it."""
    opened: list[Serving] = []

    def note(host: str, port: int) -> Serving:
        opened.append(Serving(host, port))
        return opened[-1]

    server = Server(note)
    with server as running, running:
        assert server is running
        assert 0 == server.port
    with server.listen(7):
        assert 7 == server.port

    assert [(0, [10.0]), (7, [10.0])] == [(each.port, each.ends) for each in opened]


def test_serving_forever() -> None:
    """It blocks until the server is closed elsewhere, or is told to leave; then it closes it."""
    serving = Serving("h", 1)
    server = Server(lambda host, port: serving).listen()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    assert serving.waits.wait(60)
    assert [] == serving.ends
    server.close(2.0)
    thread.join(60)

    assert (False, [2.0]) == (thread.is_alive(), serving.ends)


def test_leaving() -> None:
    """What serves is ended when it has returned from waiting, as it does on a signal."""

    class Leaving(Serving):
        def wait(self) -> None:
            pass

    serving = Leaving("h", 1)
    Server(lambda host, port: serving).listen().serve_forever()

    assert [10.0] == serving.ends


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")]
)
def test_url(host: str, expected: str) -> None:
    """It leads to the socket from this machine, also where that listens at all addresses."""
    with socket.create_server((host, 0)) as listener:
        port = listener.getsockname()[1]

        assert f"http://{expected}:{port}" == url_of(listener)
        assert f"https://{expected}:{port}" == url_of(listener, "https")


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_url_of_ipv6(host: str) -> None:
    """An address of IPv6 stands in brackets."""
    with socket.create_server((host, 0), family=socket.AF_INET6) as listener:
        assert f"http://[::1]:{listener.getsockname()[1]}" == url_of(listener)


@pytest.mark.parametrize(
    ("port", "host", "says"),
    [
        ("8000", "127.0.0.1", r"such as \(8000, '127.0.0.1'\), not \('8000', '127.0.0.1'\)"),
        ("127.0.0.1", 8000, r"not \('127.0.0.1', 8000\)"),
        (True, "127.0.0.1", r"not \(True, '127.0.0.1'\)"),
        (70_000, "127.0.0.1", "port must be 0 to 65535, not 70000"),
        (-1, "127.0.0.1", "port must be 0 to 65535, not -1"),
    ],
)
def test_what_is_no_address(port: Any, host: Any, says: str) -> None:
    """The system would take 70000 for 4464, and name none of the arguments."""
    opened: list[object] = []
    with pytest.raises((TypeError, ValueError), match=says):
        Server[Any](lambda host, port: opened.append(port)).listen(port, host)
    with pytest.raises((TypeError, ValueError), match=says):
        bind(host, port)
    assert [] == opened
