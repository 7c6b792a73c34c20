"""HTTPS, with a certificate made for the occasion."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_asyncio import (
    EndpointServer,
    Timeouts,
    _listener,
    create_endpoint_server,
    endpoint_adapter,
    serve,
)
from durable_asyncio._outgoing import Outgoing
from durable_core import Durable, Request, Response
from support.asyncio_sample import ALL_BYTES, Sample
from support.ports import ReservedPort
from support.processes import until
from support.raw_http import connect, read_reply


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate of localhost, in one file."""
    file = tmp_path_factory.mktemp("tls") / "localhost.pem"
    command = (
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext"),
        *("subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(file), "-out", "-"),
    )
    made = subprocess.run(command, capture_output=True, check=True)
    with file.open("ab") as out:
        out.write(made.stdout)
    return file


@pytest.fixture(scope="module")
def trust(certificate: Path) -> ssl.SSLContext:
    """What a client needs to know."""
    return ssl.create_default_context(cafile=certificate)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """The application."""
    return Sample(tmp_path_factory.mktemp("sample") / "db")


@pytest.fixture(scope="module")
def server(sample: Sample, certificate: Path) -> Iterator[EndpointServer]:
    """The server."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    timeouts = Timeouts(head=3.0)
    with pytest.MonkeyPatch.context() as patched:
        # No client of these tests may have to wait for the end of TLS: that would take this long.
        patched.setattr(_listener, "_TLS_SHUTDOWN", 60.0)
        with create_endpoint_server(sample.app, ssl=context, timeouts=timeouts).listen() as server:
            yield server


@pytest.fixture
def client(server: EndpointServer, trust: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """A connection."""
    with trust.wrap_socket(connect(server.port), server_hostname="localhost") as connection:
        yield connection


def test_requests_over_tls(server: EndpointServer, trust: ssl.SSLContext) -> None:
    """One connection carries them all, and their URLs say how they came."""
    assert server.url.startswith("https://127.0.0.1:")
    connection = http.client.HTTPSConnection("localhost", server.port, timeout=10, context=trust)
    bodies = []
    for method, target, body in (
        ("GET", "/echo/x", None),
        ("POST", "/size", b"x" * 500_000),
        ("GET", "/binary", None),
        ("GET", "/stream", None),
    ):
        connection.request(method, target, body)
        sock = connection.sock
        bodies.append(connection.getresponse().read())
        assert sock is connection.sock is not None
    connection.close()

    assert f'"url":"https://localhost:{server.port}/echo/x"'.encode() in bodies[0]
    assert [b"500000", ALL_BYTES, b"one two three"] == bodies[1:]


def test_curl_over_tls(server: EndpointServer, certificate: Path) -> None:
    """The handoff's redirect is relative: it keeps to HTTPS."""
    url = f"https://localhost:{server.port}/nap"
    command = ["curl", "-sS", "-L", "--cacert", str(certificate), url]

    assert ALL_BYTES == subprocess.run(command, capture_output=True, check=True).stdout


def test_the_end_of_a_body_is_the_end_of_tls(client: ssl.SSLSocket) -> None:
    """To HTTP/1.0 a stream ends with the connection, in good order and at once."""
    client.sendall(b"GET /stream HTTP/1.0\r\nHost: x\r\n\r\n")

    assert b"one two three" == read_reply(client).body


def test_a_refusal_over_tls(client: ssl.SSLSocket) -> None:
    """It arrives although the client goes on sending."""
    client.sendall(b"POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n")
    client.sendall(bytes(3_000_000))

    assert 413 == read_reply(client).status


def test_a_client_that_speaks_no_tls(server: EndpointServer) -> None:
    """It gets nothing, and keeps nobody from being served."""
    with connect(server.port) as client:
        client.sendall(b"GET /binary HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            answer = client.recv(100)
        except ConnectionResetError:
            answer = b""

    assert not answer.startswith(b"HTTP")


def test_a_client_that_never_begins_tls(server: EndpointServer) -> None:
    """It has as much time as for the head of a request."""
    with connect(server.port) as client:
        assert b"" == client.recv(1)


def test_a_slow_client_gets_the_end(
    certificate: Path, trust: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is closed at once, but the client has time to take what is still sent."""
    monkeypatch.setattr(_listener, "_TLS_SHUTDOWN", 0.2)
    body = bytes(400_000)
    durable = Durable(id="x", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")

    @durable.endpoint
    def large(request: Request) -> Response:
        return Response(body=body)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    received = 0
    with (
        create_endpoint_server(large, ssl=context).listen() as server,
        trust.wrap_socket(_small_connection(server.port), server_hostname="localhost") as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while part := client.recv(4096):
            received += len(part)
            time.sleep(0.01)

    assert received > len(body)


def _small_connection(port: int) -> socket.socket:
    """Return a connection whose own system takes little that is not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", port))
    return connection


@pytest.mark.parametrize("polite", [True, False])
def test_a_client_that_goes_ends_its_stream(
    server: EndpointServer, sample: Sample, trust: ssl.SSLContext, polite: bool
) -> None:
    """Whether it ends TLS or just the connection."""
    before = len(sample.endless.ended)
    with trust.wrap_socket(connect(server.port), server_hostname="localhost") as client:
        client.sendall(b"GET /idle HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b""
        while not data.endswith(b"first\r\n"):
            data += client.recv(1000)
        if polite:
            with contextlib.suppress(OSError):
                client.unwrap()

    until("the body is closed", lambda: len(sample.endless.ended) > before)
    assert ["idle"] == sample.endless.ended[before:]


class LostTransport(asyncio.Transport):
    """As asyncio's own over TLS, once the connection is lost: it has nothing to ask."""

    lost = aborted = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        if self.lost:
            raise AttributeError(name)
        return default

    def is_closing(self) -> bool:
        return self.lost

    def abort(self) -> None:
        self.aborted = True


def test_a_connection_that_is_lost_can_be_aborted() -> None:
    """A client that resets its connection in mid-stream is no error of the server."""

    async def abort() -> bool:
        transport, reader = LostTransport(), asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        out = Outgoing(asyncio.StreamWriter(transport, protocol, reader, loop), 1.0)
        transport.lost = True
        out.abort()
        return transport.aborted

    assert asyncio.run(abort())


def test_serving_tls_on_a_loop_of_ones_own(
    sample: Sample, certificate: Path, trust: ssl.SSLContext
) -> None:
    """``serve`` takes the same context; clients of HTTPS are answered until it is cancelled."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    def fetch(port: int) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection("localhost", port, timeout=30, context=trust)
        with contextlib.closing(connection):
            connection.request("GET", "/binary")
            reply = connection.getresponse()
            return reply.status, reply.read()

    async def main(port: int) -> tuple[int, bytes]:
        serving = asyncio.create_task(serve(sample.app, port, ssl=context))
        while True:
            assert not serving.done()
            try:
                answer = await asyncio.to_thread(fetch, port)
            except ConnectionRefusedError:
                continue
            serving.cancel()
            await asyncio.wait((serving,))
            return answer

    with ReservedPort() as reserved:
        assert (200, ALL_BYTES) == asyncio.run(main(reserved.number))


def test_handshakes_count_as_connections(sample: Sample, certificate: Path) -> None:
    """A client that never begins TLS takes the place of another."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server = create_endpoint_server(sample.app, ssl=context, max_connections=1)
    trust = ssl.create_default_context(cafile=certificate)
    with server.listen(), connect(server.port):
        until("it counts", lambda: len(server._running_server()._listener._clients) == 1)
        with trust.wrap_socket(connect(server.port), server_hostname="localhost") as client:
            client.sendall(b"GET /binary HTTP/1.1\r\nHost: x\r\n\r\n")
            assert 503 == read_reply(client).status
