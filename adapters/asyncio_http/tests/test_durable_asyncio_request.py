"""From the bytes of requests to ``Request`` objects, in whatever pieces they come."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core import Limits, Request, Response
from support.asyncio_exchange import converse, replies_in
from support.raw_http import Reply

CONVERSATION = b"".join(
    (
        b"\r\nPOST /a%2Fb?q=1&q=%00 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX-One: a\r\n"
        b"x-one:b\t\r\n\r\nhello",
        b"PUT /chunks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b"1\r\n\r\r\nA;ext=1\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n",
        b"HEAD http://other:81/x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /last HTTP/1.0\r\n\r\n",
    )
)
METHODS = ("POST", "PUT", "HEAD", "GET")


class Recorder:
    """An application that keeps what it is asked, and tells its number."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        return Response.json({"number": len(self.requests)})


def serve(*pieces: bytes | None, limits: Limits | None = None) -> tuple[list[Request], bytes]:
    """Return the requests that were found in what a client sent, and what it got."""
    recorder = Recorder()
    sink = converse(recorder, *pieces, limits=limits)
    return recorder.requests, bytes(sink.data)


def one(data: bytes) -> Request:
    """Return the one request."""
    [request], _ = serve(data)
    return request


def refused(*pieces: bytes | None, limits: Limits | None = None) -> Reply:
    """Return the answer to a request that is refused by the server itself."""
    requests, data = serve(*pieces, limits=limits)
    assert [] == requests
    [reply] = replies_in(data, "GET")
    assert "close" == reply.get("connection")
    assert "application/problem+json" == reply.get("content-type")
    return reply


def get(*fields: str, target: str = "/", version: str = "1.1", method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: shop:8000", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


# Whole conversations


def test_a_conversation() -> None:
    """Requests with every framing, sent at once, are told apart and answered in order."""
    requests, data = serve(CONVERSATION)
    post, put, head, last = requests

    assert ("POST", "http://x/a%2Fb?q=1&q=%00", b"hello") == (post.method, post.url, post.body)
    assert ("a", "b") == post.headers.get_all("X-One")
    assert ("PUT", b"\r0123456789") == (put.method, put.body)
    assert ("HEAD", "http://other:81/x", "other:81") == (
        head.method,
        head.url,
        head.headers["host"],
    )
    assert ("GET", "http://127.0.0.1:8000/last", b"") == (last.method, last.url, last.body)
    replies = replies_in(data, *METHODS)
    assert [b'{"number":1}', b'{"number":2}', b"", b'{"number":4}'] == [r.body for r in replies]
    assert [None, None, None, "close"] == [reply.get("connection") for reply in replies]


def test_two_pieces_are_as_good_as_one() -> None:
    """Wherever a conversation is split, the same requests are seen."""
    whole, _ = serve(CONVERSATION)

    for at in range(1, len(CONVERSATION)):
        requests, data = serve(CONVERSATION[:at], CONVERSATION[at:])

        assert whole == requests, at
        assert 4 == len(replies_in(data, *METHODS)), at


@given(st.sets(st.integers(1, len(CONVERSATION) - 1)))
def test_any_pieces_are_as_good_as_one(cuts: Iterable[int]) -> None:
    """However many pieces a conversation comes in, the same requests are seen."""
    bounds = [0, *sorted(cuts), len(CONVERSATION)]
    pieces = [CONVERSATION[a:b] for a, b in pairwise(bounds)]

    assert serve(CONVERSATION)[0] == serve(*pieces)[0]


@given(st.binary(max_size=300), st.lists(st.integers(1, 100), min_size=1))
def test_chunked_bodies_arrive(body: bytes, sizes: list[int]) -> None:
    """A body is what its chunks hold, whatever their sizes, and the next request follows."""
    coded, rest, turn = bytearray(), body, 0
    while rest:
        size = sizes[turn % len(sizes)]
        coded += b"%x\r\n%b\r\n" % (len(rest[:size]), rest[:size])
        rest, turn = rest[size:], turn + 1
    request = get("Transfer-Encoding: chunked", method="POST") + coded + b"0\r\n\r\n"

    requests, _ = serve(request + get())

    assert [("POST", body), ("GET", b"")] == [(each.method, each.body) for each in requests]


@given(st.binary(max_size=200))
def test_odd_bytes_do_no_harm(data: bytes) -> None:
    """Whatever comes, the answer is nothing, or a refusal that ends the connection."""
    requests, answer = serve(data, b"\r\n\r\n")

    assert [] == requests
    assert b"" == answer or answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 501", b"HTTP/1.1 505")


# Targets, hosts, fields


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("/", "http://shop:8000/"),
        ("/a/../b//c;d=1", "http://shop:8000/a/../b//c;d=1"),
        ("/%E2%82%AC%2F?%20=+&&=", "http://shop:8000/%E2%82%AC%2F?%20=+&&="),
        ("/a?b?c=/d", "http://shop:8000/a?b?c=/d"),
        ("/a#b?c#d", "http://shop:8000/a%23b?c%23d"),
        ('/"<>^`{|}', "http://shop:8000/%22%3C%3E%5E%60%7B%7C%7D"),
        ("//evil/x", "http://shop:8000//evil/x"),
        ("*", "http://shop:8000/"),
        ("?a=1", "http://shop:8000/?a=1"),
        ("http://other/x?y", "http://other/x?y"),
        ("HTTPS://[::1]:8/", "http://[::1]:8/"),
        ("http://other", "http://other/"),
        ("http://other?q", "http://other/?q"),
    ],
)
def test_urls(target: str, url: str) -> None:
    """Paths and queries stay as they were sent, but for what no URL may hold."""
    assert url == one(get(target=target)).url


