"""From ASGI scopes and messages to requests."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_asgi._exchange import ASGIExchange
from durable_core import BadRequest, HTTPError, Limits, Request
from durable_core.adapters import converse_async
from support.asgi_exchange import Exchange, http_scope
from support.recording_app import RecordingApp, refusal_of

#: Texts that have a form in UTF-8.
TEXT = st.text(st.characters(codec="utf-8"))
#: Paths as clients send them: some octets encoded without need, some not although they could be.
RAW_PATHS = st.lists(
    st.sampled_from(["a", "B7", "/", "%2F", "%2f", "%41", "%C3%A9", "%ff", "%25", "~", "+", ";=@"])
).map(lambda parts: "/" + "".join(parts))


def asked(exchange: Exchange, limits: Limits | None = None) -> RecordingApp:
    """Return an application that was asked through this exchange; raise why it was not."""
    app = RecordingApp(limits=limits)

    async def main() -> None:
        own = ASGIExchange(exchange.scope, exchange.receive, exchange.send)
        await converse_async(app, own)

    asyncio.run(main())
    if not app.requests:
        raise refusal_of(exchange.status, exchange.body)
    return app


def translated(body: bytes = b"", **changes: Any) -> Request:
    return asked(Exchange(http_scope(**changes), (body,))).requests[0]


# The path


@given(RAW_PATHS)
def test_encoding_of_the_path_is_kept(raw: str) -> None:
    """The URL has the path as the client sent it, the request has it decoded."""
    request = translated(path=unquote(raw), raw_path=raw.encode())

    assert f"http://test{raw}" == request.url
    assert unquote(raw) == request.path


@given(
    path=st.lists(st.sampled_from(["", "a", "B7", "/", "~", ";=@", "%41", " ", "?", "*", "é"])).map(
        "".join
    ),
    root=st.sampled_from(["", "/a", "/a/", "/é", "a"]),
    raw=st.sampled_from(["none", "plain", "quoted", "over-quoted", "whole", "other"]),
    query=st.sampled_from([b"", b"q=1", b"?"]),
)
def test_any_path_gives_one_url(path: str, root: str, raw: str, query: bytes) -> None:
    """Whatever the server says of a path, what it means is quoted once, below its prefix."""
    prefix = root.rstrip("/")
    path = path if path.startswith("/") else f"/{path}"
    whole = path if path == prefix or path.startswith(f"{prefix}/") else prefix + path
    raws = {
        "none": None,
        "plain": path.encode(),
        "quoted": quote(path).encode(),
        "over-quoted": quote(path, safe="").replace("~", "%7E").encode(),
        "whole": quote(whole).encode(),
        "other": b"/other",
    }
    scope = http_scope(path=path, root_path=root, raw_path=raws[raw], query_string=query)
    exchange = ASGIExchange(scope, Exchange(scope).receive, Exchange(scope).send)
    target, _, rest = exchange.target.partition("?")

    assert query.decode() == rest
    assert whole == unquote_to_bytes(target.encode("latin-1")).decode()


@given(TEXT)
def test_path_without_raw_path(text: str) -> None:
    """A server need not pass on the path as it was sent."""
    request = translated(path=f"/{text}")

    assert f"/{text}" == request.path
    assert request.url.isascii()


@given(TEXT, TEXT)
def test_rewritten_path_goes_before_raw_path(path: str, raw: str) -> None:
    """Who rewrites the path may leave ``raw_path`` as it was; then it does not count."""
    request = translated(path=f"/new/{path}", raw_path=quote(f"/old/{raw}").encode())

    assert f"/new/{path}" == request.path


@pytest.mark.parametrize("raw", [None, b"/shop/a%2Fb"])
@pytest.mark.parametrize("path", ["/shop/a/b", "/a/b"])
def test_root_path(path: str, raw: bytes | None) -> None:
    """The URL is whole and the path lies below the prefix, whether or not ``path`` holds it."""
    request = translated(path=path, raw_path=raw, root_path="/shop")

    assert "/a/b" == request.path
    assert "/shop" == request.root_path
    assert f"http://test{(raw or b'/shop/a/b').decode()}" == request.url


def test_raw_path_without_the_prefix() -> None:
    """A server that leaves the prefix out of the path leaves it out of ``raw_path`` as well."""
    request = translated(path="/a/b", raw_path=b"/a%2Fb", root_path="/caf\xe9")

    assert "/a/b" == request.path
    assert "http://test/caf%C3%A9/a%2Fb" == request.url


@pytest.mark.parametrize(
    ("path", "root_path", "seen"),
    [
        ("/shop", "/shop", "/"),
        ("/shop/", "/shop", "/"),
        ("/shopping", "/shop", "/shopping"),
        ("/shop/x", "/shop/", "/x"),
        ("/x", "", "/x"),
        ("", "", "/"),
        ("*", "", "/"),
        ("http://elsewhere/x", "", "/x"),
        ("//double", "", "//double"),
    ],
)
def test_odd_paths(path: str, root_path: str, seen: str) -> None:
    """A prefix counts as whole segments; targets that are no path become one."""
    assert seen == translated(path=path, root_path=root_path).path


def test_octets_that_no_path_may_hold() -> None:
    """What a client should have encoded is encoded, so that it ends neither path nor URL."""
    request = translated(path="/a#b é", raw_path=b"/a#b \xc3\xa9")

    assert "http://test/a%23b%20%C3%A9" == request.url
    assert "/a#b é" == request.path


# The rest of the URL


@given(st.binary().filter(lambda query: b"#" not in query and b"%" not in query))
def test_query_loses_nothing(query: bytes) -> None:
    """Octets that may stand in a query are left as they are, all others are encoded."""
    url = translated(query_string=query).url

    assert url.isascii()
    assert query == _decoded(urlsplit(url).query)


def _decoded(query: str) -> bytes:
    return unquote(query, "latin-1").encode("latin-1")


def test_query_is_verbatim() -> None:
    """What is encoded stays so, and in the form the client chose."""
    query = b"a=1&a=%32&b=%C3%A9+x&c=%zz&d=/?:@!$'()*,;&e"

    assert query.decode() == translated(query_string=query).url.partition("?")[2]


def test_query_cannot_become_a_fragment() -> None:
    """A ``#`` is part of the query."""
    assert "x#y" == translated(query_string=b"q=x#y").query["q"]


