"""Where a client goes next, and what it takes along."""

from __future__ import annotations

import pytest

from durable_client._redirects import (
    DowngradeError,
    RedirectChain,
    Target,
    is_wait_url,
    parse_url,
)
from durable_core.errors import ProtocolError
from durable_core.http.headers import Headers

HEADERS = Headers({"Authorization": "secret", "Content-Type": "text/plain"})


def chain(method: str = "POST") -> RedirectChain:
    return RedirectChain(method=method, url="http://a/x", headers=HEADERS)


@pytest.mark.parametrize(
    ("method", "status", "expected", "sends_body"),
    [
        ("GET", 301, "GET", True),
        ("GET", 302, "GET", True),
        ("GET", 303, "GET", False),
        ("GET", 307, "GET", True),
        ("HEAD", 303, "HEAD", True),
        ("POST", 301, "GET", False),
        ("POST", 302, "GET", False),
        ("POST", 303, "GET", False),
        ("POST", 307, "POST", True),
        ("POST", 308, "POST", True),
        ("PUT", 302, "PUT", True),
        ("PUT", 303, "GET", False),
    ],
)
def test_the_method_after_a_redirect(
    method: str, status: int, expected: str, sends_body: bool
) -> None:
    """As browsers do it: a 303 makes a GET, and so do 301 and 302 of a POST."""
    redirects = chain(method)
    target = redirects.after(redirects.first, status, "/y")

    assert Target(method=expected, url="http://a/y", sends_body=sends_body) == target


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("?a=b", "http://a/x?a=b"),
        ("y", "http://a/y"),
        ("//b/y", "http://b/y"),
        ("https://a/", "https://a/"),
    ],
)
def test_locations_are_resolved(location: str, url: str) -> None:
    """A reference is relative to the URL that was asked."""
    redirects = chain()
    assert url == redirects.after(redirects.first, 303, location).url


@pytest.mark.parametrize("location", ["mailto:a@b", "http://u:p@a/", "http://[/"])
def test_locations_that_lead_nowhere(location: str) -> None:
    """What is no URL of HTTP is an error of the protocol, both as redirect and by name."""
    redirects = chain()
    with pytest.raises(ProtocolError, match="the server names a URL that cannot be used"):
        redirects.after(redirects.first, 303, location)
    with pytest.raises(ProtocolError, match="the server names a URL that cannot be used"):
        redirects.read(location, named_by=redirects.first)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a/other", {"authorization", "content-type"}),
        ("http://a:80/other", {"authorization", "content-type"}),
        ("http://b/x", set()),
        ("https://a/x", set()),
        ("http://a:81/x", set()),
    ],
)
def test_headers_go_to_their_own_origin_only(url: str, expected: set[str]) -> None:
    """Another scheme, host or port gets nothing; without the body its fields stay behind."""
    redirects = chain()

    assert expected == set(redirects.headers(redirects.after(redirects.first, 307, url)))
    assert expected - {"content-type"} == set(
        redirects.headers(redirects.read(url, named_by=redirects.first))
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a/x?durable-run=1&durable-token=2", True),
        ("http://a/x?q=1&token=2&runId=3", True),
        ("http://a/x?token=2", False),
        ("http://a/x", False),
    ],
)
def test_wait_urls_are_known_by_their_parameters(url: str, expected: bool) -> None:
    """Both parameters must be there."""
    assert expected == is_wait_url(url)


def test_the_first_url_is_checked() -> None:
    """A first URL that is none is the caller's mistake."""
    with pytest.raises(ValueError, match="must be absolute"):
        RedirectChain(method="GET", url="/x", headers=Headers())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/x", "must be absolute and begin with http:// or https://, not '/x'"),
        ("ftp://a", "must be absolute and begin with http://"),
        ("http:///x", "must name a host"),
        ("http://a b/", "must name a host"),
        ("http://u:secret@a/", "must hold no credentials"),
        ("http://a:x/", "the URL is malformed"),
        ("http://a:99999/", "a port from 1 to 65535"),
        ("http://[::1/", "the URL is malformed"),
        ("http://\u00e9..b/", "the URL is malformed"),
        ("http://a/\r\nx: y", "the URL is malformed"),
        ("http://a\t/", "the URL is malformed"),
    ],
)
def test_urls_that_cannot_be_used(url: str, message: str) -> None:
    """The error says why, and shows neither password nor query."""
    with pytest.raises(ValueError, match="URL") as caught:
        parse_url(f"{url}?token=secret")
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example",
        "HTTPS://a:443/x",
        "http://[::1]:81/a%20b",
        "https://b\u00fccher.example/",
    ],
)
def test_urls_that_can_be_used(url: str) -> None:
    """Hosts are names, also of other scripts, and addresses."""
    assert parse_url(url).host


def test_a_token_does_not_go_from_https_to_http() -> None:
    """Neither by a redirect nor as a named URL; the other direction is allowed."""
    secure = RedirectChain(method="GET", url="https://a/x", headers=HEADERS)
    location = "http://a/x?durable-run=1&durable-token=2"
    with pytest.raises(DowngradeError, match="set Durable\\(public_url=\\) on the server"):
        secure.after(secure.first, 303, location)
    with pytest.raises(DowngradeError, match="where others could read the token"):
        secure.read(location, named_by=secure.first)

    plain = chain()
    assert "https://b/" == plain.read("https://b/", named_by=plain.first).url
