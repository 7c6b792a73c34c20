"""From the head and body of an HTTP/1.1 request to a ``Request``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import h11

from durable_core import BadRequest, Headers, HTTPError, Request
from durable_core.adapter.messages import bad_request_on_error

__all__ = ["RequestHead", "body_length", "parse_head", "to_head"]

#: What may stand in a path as it is, besides letters and digits (RFC 3986, section 3.3).
_IN_PATH = "%/:@!$&'()*+,;=-._~"
#: What is left as it is in a query: all that prints but ``#``, which would end it.
_IN_QUERY = "!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)
_HOST = re.compile(r"(?:[A-Za-z0-9._~%\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
#: A bare line feed, a bare carriage return, a field that goes on in the next line.
_LOOSE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]")
_LENGTHS = re.compile(rb"\ncontent-length:[ \t]*([^\r]*)", re.IGNORECASE)
_CODED, _LENGTH = b"transfer-encoding", b"content-length"
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request whose body has not been read."""

    method: str
    url: str
    headers: Headers

    def with_body(self, body: bytes) -> Request:
        """Return the whole request."""
        return Request(method=self.method, url=self.url, headers=self.headers, body=body)


def parse_head(parser: h11.Connection, data: bytes) -> h11.Request:
    """Return what the parser makes of the bytes of a head, the empty line included.

    Lines that do not end as they should, and folded fields, are refused although h11 takes them:
    other parsers understand them in other ways (RFC 9112, sections 2.2 and 5.2).

    Raises:
        BadRequest: malformed.
        HTTPError: 501, an unknown transfer coding.
    """
    if _LOOSE.search(data) is not None:
        raise BadRequest("the lines of a request must end with CRLF, and fields must not be folded")
    parser.receive_data(data)
    try:
        head = parser.next_event()
    except h11.RemoteProtocolError as error:
        if error.error_status_hint == 501:
            raise HTTPError(501, "the only transfer coding must be chunked") from error
        # The error's own text holds the request's line, which may hold a token.
        raise BadRequest("the head of the request is malformed") from error
    if not isinstance(head, h11.Request):
        raise BadRequest("the head of the request is malformed")
    return head


def body_length(head: h11.Request, data: bytes) -> int | None:
    """Return the length of the body; None if it comes in chunks.

    Args:
        head: as h11 has parsed it, which makes one length of several that are the same.
        data: what it was parsed from.

    Raises:
        BadRequest: there is more than one way to tell where the body ends.
        HTTPError: 505, a version of HTTP with framing of its own.
    """
    if not head.http_version.startswith(b"1."):
        raise HTTPError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    names = {name for name, _ in head.headers}
    if _CODED in names:
        if _LENGTH in names or head.http_version == b"1.0":
            raise BadRequest("transfer-encoding excludes content-length and HTTP/1.0")
        return None
    if _LENGTH not in names:
        return 0
    [length, *others] = _LENGTHS.findall(data)
    if others or b"," in length:
        raise BadRequest("there must be one content-length")
    return int(length)


def to_head(head: h11.Request, scheme: str, server: Any) -> RequestHead:
    """Return method, URL and header fields; names in lower case, repeated fields kept.

    The path and the query stay as they were sent, but for characters that no URL may hold. The
    authority of a target that is a URL goes before the ``Host`` field (RFC 9112, section 3.2.2).

    Args:
        head: as h11 has parsed it.
        scheme: ``http`` or ``https``.
        server: the server's own socket address, for HTTP/1.0, which may lack a host.

    Raises:
        BadRequest: a target, host or field that HTTP does not allow.
    """
    fields = [(name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers]
    target = head.target.decode("ascii")
    host = next((value for name, value in fields if name == "host"), "")
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        host, target = absolute.groups()
        fields = [("host", host), *(field for field in fields if field[0] != "host")]
    if target == "*" or target.startswith("?") or not target:
        target = f"/{target.lstrip('*')}"
    if not target.startswith("/"):
        raise BadRequest("the request target must be a path or a URL")
    if (host or absolute) and _HOST.fullmatch(host) is None:
        raise BadRequest("the host must be one host, with or without a port")
    path, mark, query = target.partition("?")
    target = quote(path, safe=_IN_PATH) + mark + quote(query, safe=_IN_QUERY)
    url = f"{scheme}://{host or _own_host(scheme, server)}{target}"
    with bad_request_on_error():
        return RequestHead(head.method.decode("ascii"), url, Headers(fields))


def _own_host(scheme: str, server: Any) -> str:
    name, port = server[:2]
    name = f"[{name.partition('%')[0]}]" if ":" in name else name
    return name if port == _DEFAULT_PORTS[scheme] else f"{name}:{port}"
