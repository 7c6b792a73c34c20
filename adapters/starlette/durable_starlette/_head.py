"""What the head of a request tells before there is a run for it."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from durable_asgi import Scope
from durable_core import Limits
from durable_core.adapters import RUN_PARAM, TOKEN_PARAM

__all__ = ["names_run", "plain_body"]

_NEVER = re.compile(rb"(?!)")
#: What fields may say by which a request may be more than one for a new run, or be refused.
_PLAIN = {
    b"host": re.compile(rb"[A-Za-z0-9._-]+(?::(?:[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}))?"),
    b"accept": re.compile(rb"(?!.*event-stream).*", re.DOTALL | re.IGNORECASE),
    b"content-length": re.compile(rb"[0-9]{1,19}"),
    b"transfer-encoding": re.compile(rb".*", re.DOTALL),
    **dict.fromkeys((b"prefer", b"idempotency-key", b"last-event-id"), _NEVER),
}
_RUN, _TOKEN = RUN_PARAM.encode(), TOKEN_PARAM.encode()


def plain_body(scope: Scope, limits: Limits) -> bool | None:
    """Tell whether a request may have a body, if it is no more than one for a new run, by its head.

    It is not to be refused, asks neither for a stream nor for a run that there is already, does
    not say how long the client waits, and is no HEAD. It is None where that cannot be told at a
    glance.
    """
    query = scope["query_string"]
    if scope["method"] == "HEAD":
        return None
    if query:
        plain_query = unquote_to_bytes(query) if b"%" in query else query
        if _RUN in plain_query or _TOKEN in plain_query:
            return None
    size = len(scope.get("raw_path") or scope["path"].encode()) + len(query)
    seen = {}
    for name, value in scope["headers"]:
        size += len(name) + len(value) + 4
        plain = _PLAIN.get(name)
        if plain is not None:
            if name in seen or plain.fullmatch(value) is None:
                return None
            seen[name] = value
    if 3 * size >= limits.head:  # the path may be decoded
        return None
    length = seen.get(b"content-length")
    if length is not None:
        is_plain = b"transfer-encoding" not in seen and int(length) <= limits.body
        return True if is_plain else None
    # Without both there is none in HTTP/1 (RFC 9112, section 6.3).
    return b"transfer-encoding" in seen or not scope.get("http_version", "").startswith("1")


def names_run(scope: Scope) -> bool:
    """Tell whether a request is for the wait URL of a run."""
    query = scope["query_string"]
    return _RUN in query and _TOKEN in query and scope["method"] != "OPTIONS"
