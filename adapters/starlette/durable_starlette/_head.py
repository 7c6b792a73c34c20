"""What the head of a request tells before there is a run for it."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from durable_asgi import Scope
from durable_core import Limits
from durable_core.adapters import RUN_PARAM, TOKEN_PARAM

__all__ = ["has_no_body", "is_plain", "names_run"]

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


def is_plain(scope: Scope, limits: Limits) -> bool:
    """Tell whether a request is no more than one for a new run, by its head.

    It is not to be refused, asks neither for a stream nor for a run that there is already, does
    not say how long the client waits, and is no HEAD. The answer is no where that cannot be told at
    a glance.
    """
    query = scope["query_string"]
    if scope["method"] == "HEAD" or (query and _names_run(query)):
        return False
    size = len(scope.get("raw_path") or scope["path"].encode()) + len(query)
    seen: set[bytes] = set()
    for name, value in scope["headers"]:
        size += len(name) + len(value) + 4
        if name in _SPECIAL:
            if name in seen or not _is_plain_field(name, value, limits):
                return False
            seen.add(name)
    if b"transfer-encoding" in seen and b"content-length" in seen:
        return False
    return bool(3 * size < limits.head)  # the path may be decoded


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


def has_no_body(scope: Scope) -> bool:
    """Tell whether the head of a plain request says that there is no body (RFC 9112, 6.3)."""
    if not scope.get("http_version", "").startswith("1"):
        return False
    lengths = (b"content-length", b"transfer-encoding")
    return all(name not in lengths for name, _ in scope["headers"])


def names_run(scope: Scope) -> bool:
    """Tell whether a request is for the wait URL of a run."""
    query = scope["query_string"]
    return _RUN in query and _TOKEN in query and scope["method"] != "OPTIONS"
