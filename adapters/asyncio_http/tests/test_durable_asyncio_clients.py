"""The clients of the server, over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_asyncio import (
    EndpointServer,
    Timeouts,
    create_endpoint_server,
    endpoint_adapter,
)
from durable_core import Durable, Request, Response
from support.asyncio_exchange import replies_in
from support.asyncio_sample import ALL_BYTES, Sample, reached
from support.processes import until
from support.raw_http import ask, connect, exchange, read_reply, until_first

GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """An application for all tests that leave it as it was."""
    return Sample(tmp_path_factory.mktemp("sample") / "db")


@pytest.fixture(scope="module")
def server(sample: Sample) -> Iterator[EndpointServer]:
    """A server for all tests that leave it as it was."""
    timeouts = Timeouts(write=1.0)
    with create_endpoint_server(sample.app, timeouts=timeouts).listen() as server:
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Sample]:
    """An application of the test's own."""
    sample = Sample(tmp_path / "db")
    yield sample
    sample.durable.stop()


# Clients


def curl(*arguments: str) -> tuple[str, bytes]:
    """Return the heads and the last body that curl got."""
    done = subprocess.run(["curl", "-sS", "-i", *arguments], capture_output=True, timeout=30)
    assert (0, b"") == (done.returncode, done.stderr)
    heads, _, body = done.stdout.rpartition(b"\r\n\r\n")
    return heads.decode("latin-1"), body


def test_curl(server: EndpointServer) -> None:
    """Steps run, and the handler's own status and fields come back."""
    head, body = curl(f"{server.url}/steps?n=21")

    assert head.startswith("HTTP/1.1 201 Created\r\n")
    assert "\r\nx-own: yes\r\n" in head
    assert {"doubled": 42} == json.loads(body)


def test_curl_follows_the_handoff(server: EndpointServer) -> None:
    """One redirect, then the response exactly as the handler made it."""
    heads, body = curl("-L", f"{server.url}/nap")

    assert ["HTTP/1.1 302 Found", "HTTP/1.1 201 Created"] == [
        line for line in heads.split("\r\n") if line.startswith("HTTP")
    ]
    assert ALL_BYTES == body


