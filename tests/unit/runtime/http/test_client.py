"""Both clients against real sockets: what a server may do right, and wrong."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from durable_core.errors import (
    ConnectFailedError,
    ConnectionLostError,
    ProtocolError,
    RequestAbortedError,
    RequestTimeoutError,
)
from durable_core.model.outgoing import OutgoingBody, OutgoingRequest, Timeouts
from durable_core.runtime.http.abort import Abort
from durable_core.runtime.http.client import HTTPClient
from durable_core.runtime.http.idle import PoolLimits
from support.http_clients import CLIENTS, AnyClient
from support.scripted_server import Peer, Script, ScriptedServer, chunked, plain

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
both = pytest.mark.parametrize("kind", CLIENTS, ids=("threads", "tasks"))


def get(server: ScriptedServer, path: str = "/", **timeouts: float) -> OutgoingRequest:
    return OutgoingRequest(url=server.origin + path, timeouts=Timeouts(**timeouts))


def post(
    server: ScriptedServer, body: OutgoingBody, *, idempotent: bool | None = None
) -> OutgoingRequest:
    return OutgoingRequest(method="POST", url=server.origin, body=body, idempotent=idempotent)


def answers(*responses: bytes) -> Script:
    """Answer that many requests on the connection, and wait until the client closes it."""

    def script(peer: Peer) -> None:
        for response in responses:
            peer.answer(response)
        peer.wait_for_close()

    return script


@both
def test_responses_come_back_whole_on_one_connection(kind: type[AnyClient]) -> None:
    """Status, headers and body, framed by length and in chunks; the connection is kept."""
    script = answers(
        plain("hello", "202 Accepted", ["X-A: 1"]),
        CHUNKED + chunked(b"hel", b"lo") + b"0\r\n\r\n",
        plain(""),
    )
    with ScriptedServer(script) as server, kind() as client:
        status, headers, body = client.ask(get(server, "/a?b=c"))
        assert (202, "1", b"hello") == (status, headers["x-a"], body)
        assert b"hello" == client.ask(get(server))[2]
        assert b"" == client.ask(get(server))[2]

    assert [("/a?b=c", 0), ("/", 0), ("/", 0)] == [(h.target, h.connection) for h in server.heard]


@both
def test_a_body_may_end_with_the_connection(kind: type[AnyClient]) -> None:
    """Then the next request goes on a fresh one."""

    def script(peer: Peer) -> None:
        peer.answer(b"HTTP/1.1 200 OK\r\n\r\nhello")

    with ScriptedServer(script, script) as server, kind() as client:
        assert [b"hello", b"hello"] == [client.ask(get(server))[2] for _ in range(2)]

    assert [0, 1] == [heard.connection for heard in server.heard]


@both
def test_a_response_is_streamed(kind: type[AnyClient]) -> None:
    """A piece is there while the server has not made the next one; leaving early closes."""
    went_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.hear()
        peer.say(CHUNKED, chunked(b"first"))
        peer.wait_for_close()
        went_on.set()

    with ScriptedServer(script) as server, kind() as client:
        assert [b"first"] == client.peek(get(server), 1)

    assert went_on.is_set()


def make_pieces() -> Iterator[bytes]:
    yield from (b"one", b"", b"two", b"x" * 200_000)


@both
@pytest.mark.parametrize("body", [b"onetwo" + b"x" * 200_000, make_pieces])
def test_bodies_are_sent(kind: type[AnyClient], body: OutgoingBody) -> None:
    """As bytes and in chunks, empty ones left out."""
    with ScriptedServer(answers(plain())) as server, kind() as client:
        client.ask(post(server, body() if callable(body) else body))

    assert b"onetwo" + b"x" * 200_000 == server.heard[0].body


@both
def test_a_body_that_fails_closes_the_connection(kind: type[AnyClient]) -> None:
    """The caller's error comes out as it is, and the server sees that the request is cut off."""

    def failing() -> Iterator[bytes]:
        yield b"one"
        raise LookupError("no more")

    with (
        ScriptedServer(lambda peer: peer.wait_for_close()) as server,
        kind() as client,
        pytest.raises(LookupError, match="no more"),
    ):
        client.ask(post(server, failing()))


@both
def test_a_dead_connection_is_replaced(kind: type[AnyClient]) -> None:
    """One that the server closed while it was idle is not used, whatever the method."""
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(plain("1"))
        peer.close()
        closed.set()

    with ScriptedServer(script, answers(plain("2"))) as server, kind() as client:
        assert b"1" == client.ask(get(server))[2]
        assert closed.wait(10)
        assert b"2" == client.ask(post(server, b"once"))[2]

    assert [(b"", 0), (b"once", 1)] == [(heard.body, heard.connection) for heard in server.heard]


@both
def test_an_unasked_answer_spoils_a_kept_connection(kind: type[AnyClient]) -> None:
    """What came while it was idle must not answer the next request."""
    said = threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(plain("1"))
        peer.say(plain("unasked", "408 Request Timeout"))
        said.set()
        peer.wait_for_close()

    with ScriptedServer(script, answers(plain("2"))) as server, kind() as client:
        assert b"1" == client.ask(get(server))[2]
        assert said.wait(10)
        assert (200, b"2") == client.ask(get(server))[::2]


