"""The head of a request, parsed by ``h11``; what other parsers could understand in another way is
refused.
"""

from __future__ import annotations

import re

import h11

from durable_core import BadRequest, HTTPError

__all__ = ["parse_head"]

#: A bare line feed, a bare carriage return, a field that goes on in the next line.
_LOOSE = re.compile(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]")
_LENGTHS = re.compile(rb"\ncontent-length:[ \t]*([^\r]*)", re.IGNORECASE)


def parse_head(parser: h11.Connection, data: bytes) -> h11.Request:
    """Return what the parser makes of the bytes of a head, the empty line included.

    Lines that do not end as they should, folded fields, and a length that is there twice are
    refused although h11 takes them (RFC 9112, sections 2.2, 5.2 and 6.3).

    Raises:
        BadRequest: malformed, or with more than one way to tell where the body ends.
        HTTPError: 501, an unknown transfer coding; 505, another version of HTTP.
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
    if not head.http_version.startswith(b"1."):
        raise HTTPError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if head.http_version == b"1.0" and b"transfer-encoding" in dict(head.headers):
        raise BadRequest("transfer-encoding excludes HTTP/1.0")
    lengths = _LENGTHS.findall(data)
    if len(lengths) > 1 or any(b"," in length for length in lengths):
        raise BadRequest("there must be one content-length")
    return head
