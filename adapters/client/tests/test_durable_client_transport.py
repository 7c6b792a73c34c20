"""The HTTP client underneath: ours, and client objects of ``httpx2`` and ``httpx``."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import httpx2
import pytest

from durable_client import Chunk, ClientResponse, fetch_with_stream, fetch_with_stream_async
from durable_client._transport import is_delimited, translated
from durable_core.codec.stream_events import Final, Metadata, RedirectInfo
from durable_core.errors import (
    ConnectFailedError,
    ConnectionLostError,
    ProtocolError,
    RequestTimeoutError,
)
from durable_core.http.headers import Headers
from support.scripted_server import Peer, ScriptedServer, chunked, plain, sse_head
from support.source_tree import ROOT
from support.stream_clients import CALLS, Call, Log, sse

TLS = ROOT / "tests" / "data" / "tls"
CHUNKED = sse_head("transfer-encoding: chunked")
HELLO = Metadata(run_id="r")
DONE = Final(status=202, headers=Headers({"x-a": "b"}), body=b"done")
LIBRARIES = (httpx2, httpx)

#: What a client object is made with.
Settings = Mapping[str, Any]
NONE: Settings = {}


def by_client(library: Any) -> Callable[..., ClientResponse]:
    """Return a call by a client object of a library."""

    def call(url: str, *, of_client: Settings = NONE, **options: Any) -> ClientResponse:
        with library.Client(**of_client) as client:
            response = fetch_with_stream(url, client=client, **options)
            assert not client.is_closed
            return response

    return call


def by_async_client(library: Any) -> Callable[..., ClientResponse]:
    """Return a call by an async client object of a library."""

    def call(url: str, *, of_client: Settings = NONE, **options: Any) -> ClientResponse:
        async def main() -> ClientResponse:
            async with library.AsyncClient(**of_client) as client:
                response = await fetch_with_stream_async(url, client=client, **options)
                assert not client.is_closed
                return response

        return asyncio.run(main())

    return call


OWN_CLIENTS = [
    pytest.param(make(library), id=f"{library.__name__}-{kind}")
    for library in LIBRARIES
    for kind, make in (("threads", by_client), ("tasks", by_async_client))
]
by_own_client = pytest.mark.parametrize("call", OWN_CLIENTS)
both = pytest.mark.parametrize("call", CALLS, ids=("threads", "tasks"))


# A client object of the caller


@by_own_client
def test_a_stream_is_followed(call: Call) -> None:
    """Redirects are left to the machine, and pieces come as they are sent."""
    told = threading.Semaphore(0)
    log = Log()

    def on_data(event: Chunk) -> None:
        log.events.append(event)
        told.release()

    def run(peer: Peer) -> None:
        url = f"{server.origin}/second"
        peer.answer(sse_head() + sse(HELLO, RedirectInfo(run_id="r", url=url)))
        for number in (1, 2):
            peer.say(sse(Chunk(data=number, step_id="s")))
            assert told.acquire(timeout=10)

    def second(peer: Peer) -> None:
        peer.answer(sse_head() + sse(HELLO, Chunk(data=3, step_id="s"), DONE))

    def redirect(peer: Peer) -> None:
        peer.answer(plain("", "307 Temporary Redirect", ["location: /run", "connection: close"]))

    with ScriptedServer(redirect, run, second) as server:
        response = call(
            server.origin, method="POST", headers={"X-A": "b"}, body=b"in", on_data=on_data
        )

    assert (202, "b", b"done") == (response.status, response.headers["x-a"], response.body)
    assert [1, 2, 3] == log.data
    assert [("/", b"in"), ("/run", b"in"), ("/second", b"")] == [
        (heard.target, heard.body) for heard in server.heard
    ]
    assert ["b"] * 3 == [heard.headers.get("x-a") for heard in server.heard]


def after_another_request(library: Any, is_async: bool, url: str, **options: Any) -> ClientResponse:
    """Call by a client that has a connection from another request."""
    if not is_async:
        with library.Client() as client:
            client.get(url)
            return fetch_with_stream(url, client=client, **options)

    async def main() -> ClientResponse:
        async with library.AsyncClient() as client:
            await client.get(url)
            return await fetch_with_stream_async(url, client=client, **options)

    return asyncio.run(main())


@pytest.mark.parametrize("is_async", [False, True], ids=["threads", "tasks"])
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: str(library.__name__))
@pytest.mark.parametrize("ends", [Peer.close, Peer.reset], ids=["closed", "reset"])
@pytest.mark.parametrize("has_key", [True, False], ids=["key", "no-key"])
def test_a_connection_that_is_closed_when_it_is_used_again(
    library: Any, is_async: bool, ends: Callable[[Peer], None], has_key: bool
) -> None:
    """The request is sent again on a new connection, if its key lets the server see that."""

    def closes(peer: Peer) -> None:
        peer.answer(plain("warm"))
        peer.hear()
        ends(peer)

    def answers(peer: Peer) -> None:
        peer.answer(plain("done"))

    headers = {"Idempotency-Key": '"k"'} if has_key else {}
    call = {"method": "POST", "body": b"in", "headers": headers}
    with ScriptedServer(closes, answers) as server:
        if has_key:
            response = after_another_request(library, is_async, server.origin, **call)
            assert (200, b"done") == (response.status, response.body)
        else:
            with pytest.raises(ConnectionLostError):
                after_another_request(library, is_async, server.origin, **call)

    sent = [(heard.connection, heard.method, heard.body) for heard in server.heard]
    again = [(1, "POST", b"in")] if has_key else []
    assert [(0, "GET", b""), (0, "POST", b"in"), *again] == sent


@both
def test_a_new_connection_that_is_closed(call: Call) -> None:
    """The server may have begun a run: the caller is told, and nothing is sent again."""
    with (
        ScriptedServer(lambda peer: peer.hear(), lambda peer: peer.hear()) as server,
        pytest.raises(ConnectionLostError),
    ):
        call(server.origin)
    assert 1 == len(server.heard)


@by_own_client
def test_a_break_is_mended(call: Call) -> None:
    """A body in chunks that breaks off is noticed, and the stream continues where it was."""
    told, second_is_open = threading.Event(), threading.Event()
    log = Log()

    def on_data(event: Chunk) -> None:
        log.events.append(event)
        told.set()

    def run(peer: Peer) -> None:
        info = RedirectInfo(run_id="r", url=f"{server.origin}/second")
        events = sse(HELLO, info) + sse(Chunk(data=1, step_id="s"), id="1")
        peer.answer(CHUNKED + chunked(b"retry: 1\n\n", events))
        assert told.wait(10)
        assert second_is_open.wait(10)
        peer.reset()

    def second(peer: Peer) -> None:
        peer.answer(CHUNKED + chunked(sse(HELLO)))
        second_is_open.set()
        peer.wait_for_close()

    def resumed(peer: Peer) -> None:
        events = sse(HELLO, Chunk(data=2, step_id="s"), DONE)
        peer.answer(CHUNKED + chunked(events) + b"0\r\n\r\n")

    with ScriptedServer(run, second, resumed) as server:
        response = call(server.origin, on_data=on_data)

    assert (202, [1, 2]) == (response.status, log.data)
    assert [None, None, "1"] == [heard.headers.get("last-event-id") for heard in server.heard]


@by_own_client
def test_its_own_settings_go_to_the_first_origin_only(call: Call) -> None:
    """Authentication, headers, cookies and query parameters of the client; for another origin
    nothing but what says what is accepted."""
    info = "runId=1&token=2"
    settings = {
        "auth": ("me", "secret"),
        "headers": {"x-key": "secret"},
        "cookies": {"session": "secret"},
        "params": {"key": "secret"},
    }
    with ScriptedServer(lambda peer: peer.answer(plain("done"))) as other:
        hop = plain("", "307 Temporary Redirect", [f"location: {other.origin}/?{info}"])
        near = plain("", "307 Temporary Redirect", ["location: /near"])
        with ScriptedServer(
            lambda peer: peer.answer(near), lambda peer: peer.answer(hop)
        ) as server:
            response = call(server.origin, headers={"x-own": "secret"}, of_client=settings)

    assert "done" == response.text()
    first, second = server.heard
    for heard in (first, second):
        secret = {name for name, value in heard.headers.items() if "secret" in value}
        assert {"x-key", "x-own", "cookie"} == secret
        assert heard.headers["authorization"].startswith("Basic ")
    assert ("/?key=secret", "/near", f"/?{info}") == (
        first.target,
        second.target,
        other.heard[0].target,
    )
    assert set(other.heard[0].headers) <= {
        *("host", "accept", "accept-encoding", "connection", "user-agent")
    }


@by_own_client
def test_its_proxy_is_used(call: Call) -> None:
    """The proxy is asked for the URL as a whole."""
    with ScriptedServer(lambda peer: peer.answer(plain("by proxy"))) as proxy:
        response = call("http://app.invalid/run", of_client={"proxy": proxy.origin})

    assert "by proxy" == response.text()
    assert "http://app.invalid/run" == proxy.heard[0].target


@by_own_client
def test_its_time_outs_give_way(call: Call) -> None:
    """A stream may be silent for as long as ``idle_timeout`` says."""
    pause = threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(CHUNKED)
        assert not pause.wait(0.3)
        peer.say(chunked(sse(DONE)), b"0\r\n\r\n")

    with ScriptedServer(script) as server:
        assert 202 == call(server.origin, of_client={"timeout": 0.1}).status


@by_own_client
def test_its_errors_are_ours(call: Call) -> None:
    """The library's own error is the cause."""
    with ScriptedServer() as server:
        pass
    with pytest.raises(ConnectFailedError, match="no connection to the server") as caught:
        call(server.origin)
    assert "ConnectError" == type(caught.value.__cause__).__name__

    with (
        ScriptedServer(lambda peer: peer.wait_for_close()) as server,
        pytest.raises(RequestTimeoutError, match=r"for 0\.1 s \(idle_timeout=\)"),
    ):
        call(server.origin, idle_timeout=0.1)


