"""Requests reach the handler as they were sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

import pytest

from durable_conformance.contract import Capability
from durable_conformance.deployment import ALL_METHODS, Deployment, LiveServer
from durable_conformance.plugin import needs, requirement
from durable_conformance.programs import CallLog, Script, until
from durable_conformance.wire import Reply, head_of
from durable_core import Request

_MIB = 1024 * 1024


def _seen(reply: Reply) -> Any:
    """Return what the handler saw of a request; what the server refused, it did not see."""
    assert 200 == reply.status, f"the answer is {reply.status}: {reply.body[:500]!r}"
    return reply.json()


def _fields(seen: Any, name: str) -> list[str]:
    return [value for known, value in seen["fields"] if known == name]


@requirement("Q1")
def test_methods_arrive(echo: LiveServer) -> None:
    """Each method is the one that was sent."""
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "QUERY"]

    assert methods == [_seen(echo.ask(method, "/echo/x"))["method"] for method in methods]


@requirement("Q2")
@pytest.mark.parametrize(
    ("sent", "path"),
    [
        ("/echo/a%20b", "/echo/a b"),
        ("/echo/100%2525", "/echo/100%25"),
        ("/echo/a%2Fb", "/echo/a/b"),
        ("/echo/a+b", "/echo/a+b"),
        ("/echo/caf%C3%A9/%E2%98%83", "/echo/caf\N{LATIN SMALL LETTER E WITH ACUTE}/\N{SNOWMAN}"),
        ("/echo//a/./b/", "/echo//a/./b/"),
        ("/echo/a%3Fb%23c", "/echo/a?b#c"),
        ("/echo/;v=1,2:@&=$!'()*", "/echo/;v=1,2:@&=$!'()*"),
    ],
)
def test_paths_are_decoded_once(echo: LiveServer, sent: str, path: str) -> None:
    """The path is the one that was sent, percent-decoded once and not otherwise changed."""
    seen = _seen(echo.ask("GET", sent))

    assert path == seen["path"]
    assert {"rest": path.removeprefix("/echo/")} == seen["params"]


@requirement("Q2")
def test_octets_that_are_no_utf_8(echo: LiveServer) -> None:
    """A path that is no text is a path, or a bad request; it breaks nothing."""
    assert echo.ask("GET", "/echo/%FF%00").status in (200, 400)
    assert 200 == echo.ask("GET", "/echo/x").status


@requirement("Q3")
@needs(Capability.RAW_PATH)
@pytest.mark.parametrize("path", ["/echo/a%2Fb%20c", "/echo/%7Euser", "/echo/caf%c3%a9"])
def test_the_encoding_of_the_path_is_kept(echo: LiveServer, path: str) -> None:
    """The URL has the path to the byte."""
    assert path == urlsplit(_seen(echo.ask("GET", path))["url"]).path


@requirement("Q4")
@pytest.mark.parametrize(
    "query",
    [
        "b=2&a=1&b=1",
        "empty=&flag&=x",
        "x=%26%3D%2B+%20",
        "q=%C3%A9&q=caf%c3%a9",
        "a=1;b=2&c[]=/?:@",
        "same=1&same=1",
    ],
)
def test_the_query_is_verbatim(echo: LiveServer, query: str) -> None:
    """The URL has the query to the byte: its order, its repetitions, its encoding."""
    assert query == urlsplit(_seen(echo.ask("GET", f"/echo/x?{query}"))["url"]).query


@requirement("Q4")
def test_query_parameters_keep_their_order(echo: LiveServer) -> None:
    """Repeated and empty parameters are all there, decoded."""
    seen = _seen(echo.ask("GET", "/echo/x?b=2&a=%26+%20&b=1&e="))

    assert [["b", "2"], ["a", "&  "], ["b", "1"], ["e", ""]] == seen["query"]


@requirement("Q5")
def test_the_url_is_absolute(echo: LiveServer) -> None:
    """It has the scheme, and the host that the client asked for."""
    head = head_of("GET", "/echo/x", "shop.example:8080", [("Connection", "close")])
    with echo.connect() as connection:
        connection.send(head)
        seen = _seen(connection.receive())

    assert "http://shop.example:8080/echo/x" == seen["url"]


@requirement("Q5")
def test_absolute_targets(echo: LiveServer) -> None:
    """A target that is a whole URL is understood (RFC 9112, 3.2.2)."""
    fields = [("Connection", "close")]
    target = "http://shop.example:8080/echo/a%20b?c"
    with echo.connect() as connection:
        connection.send(head_of("GET", target, "shop.example:8080", fields))
        reply = connection.receive()

    assert 200 == reply.status
    assert "http://shop.example:8080/echo/a%20b?c" == reply.json()["url"]


@requirement("Q5")
def test_forwarded_fields_are_not_trusted(echo: LiveServer) -> None:
    """Any client can send them."""
    fields = (
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "host=evil.example;proto=https"),
    )
    seen = _seen(echo.ask("GET", "/echo/x", fields=fields))

    assert f"http://{echo.host}/echo/x" == seen["url"]


@requirement("Q6")
def test_fields_arrive(echo: LiveServer) -> None:
    """Values are as they were sent: inner spaces, punctuation, Latin-1, length."""
    sent = {
        "x-plain": "a b  c",
        "x-signs": '"q"; a=1, b={}',
        "x-latin": "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
        "x-long": "y" * 8000,
        "content-type": "text/x-own; charset=utf-8",
        "authorization": "Bearer abc==",
        "cookie": "a=1; b=2",
    }
    seen = _seen(echo.ask("POST", "/echo/x", fields=tuple(sent.items()), body=b""))

    assert sent == {name: value for name, value in seen["fields"] if name in sent}


@requirement("Q6")
def test_names_of_fields_have_no_case(echo: LiveServer) -> None:
    """A field is found under its name in whatever case it was sent."""
    seen = _seen(echo.ask("GET", "/echo/x", fields=(("X-oWN-Name", "1"),)))

    assert ["1"] == _fields(seen, "x-own-name")


@requirement("Q6")
def test_an_empty_field_is_a_field(echo: LiveServer) -> None:
    """It is there, and empty."""
    assert [""] == _fields(_seen(echo.ask("GET", "/echo/x", fields=(("X-Own", ""),))), "x-own")


@requirement("Q6")
def test_many_fields(echo: LiveServer) -> None:
    """Fifty fields are fifty fields."""
    sent = [(f"x-own-{number}", str(number)) for number in range(50)]
    seen = _seen(echo.ask("GET", "/echo/x", fields=sent))

    assert sorted(sent) == sorted((n, v) for n, v in seen["fields"] if n.startswith("x-own-"))


@requirement("Q7")
def test_repeated_fields_keep_their_values(echo: LiveServer) -> None:
    """All values are there, in order; they may have been joined by commas (RFC 9110, 5.3)."""
    sent = (("X-Own", "b"), ("X-Between", "1"), ("X-Own", "a"), ("X-Own", "b"))
    values = _fields(_seen(echo.ask("GET", "/echo/x", fields=sent)), "x-own")

    assert ["b", "a", "b"] == [part.strip() for value in values for part in value.split(",")]


@requirement("Q8")
@needs(Capability.SEPARATE_FIELDS)
def test_repeated_fields_stay_apart(echo: LiveServer) -> None:
    """Each value is one of its own, also where it has commas."""
    sent = (("X-Own", "b"), ("X-Own", "a, c"), ("X-Own", "b"))

    assert ["b", "a, c", "b"] == _fields(_seen(echo.ask("GET", "/echo/x", fields=sent)), "x-own")


@requirement("Q13")
def test_many_clients_do_not_mix(echo: LiveServer, background: Callable[..., Future[Any]]) -> None:
    """Each gets the answer to its own request."""
    asked = [
        background(echo.ask, "POST", f"/echo/{number}?n={number}", body=b"%d" % number)
        for number in range(40)
    ]
    seen = [_seen(answer.result()) for answer in asked]

    assert [(f"/echo/{n}", [["n", str(n)]], (b"%d" % n).hex()) for n in range(40)] == [
        (each["path"], each["query"], each["body"]) for each in seen
    ]


@requirement("Q14")
def test_head_runs_as_get(echo: LiveServer) -> None:
    """The answer to HEAD is that to GET without its body."""
    whole = echo.ask("GET", "/echo/x")
    head = echo.ask("HEAD", "/echo/x")

    assert (200, b"") == (head.status, head.body)
    assert whole.get("content-type") == head.get("content-type")
    assert whole.get("content-length") == head.get("content-length")


@requirement("Q14")
def test_head_of_a_route_for_get(deployment: Deployment) -> None:
    """Where a route does not list it, HEAD gets 405, and nothing is done."""
    call_log = CallLog()

    def program(request: Request, step: Any) -> Script:
        yield step.run("work", call_log.record, "work", 1)

    with deployment.serving(program, methods="GET") as server:
        assert 405 == server.ask("HEAD", "/it").status

    assert {} == call_log.counts()


@requirement("Q14")
def test_head_has_no_body_on_the_wire(echo: LiveServer) -> None:
    """Not one byte follows the head of the answer to HEAD."""
    fields = [("Connection", "close")]
    data = echo.exchange(head_of("HEAD", "/echo/x", echo.host, fields))

    assert (b"HTTP/1.1 200", b"") == (data[:12], data.partition(b"\r\n\r\n")[2])


@requirement("Q15")
def test_options_starts_no_run(echo: LiveServer) -> None:
    """It is answered with 204 and the methods that there are."""
    before = echo.phases()
    reply = echo.ask("OPTIONS", "/echo/x")

    assert (204, b"") == (reply.status, reply.body)
    assert {*ALL_METHODS.split(","), "OPTIONS"} == set((reply.get("allow") or "").split(", "))
    assert before == echo.phases()


@requirement("Q16")
def test_http_1_0(echo: LiveServer) -> None:
    """Its clients get a whole answer, and the end of the connection after it."""
    data = echo.exchange(f"GET /echo/x HTTP/1.0\r\nHost: {echo.host}\r\n\r\n".encode())
    head, _, body = data.partition(b"\r\n\r\n")

    assert b"200" == head.split(b" ")[1]
    assert b"transfer-encoding" not in head.lower()
    assert "GET" == json.loads(body)["method"]


@requirement("Q17")
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_no_host(echo: LiveServer, version: str) -> None:
    """The URL names the server itself, host and port; HTTP/1.1 requires the field (400)."""
    data = echo.exchange(f"GET /echo/x HTTP/{version}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = data.partition(b"\r\n\r\n")
    status = head.split(b" ")[1]

    if version == "1.0" or status != b"400":
        url = urlsplit(json.loads(body)["url"])
        assert (b"200", echo.port) == (status, url.port)
        assert url.hostname in ("127.0.0.1", "localhost")


@requirement("Q18")
def test_a_half_closed_connection(deployment: Deployment) -> None:
    """What comes is whole, and a run that has begun ends."""

    def program(request: Request, step: Any) -> Script:
        yield step.run("work", lambda: None)
        return "x" * 100_000

    with deployment.serving(program) as server:
        head = head_of("GET", "/it", server.host, [("Connection", "close")])
        data = server.exchange(head, end=True)
        until(lambda: set(server.phases()) <= {"completed"}, "the run completed")
        phases = server.phases()

    if data:
        assert ["completed"] == phases
        head, _, body = data.partition(b"\r\n\r\n")
        assert b"200" == head.split(b" ")[1]
        assert "x" * 100_000 == json.loads(body)
