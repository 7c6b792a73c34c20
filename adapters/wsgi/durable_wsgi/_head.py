"""What the head of a request tells before there is a run for it."""

from __future__ import annotations

import re
from urllib.parse import unquote
from wsgiref.types import WSGIEnvironment

from durable_core import Limits
from durable_core.adapters import RUN_PARAM, TOKEN_PARAM

__all__ = ["length_of_plain"]

#: A host that needs no closer look.
_PLAIN_HOST = re.compile(r"[A-Za-z0-9._-]+(?::(?:[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}))?")
#: Fields by which a request may be more than one for a new run, or a body have no known length.
_SPECIAL = (
    *("HTTP_IDEMPOTENCY_KEY", "HTTP_LAST_EVENT_ID", "HTTP_PREFER"),
    "HTTP_TRANSFER_ENCODING",
)


def length_of_plain(environ: WSGIEnvironment, limits: Limits) -> int | None:
    """Return the length of a body, if the request is no more than one for a new run, by its head.

    It is not to be refused, asks neither for a stream nor for a run that there is already, does
    not say how long the client waits, and is no HEAD. It is None where that cannot be told at a
    glance.
    """
    if environ["REQUEST_METHOD"] == "HEAD" or _names_run(environ.get("QUERY_STRING", "")):
        return None
    for key in _SPECIAL:
        if key in environ:
            return None
    if not environ["SERVER_PROTOCOL"].startswith("HTTP/1"):
        return None
    if "event-stream" in environ.get("HTTP_ACCEPT", "").lower():
        return None
    if _PLAIN_HOST.fullmatch(environ.get("HTTP_HOST", "")) is None:
        return None
    length = environ.get("CONTENT_LENGTH") or "0"
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        return None
    return int(length) if int(length) <= limits.body else None


def _names_run(query: str) -> bool:
    if "%" in query:
        query = unquote(query)
    return RUN_PARAM in query or TOKEN_PARAM in query