@by_own_client
def test_a_compressed_stream_is_decoded(call: Call) -> None:
    """If the caller asks for compression, the client undoes it."""
    import gzip

    data = gzip.compress(sse(HELLO, DONE))
    answer = sse_head("content-encoding: gzip", f"content-length: {len(data)}") + data
    with ScriptedServer(lambda peer: peer.answer(answer)) as server:
        response = call(server.origin, headers={"accept-encoding": "gzip"})

    assert 202 == response.status
    assert "gzip" == server.heard[0].headers["accept-encoding"]


# Our own client


@both
def test_certificates_are_verified(call: Call) -> None:
    """A server that nobody vouches for is no connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    with (
        ScriptedServer(lambda peer: peer.hear(), tls=context) as server,
        pytest.raises(ConnectFailedError, match=r"(?i)certificate"),
    ):
        call(server.origin)


@both
def test_urls_are_not_logged(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    """They may have a token; a client of ``httpx2`` would log them at INFO."""
    caplog.set_level(logging.INFO)
    with ScriptedServer(lambda peer: peer.answer(plain("done"))) as server:
        call(f"{server.origin}/?durable-run=1&durable-token=secret")

    assert "secret" not in caplog.text
    assert "/?durable-run=1&durable-token=secret" == server.heard[0].target


@both
def test_the_environment_names_no_proxy(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """For that the caller gives a client of its own."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with ScriptedServer(lambda peer: peer.answer(plain("done"))) as server:
        assert "done" == call(server.origin).text()


