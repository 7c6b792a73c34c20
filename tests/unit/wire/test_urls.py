"""URLs as a client needs them."""

from __future__ import annotations

import pytest

from durable_core.wire.urls import Origin, parse_url


@pytest.mark.parametrize(
    ("url", "origin", "path", "authority"),
    [
        ("http://a.example", ("http", "a.example", 80), "/", "a.example"),
        ("HTTPS://A.example:443/x", ("https", "a.example", 443), "/x", "a.example"),
        ("http://a:8080?q=1#f", ("http", "a", 8080), "/?q=1", "a:8080"),
        ("http://[::1]:81/a%20b c/é", ("http", "::1", 81), "/a%20b%20c/%C3%A9", "[::1]:81"),
        ("https://bücher.example/", ("https", "xn--bcher-kva.example", 443), "/", None),
        ("http://a/?q=a b&r=%7B{", ("http", "a", 80), "/?q=a%20b&r=%7B%7B", "a"),
    ],
)
def test_parse_url(
    url: str, origin: tuple[str, str, int], path: str, authority: str | None
) -> None:
    """The origin, and the path with the query; what may not stand there is escaped, once."""
    scheme, host, port = origin
    target = parse_url(url)

    assert (Origin(scheme=scheme, host=host, port=port), path) == (target.origin, target.path)
    assert (authority or host) == target.origin.authority
    assert (scheme == "https") == target.origin.is_secure


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/x", "must be absolute and begin with http:// or https://, not '/x'"),
        ("ftp://a", "must be absolute and begin with http://"),
        ("http:///x", "must name a host"),
        ("http://a b/", "must name a host"),
        ("http://u:secret@a/", "must hold no credentials"),
        ("http://a:x/", "the URL is malformed"),
        ("http://a:99999/", "the URL is malformed"),
        ("http://[::1/", "the URL is malformed"),
        ("http://é..b/", "is no name"),
        ("http://a/\r\nx: y", "must hold no control characters"),
        ("http://a\t/", "must hold no control characters"),
    ],
)
def test_urls_that_lead_nowhere(url: str, message: str) -> None:
    """Each is refused by an error that says why, and shows neither password nor query."""
    with pytest.raises(ValueError, match="URL") as caught:
        parse_url(f"{url}?token=secret")
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
