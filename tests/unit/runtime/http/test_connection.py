"""Connections of both kinds: TLS, and what happens before there is one."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from durable_core.errors import ConnectFailedError, RequestAbortedError, RequestTimeoutError
from durable_core.model.outgoing import OutgoingRequest, Timeouts
from durable_core.runtime.http.abort import Abort
from durable_core.runtime.http.client import HTTPClient
from support.http_clients import CLIENTS, AnyClient
from support.scripted_server import Peer, ScriptedServer, chunked, plain

TLS = Path(__file__).parents[3] / "data" / "tls"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
both = pytest.mark.parametrize("kind", CLIENTS, ids=("threads", "tasks"))


def of_server() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    return context


def of_client() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=TLS / "cert.pem")


@both
def test_tls(kind: type[AnyClient]) -> None:
    """A server whose certificate is trusted is spoken to, on a connection that is kept."""

    def script(peer: Peer) -> None:
        peer.answer(plain("x" * 100_000))
        peer.answer(CHUNKED + chunked(b"two") + b"0\r\n\r\n")
        peer.wait_for_close()

    with (
        ScriptedServer(script, tls=of_server()) as server,
        kind(tls=of_client()) as client,
    ):
        request = OutgoingRequest(url=server.origin)
        assert [b"x" * 100_000, b"two"] == [client.ask(request)[2] for _ in range(2)]


@both
def test_a_certificate_that_is_not_trusted(kind: type[AnyClient]) -> None:
    """The default context refuses it, and the error says so; nothing was sent."""
    with (
        ScriptedServer(lambda peer: peer.hear(), tls=of_server()) as server,
        kind() as client,
        pytest.raises(ConnectFailedError, match="certificate verify failed"),
    ):
        client.ask(OutgoingRequest(url=server.origin))

    assert [] == server.heard


@both
def test_a_certificate_of_another_host(kind: type[AnyClient]) -> None:
    """A trusted certificate counts only for the names in it."""
    with (
        ScriptedServer(lambda peer: peer.hear(), tls=of_server()) as server,
        kind(tls=of_client()) as client,
    ):
        url = server.origin.replace("localhost", "127.0.0.1")
        with pytest.raises(ConnectFailedError, match="IP address mismatch"):
            client.ask(OutgoingRequest(url=url))


@both
def test_a_server_that_does_not_shake_hands(kind: type[AnyClient]) -> None:
    """TLS counts as a part of connecting, for its time-out as well."""
    with (
        ScriptedServer(lambda peer: peer.wait_for_close()) as server,
        kind(tls=of_client()) as client,
    ):
        request = OutgoingRequest(
            url=server.origin.replace("http:", "https:"), timeouts=Timeouts(connect=0.05)
        )
        with pytest.raises(RequestTimeoutError, match=r"no connection to the server within 0.05 s"):
            client.ask(request)


@both
def test_tls_with_a_server_that_has_none(kind: type[AnyClient]) -> None:
    """Plain text in place of a handshake is no connection."""

    def script(peer: Peer) -> None:
        peer.say(plain("hello"))
        peer.wait_for_close()

    with (
        ScriptedServer(script) as server,
        kind(tls=of_client()) as client,
        pytest.raises(ConnectFailedError, match="SSL"),
    ):
        client.ask(OutgoingRequest(url=server.origin.replace("http:", "https:")))


def test_an_abort_ends_a_handshake() -> None:
    """Set while the server keeps silent, it ends connecting at once."""
    abort = Abort()

    def script(peer: Peer) -> None:
        peer._socket.recv(1)
        abort.set()
        peer.wait_for_close()

    with (
        ScriptedServer(script) as server,
        HTTPClient(tls=of_client()) as client,
        pytest.raises(RequestAbortedError),
    ):
        client.send(OutgoingRequest(url=server.origin.replace("http:", "https:")), abort=abort)


def test_an_abort_ends_the_reading_of_tls() -> None:
    """The reading thread gets the error, and no ciphertext."""
    abort = Abort()

    def script(peer: Peer) -> None:
        peer.answer(CHUNKED + chunked(b"some"))
        abort.set()
        peer.wait_for_close()

    with (
        ScriptedServer(script, tls=of_server()) as server,
        HTTPClient(tls=of_client()) as client,
        pytest.raises(RequestAbortedError),
    ):
        client.send(OutgoingRequest(url=server.origin), abort=abort).read()


def test_an_abort_ends_a_connect() -> None:
    """A host that does not answer at all is left when the abort is set."""
    with socket.socket() as full:
        # A listener whose queue is full drops what comes, as a host that is gone does.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        abort = Abort()
        timer = threading.Timer(0.1, abort.set)
        timer.start()
        with HTTPClient() as client, pytest.raises(RequestAbortedError):
            client.send(
                OutgoingRequest(url=f"http://127.0.0.1:{full.getsockname()[1]}"), abort=abort
            )
        timer.join()
        for each in waiting:
            each.close()
