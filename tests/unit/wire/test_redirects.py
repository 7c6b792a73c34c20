"""Where a client goes next, and what it takes along."""

from __future__ import annotations

import pytest

from durable_core.errors import ProtocolError
from durable_core.http.headers import Headers
from durable_core.wire.redirects import Journey, Stage, is_wait_url

HEADERS = Headers({"Authorization": "secret", "Content-Type": "text/plain"})


def journey(method: str = "POST") -> Journey:
    return Journey(method=method, url="http://a/x", headers=HEADERS)


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
    trip = journey(method)
    stage = trip.after(trip.first, status, "/y")

    assert Stage(method=expected, url="http://a/y", sends_body=sends_body) == stage


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
    trip = journey()
    assert url == trip.after(trip.first, 303, location).url


@pytest.mark.parametrize("location", ["mailto:a@b", "http://u:p@a/", "http://[/"])
def test_locations_that_lead_nowhere(location: str) -> None:
    """What is no URL of HTTP is an error of the protocol, both as redirect and by name."""
    trip = journey()
    with pytest.raises(ProtocolError, match="the server sends the client nowhere"):
        trip.after(trip.first, 303, location)
    with pytest.raises(ProtocolError, match="the server sends the client nowhere"):
        trip.at(location)


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
    trip = journey()

    assert expected == set(trip.headers(trip.after(trip.first, 307, url)))
    assert expected - {"content-type"} == set(trip.headers(trip.at(url)))


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


def test_a_journey_begins_somewhere() -> None:
    """A first URL that is none is the caller's mistake."""
    with pytest.raises(ValueError, match="must be absolute"):
        Journey(method="GET", url="/x", headers=Headers())
