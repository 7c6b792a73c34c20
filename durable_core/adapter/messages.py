"""From what a server has read to a ``Request``, and from a ``Response`` to what is sent.

A request that could be understood in more than one way is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import quote

from durable_core.adapter.exchange import AsyncExchange, Exchange
from durable_core.errors import BadRequest, HTTPError
from durable_core.flow.env import Limits
from durable_core.http.headers import Headers
from durable_core.http.request import Request
from durable_core.http.response import Body, Response

__all__ = [
    "IncomingHead",
    "OutgoingHead",
    "authority_of",
    "check_chunk",
    "complete_request",
    "is_prepared",
    "loggable_path",
    "parse_content_length",
    "parse_head",
    "parse_request",
    "prepare_response",
    "split_target",
    "too_large",
]

_logger = logging.getLogger("durable.adapter")


# Requests

#: What may stand in a path as it is, besides letters and digits (RFC 3986, section 3.3).
_IN_PATH = "%/:@!$&'()*+,;=-._~"
#: What is left as it is in a query: all that prints but ``#``, which would end it.
_IN_QUERY = "!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
#: A path, and a query if there is one, in which nothing has to be quoted. Nearly all targets are.
_PLAIN_TARGET = re.compile(
    rf"/[A-Za-z0-9{re.escape(_IN_PATH)}]*(?:\?[A-Za-z0-9{re.escape(_IN_QUERY)}]+)?"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.DOTALL | re.IGNORECASE)
#: A host as RFC 3986 has it, section 3.2.2, with an optional port.
_HOST = re.compile(r"(?:[A-Za-z0-9._~%\-]+|\[([0-9A-Fa-f:.]+)\])(?::([0-9]*))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: Without any of these fields a request has no body.
_ABOUT_BODY = frozenset({"content-length", "transfer-encoding", "expect"})


class IncomingHead(NamedTuple):
    """The head of a request that is not refused.

    Attributes:
        request: without its body.
        length: of the body as announced, in bytes; None where it is not.
        expects_continue: whether the client waits for ``100 Continue`` to send a body.
    """

    request: Request
    length: int | None
    expects_continue: bool


def parse_head(exchange: Exchange | AsyncExchange, limits: Limits) -> IncomingHead:
    """Return what an exchange says about its request.

    The path and the query stay as they were sent, but for characters that no URL may hold. The
    authority of a target that is a URL goes before the ``Host`` field (RFC 9112, section 3.2.2).

    Raises:
        BadRequest: a method, target, host, length or field that HTTP does not allow.
        HTTPError: 431, a head over the limit; 413, an announced body over the limit.
    """
    size = len(exchange.method) + len(exchange.target)
    for name, value in exchange.fields:
        size += len(name) + len(value) + 4
    if size > limits.head:
        raise HTTPError(431, f"at most {limits.head} bytes are accepted")
    try:
        headers = Headers(exchange.fields)
    except ValueError as error:
        raise BadRequest(str(error)) from error
    length, expects = None, False
    if headers.has_any(_ABOUT_BODY):
        length, expects = _parse_framing(headers, limits.body)
    return IncomingHead(_parse_request(exchange, headers), length, expects)


def parse_request(exchange: Exchange | AsyncExchange, limits: Limits, body: bytes) -> Request:
    """Return the request of an exchange whose body has been read; see :func:`parse_head`.

    Raises:
        HTTPError: HTTP does not allow it, or it is over a limit.
    """
    return complete_request(parse_head(exchange, limits), limits, body)


def complete_request(head: IncomingHead, limits: Limits, body: bytes) -> Request:
    """Return a request with its body.

    Raises:
        HTTPError: the body is over the limit, or shorter than announced.
    """
    if len(body) > limits.body:
        raise too_large(limits.body)
    if head.length is not None and len(body) < head.length:
        raise BadRequest(f"the body ended after {len(body)} of {head.length} bytes")
    request = head.request
    if not body:
        return request
    return Request(
        method=request.method,
        url=request.url,
        headers=request.headers,
        body=body,
        path_params=request.path_params,
        root_path=request.root_path,
        client=request._client,
    )


def _parse_framing(headers: Headers, most: int) -> tuple[int | None, bool]:
    """Return the announced length of a body, and whether the client waits to send one.

    Raises:
        BadRequest: it cannot be told for sure where the body ends.
        HTTPError: 413, it is longer than ``most`` bytes.
    """
    length = parse_content_length(", ".join(headers.get_all("content-length")))
    is_coded = "transfer-encoding" in headers
    if is_coded and length is not None:
        raise BadRequest("transfer-encoding excludes content-length")
    if length is not None and length > most:
        raise too_large(most)
    expects = any(each.strip().lower() == "100-continue" for each in headers.get_all("expect"))
    return length, expects and (is_coded or bool(length))


def _parse_request(exchange: Exchange | AsyncExchange, headers: Headers) -> Request:
    authority, target = None, exchange.target
    if _PLAIN_TARGET.fullmatch(target) is None:
        authority, target = _quote_target(target)
    if authority is not None:
        headers = Headers((("host", authority), *headers.without(("host",)).raw))
    else:
        hosts = headers.get_all("host")
        if len(hosts) > 1:
            raise BadRequest("there must be one Host header")
        authority = (hosts[0] if hosts else "") or exchange.authority
    try:
        return Request(
            method=exchange.method,
            url=_origin_of(exchange.scheme, authority) + target,
            headers=headers,
            path_params=exchange.path_params,
            root_path=exchange.root_path,
            client=exchange.client,
        )
    except ValueError as error:
        raise BadRequest(str(error)) from error


def _quote_target(target: str) -> tuple[str | None, str]:
    """Return the authority of a target, if it has one, and its path and query as in a URL.

    Raises:
        BadRequest: it has no path, or characters that are no octets.
    """
    authority, target = split_target(target)
    if not target.startswith("/"):
        raise BadRequest("the request target must be a path or a URL")
    path, mark, query = target.partition("?")
    try:
        # Whoever decoded octets that are no ASCII as characters of another kind gets a bad request.
        path = quote(path, safe=_IN_PATH, encoding="latin-1", errors="strict")
        query = quote(query, safe=_IN_QUERY, encoding="latin-1", errors="strict")
    except UnicodeEncodeError as error:
        raise BadRequest(str(error)) from error
    return authority, f"{path}{mark * bool(query)}{query}"


@lru_cache(64)  # a server has few names
def _origin_of(scheme: str, authority: str) -> str:
    """Return what a URL begins with, up to its path.

    Raises:
        BadRequest: it would break URLs that are made of it later.
    """
    found = _HOST.fullmatch(authority)
    if found is None or not _is_host(*found.groups()):
        raise BadRequest("the host must be one host, with or without a port")
    if _SCHEME.fullmatch(scheme) is None:
        raise BadRequest("the scheme of the request is none")
    return f"{scheme}://{authority}"


def _is_host(address: str | None, port: str | None) -> bool:
    return (address is None or _is_ipv6(address)) and (not port or int(port[:6]) < 65536)


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def split_target(target: str) -> tuple[str | None, str]:
    """Return the authority and the path, with its query, of a request target.

    Args:
        target: a path; or a whole URL, ``*`` or nothing, of which a path is made (RFC 9112, 3.2).

    Returns:
        The authority; None where the target has none.
    """
    authority: str | None = None
    if not target.startswith("/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is not None:
            authority, target = absolute.groups()
        if target == "*" or target.startswith("?") or not target:
            target = f"/{target.lstrip('*')}"
    return authority, target


def loggable_path(target: str) -> str:
    """Return the path of a request target as it may be logged.

    The query is left out, for it may hold a token. Control characters are encoded, which a terminal
    would take for commands.
    """
    _, target = split_target(target)
    return quote(target.partition("?")[0], safe=_IN_PATH, errors="replace")


def authority_of(scheme: str, name: str, port: int | str | None) -> str:
    """Return how clients name a server that listens there.

    Args:
        scheme: ``"http"`` or ``"https"``, whose default port is left out.
        name: a host name or an address; the path of a Unix socket is none, and becomes
            ``localhost``.
        port: None or "" where there is none.
    """
    if ":" in name and not name.startswith("["):
        name = f"[{name.partition('%')[0]}]"
    if _HOST.fullmatch(name) is None:
        name = "localhost"
    is_default = port in (None, "") or str(port) == str(_DEFAULT_PORTS.get(scheme))
    return name if is_default else f"{name}:{port}"


def parse_content_length(text: str) -> int | None:
    """Return the length that a client announced for its body, None if it did not.

    Args:
        text: the value of Content-Length, of several all, joined by commas; empty without one.

    Raises:
        BadRequest: it is not one number (RFC 9112, section 6.3).
    """
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise BadRequest("content-length must be one number of bytes, in decimal digits")
    return int(text.lstrip("0")[:20] or "0")  # however long, so many bytes are too many


def too_large(limit: int) -> HTTPError:
    """Return the refusal of a body over the limit."""
    return HTTPError(413, f"at most {limit} bytes are accepted")


# Responses

#: Statuses of responses that have no content, and no length of it (RFC 9110, section 8.6).
_WITHOUT_CONTENT = (204, 304)
#: Fields about the connection, which is the server's business (RFC 9110, section 7.6.1).
_SERVERS_OWN = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate"),
        *("proxy-authorization", "te", "trailer", "trailers", "transfer-encoding"),
        "upgrade",
    }
)


class OutgoingHead(NamedTuple):
    """A response as it is to be sent.

    Attributes:
        fields: the response's own, repeated ones apart, but for those that are the server's
            business, and with the length of a whole body.
        length: of the body, in bytes; None where it is not known before the body ends.
        omit_body: no body is sent: to HEAD, and where the status has none. A streamed body is
            iterated all the same, so that what it does is done, and closed.
    """

    fields: tuple[tuple[str, str], ...]
    length: int | None
    omit_body: bool


def prepare_response(response: Response, *, head: bool) -> OutgoingHead:
    """Return what is to be sent.

    The length of a streamed body is kept if the response declares it, as one number; whoever sends
    the body holds it to that. A field that is the server's business, and a length that is none, are
    dropped with a warning.

    Args:
        response: what a handler of the core answered.
        head: whether the request's method is HEAD. The length that a response without a body
            declares is kept then.
    """
    fields, declared = [], list[str]()
    for field in response.headers.raw:
        name = field[0].lower()
        if name == "content-length":
            declared.append(field[1])
        elif name in _SERVERS_OWN:
            _logger.warning(
                "the response header %r was dropped: only the server may set it", field[0]
            )
        else:
            fields.append(field)
    length = _length_of(response.body, declared, head=head)
    is_without_content = response.status in _WITHOUT_CONTENT
    if is_without_content:
        length = None
    if length is not None:
        fields.append(("content-length", str(length)))
    return OutgoingHead(tuple(fields), length, omit_body=head or is_without_content)


def is_prepared(status: int, fields: Sequence[tuple[str, str]], length: int) -> bool:
    """Tell whether a whole response can be sent as it is.

    That is so if its names are in lower case, and :func:`prepare_response` would change nothing but
    their order.

    Args:
        status, fields: of the response.
        length: of its body, in bytes.
    """
    names = [name for name, _ in fields]
    return (
        status not in _WITHOUT_CONTENT
        and names.count("content-length") == 1
        and ("content-length", str(length)) in fields
        and _SERVERS_OWN.isdisjoint(names)
        and "".join(names).islower()
    )


def _length_of(body: Body, declared: list[str], *, head: bool) -> int | None:
    """Return the length to send for a body, None where it is not known.

    Args:
        body: of a response.
        declared: what the response says.
        head: whether the request's method is HEAD.
    """
    if not isinstance(body, bytes):
        return _parse_declared(declared) if declared else None
    length = len(body)
    if not declared or declared == [str(length)]:
        return length
    meant = _parse_declared(declared)
    return meant if head and not body and meant is not None else length


def _parse_declared(lengths: list[str]) -> int | None:
    """Return the length that a response declares for its body; None if it is not one number."""
    try:
        return parse_content_length(", ".join(lengths))
    except BadRequest:
        _logger.warning("the response header 'content-length' was dropped: it is not one number")
        return None


def check_chunk(chunk: object) -> bytes:
    """Return a chunk of a body as ``bytes`` themselves, which is all that servers take.

    Raises:
        TypeError: it is no bytes.
    """
    if type(chunk) is bytes:
        return chunk
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return bytes(chunk)
    raise TypeError(f"a chunk of a response body must be bytes, not {type(chunk).__name__}")
