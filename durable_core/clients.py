"""What clients are made of: the events of a run's stream, the decoder of their bytes, headers, and
the kind of an HTTP client.

``durable_client`` is made of it. It loads nothing that serves or executes.
"""

from __future__ import annotations

from durable_core.codec.sse import CONTENT_TYPE, ServerSentEvent, SSEDecoder, may_begin
from durable_core.codec.stream_events import (
    Chunk,
    Commit,
    Final,
    Metadata,
    RedirectInfo,
    Rollback,
    StreamEvent,
    load_stream_event,
)
from durable_core.duration import Duration, parse_duration
from durable_core.http.client_kind import is_client_of_kind
from durable_core.http.headers import TOKEN, HeaderFields, Headers

__all__ = [
    "CONTENT_TYPE",
    "TOKEN",
    "Chunk",
    "Commit",
    "Duration",
    "Final",
    "HeaderFields",
    "Headers",
    "Metadata",
    "RedirectInfo",
    "Rollback",
    "SSEDecoder",
    "ServerSentEvent",
    "StreamEvent",
    "is_client_of_kind",
    "load_stream_event",
    "may_begin",
    "parse_duration",
]
