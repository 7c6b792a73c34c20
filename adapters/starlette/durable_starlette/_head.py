"""What the head of a request tells before there is a run for it."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from durable_asgi import Scope
from durable_core import Limits
from durable_core.adapters import RUN_PARAM, TOKEN_PARAM

__all__ = ["names_run", "plain_body"]

#: Fields by which a request may be more than one for a new run, or be refused.
_SPECIAL = frozenset(
    {
        *(b"host", b"content-length", b"transfer-encoding"),
        *(b"accept", b"prefer", b"idempotency-key", b"last-event-id"),
    }
)
#: A host that needs no closer look.
_PLAIN_HOST = re.compile(rb"[A-Za-z0-9._-]+(?::(?:[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}))?")
_RUN, _TOKEN = RUN_PARAM.encode(), TOKEN_PARAM.encode()


def plain_body(scope: Scope, limits: Limits) -> bool | None:
    """Tell whether a request may have a body, if it is no more than one for a new run, by its head.

    It is not to be refused, asks neither for a stream nor for a run that there is already, does
    not say how long the client waits, and is no HEAD. It is None where that cannot be told at a
    glance.
    """
    query = scope["query_string"]
    if scope["method"] == "HEAD" or (query and _names_run(query)):
        return None
    size = len(scope.get("raw_path") or scope["path"].encode()) + len(query)
    seen = []
    for name, value in scope["headers"]:
        size += len(name) + len(value) + 4
        if name in _SPECIAL:
            if name in seen or not _is_plain_field(name, value, limits):
                return None
            seen.append(name)
    if 3 * size >= limits.head:  # the path may be decoded
        return None
    if b"transfer-encoding" in seen:
        return None if b"content-length" in seen else True
    # Without both there is none in HTTP/1 (RFC 9112, section 6.3).
    return b"content-length" in seen or not scope.get("http_version", "").startswith("1")


def _names_run(query: bytes) -> bool:
    if b"%" in query:
        query = unquote_to_bytes(query)
    return _RUN in query or _TOKEN in query


def _is_plain_field(name: bytes, value: bytes, limits: Limits) -> bool:
    if name == b"host":
        return _PLAIN_HOST.fullmatch(value) is not None
    if name == b"accept":
        return b"event-stream" not in value.lower()
    if name == b"content-length":
        return value.isdigit() and len(value) < 20 and int(value) <= limits.body
    return name == b"transfer-encoding"


def names_run(scope: Scope) -> bool:
    """Tell whether a request is for the wait URL of a run."""
    query = scope["query_string"]
    return _RUN in query and _TOKEN in query and scope["method"] != "OPTIONS"
