"""From what a server has read to a request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core import BadRequest, HTTPError, Limits, Request
from durable_core.adapter.exchange import _Head
from durable_core.adapter.messages import (
    authority_of,
    loggable_path,
    parse_content_length,
    parse_head,
    parse_request,
    split_target,
)
from durable_core.http.request import client_of


class Head(_Head):
    """The head of a request."""

    def __init__(self, **known: Any) -> None:
        vars(self).update(known)


def parsed(limits: Limits | None = None, **known: Any) -> Request:
    return parse_head(Head(**known), limits or Limits()).request  # type: ignore[arg-type] # all it is read for


@pytest.mark.parametrize(
    ("text", "expected"), [("", None), (" ", None), ("0", 0), (" 12 ", 12), ("007", 7)]
)
def test_announced_length(text: str, expected: int | None) -> None:
    """It is a number of decimal digits; without any there is none."""
    assert expected == parse_content_length(text)


@pytest.mark.parametrize("text", ["-1", "+1", "1.5", "1, 1", "x", "\u0661", "1_0"])
def test_malformed_length(text: str) -> None:
    """Anything else is a bad request."""
    with pytest.raises(BadRequest, match="content-length must be one number"):
        parse_content_length(text)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/a%2Fb?q=%00", (None, "/a%2Fb?q=%00")),
        ("*", (None, "/")),
        ("", (None, "/")),
        ("?q", (None, "/?q")),
        ("//a/b", (None, "//a/b")),
        ("http://h:1/p?q", ("h:1", "/p?q")),
        ("HTTPS://h", ("h", "/")),
        ("http://h?q", ("h", "/?q")),
        ("h:1", (None, "h:1")),
        ("ftp://h/p", (None, "ftp://h/p")),
    ],
)
def test_targets(target: str, expected: tuple[str | None, str]) -> None:
    """All forms that a target may have (RFC 9112, 3.2); what is no path stays as it is."""
    assert expected == split_target(target)


@pytest.mark.parametrize(
    ("known", "url"),
    [
        ({"fields": [("Host", "a:81")], "target": "/x?y"}, "http://a:81/x?y"),
        ({"fields": [("host", "a")], "target": "http://b/x"}, "http://b/x"),
        ({"fields": [("host", "")], "authority": "own:8000"}, "http://own:8000/"),
        ({"authority": "own:8000", "scheme": "https"}, "https://own:8000/"),
        ({"target": "/\xe9 #?\xe9#"}, "http://localhost/%E9%20%23?%E9%23"),
        ({"target": "/x?"}, "http://localhost/x"),
        ({"fields": [("host", " a:81\t")]}, "http://a:81/"),
        ({"fields": [("host", "[::1]:80")]}, "http://[::1]:80/"),
        ({"fields": [("host", "[::ffff:1.2.3.4]")]}, "http://[::ffff:1.2.3.4]/"),
    ],
)
def test_urls(known: dict[str, Any], url: str) -> None:
    """The authority is the target's, else the Host's, else the server's own."""
    assert url == parsed(**known).url


#: Octets as a server shows them, one character each; many may stay as they are.
OCTETS = st.text(st.characters(max_codepoint=255), max_size=6) | st.text("aZ09-._~%/?:@!$&'()*+,;=")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def quoted(text: str, safe: str) -> str:
    return "".join(each if each in LETTERS + safe else f"%{ord(each):02X}" for each in text)


@given(OCTETS, OCTETS, st.booleans())
def test_each_octet_of_a_target_is_kept_or_quoted(path: str, query: str, has_query: bool) -> None:
    """What no URL may hold is quoted, octet by octet; all else is as it was sent."""
    path = "/" + path.replace("?", "")
    in_url = quoted(path, "%/:@!$&'()*+,;=-._~")
    if has_query and query:
        in_url += "?" + quoted(query, "!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~")

    assert f"http://localhost{in_url}" == parsed(target=path + f"?{query}" * has_query).url


@given(OCTETS, OCTETS)
def test_quoting_a_url_again_changes_nothing(path: str, query: str) -> None:
    """A target that is relayed gives the same URL again."""
    url = parsed(target=f"/{path}?{query}").url

    assert url == parsed(target=url.removeprefix("http://localhost")).url == parsed(target=url).url


def test_the_host_is_that_of_the_target() -> None:
    """A handler sees one host, wherever it looks."""
    request = parsed(fields=[("HOST", "a"), ("x", "1")], target="http://b/")

    assert (("host", "b"), ("x", "1")) == request.headers.items()


#: What is no host.
HOSTS = (
    *(
        "a b",
        "a/b",
        "u@a",
        "a,b",
        "a:b",
        "\xe9",
        "a?",
        ":80",
        "a:80:80",
        "a:65536",
        "a:99999999999",
    ),
    *("[:]", "[::1", "[1.2.3.4]", "[::1::]", "[:::]"),
)


