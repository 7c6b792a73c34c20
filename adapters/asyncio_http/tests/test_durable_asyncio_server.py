"""The server over real sockets: its clients, and its beginning and end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import json
import socket
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from durable_asyncio import (
    AsyncioApp,
    EndpointServer,
    Timeouts,
    app,
    create_endpoint_server,
    endpoint_adapter,
    serve,
)
from durable_core import Durable, Phase, Request
from durable_core.errors import StoreError
from support.asyncio_exchange import replies_in
from support.asyncio_sample import ALL_BYTES, Sample
from support.ports import ReservedPort
from support.processes import until
from support.raw_http import ask, connect, exchange, read_reply

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


def until_first(client: socket.socket) -> None:
    """Wait for the first of a stream: the body of a response has been begun."""
    data = b""
    while not data.partition(b"\r\n\r\n")[2]:
        data += client.recv(1000)


def reached(gate: Path) -> None:
    until("the step has begun", gate.with_suffix(".reached").exists)


@pytest.mark.parametrize("path", ["/gated", "/sync-gated"])
def test_a_client_that_goes_hands_its_run_off(
    server: EndpointServer, sample: Sample, tmp_path: Path, path: str
) -> None:
    """A run whose client went away within a step is stored, goes on, and comes to its end."""
    gate, runs = tmp_path / "gate", sample.durable.runs
    before = {each.run.id for each in runs.list()}
    with connect(server.port) as connection:
        connection.sendall(GET % f"{path}?gate={gate}".encode())
        reached(gate)

    [new] = until("it is stored", lambda: [r for r in runs.list() if r.run.id not in before])
    assert Phase.COMPLETED is not new.run.phase
    gate.touch()

    def has_ended() -> bool:
        record = runs.get(new.run.id)
        return record is not None and record.run.phase is Phase.COMPLETED

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


# Beginning and end


def test_a_server_begins_and_ends(own: Sample) -> None:
    """The engine starts and stops with it; it can be started again."""
    server = create_endpoint_server(own.app)
    with ReservedPort() as reserved:
        for _ in range(2):
            with server.listen(reserved.number):
                assert f"http://127.0.0.1:{server.port}" == server.url
                assert own.durable.health()["started"]
                assert 201 == ask(server.port, "GET", "/steps?n=1").status
            assert not own.durable.health()["started"]
            with pytest.raises(ConnectionRefusedError):
                connect(reserved.number)
    server.close()


def test_a_server_listens_once(own: Sample) -> None:
    """And only then has an address."""
    server = create_endpoint_server(own.app)
    for use in (lambda: server.port, lambda: server.url, server.serve_forever):
        with pytest.raises(RuntimeError, match="does not listen; call listen"):
            use()
    with server, pytest.raises(RuntimeError, match="listens already"):
        server.listen()


def test_an_address_that_is_taken(own: Sample, server: EndpointServer) -> None:
    """That is an error at once, and nothing is left behind."""
    with pytest.raises(OSError, match=r"[Aa]ddress already in use"):
        create_endpoint_server(own.app).listen(server.port)
    assert not own.durable.health()["started"]


def test_a_store_that_cannot_be_opened(tmp_path: Path) -> None:
    """The error comes out of listen(), and the address is free again."""
    durable = Durable(id="x", endpoint_adapter=endpoint_adapter, store=tmp_path)
    server = create_endpoint_server({"GET /": lambda request: None}, durable=durable)
    threads = threading.active_count()

    with ReservedPort() as reserved:
        with pytest.raises(StoreError):
            server.listen(reserved.number)
        socket.create_server(("127.0.0.1", reserved.number)).close()

    assert threads == threading.active_count()


def test_a_handler_cannot_close_its_server(own: Sample) -> None:
    """It would wait for itself. In a thread it can, as any other."""

    async def here(request: Request) -> None:
        with pytest.raises(RuntimeError, match="on its own event loop"):
            serving.close()

    with create_endpoint_server({"GET /": here}, durable=own.durable) as serving:
        assert 200 == ask(serving.port, "GET", "/").status


def test_closing_hands_clients_off(own: Sample, tmp_path: Path) -> None:
    """A client within a step is sent to the wait URL; idle connections end; steps finish."""
    gate = tmp_path / "gate"
    server = create_endpoint_server(own.app).listen()
    with connect(server.port) as idle, connect(server.port) as busy, ThreadPoolExecutor() as pool:
        idle.sendall(GET % b"/binary")
        assert 200 == read_reply(idle).status
        busy.sendall(GET % f"/gated?gate={gate}".encode())
        reached(gate)

        closing = pool.submit(server.close)

        reply = read_reply(busy)
        assert (302, "close") == (reply.status, reply.get("connection"))
        assert (b"", b"") == (busy.recv(1), idle.recv(1))
        busy.close()
        assert not closing.done()  # the step is in flight
        gate.touch()
        closing.result(10)

    with server:
        assert b"through" == ask(server.port, "GET", f"/gated{reply.get('location')}").body


def test_closing_sends_what_is_in_flight(own: Sample) -> None:
    """An answer that is not durable is waited for, too."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(request: Request) -> str:
        begun.set()
        go_on.wait(10)
        return "slow"

    server = create_endpoint_server({"GET /": slow}, durable=own.durable).listen()
    with connect(server.port) as client, ThreadPoolExecutor() as pool:
        client.sendall(GET % b"/")
        assert begun.wait(10)
        closing = pool.submit(server.close)
        until("the engine has stopped", lambda: not own.durable.health()["started"])
        go_on.set()
        assert b'"slow"' == read_reply(client).body
        client.close()
        closing.result(10)


