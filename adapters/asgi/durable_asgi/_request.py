"""From an ASGI ``http`` scope and its body messages to a ``Request``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

from durable_asgi._types import Receive, Scope
from durable_core import HTTPError, Request
from durable_core.adapter.asynchronous import ClientDisconnectedError
from durable_core.adapter.messages import bad_request_on_error

__all__ = ["read_body", "root_of", "route_of", "to_request", "url_of"]

#: What may stand in a path as it is, besides letters and digits (RFC 3986, section 3.3).
_IN_PATH = "/:@!$&'()*+,;=-._~"
#: What is left as it is in a query: all that prints but ``#``, which would end it.
_IN_QUERY = "!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/]*")
_HOST = re.compile(r"(?:[A-Za-z0-9._~%\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def to_request(scope: Scope, body: bytes) -> Request:
    """Return the request.

    Header fields are as the server passes them on: names in lower case, repeated fields kept.
    What a framework's router found in the path (``scope["path_params"]``) becomes the request's
    path parameters, as text.

    Raises:
        BadRequest: a method, URL or header field that HTTP does not allow.
    """
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    params = scope.get("path_params") or {}
    with bad_request_on_error():
        return Request(
            method=scope["method"],
            url=url_of(scope, [value for name, value in fields if name == "host"]),
            headers=fields,
            body=body,
            path_params={str(name): str(value) for name, value in params.items()},
            root_path=root_of(scope),
        )


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Read the body; what is over the limit is not read to its end.

    Raises:
        ClientDisconnectedError: the client went away before the end of the body.
        HTTPError: 413, over the limit.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > limit:
            raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError("the client went away before the end of the request")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _too_large(limit: int) -> HTTPError:
    return HTTPError(413, f"at most {limit} bytes are accepted")


def url_of(scope: Scope, hosts: Iterable[str]) -> str:
    """Return the absolute URL that was asked for.

    The percent-encoding of the path is the client's where the server passes it on, otherwise what
    must be encoded is. The query stays as it was sent, but for characters that no URL may hold.

    Args:
        scope: of the request.
        hosts: the values of its ``Host`` fields.

    Raises:
        ValueError: more than one host, or something that is none.
    """
    scheme = scope.get("scheme") or "http"
    query = quote(scope.get("query_string", b""), safe=_IN_QUERY)
    url = f"{scheme}://{_host(scope, scheme, hosts)}{_path(scope)}"
    return f"{url}?{query}" if query else url


def root_of(scope: Scope) -> str:
    """Return the decoded prefix under which the application is mounted; "" for none."""
    root: str = scope.get("root_path") or ""
    return root.rstrip("/")


def route_of(scope: Scope) -> str | None:
    """Return the template that a framework's router found the path by, where it tells (FastAPI)."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else None


def _path(scope: Scope) -> str:
    """Return the whole path, percent-encoded, ``root_path`` included.

    Servers and frameworks differ in whether ``path`` holds the prefix ``root_path``; the
    specification says that it does. ``raw_path`` is optional, and whoever rewrites ``path`` may
    have forgotten it: it counts only where it is the same path.
    """
    root, path = root_of(scope), _origin_form(scope["path"])
    whole = path if path == root or path.startswith(f"{root}/") else root + path
    raw = scope.get("raw_path")
    if raw is not None:
        sent = _origin_form(quote(raw.partition(b"?")[0], safe=f"%{_IN_PATH}"))
        if unquote(sent) == whole:
            return sent
        if unquote(sent) == path:
            return quote(root, safe=_IN_PATH) + sent
    return quote(whole, safe=_IN_PATH)


def _origin_form(path: str) -> str:
    """Return the path of a target that may also be a whole URL, ``*`` or empty (RFC 9112, 3.2)."""
    if path.startswith("/"):
        return path
    path = _ORIGIN.sub("", path, count=1)
    return path if path.startswith("/") else f"/{path.lstrip('*')}"


def _host(scope: Scope, scheme: str, hosts: Iterable[str]) -> str:
    host, *others = hosts or ("",)
    if others:
        raise ValueError("there must be one Host header")
    if host:
        if _HOST.fullmatch(host) is None:
            raise ValueError("the Host header must be one host, with or without a port")
        return host
    name, port = scope.get("server") or ("localhost", None)
    if ":" in name and not name.startswith("["):
        name = f"[{name}]"
    if _HOST.fullmatch(name) is None:
        name = "localhost"  # the server's address is the path of a Unix socket
    return name if port in (None, _DEFAULT_PORTS.get(scheme)) else f"{name}:{port}"