@pytest.mark.parametrize(
    "known",
    [
        *({"fields": [("host", host)]} for host in HOSTS),
        {"fields": [("host", "a"), ("Host", "a")]},
        {"target": "http://"},
        {"target": "http://u@a/"},
        {"target": "http://[:]/"},
        {"target": "nowhere"},
        {"target": "ftp://h/p"},
        {"target": "/\u20ac"},
        {"target": "/\ud800"},
        {"target": "/?\ud800"},
        {"method": "G T"},
        {"method": ""},
        {"scheme": "1"},
        {"fields": [("a b", "1")]},
        {"fields": [("a", "1\n2")]},
        {"fields": [("content-length", "1"), ("content-length", "1")]},
        {"fields": [("content-length", "1"), ("transfer-encoding", "chunked")]},
    ],
)
def test_what_http_does_not_allow(known: dict[str, Any]) -> None:
    """It is a bad request before anybody has been asked."""
    with pytest.raises(BadRequest):
        parsed(**known)


FRAMING = st.lists(
    st.tuples(
        st.sampled_from(
            ["host", "Host", "content-length", "Content-Length", "transfer-encoding", "expect", "a"]
        ),
        st.sampled_from(["", "0", "5", "05", "11", "x", "5, 5", "h:80", "h:x", "100-Continue"]),
    ),
    max_size=4,
)


@given(FRAMING)
def test_any_fields_are_taken_by_the_rules(fields: list[tuple[str, str]]) -> None:
    """One host that is one, one length that is one and within the limit, and no coding besides."""
    named: dict[str, list[str]] = {}
    for name, value in fields:
        named.setdefault(name.lower(), []).append(value)
    hosts, lengths = named.get("host", []), named.get("content-length", [])
    is_coded, is_waiting = "transfer-encoding" in named, "100-Continue" in named.get("expect", [])
    is_host = hosts in ([], [""], ["h:80"], ["0"], ["5"], ["05"], ["11"], ["x"], ["100-Continue"])
    head = Head(fields=fields, authority="own")

    if is_host and (lengths in ([], [""]) or (lengths in (["0"], ["5"], ["05"]) and not is_coded)):
        length = int("".join(lengths)) if "".join(lengths) else None
        made = parse_head(head, Limits(body=10))  # type: ignore[arg-type]
        expects = is_waiting and (is_coded or bool(length))
        assert (length, expects) == (made.length, made.expects_continue)
        assert f"http://{''.join(hosts) or 'own'}/" == made.request.url
        assert tuple(fields) == made.request.headers.raw
    else:
        with pytest.raises(HTTPError) as refused:
            parse_head(head, Limits(body=10))  # type: ignore[arg-type]
        is_too_long = lengths == ["11"] and not is_coded
        assert (413 if is_too_long else 400) == refused.value.status


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_a_whole_request_is_its_head_with_a_body(body: bytes) -> None:
    """Nothing else of it changes, and nothing gets lost."""
    fields = [("host", "h"), ("content-length", str(len(body)))]
    exchange = Head(
        fields=fields, path_params={"a": "b"}, root_path="/r", client="c", target="/r/x"
    )
    head = parse_head(exchange, Limits()).request  # type: ignore[arg-type]
    whole = parse_request(exchange, Limits(), body)  # type: ignore[arg-type]

    assert (body, "/x", {"a": "b"}) == (whole.body, whole.path, whole.path_params)
    assert ("GET", "http://h/r/x", "/r") == (whole.method, whole.url, whole.root_path)
    assert (head.headers, "c") == (whole.headers, client_of(whole))


def test_limits() -> None:
    """413 for an announced body, 431 for a head, each one byte over its limit."""
    limits = Limits(head=100, body=10)
    fields = [("content-length", "10")]
    room = 100 - len("GET") - len("/") - len("content-length10") - 4

    assert 10 == parse_head(Head(fields=fields), limits).length  # type: ignore[arg-type]
    parsed(limits, target="/" + "x" * room, fields=fields)
    with pytest.raises(HTTPError, match="431"):
        parsed(limits, target="/" + "x" * (room + 1), fields=fields)
    with pytest.raises(HTTPError, match="413"):
        parsed(limits, fields=[("content-length", "11")])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("Expect", "100-Continue"), ("content-length", "1")], True),
        ([("Expect", "100-continue"), ("transfer-encoding", "chunked")], True),
        ([("Expect", "100-continue"), ("content-length", "0")], False),
        ([("Expect", "100-continue")], False),
        ([("Expect", "more"), ("content-length", "1")], False),
    ],
)
def test_expectations(fields: list[tuple[str, str]], expected: bool) -> None:
    """Only who has a body to send waits for anything."""
    assert expected == parse_head(Head(fields=fields), Limits()).expects_continue  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (("http", "h", 81), "h:81"),
        (("http", "h", 80), "h"),
        (("https", "h", "443"), "h"),
        (("http", "::1", 81), "[::1]:81"),
        (("https", "fe80::1%eth0", 443), "[fe80::1]"),
        (("http", "/run/x.sock", None), "localhost"),
        (("http", "h", ""), "h"),
    ],
)
def test_authorities(known: tuple[str, str, Any], expected: str) -> None:
    """Addresses of IPv6 are in brackets, default ports left out."""
    assert expected == authority_of(*known)


def test_paths_in_logs() -> None:
    """Neither tokens nor what a terminal takes for a command."""
    assert "/a%1B%5B2J%C2%9B%00" == loggable_path("http://h/a\x1b[2J\x9b\x00?durable-token=secret")