def dies_on_the_second(peer: Peer) -> None:
    """Answer a request, and close on the next without a word."""
    peer.answer(plain("1"))
    peer.hear()


@both
def test_a_request_that_may_be_sent_twice_is(kind: type[AnyClient]) -> None:
    """A kept connection dies under a request: a fresh one serves it."""
    with ScriptedServer(dies_on_the_second, answers(plain("2"))) as server, kind() as client:
        assert b"1" == client.ask(get(server))[2]
        assert b"2" == client.ask(get(server))[2]

    assert [0, 0, 1] == [heard.connection for heard in server.heard]


@both
def test_a_post_is_sent_twice_only_if_the_caller_says_so(kind: type[AnyClient]) -> None:
    """By default the error is told, as the server may have done the work."""
    with ScriptedServer(dies_on_the_second) as server, kind() as client:
        client.ask(post(server, b"1"))
        with pytest.raises(ConnectionLostError, match="without an answer"):
            client.ask(post(server, b"2"))

    with ScriptedServer(dies_on_the_second, answers(plain("3"))) as server, kind() as client:
        client.ask(post(server, b"1"))
        assert b"3" == client.ask(post(server, b"2", idempotent=True))[2]


@both
def test_a_fresh_connection_that_dies_is_an_error(kind: type[AnyClient]) -> None:
    """It is not tried again: the server is at fault."""
    with (
        ScriptedServer(lambda peer: peer.hear()) as server,
        kind() as client,
        pytest.raises(ConnectionLostError, match="without an answer"),
    ):
        client.ask(get(server))


@both
def test_a_response_that_began_is_never_asked_for_again(kind: type[AnyClient]) -> None:
    """A kept connection that dies in the middle of a head is an error, though it is a GET."""

    def script(peer: Peer) -> None:
        peer.answer(plain("1"))
        peer.answer(b"HTTP/1.1 200")

    with ScriptedServer(script) as server, kind() as client:
        assert b"1" == client.ask(get(server))[2]
        with pytest.raises(ConnectionLostError, match="in the middle of the head"):
            client.ask(get(server))


@both
@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (CHUNKED + b"5\r\nhel", ConnectionLostError, "in the middle of the body"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhel", ConnectionLostError, "the body"),
        (b"HTTP/1.1 200 OK\r\na: " + b"x" * 70_000, ProtocolError, "over 65536 bytes"),
        (b"220 mail.example ESMTP\r\n", ProtocolError, "does not begin with HTTP/1."),
        (CHUNKED + b"zz\r\n", ProtocolError, "the size of a chunk is malformed"),
    ],
)
def test_broken_responses_are_errors(
    kind: type[AnyClient], said: bytes, error: type[Exception], message: str
) -> None:
    """Truncation, garbage and too much are told apart, and nothing is returned."""

    def script(peer: Peer) -> None:
        peer.hear()
        try:
            peer.say(said)
        except ConnectionError:
            pass  # the client has seen enough

    with (
        ScriptedServer(script) as server,
        kind() as client,
        pytest.raises(error, match=message),
    ):
        client.ask(get(server))


@both
def test_a_reset_is_a_lost_connection(kind: type[AnyClient]) -> None:
    """What the system calls it is in the message."""

    def script(peer: Peer) -> None:
        peer.answer(CHUNKED + chunked(b"some"))
        peer.reset()

    with (
        ScriptedServer(script) as server,
        kind() as client,
        pytest.raises(ConnectionLostError, match=r"the connection broke: .*reset by peer"),
    ):
        client.ask(get(server))


@both
def test_a_server_may_answer_before_it_has_read_the_request(kind: type[AnyClient]) -> None:
    """A refusal is returned although the request could not be sent whole."""

    def script(peer: Peer) -> None:
        peer.say(plain("too large", "413 Content Too Large", ["connection: close"]))
        peer.wait_for_close()

    def endless() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 50_000

    with ScriptedServer(script) as server, kind() as client:
        assert (413, b"too large") == client.ask(post(server, endless()))[::2]


@both
def test_a_body_has_a_limit_where_one_is_given(kind: type[AnyClient]) -> None:
    """The connection is closed in the middle of what is too large."""

    def script(peer: Peer) -> None:
        peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 100)
        peer.wait_for_close()

    with (
        ScriptedServer(script) as server,
        kind() as client,
        pytest.raises(ProtocolError, match="over 10 bytes, which is the most allowed"),
    ):
        client.ask(get(server), limit=10)


@both
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n", CHUNKED + chunked(b"some")])
def test_silence_is_a_timeout(kind: type[AnyClient], said: bytes) -> None:
    """A server that stops at any point is left after the idle time."""

    def script(peer: Peer) -> None:
        peer.answer(said)
        peer.wait_for_close()

    with (
        ScriptedServer(script) as server,
        kind() as client,
        pytest.raises(RequestTimeoutError, match=r"nothing moved .* for 0.05 s") as caught,
    ):
        client.ask(get(server, idle=0.05))
    assert isinstance(caught.value, TimeoutError)


