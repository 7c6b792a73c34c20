"""Which hosts clients may name."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.engine.remote.allowed_hosts import (
    LOOPBACK_HOSTS,
    allows_host,
    check_host,
    is_loopback,
)
from durable_core.errors import ConfigurationError


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("shop.example", "https://shop.example/a?b"),
        ("shop.example", "https://SHOP.example:443"),
        ("shop.example", "http://shop.example:80/"),
        ("Shop.Example", "http://shop.example"),
        ("shop.example:8443", "https://shop.example:8443"),
        ("shop.example:*", "http://shop.example:1"),
        ("*.shop.example", "http://a.b.shop.example"),
        ("*.shop.example:*", "http://a.shop.example:99"),
        ("[::1]", "http://[::1]/"),
        ("[::1]:*", "http://[::1]:8000/"),
        ("10.0.0.1", "http://10.0.0.1"),
        ("*", "http://any.where:99"),
    ],
)
def test_allowed(pattern: str, url: str) -> None:
    """By name, by any name below it, and by port."""
    assert allows_host([check_host(pattern)], url)


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("shop.example", "http://shop.example:22"),
        ("shop.example", "http://shop.example:443"),
        ("shop.example", "http://shop.example.evil"),
        ("shop.example", "http://evil.shop.example"),
        ("shop.example", "http://shop.example@evil"),
        ("shop.example", "http://evil@shop.example"),
        ("shop.example", "http://shop.example:x"),
        ("shop.example", "http://shop.example:0"),
        ("shop.example", "http://shop.example:99999"),
        ("shop.example", "http:///a"),
        ("shop.example:8443", "https://shop.example"),
        ("*.shop.example", "http://shop.example"),
        ("*.shop.example", "http://evil\\.shop.example"),
        ("*.shop.example", "http://.shop.example"),
        ("*.shop.example", "http://a..shop.example"),
        ("*.shop.example", "http://evilshop.example"),
        ("[::1]", "http://[::2]/"),
    ],
)
def test_not_allowed(pattern: str, url: str) -> None:
    """Whatever only looks alike."""
    assert not allows_host([check_host(pattern)], url)


AROUND = st.text("a.-_:@/\\%[]0 é", max_size=4)


@given(AROUND, AROUND)
def test_nothing_but_plain_names_is_allowed(before: str, after: str) -> None:
    """Whatever stands around the name: what is allowed is a name that means itself everywhere."""
    url = f"http://{before}shop.example{after}"
    try:
        host = urlsplit(url).netloc.lower()
    except ValueError:
        return  # no request has such a URL
    if allows_host(["shop.example", "*.shop.example"], url):
        assert re.fullmatch(r"([a-z0-9_-]+\.)*shop\.example(:0*80|:)?", host)


@pytest.mark.parametrize("pattern", ["", "https://a", "a/b", "a b", "*a", "a.*", "a:b", "**", "@a"])
def test_no_pattern(pattern: str) -> None:
    """It is refused, with what would be one."""
    with pytest.raises(ConfigurationError, match=r"'\*\.shop\.example'"):
        check_host(pattern)


def test_this_machine() -> None:
    """Each of its usual names is of it, and is allowed as such."""
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert is_loopback(f"http://{host}:8288")
        assert allows_host(LOOPBACK_HOSTS, f"http://{host}:8000")
    assert not is_loopback("https://api.inngest.com")
    assert not allows_host(LOOPBACK_HOSTS, "http://169.254.169.254/latest")