@both
def test_it_says_who_it_is(call: Call) -> None:
    """Unless the caller does."""
    done = plain("done")
    with ScriptedServer(lambda peer: peer.answer(done), lambda peer: peer.answer(done)) as server:
        call(server.origin)
        call(server.origin, headers={"User-Agent": "mine"})

    assert ["durable-client", "mine"] == [heard.headers["user-agent"] for heard in server.heard]


@both
@pytest.mark.parametrize("body", ["text", {"a": 1}, 5])
def test_bodies_are_bytes(call: Call, body: object) -> None:
    """What cannot be sent is a TypeError before anything is sent."""
    with pytest.raises(TypeError, match="must be bytes, an iterable of bytes or None"):
        call("http://a", body=body)


@both
def test_a_body_of_a_bytearray(call: Call) -> None:
    """It is taken as bytes, which can be sent again."""
    hops = (plain("", "307 Temporary Redirect", ["location: /"]), plain("done"))
    with ScriptedServer(
        lambda peer: peer.answer(hops[0]), lambda peer: peer.answer(hops[1])
    ) as server:
        call(server.origin, method="POST", body=bytearray(b"in"))

    assert [b"in", b"in"] == [heard.body for heard in server.heard]


def test_an_async_body_needs_a_task() -> None:
    """A thread cannot iterate it: the error names the other function."""

    async def pieces() -> Any:
        yield b""

    with pytest.raises(TypeError, match="use fetch_with_stream_async"):
        fetch_with_stream("http://a", body=pieces())


