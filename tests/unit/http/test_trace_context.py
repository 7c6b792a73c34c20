"""The header ``traceparent``: which values are kept."""

from __future__ import annotations

import pytest

from durable_core.http.headers import Headers, is_traceparent, trace_id_of, traceparent_of

IDS = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (f"00-{IDS}-01", f"00-{IDS}-01"),
        (f" 00-{IDS}-00\t", f"00-{IDS}-00"),
        (f"cc-{IDS}-01-what-the-future-will-be-like", f"cc-{IDS}-01"),
        (f"00-{IDS}-01-more", None),
        (f"cc-{IDS}-01.more", None),
        (f"ff-{IDS}-01", None),
        (f"00-{IDS.upper()}-01", None),
        ("00-" + "0" * 32 + "-b7ad6b7169203331-01", None),
        ("00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01", None),
        ("", None),
        ("x" * 60_000, None),
    ],
)
def test_which_are_kept(sent: str, kept: str | None) -> None:
    """A valid one, without the fields of a later version; an invalid one is none."""
    assert kept == traceparent_of(Headers({"TraceParent": sent}))


def test_several_are_none() -> None:
    """Nobody knows which of them is meant; nor is there one without the header."""
    twice = Headers([("traceparent", f"00-{IDS}-01")] * 2)
    assert (None, None) == (traceparent_of(twice), traceparent_of(Headers()))


def test_trace_id() -> None:
    """It is the second field."""
    assert IDS[:32] == trace_id_of(f"00-{IDS}-01")
    assert trace_id_of(None) is None
    assert not is_traceparent(7)