def test_closing_sends_streams_to_their_end(own: Sample, tmp_path: Path) -> None:
    """The client gets all of it, and the run is recorded as completed."""
    gate = tmp_path / "gate"
    server = create_endpoint_server(own.app).listen()
    with connect(server.port) as client, ThreadPoolExecutor() as pool:
        port = server.port
        client.sendall(GET % f"/gated-stream?gate={gate}".encode())
        reached(gate)
        closing = pool.submit(server.close)
        until("no more clients are accepted", lambda: refuses(port))
        gate.touch()
        assert b"first second" == read_reply(client).body
        client.close()
        closing.result(10)

    [record] = own.durable.runs.list()
    assert Phase.COMPLETED is record.run.phase


def refuses(port: int) -> bool:
    """Whether nobody listens any more; a reset is a client met by the closing itself."""
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass
    return False


def test_closing_takes_no_longer_than_it_may(own: Sample, caplog: pytest.LogCaptureFixture) -> None:
    """Those who are not done by then are cut off, and the log says so."""
    server = create_endpoint_server(own.app).listen()
    with connect(server.port) as client:
        client.sendall(GET % b"/idle")
        until_first(client)
        begun = time.monotonic()

        server.close(0.1)

        assert time.monotonic() - begun < 5
        with pytest.raises(ConnectionResetError):
            list(iter(lambda: client.recv(1000), b""))
    assert ["idle"] == own.endless.ended
    assert "1 clients were still connected and were cut off" in caplog.text


def test_closing_leaves_no_socket_behind(own: Sample) -> None:
    """Clients that come at that very moment are accepted and closed, or not accepted."""
    done = threading.Event()

    def come_and_go(port: int) -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):
                connect(port).close()

    with ReservedPort() as reserved, ThreadPoolExecutor() as pool:
        server = create_endpoint_server(own.app).listen(reserved.number)
        for _ in range(3):
            pool.submit(come_and_go, reserved.number)
        for _ in range(20):
            server.close()
            server.listen(reserved.number)
        done.set()
    server.close()
    gc.collect()  # an open socket would be a warning, which is an error here


def test_serving_on_a_loop_of_ones_own(own: Sample) -> None:
    """serve() serves until it is cancelled, and runs handlers on the loop it was called on."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def where(request: Request) -> str:
        loops.append(asyncio.get_running_loop())
        return "here"

    async def main(port: int) -> None:
        application = app(own.durable, {"GET /": where})
        serving = asyncio.create_task(serve(application, port))
        while not own.durable.health()["started"]:
            await asyncio.sleep(0.001)
        reply = await asyncio.to_thread(ask, port, "GET", "/")
        assert b'"here"' == reply.body
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert [asyncio.get_running_loop()] == loops
        with pytest.raises(ConnectionRefusedError):
            connect(port)

    with ReservedPort() as reserved:
        asyncio.run(main(reserved.number))
    assert not own.durable.health()["started"]


def test_an_app_can_be_called(own: Sample) -> None:
    """It is a function from a request to a response, for servers of one's own."""
    request = Request(method="GET", url="http://x/steps?n=2")

    async def main() -> int:
        application: AsyncioApp = own.app
        return (await application(request)).status

    assert 201 == asyncio.run(main())


# Addresses


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("host", "url", "reachable"),
    [
        ("::", "http://[::1]:", ("127.0.0.1", "::1")),
        ("::1", "http://[::1]:", ("::1",)),
        ("0.0.0.0", "http://127.0.0.1:", ("127.0.0.1",)),
        ("127.0.0.1", "http://127.0.0.1:", ("127.0.0.1",)),
    ],
)
def test_addresses(own: Sample, host: str, url: str, reachable: tuple[str, ...]) -> None:
    """All of IPv4, all of both, or just one."""
    with create_endpoint_server(own.app).listen(host=host) as server:
        assert f"{url}{server.port}" == server.url
        for address in ("127.0.0.1", "::1"):
            if address in reachable:
                assert 200 == ask(server.port, "GET", "/binary", host=address).status
            else:
                with pytest.raises(ConnectionRefusedError):
                    connect(server.port, address)


def test_names(own: Sample) -> None:
    """A name is served on all its addresses, with one port."""
    with create_endpoint_server(own.app).listen(host="localhost") as server:
        found = {each[4][0] for each in socket.getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)}
        for address in found & ({"127.0.0.1", "::1"} if has_ipv6() else {"127.0.0.1"}):
            assert 200 == ask(server.port, "GET", "/binary", host=str(address)).status
