"""A client of durable endpoints: it asks for a stream, follows it and returns the response.

    from durable_core.client import Collector, fetch_with_stream

    answer = Collector()
    response = fetch_with_stream("http://127.0.0.1:8000/chat?q=hello", collect=answer)
    print(response.status, answer.text)

``afetch_with_stream`` does the same in a task. Both need the standard library alone, and take
another transport as ``fetch=``.
"""

from __future__ import annotations

from durable_core.api.fetching import ClientResponse, afetch_with_stream, fetch_with_stream
from durable_core.codec.stream_events import Chunk, Commit, Metadata, Rollback
from durable_core.model.outgoing import OutgoingRequest
from durable_core.ports.http import AsyncFetch, AsyncFetched, Fetch, Fetched
from durable_core.runtime.http.abort import Abort
from durable_core.wire.collector import Collector

__all__ = [
    "Abort",
    "AsyncFetch",
    "AsyncFetched",
    "Chunk",
    "ClientResponse",
    "Collector",
    "Commit",
    "Fetch",
    "Fetched",
    "Metadata",
    "OutgoingRequest",
    "Rollback",
    "afetch_with_stream",
    "fetch_with_stream",
]