@pytest.mark.parametrize(
    ("changes", "origin"),
    [
        ({"headers": [(b"host", b"a.test:81")]}, "http://a.test:81"),
        ({"headers": [(b"host", b"[::1]:81")], "scheme": "https"}, "https://[::1]:81"),
        ({"headers": [(b"host", b"")]}, "http://127.0.0.1"),
        ({"headers": []}, "http://127.0.0.1"),
        ({"headers": [], "scheme": None}, "http://127.0.0.1"),
        ({"headers": [], "scheme": "https"}, "https://127.0.0.1:80"),
        ({"headers": [], "scheme": "https", "server": ("a", 443)}, "https://a"),
        ({"headers": [], "server": ("::1", 81)}, "http://[::1]:81"),
        ({"headers": [], "server": ("/run/x.sock", None)}, "http://localhost"),
        ({"headers": [], "server": None}, "http://localhost"),
    ],
)
def test_origin(changes: dict[str, Any], origin: str) -> None:
    """The host is the client's, otherwise the server's address."""
    assert f"{origin}/x" == translated(**changes).url


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": [(b"host", b"a/b")]},
        {"headers": [(b"host", b"a?b")]},
        {"headers": [(b"host", b"user@a")]},
        {"headers": [(b"host", b"a"), (b"host", b"b")]},
        {"headers": [(b"x\xe9", b"1")]},
        {"headers": [(b"x", b"a\0b")]},
        {"method": "G T"},
        {"scheme": "1://"},
        {"path": "/\ud800"},
    ],
)
def test_what_http_does_not_allow(changes: dict[str, Any]) -> None:
    """A host that would change the path, and everything else that is malformed, is a 400."""
    with pytest.raises(BadRequest):
        translated(**changes)