def test_curl_sends_chunks_and_waits_for_100(server: EndpointServer, tmp_path: Path) -> None:
    """Large bodies of unknown length arrive."""
    file = tmp_path / "body"
    file.write_bytes(ALL_BYTES * 4000)
    chunked = ("-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue")

    heads, body = curl("--data-binary", f"@{file}", *chunked, f"{server.url}/size")

    assert heads.startswith("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert 1024000 == json.loads(body)


def test_one_connection_for_many_requests(server: EndpointServer) -> None:
    """http.client stays connected, whatever is asked, and however it is answered."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    got = []
    for method, target, body in (
        ("GET", "/steps?n=1", None),
        ("HEAD", "/binary", None),
        ("POST", "/size", b"x" * 500_000),
        ("POST", "/size", iter([b"in ", b"chunks"])),
        ("GET", "/stream", None),
        ("GET", "/broken", None),
        ("GET", "/nowhere", None),
        ("GET", "/binary", None),
    ):
        connection.request(method, target, body)
        sock = connection.sock
        response = connection.getresponse()
        got.append((response.status, response.read()))
        assert sock is connection.sock is not None
    connection.close()

    assert [201, 200, 200, 200, 200, 500, 404, 200] == [status for status, _ in got]
    assert [b"500000", b"9", b"one two three"] == [body for _, body in got[2:5]]
    assert ALL_BYTES == got[-1][1]


def test_pipelined_requests_are_answered_in_order(server: EndpointServer) -> None:
    """Also where the first takes longest, and one has a body."""
    post = b"POST /echo/2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    last = b"GET /echo/3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connect(server.port) as connection:
        connection.sendall(GET % b"/nap" + post + last)
        data = b"".join(iter(lambda: connection.recv(65536), b""))

    replies = replies_in(data, "GET", "POST", "GET")
    assert [302, 200, 200] == [reply.status for reply in replies]
    assert ["http://x/echo/2", "http://x/echo/3"] == [r.json()["url"] for r in replies[1:]]
    assert b"abc".hex() == replies[1].json()["body"]


def test_a_client_that_has_said_all_is_answered(server: EndpointServer) -> None:
    """A half-closed connection is open as long as the answer is quick."""
    assert exchange(server.port, GET % b"/binary").endswith(ALL_BYTES)


def test_malformed_requests(server: EndpointServer) -> None:
    """The connection ends with the refusal, which arrives though more was sent."""
    reply = exchange(server.port, b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100_000)

    assert reply.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close\r\n" in reply


@pytest.mark.parametrize("coding", ["Content-Length: 5000000", "Transfer-Encoding: chunked"])
def test_large_bodies_are_refused(server: EndpointServer, coding: str) -> None:
    """The client gets its 413 though it goes on sending what nobody wants."""
    head = f"POST /size HTTP/1.1\r\nHost: x\r\n{coding}\r\n\r\n".encode()
    chunks = b"10000\r\n%b\r\n" % bytes(65536) * 76 if "chunked" in coding else bytes(5_000_000)
    with connect(server.port) as connection:
        connection.sendall(head + chunks)
        reply = read_reply(connection)

    assert (413, "close") == (reply.status, reply.get("connection"))


def test_large_heads_are_refused(server: EndpointServer) -> None:
    """The limit is the application's."""
    reply = ask(server.port, "GET", "/", headers=[("X", "x" * 70_000)])

    assert (431, "at most 65536 bytes are accepted") == (reply.status, reply.json()["detail"])


def test_events_come_in(server: EndpointServer, sample: Sample) -> None:
    """The events route is served as any other."""
    reply = ask(server.port, "POST", "/events", body=b'{"name": "x", "data": {}}')

    assert 200 <= reply.status < 300


# Clients that go away


@pytest.mark.parametrize("path", ["/gated", "/sync-gated"])
def test_a_client_that_goes_hands_its_run_off(
    server: EndpointServer, sample: Sample, tmp_path: Path, path: str
) -> None:
    """A run whose client went away within a step is stored, goes on, and comes to its end."""
    gate, runs = tmp_path / "gate", sample.durable.runs
    before = {each.id for each in runs.list()}
    with connect(server.port) as connection:
        connection.sendall(GET % f"{path}?gate={gate}".encode())
        reached(gate)

    [new] = until("it is stored", lambda: [r for r in runs.list() if r.id not in before])
    assert "completed" != new.status
    gate.touch()

    def has_ended() -> bool:
        return runs.get(new.id).status == "completed"

    until("it has ended", has_ended)


@pytest.mark.parametrize("kind", ["plain", "async", "idle"])
def test_a_client_that_goes_ends_its_stream(own: Sample, kind: str) -> None:
    """The body is closed, once, whether or not it is about to make something."""
    with create_endpoint_server(own.app).listen() as server:
        with connect(server.port) as connection:
            connection.sendall(GET % f"/{kind}".encode())
            until_first(connection)

        until("the body is closed", lambda: own.endless.ended)
    assert [kind] == own.endless.ended


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_client_that_takes_nothing_gets_no_more(own: Sample, kind: str) -> None:
    """A stream is made as fast as it is taken; after the time-out it is not made any more."""
    timeouts = Timeouts(write=0.2)
    with (
        create_endpoint_server(own.app, timeouts=timeouts).listen() as server,
        connect(server.port) as connection,
    ):
        connection.sendall(GET % f"/{kind}".encode())
        until("the body is closed", lambda: own.endless.ended)

    assert [kind] == own.endless.ended
    assert 0 < own.endless.made * 65536 < 64 * 1024 * 1024


def test_a_slow_client_gets_all_of_what_the_system_could_keep(tmp_path: Path) -> None:
    """The system takes on megabytes, but only as fast as the client does: it is seen to read."""
    body = bytes(6 * 1024 * 1024)

    durable = Durable(id="x", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")

    @durable.endpoint
    def large(request: Request) -> Response:
        return Response(body=body)

    received = 0
    with (
        create_endpoint_server(large, timeouts=Timeouts(write=0.5)).listen() as server,
        connect(server.port) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while part := connection.recv(65536):
            received += len(part)
            time.sleep(0.025)

    assert received > len(body)


@pytest.mark.parametrize(
    ("version", "error"),
    [("1.0", ConnectionResetError), ("1.1", (ConnectionResetError, http.client.IncompleteRead))],
)
def test_a_torn_response_is_seen_to_be_torn(
    server: EndpointServer, version: str, error: type[Exception]
) -> None:
    """A client never takes a part of a response for the whole."""
    with connect(server.port) as connection:
        connection.sendall(f"GET /torn HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        with pytest.raises(error):
            read_reply(connection)


# Many clients


def test_a_hundred_clients_at_once(server: EndpointServer) -> None:
    """Each gets the answer to its own question."""
    connections = [connect(server.port) for _ in range(100)]
    with contextlib.ExitStack() as stack:
        for number, connection in enumerate(connections):
            stack.enter_context(connection)
            connection.sendall(GET % b"/steps?n=%d" % number)
        answers = [read_reply(connection).json()["doubled"] for connection in connections]

    assert [2 * number for number in range(100)] == answers


def test_idle_clients_cost_little(server: EndpointServer) -> None:
    """A thousand of them have no thread and little memory, and keep nobody from being answered."""
    with contextlib.ExitStack() as stack:
        assert 404 == ask(server.port, "GET", "/nowhere").status
        threads = threading.active_count()
        tracemalloc.start()
        stack.callback(tracemalloc.stop)

        idle = [stack.enter_context(connect(server.port)) for _ in range(1000)]
        for connection in idle:
            connection.sendall(GET % b"/nowhere")
        assert {404} == {read_reply(connection).status for connection in idle}

        assert threads == threading.active_count()
        assert tracemalloc.get_traced_memory()[0] / 1000 < 20_000
        idle[-1].sendall(GET % b"/steps?n=1")
        assert 201 == read_reply(idle[-1]).status


def test_slow_clients_keep_nobody_waiting(own: Sample) -> None:
    """Those that never end their requests are sent away, and others served meanwhile."""
    timeouts = Timeouts(head=1.0)
    with (
        create_endpoint_server(own.app, timeouts=timeouts).listen() as server,
        contextlib.ExitStack() as stack,
    ):
        slow = []
        for _ in range(100):
            slow.append(stack.enter_context(connect(server.port)))
            slow[-1].sendall(b"GET / HTTP/1.1\r\nX-")

        assert 201 == ask(server.port, "GET", "/steps?n=1").status
        assert {408} == {read_reply(connection).status for connection in slow}
