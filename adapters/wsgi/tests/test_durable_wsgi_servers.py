"""One application, answering the same under every server; judged by what is on the wire."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from durable_core.codec.sse import SSEDecoder
from support.raw_http import exchange
from support.streams import described
from support.wsgi_sample import ALL_BYTES, CHUNKS, METHODS
from support.wsgi_servers import SERVERS, Server


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")  # QUERY is younger than PEP 3333
@pytest.mark.parametrize("method", METHODS)
def test_method_arrives(server: Server, method: str) -> None:
    """Every method reaches the handler; HEAD gets no body, and the length it would have."""
    body = None if method in ("GET", "HEAD") else b"some"
    reply = server.ask(method, "/echo/", body=body)

    assert 200 == reply.status
    if method == "HEAD":
        assert b"" == reply.body
        assert int(reply.get("content-length") or 0) > 100
    else:
        assert (method, (body or b"").hex()) == (reply.json()["method"], reply.json()["body"])


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/echo/plain", "/echo/plain"),
        ("/echo/%C3%A9%E2%82%AC", "/echo/é€"),
        ("/echo/a%2Fb%3Fc", "/echo/a/b?c"),
        ("/echo/%25%20+;=:@", "/echo/% +;=:@"),
        ("/echo/%ff", "/echo/\ufffd"),
    ],
)
def test_path_arrives(server: Server, target: str, path: str) -> None:
    """The handler sees the decoded path, below where the application is mounted."""
    seen = server.ask("GET", target).json()

    assert (path, server.prefix) == (seen["path"], seen["root_path"])
    assert (
        f"http://localhost:{server.port}{server.prefix}/echo/"
        == seen["url"][: -len(seen["url"].partition("/echo/")[2])]
    )


def test_query_arrives_verbatim(server: Server) -> None:
    """The query is not decoded and encoded again on its way."""
    query = "a=1&a=%32&b=%C3%A9+x&c=%zz&d=/?:@!$'()*,;&e"
    seen = server.ask("GET", f"/echo/?{query}").json()

    assert query == seen["url"].partition("?")[2]
    assert [["a", "1"], ["a", "2"], ["b", "é x"]] == seen["query"][:3]


def test_headers_arrive(server: Server) -> None:
    """Header fields arrive, with octets beyond ASCII, repeated ones joined."""
    fields = (("X-One", "é"), ("x-two", "a"), ("X-Two", "b"), ("Content-Type", "x/y"))
    seen = dict(server.ask("POST", "/echo/", fields, b"x").json()["headers"])

    assert ("é", "x/y", "1") == (seen["x-one"], seen["content-type"], seen["content-length"])
    assert ["a", "b"] == re.split(", ?", seen["x-two"])


@pytest.mark.parametrize("size", [0, 1, 8192, 65_537, 1024 * 1024])
def test_body_arrives(server: Server, size: int) -> None:
    """A body of any size within the limit arrives as it was sent."""
    body = (ALL_BYTES * (size // 256 + 1))[:size]
    seen = server.ask("POST", "/echo/", body=body).json()

    assert body.hex() == seen["body"]


def test_oversized_body_is_refused(server: Server) -> None:
    """A body over the limit is answered with 413, before it is sent unless the server wants it."""
    size = 1024 * 1024 + 1
    if server.reads_ahead:
        reply = server.ask("POST", "/echo/", body=b"x" * size)
    else:
        reply = server.ask("POST", "/echo/", (("Content-Length", str(size)),))

    assert (413, "urn:durable:content-too-large") == (reply.status, reply.json()["type"])


@pytest.mark.parametrize("length", ["x", "-1", "1, 2", "1.0", "0x10"])
def test_bad_content_length_is_refused(server: Server, length: str) -> None:
    """A length that is no number is answered with 400."""
    reply = server.ask("POST", "/echo/", (("Content-Length", length),))

    assert 400 == reply.status


def test_cut_off_body_never_reaches_the_handler(server: Server) -> None:
    """A client that goes away within the body gets 400, or nothing."""
    head = f"POST {server.prefix}/echo/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nshort"
    answer = exchange(server.port, head.encode())

    assert not answer or b"400" in answer.split(b"\r\n")[0]


def test_repeated_and_binary_headers_leave(server: Server) -> None:
    """Repeated fields leave as such and in order; a tab in a value leaves as a space."""
    reply = server.ask("GET", "/cookies")

    assert ["a=1", "b=2"] == reply.get_all("set-cookie")
    assert ("é ü", "6") == (reply.get("x-own"), reply.get("content-length"))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_binary_body_leaves(server: Server, method: str) -> None:
    """All octets leave as they are, with their number; to HEAD with the number only."""
    reply = server.ask(method, "/binary")

    assert (ALL_BYTES if method == "GET" else b"") == reply.body
    assert (200, "256") == (reply.status, reply.get("content-length"))


def test_no_content(server: Server) -> None:
    """204 has neither content nor fields about it (but for a length that wsgiref adds itself)."""
    reply = server.ask("DELETE", "/empty")

    assert (204, "No Content", b"") == (reply.status, reply.reason, reply.body)
    assert reply.get("content-length") in (None, "0")
    assert reply.get("content-type") is None


@pytest.mark.parametrize("path", ["/stream", "/async-stream"])
def test_streamed_body_leaves(server: Server, path: str) -> None:
    """The chunks of an iterator arrive in order, from def and async def handlers alike."""
    reply = server.ask("GET", path)

    assert (200, b"".join(CHUNKS)) == (reply.status, reply.body)


def test_errors_of_handlers(server: Server) -> None:
    """HTTPError becomes its response, any other exception a 500 problem without details."""
    refused, broken = server.ask("GET", "/refused"), server.ask("GET", "/broken")

    assert (418, "yes") == (refused.status, refused.get("x-own"))
    assert (500, "urn:durable:internal-error") == (broken.status, broken.json()["type"])
    assert b"ZeroDivision" not in broken.body


def test_handlers_leave_the_connection_alone(server: Server) -> None:
    """Fields that are the server's business are not a handler's to set."""
    reply = server.ask("GET", "/hop")

    assert (200, None) == (reply.status, reply.get("status"))
    assert reply.get("connection") in ("close", None)


def test_steps_run(server: Server) -> None:
    """A durable endpoint answers on the same connection, with its own status and headers."""
    reply = server.ask("GET", "/steps?n=21")

    assert (201, "yes", {"doubled": 42}) == (reply.status, reply.get("x-own"), reply.json())


@pytest.mark.parametrize(("method", "status"), [("GET", 302), ("POST", 303), ("DELETE", 303)])
def test_handoff_and_wait(server: Server, method: str, status: int) -> None:
    """A run that sleeps redirects its client to a URL that has the response, wherever mounted."""
    redirect = server.ask(method, "/nap?trip=T1")
    location = redirect.get("location") or ""
    assert (status, "no-store") == (redirect.status, redirect.get("cache-control"))
    assert location.startswith("?durable-run=")

    answers = [server.ask("GET", f"/nap{location}") for _ in range(2)]

    for reply in answers:
        assert (201, "x/y", ALL_BYTES) == (reply.status, reply.get("content-type"), reply.body)


def test_wrong_token(server: Server) -> None:
    """The wait URL refuses a token that opens nothing."""
    reply = server.ask("GET", "/nap?durable-run=x&durable-token=y")

    assert (403, "urn:durable:invalid-token") == (reply.status, reply.json()["type"])


@pytest.mark.parametrize("path", ["/told", "/async-told"])
def test_event_streams_are_not_kept_back(server: Server, path: str, tmp_path: Path) -> None:
    """A chunk is with the client while its step still runs; the stream ends with the response."""
    gate, decoder, told = tmp_path / "gate", SSEDecoder(), list[str]()
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    target = f"{server.prefix}{path}?gate={gate}"
    connection.request("GET", target, headers={"accept": "text/event-stream"})
    with closing(connection), connection.getresponse() as response:
        assert "text/event-stream" == response.getheader("content-type")
        while data := response.read1():
            told += [described(event) for event in decoder.feed(data)]
            if "a: first" in told:
                gate.touch()

    assert ["meta", "a: first", "a: second", "commit a", "redirect", "200: told"] == told