@pytest.mark.parametrize(
    "target", ["shop:443", "ftp://other/x", "other/x", "http://", "http://a@b/", "http:///x"]
)
def test_odd_targets_are_refused(target: str) -> None:
    """A target is a path or a URL with a host."""
    assert 400 == refused(get(target=target)).status


@pytest.mark.parametrize("host", ["a b", "a/b", "a@b", "a,b", "[::1", "a:b", "é", "a#b", "a?b"])
def test_odd_hosts_are_refused(host: str) -> None:
    """The host must be one that a URL can have."""
    data = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")

    assert 400 == refused(data).status


@pytest.mark.parametrize("host", ["a", "a.b-c_d:80", "127.0.0.1:1", "[::1]:8000", "a:"])
def test_hosts(host: str) -> None:
    """Names, addresses and ports are taken."""
    data = f"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

    assert f"http://{host}/x" == one(data).url


def test_an_empty_host_is_the_servers() -> None:
    """A client that knows no name may say so."""
    assert "http://127.0.0.1:8000/" == one(b"GET / HTTP/1.1\r\nHost:\r\n\r\n").url


@pytest.mark.parametrize("host", [b"", b"Host: a\r\nHost: a\r\n", b"Host: a\r\nhost: b\r\n"])
def test_there_must_be_one_host(host: bytes) -> None:
    """HTTP/1.1 needs one Host field, also where all say the same."""
    assert 400 == refused(b"GET / HTTP/1.1\r\n" + host + b"\r\n").status


@given(st.lists(st.tuples(st.from_regex(r"X-[a-zA-Z!#$%&'*+.^_`|~0-9-]+", fullmatch=True))))
def test_fields_arrive(names: Iterable[tuple[str]]) -> None:
    """All fields arrive in order, with names in lower case and octets as they were sent."""
    fields = [(name, f"é {number}\t.") for number, (name,) in enumerate(names)]

    request = one(get(*(f"{name}:\t{value} " for name, value in fields)))

    expected = [("host", "shop:8000"), *((name.lower(), value) for name, value in fields)]
    assert expected == list(request.headers.items())


def test_an_upgrade_is_not_taken_up() -> None:
    """A client that offers another protocol is answered in this one, and stays connected."""
    requests, data = serve(get("Upgrade: h2c", "Connection: Upgrade"), get())

    assert 2 == len(requests)
    assert [200, 200] == [reply.status for reply in replies_in(data, "GET", "GET")]


# What is refused


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nHost: x\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rC: d\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\rA: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA:\r\n\tb\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \x01\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \x7f\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\xc3\xa9: y\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / http/1.1\r\nHost: x\r\n\r\n",
        b"GET /\r\nHost: x\r\n\r\n",
        b"G(T / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b" GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n",
    ],
)
def test_malformed_heads_are_refused(data: bytes) -> None:
    """Bare CR and LF, folded fields, spaces and octets where none may be: 400."""
    assert 400 == refused(data).status