# Method, headers, path parameters


def test_headers() -> None:
    """Fields are octets, one character each; repeated ones stay apart and in order."""
    headers = [(b"x-two", b"a"), (b"host", b"h"), (b"x-two", b"b"), (b"x-one", b"\xe9")]

    assert (("x-two", "a"), ("host", "h"), ("x-two", "b"), ("x-one", "é")) == (
        translated(headers=headers).headers.raw
    )


def test_method_and_body() -> None:
    """Both are as they were sent."""
    request = translated(b"\0\xff", method="PATCH")

    assert ("PATCH", b"\0\xff") == (request.method, request.body)


def test_path_parameters_of_a_framework() -> None:
    """What a framework's router has converted becomes text again."""
    assert {"id": "7", "rest": "a/b"} == dict(
        translated(path_params={"id": 7, "rest": "a/b"}).path_params
    )


@pytest.mark.parametrize(
    ("route", "template"),
    [
        (SimpleNamespace(path_format="/users/{id}", methods=None), "/users/{id}"),
        (SimpleNamespace(path_format="/users/{path}"), None),
        (SimpleNamespace(), None),
        (None, None),
    ],
)
def test_route_of_a_framework(route: object, template: str | None) -> None:
    """A framework may say by which template it has found the path."""
    assert [(25.0, template)] == asked(Exchange(http_scope(router=object(), route=route))).asked


# The body


def read(*pieces: bytes, limit: int = 1000, length: bytes | None = None) -> tuple[bytes, int]:
    """Read a body that comes in these pieces; return it and how many of them were taken."""
    headers = [] if length is None else [(b"content-length", length)]
    exchange = Exchange(http_scope(headers=headers), pieces)
    return asked(exchange, Limits(body=limit)).requests[0].body, exchange.received


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=6))
def test_body_in_pieces(pieces: list[bytes]) -> None:
    """The body is all its pieces, however it was cut."""
    assert (b"".join(pieces), len(pieces)) == read(*pieces)


def test_message_without_a_body() -> None:
    """Both keys of a message are optional."""
    exchange = Exchange()
    exchange._pieces = [{"type": "http.request"}]

    assert b"" == asked(exchange).requests[0].body


@given(st.integers(1, 20))
def test_body_at_its_limit(size: int) -> None:
    """The limit itself is allowed."""
    body, _ = read(b"x", b"x" * (size - 1), limit=size, length=b"%d" % size)

    assert b"x" * size == body


def test_reading_stops_at_the_limit() -> None:
    """A body is refused with the first piece that is too much; those after it are not asked for."""
    exchange = Exchange(http_scope(), [b"xx", b"xx", b"xx", b"xx"])

    with pytest.raises(HTTPError, match="413"):
        asked(exchange, Limits(body=3))
    assert 2 == exchange.received


@pytest.mark.parametrize("length", [b"4", b"9" * 5000])
def test_announced_body_over_the_limit(length: bytes) -> None:
    """A body that is too large by its own account is refused unread."""
    exchange = Exchange(http_scope(headers=[(b"content-length", length)]), [b"x"])

    with pytest.raises(HTTPError, match="413"):
        asked(exchange, Limits(body=3))
    assert 0 == exchange.received


def test_client_gone_within_the_body() -> None:
    """Half a body is no body: nobody is asked, and the server gets an answer nobody reads."""
    exchange = Exchange(body=())
    app = RecordingApp()

    async def main() -> None:
        exchange.leave()
        await converse_async(app, ASGIExchange(exchange.scope, exchange.receive, exchange.send))

    asyncio.run(main())
    assert ([], 499) == (app.requests, exchange.status)
