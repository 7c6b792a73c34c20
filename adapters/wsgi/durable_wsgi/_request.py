"""From a WSGI environ (PEP 3333) to a ``Request``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote, unquote
from wsgiref.types import WSGIEnvironment

from durable_core import Request
from durable_core.adapter.messages import bad_request_on_error, parse_content_length, read_sized

__all__ = ["content_length", "read_body", "request_line", "to_request", "url_of"]

#: What may stand in a path as it is, besides letters and digits (RFC 3986, section 3.3).
_IN_PATH = "/:@!$&'()*+,;=-._~"
#: What is left as it is in a query: all that prints but ``#``, which would end it.
_IN_QUERY = "!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/]*")
_HOST = re.compile(r"(?:[A-Za-z0-9._~%\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
#: Keys of the environ that look like header fields. CGI has other names for two of them.
_NO_FIELDS = frozenset({"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"})
_FIELDS = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}


def to_request(environ: WSGIEnvironment, body_limit: int) -> Request:
    """Return the request, its body read.

    Header names are in lower case; of a repeated field the server has joined the values.

    Args:
        environ: as the server made it. Its ``wsgi.input`` is read.
        body_limit: the most bytes that a body may have.

    Raises:
        BadRequest: a method, URL, header field or length that HTTP does not allow, or a body that
            ended early.
        HTTPError: 413, for a body over the limit; 408, for one that did not come in time.
    """
    body = read_body(environ, body_limit)
    with bad_request_on_error():
        return Request(
            method=environ["REQUEST_METHOD"],
            body=body,
            url=url_of(environ),
            headers=_fields(environ),
            root_path=_octets(environ.get("SCRIPT_NAME", "")).decode("utf-8", "replace"),
        )


def request_line(environ: WSGIEnvironment) -> str:
    """Return method and path for a log: without the query, which may hold a token, on one line."""
    path = quote(environ.get("PATH_INFO", ""), safe=_IN_PATH, encoding="latin-1")
    return f"{environ['REQUEST_METHOD']} {path}"


def url_of(environ: WSGIEnvironment) -> str:
    """Return the absolute URL that was asked for (PEP 3333, "URL Reconstruction").

    The environ holds the path decoded. Its percent-encoding is restored from the request target
    if the server passes that on, otherwise what must be encoded is. The query stays as it was
    sent, but for characters that no URL may hold.

    Raises:
        ValueError: a host, or a character, that no URL can have.
    """
    scheme = environ["wsgi.url_scheme"]
    query = quote(environ.get("QUERY_STRING", ""), safe=_IN_QUERY, encoding="latin-1")
    url = f"{scheme}://{_host(environ, scheme)}{_path(environ) or '/'}"
    return f"{url}?{query}" if query else url


def _path(environ: WSGIEnvironment) -> str:
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    # gunicorn and waitress have different names for it; servers that rewrite do not change it.
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    raw = target.partition("?")[0]
    origin = _ORIGIN.match(raw)  # a proxy's clients ask for whole URLs
    raw = raw[origin.end() :] if origin is not None else raw
    if unquote(raw, "latin-1") == path:
        return quote(raw, safe=f"%{_IN_PATH}", encoding="latin-1")
    return quote(_octets(path), safe=_IN_PATH)


def _host(environ: WSGIEnvironment, scheme: str) -> str:
    host: str | None = environ.get("HTTP_HOST")
    if host:
        if _HOST.fullmatch(host) is None:
            raise ValueError("the Host header must be one host, with or without a port")
        return host
    name, port = environ["SERVER_NAME"], environ["SERVER_PORT"]
    if ":" in name and not name.startswith("["):
        name = f"[{name}]"
    if _HOST.fullmatch(name) is None:
        name = "localhost"  # the server's address is the path of a Unix socket
    return name if port in ("", _DEFAULT_PORTS.get(scheme)) else f"{name}:{port}"


def _octets(text: str) -> bytes:
    """Undo what PEP 3333 does to octets, each of which it shows as one character."""
    return text.encode("latin-1")


def _fields(environ: WSGIEnvironment) -> Iterator[tuple[str, str]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            if key not in _NO_FIELDS:
                yield key[5:].replace("_", "-").lower(), value
        elif key in _FIELDS and value:  # servers say "" where there is no such field
            yield _FIELDS[key], value


def content_length(environ: WSGIEnvironment) -> int | None:
    """Return the length that the client announced, None if it did not.

    Raises:
        BadRequest: it is no number of bytes.
    """
    return parse_content_length(environ.get("CONTENT_LENGTH") or "")


def read_body(environ: WSGIEnvironment, limit: int) -> bytes:
    """Read the body; what is over the limit is not read to its end.

    Without an announced length there is a body only where the server marks its end
    (``wsgi.input_terminated``): chunked requests.

    Raises:
        BadRequest: a malformed length, or fewer bytes than were announced.
        HTTPError: 413, over the limit; 408, not in time.
    """
    ends = bool(environ.get("wsgi.input_terminated"))
    return read_sized(environ["wsgi.input"], content_length(environ), limit, ends=ends)