@both
def test_a_slow_response_is_a_timeout_of_the_whole(kind: type[AnyClient]) -> None:
    """A server that sends a byte now and then cannot hold a client for ever."""

    def script(peer: Peer) -> None:
        peer.answer(CHUNKED)
        try:
            while True:
                peer.say(chunked(b"x"))
        except ConnectionError:
            pass

    with (
        ScriptedServer(script) as server,
        kind() as client,
        pytest.raises(RequestTimeoutError, match=r"has taken over 0.2 s \(Timeouts.whole\)"),
    ):
        client.ask(get(server, idle=60, whole=0.2))


@both
def test_a_server_that_reads_nothing_is_a_timeout(kind: type[AnyClient]) -> None:
    """Sending is limited by the idle time, too."""
    done = threading.Event()

    def script(peer: Peer) -> None:
        assert done.wait(10)

    with ScriptedServer(script) as server, kind() as client:
        body = b"x" * 50_000_000
        request = OutgoingRequest(
            method="POST", url=server.origin, body=body, timeouts=Timeouts(idle=0.1)
        )
        with pytest.raises(RequestTimeoutError, match="nothing moved"):
            client.ask(request)
        done.set()


@both
def test_nobody_listens(kind: type[AnyClient]) -> None:
    """The error names the server and what the system says; it is a ConnectionError."""
    with ScriptedServer() as server:
        pass
    with kind() as client, pytest.raises(ConnectFailedError, match=f"to 127.0.0.1:{server.port}: "):
        client.ask(get(server))


@both
def test_a_name_that_is_none(kind: type[AnyClient]) -> None:
    """A host that cannot be looked up is no connection, either."""
    with kind() as client, pytest.raises(ConnectFailedError, match=r"to no.such.invalid: "):
        client.ask(OutgoingRequest(url="http://no.such.invalid/"))


@both
def test_a_pool_that_keeps_nothing(kind: type[AnyClient]) -> None:
    """Each connection is closed after its response."""
    script = answers(plain())
    with (
        ScriptedServer(script, script) as server,
        kind(limits=PoolLimits(per_origin=0)) as client,
    ):
        client.ask(get(server))
        client.ask(get(server))

    assert [0, 1] == [heard.connection for heard in server.heard]


def test_threads_share_a_client() -> None:
    """Requests of many threads at once each get their own response."""

    def echo(peer: Peer) -> None:
        for _ in range(20):
            heard = peer.hear()
            peer.say(plain(heard.body))

    got: list[tuple[bytes, bytes]] = []

    def ask(client: HTTPClient, server: ScriptedServer, number: int) -> None:
        for count in range(5):
            body = f"{number}.{count}".encode()
            with client.send(post(server, body)) as response:
                got.append((body, response.read()))

    with ScriptedServer(*[echo] * 4) as server, HTTPClient() as client:
        threads = [threading.Thread(target=ask, args=(client, server, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert 20 == len(got)
    assert all(sent == received for sent, received in got)


@pytest.mark.parametrize("said", [b"", CHUNKED + chunked(b"some")], ids=["head", "body"])
def test_an_abort_ends_the_wait(said: bytes) -> None:
    """Set from another thread, it ends the wait for the head and for the body, and closes."""
    abort = Abort()

    def script(peer: Peer) -> None:
        peer.answer(said)
        abort.set()
        peer.wait_for_close()

    with (
        ScriptedServer(script) as server,
        HTTPClient() as client,
        pytest.raises(RequestAbortedError, match="was aborted"),
    ):
        client.send(get(server), abort=abort).read()


def test_an_abort_that_was_set_before_lets_nothing_be_sent() -> None:
    """No request reaches the server."""
    abort = Abort()
    abort.set()
    with (
        ScriptedServer(lambda peer: peer.hear()) as server,
        HTTPClient() as client,
        pytest.raises(RequestAbortedError),
    ):
        client.send(get(server), abort=abort)

    assert [] == server.heard


def test_an_async_body_needs_the_other_client() -> None:
    """A thread cannot iterate it."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b""

    with (
        ScriptedServer(lambda peer: peer.wait_for_close()) as server,
        HTTPClient() as client,
        pytest.raises(TypeError, match="only a client for tasks can send it"),
    ):
        client.send(post(server, pieces()))


def test_a_response_is_read_once() -> None:
    """What was closed cannot be read: the error says so, as the rest is lost."""
    script = answers(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
    with ScriptedServer(script) as server, HTTPClient() as client:
        response = client.send(get(server))
        response.close()
        with pytest.raises(ConnectionLostError, match="was closed before its body was read"):
            response.read()


def test_fetch_is_a_transport() -> None:
    """The context gives status, headers and the body as it comes."""
    with (
        ScriptedServer(answers(plain("hello"))) as server,
        HTTPClient() as client,
        client.fetch(get(server)) as fetched,
    ):
        assert (200, [b"hello"]) == (fetched.status, list(fetched.body))
