"""Responses on their way through the server to a client that waits, and back.

The server keeps a status, one value for each header, and a body of text. A response that is more
than that, or whose headers the server would mix with its own, goes in an envelope that only the
wait URL of this library opens. A mark tells a handler's response from what the server says itself.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping

from durable_core.model.headers import Headers
from durable_core.model.response import Response

__all__ = ["FAILED", "MARK", "dump_response", "load_response", "plain_response"]

#: Names, in a response that the server keeps, the form that it is in.
MARK = "x-durable-response"
#: What it says of a run that has failed.
FAILED = "failed"
_ENVELOPE = "application/vnd.durable.response+json"
#: What servers and proxies on the way set, or remove, as they like.
_NOT_KEPT = frozenset(
    {
        *("connection", "content-encoding", "content-length", "date", "keep-alive"),
        *("proxy-authenticate", "proxy-connection", "server", "te", "trailer"),
        *("transfer-encoding", "upgrade", "vary"),
    }
)


def plain_response(response: Response) -> dict[str, object]:
    """Return a response that was sent to its client already, as the server shows it."""
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    body = _text_of(response) or ""
    return {"headers": headers, "status": response.status, "body": body, "version": 2}


def dump_response(response: Response, *, failed: bool = False) -> dict[str, object]:
    """Return a response for the server to keep until its client asks for it."""
    mark = FAILED if failed else "1"
    text = _text_of(response)
    names = [name for name, _ in response.headers.items()]
    if text is None or len(names) != len(set(names)) or any(map(_is_touched, names)):
        return _enveloped(response, mark)
    return {**plain_response(response), "headers": {**dict(response.headers.items()), MARK: mark}}


def load_response(status: int, headers: Mapping[str, str], body: bytes) -> Response | None:
    """Return the handler's response that the server has kept; None if it is none.

    Args:
        status, headers, body: what the server answers; header names in lower case.

    Raises:
        ValueError: an envelope that is damaged.
    """
    if MARK not in headers:
        return None
    if headers.get("content-type") == _ENVELOPE:
        return _opened(body)
    kept = [(name, value) for name, value in headers.items() if not _is_touched(name)]
    return Response(status=status, headers=Headers(kept), body=body)


def _text_of(response: Response) -> str | None:
    assert isinstance(response.body, bytes)
    try:
        return response.body.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _is_touched(name: str) -> bool:
    """Tell whether a header does not come through the server as the handler has set it."""
    return name in _NOT_KEPT or name == MARK or name.startswith(("access-control-", "x-inngest-"))


def _enveloped(response: Response, mark: str) -> dict[str, object]:
    assert isinstance(response.body, bytes)
    inside = {
        "status": response.status,
        "headers": response.headers.raw,
        "body": b64encode(response.body).decode("ascii"),
    }
    return {
        "headers": {"content-type": _ENVELOPE, MARK: mark},
        "status": response.status,
        "body": json.dumps(inside),
        "version": 2,
    }


def _opened(body: bytes) -> Response:
    try:
        inside = json.loads(body)
        headers = Headers([(name, value) for name, value in inside["headers"]])
        content = b64decode(inside["body"], validate=True)
        return Response(status=inside["status"], headers=headers, body=content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the envelope of a response is damaged: {error!r}") from None
