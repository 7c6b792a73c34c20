"""What a client says it accepts."""

from __future__ import annotations

import pytest

from durable_core.http.headers import Headers, accepts_event_stream


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), False),
        (("*/*",), False),
        (("text/*",), False),
        (("text/event-stream",), True),
        (("Text/Event-Stream; charset=utf-8; q=0.1",), True),
        (("text/event-stream;q=0",), False),
        (("text/event-stream;q=0.000",), False),
        (("text/event-stream;q=x",), False),
        (("text/event-stream;q=1.5",), False),
        (("text/event-stream;q=",), False),
        (("text/event-stream-x",), False),
        (("application/json, text/event-stream",), False),
        (("text/event-stream, application/json",), True),
        (("application/json;q=0.9, text/event-stream",), True),
        (("text/event-stream;q=0.8, application/json;q=0.9",), False),
        (("text/event-stream;q=0.5, text/event-stream",), True),
        (("*/*, text/event-stream;q=0.2",), True),
        (("text/html", "text/event-stream"), False),
        (("text/html;q=0.1", "text/event-stream"), True),
        ((",, ;q=1, text/event-stream",), True),
    ],
)
def test_accepts_event_stream(values: tuple[str, ...], expected: bool) -> None:
    """The media type that is named with the highest weight counts, the first one of several."""
    assert expected is accepts_event_stream(Headers([("accept", value) for value in values]))