def test_what_is_no_http_is_refused_at_once() -> None:
    """A client that speaks TLS does not wait for a time-out."""
    assert 400 == refused(b"\x16\x03\x01\x02\x00\x01", None).status


def test_a_lone_carriage_return_may_begin_an_empty_line() -> None:
    """The empty line that old clients send after a body may come in two pieces."""
    requests, _ = serve(b"\r", b"\n", get())

    assert 1 == len(requests)


@pytest.mark.parametrize(
    "fields",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 0"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5", "Content-Length: 5"),
        ("Content-Length: 5", "content-length: 5"),
        ("Content-Length: 5, 5",),
        ("Content-Length: 5, 6",),
        ("Content-Length: +5",),
        ("Content-Length: -5",),
        ("Content-Length: 0x5",),
        ("Content-Length: 5 5",),
        ("Content-Length:",),
        ("Content-Length: 999999999999999999999",),
    ],
)
def test_ambiguous_lengths_are_refused(fields: tuple[str, ...]) -> None:
    """There is one way to tell where a body ends, or the request is refused."""
    data = get(*fields, method="POST") + b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

    assert 400 == refused(data).status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (("Transfer-Encoding: gzip, chunked",), 501),
        (("Transfer-Encoding: chunked, identity",), 501),
        (("Transfer-Encoding: xchunked",), 501),
        (("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 501),
        (("Transfer-Encoding : chunked",), 400),
        (("Transfer-Encoding: \x0bchunked",), 400),
        (("Transfer-Encoding: chunked\x0b",), 400),
    ],
)
def test_odd_codings_are_refused(fields: tuple[str, ...], status: int) -> None:
    """Only plain chunked is understood."""
    assert status == refused(get(*fields, method="POST") + b"0\r\n\r\n").status


def test_chunks_need_http_1_1() -> None:
    """HTTP/1.0 has no chunks; a proxy of that version would not see where they end."""
    data = get("Transfer-Encoding: chunked", method="POST", version="1.0") + b"0\r\n\r\n"

    assert 400 == refused(data).status


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5 5\r\nhello\r\n0\r\n\r\n",
        b"-1\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffffffff\r\n",
        b"0\r\n\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\nA: b\n\n",
        b"0\r\nA b\r\n\r\n",
        b"0\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b";" * 20_000,
    ],
)
def test_malformed_chunks_are_refused(body: bytes) -> None:
    """Sizes, ends of chunks and trailers are as RFC 9112 has them, or the answer is 400."""
    data = get("Transfer-Encoding: chunked", method="POST") + body

    assert 400 == refused(data, None).status


def test_chunks_of_mostly_overhead_are_refused() -> None:
    """A client cannot keep the server busy with extensions that nobody reads."""
    chunks = [b"1;" + b"x" * 10_000 + b"\r\na\r\n" for _ in range(100)]

    assert 400 == refused(get("Transfer-Encoding: chunked", method="POST"), *chunks, None).status


@pytest.mark.parametrize("version", ["0.9", "2.0", "3.0"])
def test_other_versions_are_refused(version: str) -> None:
    """This is HTTP/1."""
    assert 505 == refused(get(version=version)).status


def test_the_preface_of_http_2_is_refused() -> None:
    """A client that takes it for granted learns that there is none."""
    assert refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").status in (400, 505)


def test_refusals_show_nothing_of_the_request() -> None:
    """The request's line may hold a token."""
    reply = refused(b"GET /?durable-token=secret HTTP/1.1\r\nHost: x\r\nbad\r\n\r\n")

    assert b"secret" not in reply.body


def test_to_head_a_refusal_has_no_body() -> None:
    """What is known about the request counts also where it is refused."""
    _, data = serve(get(method="HEAD", target="nowhere"))

    [reply] = replies_in(data, "HEAD")
    assert (400, b"") == (reply.status, reply.body)
    assert int(reply.get("content-length") or 0) > 0


# Limits


@pytest.mark.parametrize("size", [99, 100])
def test_heads_up_to_the_limit(size: int) -> None:
    """The limit counts from the method to the empty line, which is part of it."""
    data = get()
    data = data[:-4] + b"\r\nA: " + b"a" * (size - len(data) - 5) + b"\r\n\r\n"

    requests, _ = serve(data, limits=Limits(head=100))

    assert (1, size) == (len(requests), len(data))


