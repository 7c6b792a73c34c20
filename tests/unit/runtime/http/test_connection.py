"""Connections of both kinds: TLS, and what happens before there is one."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from durable_core.errors import (
    ConnectFailedError,
    ConnectionLostError,
    RequestAbortedError,
    RequestTimeoutError,
)
from durable_core.model.outgoing import OutgoingRequest, Timeouts
from durable_core.runtime.http.abort import Abort
from durable_core.runtime.http.budget import Budget
from durable_core.runtime.http.client import HTTPClient
from durable_core.runtime.http.connection import Connection
from support.http_clients import CLIENTS, AnyClient
from support.ports import ReservedPort
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


@contextmanager
def silent_host() -> Iterator[tuple[str, int]]:
    """Yield the address of a listener whose queue is full: it drops what comes."""
    with socket.socket() as full, ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            each = stack.enter_context(socket.socket())
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        yield full.getsockname()


def test_an_abort_ends_a_connect() -> None:
    """A host that does not answer at all is left when the abort is set."""
    with silent_host() as (host, port):
        abort = Abort()
        timer = threading.Timer(0.1, abort.set)
        timer.start()
        with HTTPClient() as client, pytest.raises(RequestAbortedError):
            client.send(OutgoingRequest(url=f"http://{host}:{port}"), abort=abort)
        timer.join()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Have names under ``.example`` stand for these addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", each) for each in addresses]
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *asked: Any, **how: Any) -> Any:
        return found if host.endswith(".example") else real(host, *asked, **how)

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)


@both
def test_the_next_address_is_tried_where_one_keeps_silent(
    kind: type[AnyClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets its share of the time to connect in; the next is not kept from its own."""
    with (
        ScriptedServer(lambda peer: peer.answer(plain("here"))) as server,
        silent_host() as silent,
        kind() as client,
    ):
        resolve_to(monkeypatch, silent, ("127.0.0.1", server.port))
        request = OutgoingRequest(url="http://two.example", timeouts=Timeouts(connect=3))
        assert b"here" == client.ask(request)[2]


@both
def test_addresses_that_all_keep_silent(
    kind: type[AnyClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they have no longer than one."""
    with silent_host() as silent, kind() as client:
        resolve_to(monkeypatch, silent, silent)
        request = OutgoingRequest(url="http://two.example", timeouts=Timeouts(connect=0.1))
        with pytest.raises(RequestTimeoutError, match=r"within 0.1 s \(Timeouts.connect\)"):
            client.ask(request)


@both
def test_the_last_address_says_why_there_is_no_connection(
    kind: type[AnyClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal is told as one, whatever the addresses before it did."""
    with silent_host() as silent, ReservedPort() as closed, kind() as client:
        resolve_to(monkeypatch, silent, ("127.0.0.1", closed.number))
        request = OutgoingRequest(url="http://two.example", timeouts=Timeouts(connect=2))
        with pytest.raises(ConnectFailedError, match=r"no connection to two\.example: \[Errno"):
            client.ask(request)


def test_a_name_without_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no connection."""
    resolve_to(monkeypatch)
    with HTTPClient() as client, pytest.raises(ConnectFailedError, match="has no address"):
        client.send(OutgoingRequest(url="http://none.example"))


def test_a_connection_that_the_system_gives_up_is_lost() -> None:
    """Its time-out (ETIMEDOUT) is none of ours, and comes also where we have none."""

    class GivenUp(socket.socket):
        def recv(self, size: int, flags: int = 0) -> bytes:
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    with GivenUp() as sock:
        connection = Connection(sock)
        with pytest.raises(ConnectionLostError, match="Connection timed out"):
            connection.receive(Budget(Timeouts(idle=None)))
