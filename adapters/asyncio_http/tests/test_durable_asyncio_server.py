"""The server over real sockets: its beginning, its end and its addresses."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from durable_asyncio import AsyncioApp, app, create_endpoint_server, endpoint_adapter, serve
from durable_core import Durable, Request
from durable_core.errors import StoreError
from support.asyncio_sample import Sample, reached
from support.harness import until_async
from support.ports import ReservedPort, has_ipv6
from support.processes import until
from support.raw_http import ask, connect, read_reply, until_first

GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Sample]:
    """An application of the test's own."""
    sample = Sample(tmp_path / "db")
    yield sample
    sample.durable.stop()


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


def test_an_address_that_is_taken(own: Sample) -> None:
    """That is an error at once, and nothing is left behind."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match=r"[Aa]ddress already in use"),
    ):
        create_endpoint_server(own.app).listen(taken.getsockname()[1])
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

    [run] = own.durable.runs.list()
    assert "completed" == run.status


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


@pytest.mark.slow
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
        await until_async(lambda: own.durable.health()["started"])
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


def test_what_is_no_context_of_tls(own: Sample) -> None:
    """A path is none; the error comes before the port is taken."""
    path: Any = "cert.pem"
    with pytest.raises(TypeError, match=r"ssl= must be an ssl\.SSLContext, not 'cert\.pem'"):
        create_endpoint_server(own.app, ssl=path).listen()


def test_what_are_no_timeouts(own: Sample) -> None:
    """They are refused when the server is made."""
    seconds: Any = 5
    with pytest.raises(TypeError, match=r"timeouts= must be Timeouts\(\.\.\.\), not 5"):
        create_endpoint_server(own.app, timeouts=seconds)
