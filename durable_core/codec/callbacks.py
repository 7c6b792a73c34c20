"""The requests that answer callbacks, as they are delivered and stored."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from durable_core.codec.records import dump_request, load_request
from durable_core.http.request import Request

__all__ = ["callback_digest", "dump_callback", "load_callback", "without_params"]


def without_params(request: Request, names: frozenset[str]) -> Request:
    """Return a request without some parameters of its URL, such as a token."""
    parts = urlsplit(request.url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    kept = urlencode([pair for pair in query if pair[0] not in names])
    return Request(
        method=request.method,
        url=urlunsplit((*parts[:3], kept, "")),
        headers=request.headers,
        body=request.body,
        path_params=request.path_params,
        root_path=request.root_path,
    )


def callback_digest(request: Request) -> str:
    """Return what a repeated answer has in common with the first one: content and its type."""
    content_type = request.headers.get("content-type") or ""
    parts = content_type.encode("utf-8", "replace"), request.body
    return hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).hexdigest()


def dump_callback(request: Request, stored_headers: frozenset[str]) -> dict[str, object]:
    """Return a request as JSON values.

    The body is ``text`` if it is UTF-8, for people who look at the run; else ``base64``. Of
    credential headers (``SENSITIVE_HEADERS``) only those in ``stored_headers`` are kept.
    """
    data: dict[str, object] = json.loads(dump_request(request, stored_headers=stored_headers))
    try:
        data["text"] = request.body.decode("utf-8")
    except UnicodeDecodeError:
        data["base64"] = b64encode(request.body).decode("ascii")
    return data


def load_callback(data: Mapping[str, Any]) -> Request:
    """Return the request that :func:`dump_callback` was given."""
    text = data.get("text")
    body = b64decode(data["base64"]) if text is None else text.encode("utf-8")
    return load_request(json.dumps(data), body)