# Errors and responses


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ConnectTimeout", RequestTimeoutError),
        ("ReadTimeout", RequestTimeoutError),
        ("WriteTimeout", RequestTimeoutError),
        ("PoolTimeout", RequestTimeoutError),
        ("ConnectError", ConnectFailedError),
        ("ProxyError", ConnectFailedError),
        ("ReadError", ConnectionLostError),
        ("WriteError", ConnectionLostError),
        ("CloseError", ConnectionLostError),
        ("RemoteProtocolError", ConnectionLostError),
        ("DecodingError", ProtocolError),
    ],
)
def test_each_error_has_its_own(library: Any, name: str, expected: type[Exception]) -> None:
    """The library's error is the cause."""
    error = getattr(library, name)("said")

    for idle_timeout in (1.0, None):  # a transport may have time-outs of its own
        ours = translated(error, idle_timeout)
        assert (expected, error) == (type(ours), ours.__cause__)


@pytest.mark.parametrize("error", [LookupError("x"), httpx2.LocalProtocolError("x")])
def test_other_errors_stay(error: Exception) -> None:
    """They are for the caller, who knows the client."""
    assert error is translated(error, None)


@pytest.mark.parametrize(
    ("version", "headers", "expected"),
    [
        (b"HTTP/1.1", {"content-length": "0"}, True),
        (b"HTTP/1.1", {"transfer-encoding": "chunked"}, True),
        (b"HTTP/1.1", {}, False),
        (b"HTTP/1.0", {}, False),
        (b"HTTP/2", {}, True),
    ],
)
def test_bodies_that_end_with_their_connection(
    version: bytes, headers: dict[str, str], expected: bool
) -> None:
    """Only in HTTP/1, and only without a length and chunks."""

    class Body(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b""

    response = httpx2.Response(
        200, headers=headers, stream=Body(), extensions={"http_version": version}
    )
    assert expected == is_delimited(response)


@both
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"client": 5}, "client must be a client of httpx2 or httpx, not 5"),
        ({"client": httpx2.Client}, "client must be a client of httpx2 or httpx, not <class"),
        ({"on_data": 5}, "on_data must be a function, not int"),
        ({"on_commit": "x"}, "on_commit must be a function, not str"),
        ({"collect": []}, "collect must be a Collector, not list"),
        ({"headers": ["a"]}, "headers are a mapping, or pairs of a name and a value"),
    ],
)
def test_arguments_are_checked_first(call: Call, arguments: Any, says: str) -> None:
    """A mistake is an error before anything is sent."""
    with pytest.raises(TypeError, match=says):
        call("http://127.0.0.1:1/", **arguments)
    with pytest.raises(TypeError, match="a URL must be a str, not int"):
        call(5)


class Wrapper:
    """A client of one's own, which is no context, and whose ``send`` is a plain function."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.build_request = inner, inner.build_request

    def send(self, request: Any, **options: Any) -> Any:
        """Return what the inner one returns: a response, or a coroutine."""
        return self.inner.send(request, **options)


def test_a_client_within_another() -> None:
    """It need not be written as the libraries write theirs."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, text="here")

    transport = httpx2.MockTransport(answer)

    async def call_async() -> ClientResponse:
        async with httpx2.AsyncClient(transport=transport) as inner:
            client: Any = Wrapper(inner)
            return await fetch_with_stream_async("http://x.example/", client=client)

    with httpx2.Client(transport=transport) as inner:
        client: Any = Wrapper(inner)
        assert "here" == fetch_with_stream("http://x.example/", client=client).text()
    assert "here" == asyncio.run(call_async()).text()


def test_clients_and_callbacks_of_the_other_kind() -> None:
    """A thread can await nothing, and a task must not wait for a plain client."""

    async def later(chunk: Chunk) -> None:
        """Not called."""

    with httpx2.Client() as plain_client:
        with pytest.raises(TypeError, match="on_data must not be 'async def'; use fetch_with_s"):
            fetch_with_stream("http://127.0.0.1:1/", on_data=later)
        other: Any = httpx2.AsyncClient()
        with pytest.raises(TypeError, match="fetch_with_stream needs a Client, not AsyncClient"):
            fetch_with_stream("http://127.0.0.1:1/", client=other)
        other = plain_client
        with pytest.raises(TypeError, match="fetch_with_stream_async needs an AsyncClient, not Cl"):
            asyncio.run(fetch_with_stream_async("http://127.0.0.1:1/", client=other))
