"""What the server of this package does with connections, whatever is served."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from durable_core import Limits
from durable_wsgi import EndpointServer, _listener, create_endpoint_server
from support.processes import until
from support.raw_http import ask, connect, exchange, read_reply
from support.wsgi_sample import greet, make_sample

TEXT = ("Content-Type", "text/plain")


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
        (b"GET /\r\nHost: x\r\n\r\n", b"400"),
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
    [
        (b"", b""),
        (b"GET / HT", b"408"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc", b"408"),
    ],
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


def test_uploads(tmp_path: Path) -> None:
    """A multipart body is a body; the parser of e-mail has no say in it."""
    body = b'--x\r\ncontent-disposition: form-data; name="f"\r\n\r\nhello\r\n--x--\r\n'
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"

    def read(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("content-type", "text/plain")])
        return [environ["CONTENT_TYPE"].encode(), environ["wsgi.input"].read()]

    with EndpointServer(read).listen() as running:
        answer = exchange(running.port, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    assert b"200" == status_of(answer)
    assert b"multipart/form-data; boundary=x" in answer
    assert body in answer


def test_a_client_that_takes_too_little_is_cut_off(tmp_path: Path) -> None:
    """It cannot take what it got for the whole, whether or not the length is known."""

    def large(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("content-type", "x/y")])
        return (bytes(65536) for _ in range(1000))

    with (
        EndpointServer(large, client_timeout=0.3).listen() as running,
        connect(running.port) as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(100)
        until("the server has given up", lambda: not running._running_server()._listener._open)
        with pytest.raises(ConnectionResetError):
            list(iter(lambda: client.recv(65536), b""))


def test_a_request_has_a_deadline() -> None:
    """A byte now and then does not move it."""
    begun = time.monotonic()
    with (
        EndpointServer(greet, client_timeout=0.5).listen() as running,
        connect(running.port) as client,
        contextlib.suppress(OSError),
    ):
        client.settimeout(0.1)
        while time.monotonic() - begun < 20:
            client.sendall(b"G")
            with contextlib.suppress(TimeoutError):
                if client.recv(1000):
                    break

    assert time.monotonic() - begun < 10


def test_clients_over_the_limit_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """503 and when to come again; afterwards there is room again."""
    with EndpointServer(greet, max_connections=1).listen() as running:
        with connect(running.port):
            until("it is served", lambda: running._running_server()._listener._open)
            refused = ask(running.port, "GET", "/")
        until("there is room again", lambda: ask(running.port, "GET", "/").status == 200)

    assert (503, "1") == (refused.status, refused.get("retry-after"))
    assert "1 clients are connected: further ones are refused" in caplog.messages


@pytest.mark.parametrize("most", [0, -1, True, 1.5])
def test_limits_are_checked(most: int) -> None:
    """A number of clients is a whole one above 0."""
    with pytest.raises(ValueError, match="max_connections"):
        EndpointServer(greet, max_connections=most)


def test_control_characters_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A terminal would take them for commands."""
    with caplog.at_level(logging.INFO, "durable.wsgi"), EndpointServer(greet).listen() as running:
        exchange(running.port, b"GET /a\x9b2J\xe9?token HTTP/1.1\r\nHost: x\r\n\r\n")
        exchange(running.port, b"GET /a\x1b[2J HTTP/1.1\r\nHost: x\r\n\r\n")
        exchange(running.port, b"G\x1b[2J /secret HTTP/1.1\r\nHost: x\r\n\r\n")

    assert all(message.isprintable() and message.isascii() for message in caplog.messages)
    assert "secret" not in caplog.text
    assert "/a%9B2J%E9" in caplog.text or "/a%C2%9B2J%C3%A9" in caplog.text


@pytest.mark.parametrize(
    "line",
    [b"A : b", b" A: b", b"A", b": b", b"A: b\n", b"A: \x00", b"A: b\r", b"A\x0b: b", b"A: \x7f"],
)
def test_malformed_fields(line: bytes) -> None:
    """What parsers understand in different ways is refused."""
    with EndpointServer(greet).listen() as running:
        answer = exchange(running.port, b"GET / HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n")

    assert b"400" == status_of(answer)


def test_out_of_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, and a pause; the client that waits is served when there is room again."""
    left = [3]
    accept = socket.socket.accept

    def exhausted(self: socket.socket) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(self)

    monkeypatch.setattr(_listener, "_BACK_OFF", 0.05)
    with EndpointServer(greet).listen() as running:
        monkeypatch.setattr(socket.socket, "accept", exhausted)
        begun = time.monotonic()
        assert 200 == ask(running.port, "GET", "/").status

    assert time.monotonic() - begun >= 3 * 0.05
    assert 3 == sum("no client can be accepted" in message for message in caplog.messages)
