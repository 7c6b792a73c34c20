"""Requests as bytes of HTTP/1.1 (RFC 9112)."""

from __future__ import annotations

from durable_core.model.outgoing import OutgoingRequest
from durable_core.wire.urls import Target

__all__ = ["LAST_CHUNK", "encode_chunk", "encode_request_head"]

#: What ends a body in chunks.
LAST_CHUNK = b"0\r\n\r\n"

#: Fields that say how the message is framed, or what becomes of the connection.
_OF_THE_TRANSPORT = frozenset(
    {
        *("connection", "content-length", "expect", "keep-alive", "proxy-connection", "te"),
        *("trailer", "transfer-encoding", "upgrade"),
    }
)
_WITH_CONTENT = frozenset({"POST", "PUT", "PATCH"})
_DEFAULTS = (("accept", "*/*"), ("accept-encoding", "identity"), ("user-agent", "durable-core"))


def encode_request_head(request: OutgoingRequest, target: Target) -> bytes:
    """Return the request line and the fields, with those for the framing of its body.

    A body of bytes gets ``Content-Length``, one of chunks ``Transfer-Encoding: chunked``.

    Raises:
        ValueError: the request has a field that is the transport's own.
    """
    headers = request.headers
    for name in headers:
        if name in _OF_THE_TRANSPORT:
            raise ValueError(f"the header {name!r} is set by the transport; leave it out")
    lines = [f"{request.method} {target.path} HTTP/1.1"]
    if "host" not in headers:
        lines.append(f"host: {target.origin.authority}")
    lines += [f"{name}: {value}" for name, value in headers.raw]
    lines += [f"{name}: {value}" for name, value in _DEFAULTS if name not in headers]
    lines += _framing(request)
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _framing(request: OutgoingRequest) -> list[str]:
    if request.body is None:
        return ["content-length: 0"] if request.method in _WITH_CONTENT else []
    if isinstance(request.body, bytes):
        return [f"content-length: {len(request.body)}"]
    return ["transfer-encoding: chunked"]


def encode_chunk(data: bytes) -> bytes:
    """Return a chunk of a body; nothing for no bytes, as an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
