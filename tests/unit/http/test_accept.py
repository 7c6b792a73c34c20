"""What a client says it accepts."""

from __future__ import annotations

import pytest

from durable_core.http.headers import Headers, accepts_event_stream


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), False),
        (("*/*",), False),
        (("text/event-stream",), True),
        (("application/json, Text/Event-Stream;q=0.1",), True),
        (("text/html", "text/event-stream"), True),
    ],
)
def test_accepts_stream(values: tuple[str, ...], expected: bool) -> None:
    """The media type counts wherever it stands, in whatever case and field."""
    assert expected is accepts_event_stream(Headers([("accept", value) for value in values]))
