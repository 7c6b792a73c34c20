"""Which hosts clients may name, and what is taken for granted where nothing is said."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.errors import ConfigurationError
from durable_inngest._config import ANY, LOOPBACK, allows, check_host, is_loopback, resolve_config

KEY = "signkey-test-0123456789abcdef0123456789abcdef"


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
    assert allows([check_host(pattern)], url)


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
    assert not allows([check_host(pattern)], url)


AROUND = st.text("a.-_:@/\\%[]0 é", max_size=4)


@given(AROUND, AROUND)
def test_nothing_but_plain_names_is_allowed(before: str, after: str) -> None:
    """Whatever stands around the name: what is allowed is a name that means itself everywhere."""
    url = f"http://{before}shop.example{after}"
    try:
        host = urlsplit(url).netloc.lower()
    except ValueError:
        return  # no request has such a URL
    if allows(["shop.example", "*.shop.example"], url):
        assert re.fullmatch(r"([a-z0-9_-]+\.)*shop\.example(:0*80|:)?", host)


@pytest.mark.parametrize("pattern", ["", "https://a", "a/b", "a b", "*a", "a.*", "a:b", "**", "@a"])
def test_no_pattern(pattern: str) -> None:
    """It is refused, with what would be one."""
    with pytest.raises(ConfigurationError, match=r"'\*\.shop\.example'"):
        check_host(pattern)


@pytest.mark.parametrize(
    ("arguments", "hosts"),
    [
        ({"is_dev": True}, ANY),
        ({"is_dev": True, "allowed_hosts": ["a"]}, ("a",)),
        ({"signing_key": KEY, "serve_origin": "https://shop.example"}, ANY),
        ({"signing_key": KEY, "allowed_hosts": ["A.example"]}, ("a.example",)),
        ({"signing_key": KEY, "base_url": "http://127.0.0.1:8288"}, LOOPBACK),
        ({"signing_key": KEY, "base_url": "http://localhost:8288"}, LOOPBACK),
    ],
)
def test_what_is_taken_for_granted(arguments: dict[str, object], hosts: tuple[str, ...]) -> None:
    """All hosts where that is harmless, this machine for a server on it, else nothing."""
    assert hosts == resolve_config({}, **arguments).hosts  # type: ignore[arg-type]


def test_this_machine() -> None:
    """Each of its usual names is of it, and is allowed as such."""
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert is_loopback(f"http://{host}:8288")
        assert allows(LOOPBACK, f"http://{host}:8000")
    assert not is_loopback("https://api.inngest.com")
    assert not allows(LOOPBACK, "http://169.254.169.254/latest")