@pytest.mark.parametrize("split", [1, 40, 101, 150])
def test_heads_over_the_limit_are_refused(split: int) -> None:
    """One byte more is too many, whether or not all of it has come."""
    data = get()
    data = data[:-4] + b"\r\nA: " + b"a" * (101 - len(data) - 5) + b"\r\n\r\n"

    assert 431 == refused(data[:split], data[split:], limits=Limits(head=100)).status
    assert 431 == refused(b"G" * 101, None, limits=Limits(head=100)).status


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (("Content-Length: 10",), b"0123456789"),
        (("Transfer-Encoding: chunked",), b"5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"),
    ],
)
def test_bodies_up_to_the_limit(fields: tuple[str, ...], body: bytes) -> None:
    """The limit counts the body, not its coding."""
    requests, _ = serve(get(*fields, method="POST") + body, limits=Limits(body=10))

    assert [b"0123456789"] == [request.body for request in requests]


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (("Content-Length: 11",), b""),
        (("Content-Length: 99999999999999999999",), b""),
        (("Transfer-Encoding: chunked",), b"b\r\n01234567890"),
        (("Transfer-Encoding: chunked",), b"5\r\n01234\r\n6\r\n567890"),
    ],
)
def test_bodies_over_the_limit_are_refused(fields: tuple[str, ...], body: bytes) -> None:
    """The answer does not wait for the rest of it."""
    data = get(*fields, method="POST") + body

    assert 413 == refused(data, None, limits=Limits(body=10)).status


# 100 Continue


def test_the_body_is_asked_for() -> None:
    """A client that waits for 100 Continue gets it, and then its answer."""
    head = get("Expect: 100-Continue", "Content-Length: 5", method="POST")

    requests, data = serve(head, b"hello")

    assert [b"hello"] == [request.body for request in requests]
    assert data.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("fields", "method", "target", "limits"),
    [
        (("Content-Length: 11",), "POST", "/", Limits(body=10)),
        (("Content-Length: 5",), "POST", "nowhere", None),
        (("Content-Length: 5", "A: \x01"), "POST", "/", None),
        (("Content-Length: 5", "Transfer-Encoding: chunked"), "POST", "/", None),
    ],
)
def test_a_body_that_is_not_wanted_is_not_asked_for(
    fields: tuple[str, ...], method: str, target: str, limits: Limits | None
) -> None:
    """A request that is refused by its head is refused at once."""
    head = get("Expect: 100-continue", *fields, method=method, target=target)

    requests, data = serve(head, None, limits=limits)

    assert [] == requests
    assert data[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("data", "number"),
    [
        (get("Expect: 100-continue", "Content-Length: 5", method="POST") + b"hello", 1),
        (get("Expect: 100-continue"), 1),
        (get("Expect: 100-continue", "Content-Length: 0", version="1.0"), 1),
        (get("Expect: something", "Content-Length: 2", method="POST") + b"ab", 1),
    ],
)
def test_nobody_is_asked_who_does_not_wait(data: bytes, number: int) -> None:
    """There is no 100 for bodies that are there, or will not come, nor for HTTP/1.0."""
    requests, answer = serve(data)

    assert number == len(requests)
    assert not answer.startswith(b"HTTP/1.1 100")


# Ends


@pytest.mark.parametrize(
    "data", [b"", b"GET", get()[:-1], get("Content-Length: 5", method="POST") + b"hell"]
)
def test_a_request_that_is_cut_off_is_none(data: bytes) -> None:
    """A client that goes away within a request gets nothing, and causes nothing."""
    assert ([], b"") == serve(data)


@pytest.mark.parametrize(
    ("fields", "version", "requests"),
    [
        ((), "1.1", 2),
        (("Connection: close",), "1.1", 1),
        (("Connection: keep-alive, Close",), "1.1", 1),
        ((), "1.0", 1),
        (("Connection: keep-alive",), "1.0", 1),
    ],
)
def test_persistence(fields: tuple[str, ...], version: str, requests: int) -> None:
    """A connection lasts unless one of both says otherwise; with HTTP/1.0 it does not."""
    found, data = serve(get(*fields, version=version), get())

    assert requests == len(found)
    last = replies_in(data, *["GET"] * requests)[-1]
    assert ("close" if requests == 1 else None) == last.get("connection")
