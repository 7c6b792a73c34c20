"""What a client says it prefers."""

from __future__ import annotations

import time

import pytest

from durable_core.http.headers import Headers, Preferences, parse_prefer

NONE = Preferences()
ASYNC = Preferences(respond_async=True)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), NONE),
        (("",), NONE),
        (("return=minimal",), NONE),
        (("respond-async",), ASYNC),
        (("Respond-Async",), ASYNC),
        (('respond-async=""',), ASYNC),
        (("respond-async=",), ASYNC),
        (("respond-async; foo=bar",), ASYNC),
        (("respond-async=yes",), NONE),
        (("respond-asynchronously",), NONE),
        (("wait=10",), Preferences(wait=10)),
        (('wait = "10"',), Preferences(wait=10)),
        (("wait=0",), Preferences(wait=0)),
        (("wait=10;x",), Preferences(wait=10)),
        (("wait",), NONE),
        (("wait=-1",), NONE),
        (("wait=1.5",), NONE),
        (("wait=ten",), NONE),
        (("wait=\N{SUPERSCRIPT TWO}",), NONE),
        (("wait=" + "9" * 10,), NONE),
        (("respond-async, wait=10",), Preferences(True, 10)),
        (("respond-async", "wait=10"), Preferences(True, 10)),
        (("handling=lenient, ,respond-async",), ASYNC),
        (("wait=3, wait=5",), Preferences(wait=3)),
        (("wait=x, wait=5",), NONE),
        (('foo="a, respond-async"',), NONE),
        (('foo="a\\", b", wait=2',), Preferences(wait=2)),
        (("b@d, wait=2",), Preferences(wait=2)),
        (('foo="a, wait=2',), Preferences(wait=2)),
        (("wait=2, " + "x" * 1_000,), NONE),
    ],
)
def test_preferences(values: tuple[str, ...], expected: Preferences) -> None:
    """What is known is read; what is malformed, and all after the first of a name, is ignored."""
    assert expected == parse_prefer(Headers([("prefer", value) for value in values]))


def test_a_hostile_header_takes_no_time() -> None:
    """Quotes that never end do not make matching slow."""
    begun = time.process_time()
    assert NONE == parse_prefer(Headers([("prefer", '"\\' * 499)] * 60))
    assert NONE == parse_prefer(Headers([("prefer", '"\\' * 499)]))
    assert time.process_time() - begun < 1
