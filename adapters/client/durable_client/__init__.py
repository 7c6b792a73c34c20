"""A client of durable endpoints: it calls one, follows its stream, and returns the response.

    from durable_client import Collector, fetch_with_stream

    answer = Collector()
    response = fetch_with_stream("http://127.0.0.1:8000/chat?q=hello", collect=answer)
    print(response.status, answer.text)

``fetch_with_stream_async`` does the same in a task. Both take a client object of ``httpx2`` or
``httpx`` as ``client=``.
"""

from __future__ import annotations

from durable_client._abort import Abort
from durable_client._async import fetch_with_stream_async
from durable_client._call import ClientResponse
from durable_client._collector import Collector
from durable_client._sync import fetch_with_stream
from durable_client._transport import (
    AsyncHTTPClient,
    AsyncTransportClient,
    HTTPClient,
    TransportClient,
)
from durable_core.clients import Chunk, Commit, Metadata, Rollback

__all__ = [
    "Abort",
    "AsyncHTTPClient",
    "AsyncTransportClient",
    "Chunk",
    "ClientResponse",
    "Collector",
    "Commit",
    "HTTPClient",
    "Metadata",
    "Rollback",
    "TransportClient",
    "fetch_with_stream",
    "fetch_with_stream_async",
]
