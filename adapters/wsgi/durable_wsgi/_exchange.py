"""One call of a WSGI application (PEP 3333) as a ``PulledExchange``."""

from __future__ import annotations

import logging
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import quote, unquote
from wsgiref.types import StartResponse, WSGIEnvironment

from durable_core.adapters import (
    ClientDisconnectedError,
    Fields,
    PulledExchange,
    authority_of,
    split_target,
)

__all__ = [
    "MAX_WAIT",
    "MAX_WAIT_SINGLE_THREADED",
    "SEND_TIMEOUT",
    "WSGIExchange",
    "request_line",
]

_logger = logging.getLogger("durable.wsgi")
#: Seconds for which a client is held at a wait URL.
MAX_WAIT = 25.0
#: The same where the server answers one request at a time: others must get their turn, and
#: servers such as gunicorn end a worker that is silent for too long.
MAX_WAIT_SINGLE_THREADED = 2.0
#: Seconds that a client may take to read a part of a stream, under gunicorn. The servers of this
#: project have such a limit for all that they send, waitress has none.
SEND_TIMEOUT = 30.0
#: What may stand in a path as it is, besides letters and digits (RFC 3986, section 3.3).
_IN_PATH = "/:@!$&'()*+,;=-._~"
#: Keys of the environ that look like header fields. CGI has other names for two of them.
_NO_FIELDS = frozenset({"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"})
_FIELDS = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}
_PHRASES = {int(status): status.phrase for status in HTTPStatus}
_authority_of = lru_cache(16)(authority_of)  # of the few sockets that a server listens on


class WSGIExchange(PulledExchange):
    """What a WSGI server says about a request, and how it is told the response's head.

    Of a repeated field the server has joined the values.

    Args:
        environ, start_response: what the application is called with.
    """

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self.method = environ["REQUEST_METHOD"]
        self.scheme = environ["wsgi.url_scheme"]
        self.authority = _authority_of(self.scheme, environ["SERVER_NAME"], environ["SERVER_PORT"])
        self.client = environ.get("REMOTE_ADDR", "")
        self.root_path = _decode(environ.get("SCRIPT_NAME", ""))
        self.target = _target_of(environ)
        self.fields = list(_fields_of(environ))
        self.max_wait = MAX_WAIT if environ["wsgi.multithread"] else MAX_WAIT_SINGLE_THREADED
        self._input = environ["wsgi.input"]
        self._socket = environ.get("gunicorn.socket")
        # Without a length there is a body only where the server marks its end: a chunked one.
        has_end = environ.get("CONTENT_LENGTH") or environ.get("wsgi.input_terminated")
        self._has_body = bool(has_end)
        self._start_response = start_response

    def read(self, size: int) -> bytes:
        """Return what the server has of the body."""
        data: bytes = self._input.read(size) if self._has_body else b""
        return data

    def begin(self, status: int, fields: Fields) -> None:
        """Start the response."""
        line = f"{status} {_PHRASES.get(status, 'Unknown')}"
        # In place of what the server did not take, it wants to know why.
        error = (sys.exc_info(),) if self.begun else ()
        self.begun = True
        if self._socket is not None and all(name.lower() != "content-length" for name, _ in fields):
            # gunicorn waits for ever for a client that does not read, and a thread with it.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(SEND_TIMEOUT))
        self._start_response(line, _wsgi_fields(status, fields), *error)

    def abort(self, error: BaseException) -> None:
        """Raise the error: servers cut the connection when an application fails."""
        if not (self.begun and isinstance(error, ClientDisconnectedError)):
            raise error


def _timeval(seconds: float) -> bytes:
    """Return a time-out as the socket option has it."""
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))


def request_line(environ: WSGIEnvironment) -> str:
    """Return method and path for a log: without the query, which may hold a token, on one line."""
    path = quote(environ.get("PATH_INFO", ""), safe=_IN_PATH, encoding="latin-1")
    return f"{environ['REQUEST_METHOD']} {path}"


def _target_of(environ: Mapping[str, str]) -> str:
    """Return the target of the request.

    The environ holds the path decoded. Its percent-encoding is restored from the request line if
    the server passes that on, otherwise what must be encoded is.
    """
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    query = environ.get("QUERY_STRING", "")
    # gunicorn and waitress have different names for it; servers that rewrite do not change it.
    sent = (environ.get("RAW_URI") or environ.get("REQUEST_URI") or "").partition("?")[0]
    target = sent
    if not sent or unquote(split_target(sent)[1], "latin-1") != path:
        try:
            target = quote(path or "/", safe=_IN_PATH, encoding="latin-1", errors="strict")
        except UnicodeEncodeError:
            return path  # these are no octets: a bad request
    return f"{target}?{query}" if query else target


def _decode(octets: str) -> str:
    """Return text whose UTF-8 octets PEP 3333 shows as one character each."""
    return octets.encode("latin-1", "replace").decode("utf-8", "replace")


def _fields_of(environ: WSGIEnvironment) -> Iterator[tuple[str, str]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            if key not in _NO_FIELDS:
                yield key[5:].replace("_", "-").lower(), value
        elif key in _FIELDS and value:  # servers say "" where there is no such field
            yield _FIELDS[key], value


def _wsgi_fields(status: int, fields: Fields) -> list[tuple[str, str]]:
    """Return header fields as WSGI has them.

    A content type is required where there is content, and must not be where there is none. A tab is
    allowed in HTTP, where it means the same as a space, but not here. CGI has a field ``Status``.
    """
    found = {name.lower(): value for name, value in fields}
    if "status" in found:
        _logger.warning("the response header 'status' was dropped: only the server may set it")
    unwanted = {"status", "content-type"} if status in (204, 304) else {"status"}
    kept = [(n, value.replace("\t", " ")) for n, value in fields if n.lower() not in unwanted]
    if status not in (204, 304) and "content-type" not in found:
        is_empty = found.get("content-length") == "0"
        kept.append(("content-type", "text/plain" if is_empty else "application/octet-stream"))
    return kept
