"""From what a server has read to a ``Request``, and from a ``Response`` to what is sent.

A request that could be understood in more than one way is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import quote

from durable_core.adapter.exchange import AsyncExchange, Exchange
from durable_core.errors import BadRequest, HTTPError
from durable_core.flow.env import Limits
from durable_core.http.headers import Headers
from durable_core.http.request import Request
from durable_core.http.response import Response

__all__ = [
    "IncomingHead",
    "OutgoingHead",
    "authority_of",
    "check_chunk",
    "complete_request",
    "has_server_field",
    "loggable_path",
    "parse_content_length",
    "parse_declared_length",
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
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.DOTALL | re.IGNORECASE)
#: A host as RFC 3986 has it, section 3.2.2, with an optional port.
_HOST = re.compile(r"(?:[A-Za-z0-9._~%\-]+|\[([0-9A-Fa-f:.]+)\])(?::([0-9]*))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class IncomingHead:
    """The head of a request that is not refused.

    Attributes:
        request: without its body.
        length: of the body as announced, in bytes; None where it is not.
        expects_continue: whether the client waits for ``100 Continue`` to send a body.
    """

    request: Request
    length: int | None
    expects_continue: bool

    def with_body(self, body: bytes) -> Request:
        """Return the whole request."""
        head = self.request
        return Request(
            method=head.method,
            url=head.url,
            headers=head.headers,
            body=body,
            path_params=head.path_params,
            root_path=head.root_path,
            client=head._client,
        )


def parse_head(exchange: Exchange | AsyncExchange, limits: Limits) -> IncomingHead:
    """Return what an exchange says about its request.

    The path and the query stay as they were sent, but for characters that no URL may hold. The
    authority of a target that is a URL goes before the ``Host`` field (RFC 9112, section 3.2.2).

    Raises:
        BadRequest: a method, target, host, length or field that HTTP does not allow.
        HTTPError: 431, a head over the limit; 413, an announced body over the limit.
    """
    _check_head_size(exchange, limits.head)
    hosts, lengths, codings, expects = [], [], False, False
    for field, value in exchange.fields:
        name = field.lower()
        if name == "host":
            hosts.append(value)
        elif name == "content-length":
            lengths.append(value)
        elif name == "transfer-encoding":
            codings = True
        elif name == "expect":
            expects = expects or value.strip().lower() == "100-continue"
    length = parse_content_length(", ".join(lengths))
    if codings and length is not None:
        raise BadRequest("transfer-encoding excludes content-length")
    if length is not None and length > limits.body:
        raise too_large(limits.body)
    has_body = codings or bool(length)
    return IncomingHead(_parse_request(exchange, hosts), length, expects and has_body)


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
    return head.with_body(body)


def _check_head_size(exchange: Exchange | AsyncExchange, limit: int) -> None:
    size = len(exchange.method) + len(exchange.target)
    size += sum(len(name) + len(value) + 4 for name, value in exchange.fields)
    if size > limit:
        raise HTTPError(431, f"at most {limit} bytes are accepted")


def _parse_request(exchange: Exchange | AsyncExchange, hosts: list[str]) -> Request:
    fields = exchange.fields
    authority, target = split_target(exchange.target)
    if authority is not None:
        fields = [("host", authority), *(each for each in fields if each[0].lower() != "host")]
    elif len(hosts) > 1:
        raise BadRequest("there must be one Host header")
    else:
        authority = (hosts[0] if hosts else "") or exchange.authority
    if not target.startswith("/"):
        raise BadRequest("the request target must be a path or a URL")
    _check_authority(authority)
    if _SCHEME.fullmatch(exchange.scheme) is None:
        raise BadRequest("the scheme of the request is none")
    path, mark, query = target.partition("?")
    try:
        # Whoever decoded octets that are no ASCII as characters of another kind gets a bad request.
        path = quote(path, safe=_IN_PATH, encoding="latin-1", errors="strict")
        query = quote(query, safe=_IN_QUERY, encoding="latin-1", errors="strict")
        return Request(
            method=exchange.method,
            url=f"{exchange.scheme}://{authority}{path}{mark * bool(query)}{query}",
            headers=Headers(fields),
            path_params=exchange.path_params,
            root_path=exchange.root_path,
            client=exchange.client,
        )
    except ValueError as error:  # a UnicodeEncodeError is one
        raise BadRequest(str(error)) from error


def _check_authority(authority: str) -> None:
    """Refuse what would break URLs that are made of it later."""
    found = _HOST.fullmatch(authority)
    if found is not None:
        address, port = found.groups()
        if (address is None or _is_ipv6(address)) and (not port or int(port[:6]) < 65536):
            return
    raise BadRequest("the host must be one host, with or without a port")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingHead:
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


def has_server_field(names: Iterable[str]) -> bool:
    """Tell whether one of these names of fields, in lower case, is the server's business."""
    return not _SERVERS_OWN.isdisjoint(names)


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
    body, length = response.body, parse_declared_length(response)
    if isinstance(body, bytes) and (body or not head or length is None):
        length = len(body)
    if response.status in _WITHOUT_CONTENT:
        length = None
    fields = []
    for field in response.headers.raw:
        name = field[0].lower()
        if name in _SERVERS_OWN:
            _logger.warning(
                "the response header %r was dropped: only the server may set it", field[0]
            )
        elif name != "content-length":
            fields.append(field)
    if length is not None:
        fields.append(("content-length", str(length)))
    return OutgoingHead(
        fields=tuple(fields),
        length=length,
        omit_body=head or response.status in _WITHOUT_CONTENT,
    )


def parse_declared_length(response: Response) -> int | None:
    """Return the length that a response declares for its body; None where it declares none."""
    declared = response.headers.get_all("content-length")
    if not declared:
        return None
    try:
        return parse_content_length(", ".join(declared))
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
