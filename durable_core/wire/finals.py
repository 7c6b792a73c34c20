"""The last event of a run's stream, from the run's response."""

from __future__ import annotations

import json

from durable_core.model.headers import Headers
from durable_core.model.response import Response
from durable_core.wire.stream_events import Final

__all__ = ["final_of"]

_JSON = Headers([("content-type", "application/json")])
_ENCODER = json.JSONEncoder(ensure_ascii=False)


def final_of(response: Response, *, failed: bool) -> Final:
    """Return the event for a response whose body is whole.

    A failed run is told of as the existing clients know it: the status, and for a body the
    message of the error as a JSON string.

    Args:
        response: the response of the run; if it has failed, its problem document.
        failed: the run has failed, or was cancelled.
    """
    assert isinstance(response.body, bytes)
    if not failed:
        return Final(status=response.status, headers=response.headers, body=response.body)
    message = _ENCODER.encode(_message(response.body)).encode("utf-8", "replace")
    return Final(status=response.status, headers=_JSON, body=message, failed=True)


def _message(body: bytes) -> str:
    """Return what a problem document says: the message of the error, else its detail or title."""
    document = json.loads(body)
    error = document.get("error", {})
    message = error.get("reason", error.get("message", document.get("detail", document["title"])))
    return str(message)
