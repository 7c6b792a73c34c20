"""What following in a thread adds to ``test_durable_client.py``: its threads and their sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from durable_client import Abort, fetch_with_stream
from durable_client._follow import StreamClient
from durable_client._sync import ThreadDriver
from durable_client._transport import RequestFactory
from durable_core.codec.stream_events import Chunk, Final
from durable_core.errors import RequestAbortedError, RequestTimeoutError
from durable_core.http.headers import Headers
from support.scripted_server import Peer, ScriptedServer
from support.source_tree import ROOT
from support.stream_clients import sse

WAIT = "http://a/?durable-run=1&durable-token=2"
SSE = {"content-type": "text/event-stream"}
TLS = ROOT / "tests" / "data" / "tls"

Handler = Callable[[httpx2.Request], httpx2.Response]


class Body(httpx2.SyncByteStream):
    """A response body of these pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.is_closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces

    def close(self) -> None:
        self.is_closed.set()


def driver(handler: Handler, abort: Abort | None = None) -> ThreadDriver:
    machine = StreamClient(
        method="GET", url=WAIT, headers=Headers(), repeatable=True, uniform=lambda: 0.0
    )
    return ThreadDriver(
        machine,
        client=httpx2.Client(transport=httpx2.MockTransport(handler)),
        requests=RequestFactory(body=None, idle_timeout=None),
        deliver=lambda event: None,
        timeout=60,
        abort=abort or Abort(),
    )


def follower_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "durable-stream"]


def test_any_number_of_connections_leaves_no_trace() -> None:
    """After a hundred breaks there is no more to close than at the first."""
    numbers = iter(range(1000))
    most = 0

    def handler(request: httpx2.Request) -> httpx2.Response:
        nonlocal most
        most = max(most, len(following._connections._open) + len(following._connections._closed))
        return httpx2.Response(200, headers=SSE, stream=Body(body(next(numbers))))

    def body(number: int) -> Iterator[bytes]:
        yield b"retry: 0\n\n"
        if number == 100:
            yield sse(Final(status=200))
        yield sse(Chunk(data=number), id=str(number))
        raise httpx2.ReadError("broken")

    following = driver(handler)
    following.run()

    assert most <= 3


def test_a_thread_that_must_close_reports_nothing_more() -> None:
    """The response of the machine stands, whatever the HTTP client raises when it is closed."""
    released = threading.Event()
    bodies: list[Body] = []

    def pieces() -> Iterator[bytes]:
        yield sse(Final(status=204))
        assert released.wait(10)
        raise LookupError("closed")

    def handler(request: httpx2.Request) -> httpx2.Response:
        bodies.append(Body(pieces()))
        return httpx2.Response(200, headers=SSE, stream=bodies[0])

    assert 204 == driver(handler).run().status
    released.set()
    assert bodies[0].is_closed.wait(10)


def test_an_abort_does_not_wait_for_a_transport_without_sockets() -> None:
    """The call ends at once; the response is closed when the transport comes back."""
    abort, released = Abort(), threading.Event()
    body = Body(iter([b""]))

    def handler(request: httpx2.Request) -> httpx2.Response:
        abort.set()
        assert released.wait(10)
        return httpx2.Response(200, headers=SSE, stream=body)

    with pytest.raises(RequestAbortedError):
        driver(handler, abort).run()
    released.set()
    assert body.is_closed.wait(10)


def silent(peer: Peer) -> None:
    peer.hear()
    peer.wait_for_close()


def secure_server(*scripts: Callable[[Peer], object]) -> ScriptedServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    return ScriptedServer(*scripts, tls=context)


def test_a_timeout_shuts_down_a_tls_connection() -> None:
    """Though its thread waits for the head; no thread is left."""
    trust = ssl.create_default_context(cafile=str(TLS / "cert.pem"))
    with (
        secure_server(silent) as server,
        httpx2.Client(verify=trust) as client,
        pytest.raises(RequestTimeoutError, match=r"no response after 0\.2 s"),
    ):
        fetch_with_stream(server.origin, client=client, timeout=0.2)

    assert [] == follower_threads()


class Slow(httpx2.HTTPTransport):
    """Holds back each request until it may be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.may_send = threading.Event()
        self.error: Exception | None = None
        self.is_done = threading.Event()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        assert self.may_send.wait(10)
        try:
            return super().handle_request(request)
        except Exception as error:
            self.error = error
            raise
        finally:
            self.is_done.set()


def test_what_was_not_sent_when_the_call_ended_is_never_sent() -> None:
    """A run must not begin after its caller was told that it took too long."""
    transport = Slow()
    with (
        ScriptedServer(lambda peer: peer.hear()) as server,
        httpx2.Client(transport=transport) as client,
    ):
        with pytest.raises(RequestTimeoutError):
            fetch_with_stream(server.origin, client=client, method="POST", timeout=0.1)
        transport.may_send.set()
        assert transport.is_done.wait(10)

    assert [] == server.heard
    assert isinstance(transport.error, RequestAbortedError)


def test_a_connection_serves_one_request() -> None:
    """It may be shut down at any time, and the pool of the caller's client must not notice."""

    def answers(peer: Peer) -> None:
        peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        peer.wait_for_close()

    with ScriptedServer(answers, answers) as server, httpx2.Client() as client:
        for _ in range(2):
            fetch_with_stream(server.origin, client=client)
        connections = [(heard.connection, heard.headers["connection"]) for heard in server.heard]

    assert [(0, "close"), (1, "close")] == connections


def test_connections_of_http_2_are_shared_and_not_shut_down() -> None:
    """The trace of such a connection makes its socket unusable for that."""
    from durable_client._sync import _Socket

    here, there = socket.socketpair()

    class Stream:
        def get_extra_info(self, name: str) -> Any:
            return here if name == "socket" else None

    with here, there:
        shared = _Socket()
        shared.trace("connection.connect_tcp.complete", {"return_value": Stream()})
        shared.trace("http2.send_connection_init.started", {})
        shared.shut_down()
        here.send(b"x")
        assert b"x" == there.recv(1)
        assert not shared.can_shut_down

        alone = _Socket()
        alone.shut_down()
        alone.trace("connection.connect_tcp.complete", {"return_value": Stream()})
        assert b"" == there.recv(1)
        alone.shut_down()  # again, which does no harm
