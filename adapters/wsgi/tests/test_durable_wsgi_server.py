"""The server of this package: what it does with connections, whatever is served."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from durable_core import Limits
from durable_core.errors import ConfigurationError
from durable_wsgi import EndpointServer, create_endpoint_server
from support.ports import ReservedPort
from support.raw_http import Reply, ask, connect, exchange, read_reply
from support.wsgi_sample import make_durable, make_sample
from support.wsgi_servers import TESTS

TEXT = ("Content-Type", "text/plain")


def greet(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the size of the body, which is read, and some of the environ."""
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", [TEXT])
    return [f"{size} {environ['PATH_INFO']} {environ['HTTP_HOST']}".encode("latin-1")]


def ignore(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer without reading the body."""
    start_response("403 Forbidden", [TEXT])
    return [b"no"]


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    limits = Limits(head=2000)
    with EndpointServer(greet, limits=limits).listen() as running:
        yield running


def status_of(answer: bytes) -> bytes:
    assert answer.startswith(b"HTTP/1.1 ")
    return answer[9:12]


# --- requests ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        ("GET /a HTTP/1.1", b"0 /a x"),
        ("GET /a HTTP/1.0", b"0 /a x"),
        ("GET /%C3%A9?q HTTP/1.1", b"0 /\xc3\xa9 x"),
        ("GET http://y:1/a HTTP/1.1", b"0 /a y:1"),
        ("GET HTTP://y HTTP/1.1", b"0 / y"),
        ("GET http://y?q HTTP/1.1", b"0 / y"),
        ("OPTIONS * HTTP/1.1", b"0 / x"),
    ],
)
def test_request_targets(server: EndpointServer, request_line: str, expected: bytes) -> None:
    """All forms of a request target are understood; a URL names the host (RFC 9112, 3.2)."""
    answer = exchange(server.port, f"{request_line}\r\nHost: x\r\n\r\n".encode())

    assert (b"200", expected) == (status_of(answer), answer.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /\r\nHost: x\r\n\r\n", b"505"),
        (b"GET\r\n\r\n", b"400"),
        (b"POST /\r\n\r\n", b"400"),
        (b"GET nowhere HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/x\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\nX: y\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: y\rAuthorization: z\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        (b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Y: zzzz\r\n" * 190 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 110 + b"\r\n", b"431"),
    ],
)
def test_refused_requests(server: EndpointServer, data: bytes, status: bytes) -> None:
    """What is malformed, ambiguous or too large is refused with a problem document."""
    answer = exchange(server.port, data)

    assert status == status_of(answer)
    assert b"application/problem+json" in answer
    assert b"\r\nconnection: close\r\n" in answer


def test_refusal_does_not_repeat_the_request(server: EndpointServer) -> None:
    """A token in a request that cannot be parsed is not shown to anybody."""
    answer = exchange(server.port, b"GET /?durable-token=secret too many words HTTP/1.1\r\n\r\n")

    assert b"400" == status_of(answer)
    assert b"secret" not in answer


@pytest.mark.parametrize("data", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nCont"])
def test_cut_off_head_is_no_request(server: EndpointServer, data: bytes) -> None:
    """A head that ends early is never taken for a whole one: nothing is answered."""
    assert b"" == exchange(server.port, data)


def test_underscored_fields_do_not_pass_for_others() -> None:
    """``X_Forwarded_For`` is dropped: in the environ it would be ``X-Forwarded-For``."""

    def keys(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [TEXT])
        return [" ".join(key for key in environ if "OWN" in key).encode()]

    with EndpointServer(keys).listen() as running:
        assert b"" == ask(running.port, "GET", "/", headers=[("X_Own", "1")]).body
        assert b"HTTP_X_OWN" == ask(running.port, "GET", "/", headers=[("X-Own", "1")]).body


def test_environ_holds_nothing_of_the_process() -> None:
    """Environment variables are no part of a request, and no content type is made up."""

    def show(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [TEXT])
        return [repr(("PATH" in environ, environ["CONTENT_TYPE"])).encode()]

    with EndpointServer(show).listen() as running:
        assert b"(False, '')" == ask(running.port, "GET", "/").body


# --- bodies -----------------------------------------------------------------------------------


def test_continue_is_sent_when_the_body_is_wanted(server: EndpointServer) -> None:
    """A client that asks first is told to go on as soon as the application reads the body."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    with connect(server.port) as connection:
        connection.sendall(head)
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == connection.recv(1000)
        connection.sendall(b"abc")
        assert b"3 / x" == read_reply(connection).body


def test_continue_is_not_sent_when_it_is_not() -> None:
    """It gets the final answer at once where nobody reads the body."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    with EndpointServer(ignore).listen() as running, connect(running.port) as connection:
        connection.sendall(head)
        assert 403 == read_reply(connection).status


@pytest.mark.parametrize("size", [10, 4 * 1024 * 1024])
def test_answer_arrives_although_the_body_was_not_read(size: int) -> None:
    """A client that sends all of its body before it reads gets the answer all the same."""
    with EndpointServer(ignore).listen() as running:
        assert 403 == ask(running.port, "POST", "/", body=b"x" * size).status


def test_oversized_body_is_refused_while_it_is_sent(tmp_path: Path) -> None:
    """The limit of the application holds; the client gets to see the 413."""
    with create_endpoint_server(make_sample(tmp_path / "db")).listen() as running:
        assert 413 == ask(running.port, "POST", "/echo/", body=b"x" * 4 * 1024 * 1024).status


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"GET / HT", b""), (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc", b"408")],
)
def test_slow_clients_are_dropped(data: bytes, status: bytes, tmp_path: Path) -> None:
    """A client that keeps its request to itself for too long is told so, once there is one."""
    sample = make_sample(tmp_path / "db")
    with (
        EndpointServer(sample, client_timeout=0.5).listen() as running,
        connect(running.port) as connection,
    ):
        connection.sendall(data)
        answer = b"".join(iter(lambda: connection.recv(1000), b""))

    assert status == (status_of(answer) if answer else b"")


# --- responses --------------------------------------------------------------------------------


def test_broken_application(caplog: pytest.LogCaptureFixture) -> None:
    """An exception is a 500 problem before the response has begun; it is logged."""

    def broken(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [TEXT])
        raise ConnectionResetError("of some other connection")

    with caplog.at_level(logging.ERROR, "durable.wsgi"), EndpointServer(broken).listen() as running:
        reply = ask(running.port, "GET", "/x?durable-token=secret")

    assert (500, "application/problem+json") == (reply.status, reply.get("content-type"))
    assert ["GET /x failed"] == caplog.messages


def test_broken_stream_is_seen_to_be_broken(caplog: pytest.LogCaptureFixture) -> None:
    """A response that fails after it has begun does not look complete to the client."""
    closed = []

    def chunks() -> Iterator[bytes]:
        try:
            yield b"first"
            raise ValueError("no more")
        finally:
            closed.append(True)

    def breaking(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [TEXT])
        return chunks()

    with (
        caplog.at_level(logging.ERROR, "durable.wsgi"),
        EndpointServer(breaking).listen() as running,
        pytest.raises(ConnectionResetError),
    ):
        ask(running.port, "GET", "/")

    assert ([True], ["GET / failed"]) == (closed, caplog.messages)


def test_client_that_goes_away_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """The body is closed when its client is gone; there is nothing to be logged."""
    closed = threading.Event()
    gone = threading.Event()

    def chunks() -> Iterator[bytes]:
        try:
            yield b"first"
            gone.wait(10)
            while True:
                yield b"x" * 100_000
        finally:
            closed.set()

    def endless(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [TEXT])
        return chunks()

    with caplog.at_level(logging.INFO, "durable.wsgi"), EndpointServer(endless).listen() as running:
        with connect(running.port) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(5)
        gone.set()
        assert closed.wait(10)

    assert [f"serving on http://127.0.0.1:{running_port(caplog)}"] == caplog.messages


def running_port(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.messages[0].rpartition(":")[2]


@pytest.mark.parametrize(("status", "length"), [("204 No Content", None), ("200 OK", "0")])
def test_length_of_nothing(status: str, length: str | None) -> None:
    """A response without content has the length 0, but for statuses that cannot have one."""

    def empty(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [])
        return []

    with EndpointServer(empty).listen() as running:
        assert length == ask(running.port, "GET", "/").get("content-length")
        assert ask(running.port, "HEAD", "/").get("content-length") is None


def test_access_log(caplog: pytest.LogCaptureFixture) -> None:
    """Each request is one record, without its query, which may hold a token."""
    with caplog.at_level(logging.INFO, "durable.wsgi"), EndpointServer(greet).listen() as running:
        size = len(ask(running.port, "GET", "/a?durable-token=secret").body)
        ask(running.port, "GET", "nowhere?durable-token=secret")

    # An answer is logged after it is sent: by then the next request may have come.
    expected = [f'127.0.0.1 "GET /a" 200 {size}', '127.0.0.1 "GET nowhere" 400 -']
    assert sorted(expected) == sorted(caplog.messages[1:])


# --- life -------------------------------------------------------------------------------------


class Recorder:
    """A durable that records what is done with it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[str] = []
        self._error = error

    def start(self) -> None:
        self.calls.append("start")
        if self._error is not None:
            raise self._error

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
    """A taken port is an OSError, before anything is started."""
    durable = Recorder()
    with EndpointServer(greet).listen() as first, pytest.raises(OSError, match="in use"):
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


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


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


def test_serve_forever_needs_listen() -> None:
    """A server that does not listen cannot serve."""
    with pytest.raises(RuntimeError, match=r"call listen\(\) first"):
        EndpointServer(greet).serve_forever()


PROGRAM = """
import logging, sys
from durable_wsgi import serve_endpoint
from support.wsgi_sample import make_sample

logging.basicConfig(level=logging.INFO, format="%(message)s")
sample = make_sample(sys.argv[1])
serve_endpoint(sample, 0)
print("stopped", sample.endpoint.engine.node is None, flush=True)
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


# --- what can be served -----------------------------------------------------------------------


def test_everything_can_be_served(tmp_path: Path) -> None:
    """A wrapped endpoint, a handler of the core, routes and a plain WSGI callable."""
    durable = make_durable(tmp_path / "db")

    @durable.endpoint
    def hello(request: Any) -> str:
        return "hello"

    routes: dict[str, Any] = {"GET /": hello}
    servers: list[Callable[[], EndpointServer]] = [
        lambda: create_endpoint_server(hello),
        lambda: create_endpoint_server(hello.endpoint),
        lambda: create_endpoint_server(routes, durable=durable),
        lambda: create_endpoint_server(lambda e, s: hello(e, s), durable=durable),
    ]
    for create in servers:
        with create().listen() as server:
            assert durable.health()["started"] is True
            assert b'"hello"' == ask(server.port, "GET", "/").body
        assert durable.health()["started"] is False


def test_routes_need_their_durable() -> None:
    """Routes alone do not say whose they are."""
    with pytest.raises(ConfigurationError, match="routes need durable="):
        create_endpoint_server({"GET /": lambda request: "x"})


def test_limits_are_those_of_the_application(tmp_path: Path) -> None:
    """The head's limit is the one that the application was made with."""
    sample = make_sample(tmp_path / "db")
    long = "x" * (Limits().head + 1)

    with create_endpoint_server(sample).listen() as server:
        assert 431 == ask(server.port, "GET", f"/{long}").status
        assert 404 == ask(server.port, "GET", f"/{long[:50_000]}").status
