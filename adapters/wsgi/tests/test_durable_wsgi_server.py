"""The life of the server of this package: how it begins, and how it ends."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from durable_wsgi import EndpointServer
from support.ports import ReservedPort, has_ipv6
from support.raw_http import Reply, ask, connect, read_reply
from support.wsgi_sample import greet
from support.wsgi_servers import TESTS

TEXT = ("Content-Type", "text/plain")


class Recorder:
    """A durable that records what is done with it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[str] = []
        self._error = error

    def start(self, *, server_threads: int | None = None) -> None:
        self.calls.append("start")
        if self._error is not None:
            raise self._error

    def drain(self) -> None:
        self.calls.append("drain")

    def stop(self, timeout: float) -> None:
        self.calls.append("stop")


def test_life_of_a_server() -> None:
    """It starts its durables once it has its port, and stops them; all of it can be repeated."""
    durable = Recorder()
    server = EndpointServer(greet, durables=(durable,))

    for _ in range(2):
        assert server.listen() is server
        assert 200 == ask(server.port, "GET", "/").status
        with pytest.raises(RuntimeError, match="listens already"):
            server.listen()
        server.close()
        server.close()
        with pytest.raises(RuntimeError, match=r"call listen\(\) first"):
            _ = server.port

    assert ["start", "stop", "stop"] * 2 == durable.calls


def test_start_that_fails_leaves_nothing_behind() -> None:
    """A store that cannot be opened is raised by listen(), and the port is free again."""
    server = EndpointServer(greet, durables=(Recorder(ValueError("no store")),))

    with ReservedPort() as reserved:
        for _ in range(2):
            with pytest.raises(ValueError, match="no store"):
                server.listen(reserved.number)


def test_port_that_is_taken() -> None:
    """A taken port is an OSError that names the address, before anything is started."""
    durable = Recorder()
    with EndpointServer(greet).listen() as first:
        address = rf"in use .*'127.0.0.1', {first.port}"
        with pytest.raises(OSError, match=address):
            EndpointServer(greet, durables=(durable,)).listen(first.port)

    assert [] == durable.calls


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::1", "[::1]"),
        ("::", "[::1]"),
    ],
)
def test_hosts(host: str, shown: str) -> None:
    """It listens on names, IPv4 and IPv6; the URL is one that can be reached from here."""
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with EndpointServer(greet).listen(host=host) as server:
        assert server.url in (f"http://{shown}:{server.port}", f"http://[::1]:{server.port}")
        assert (
            200
            == ask(
                server.port, "GET", "/", host=server.url[7:].rpartition(":")[0].strip("[]")
            ).status
        )


def test_close_lets_answers_out() -> None:
    """A request in flight is answered; clients that have sent no whole request are let go."""
    entered, leave = threading.Event(), threading.Event()

    class Draining(Recorder):
        def stop(self, timeout: float) -> None:
            super().stop(timeout)
            leave.set()

    def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        entered.set()
        leave.wait(10)
        start_response("200 OK", [TEXT])
        return [b"done"]

    server = EndpointServer(slow, durables=(Draining(),)).listen()
    with connect(server.port) as idle, connect(server.port) as busy:
        busy.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert entered.wait(10)
        server.close()
        assert b"done" == read_reply(busy).body
        assert b"" == idle.recv(1)


def test_close_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """Clients that are still served when the time is up are cut off, and that is logged."""
    entered, leave = threading.Event(), threading.Event()

    def stuck(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        entered.set()
        leave.wait(10)
        start_response("200 OK", [TEXT])
        return [b"too late"]

    server = EndpointServer(stuck).listen()
    with connect(server.port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert entered.wait(10)
        with caplog.at_level(logging.WARNING, "durable.wsgi"):
            server.close(timeout=0.01)
        assert b"" == connection.recv(1)

    leave.set()
    assert ["clients were still connected after 0.01 s and were cut off"] == caplog.messages


def test_many_clients_at_once() -> None:
    """Each connection has a thread of its own: all of them can be in the application at a time."""
    clients = 50
    together = threading.Barrier(clients, timeout=20)

    def meet(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        together.wait()
        start_response("200 OK", [TEXT])
        return [b"met"]

    replies: list[Reply] = []
    with EndpointServer(meet).listen() as server:
        threads = [
            threading.Thread(target=lambda: replies.append(ask(server.port, "GET", "/")))
            for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert [b"met"] * clients == [reply.body for reply in replies]


def test_serve_forever_ends_with_close() -> None:
    """In a thread that gets no signals it blocks until the server is closed."""
    server = EndpointServer(greet).listen()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    assert 200 == ask(server.port, "GET", "/").status
    server.close()
    thread.join(10)
    assert not thread.is_alive()


PROGRAM = """
import logging, sys
from durable_wsgi import serve_endpoint
from support.wsgi_sample import make_sample

logging.basicConfig(level=logging.INFO, format="%(message)s")
sample = make_sample(sys.argv[1])
serve_endpoint(sample, 0)
print("stopped", sample.endpoint.engine.worker is None, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals(number: signal.Signals, tmp_path: Path) -> None:
    """A signal drains: the client at the wait URL is answered, the engine stopped, then it ends."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "db")]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        try:
            line = next(line for line in running.stderr if line.startswith("serving on"))
            port = int(line.rpartition(":")[2])
            assert ask(port, "GET", "/health").json()["started"] is True
            location = ask(port, "GET", "/nap?seconds=30").get("location")
            with connect(port) as waiting:
                waiting.sendall(f"GET /nap{location} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                while ask(port, "GET", "/health").json()["waiting_clients"] == 0:
                    pass
                running.send_signal(number)
                assert 303 == read_reply(waiting).status
            assert "stopped True\n" == running.stdout.read()
        finally:
            running.kill()
    assert 0 == running.returncode
