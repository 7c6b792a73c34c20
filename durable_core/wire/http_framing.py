"""How long the body of a response is: RFC 9112, section 6.3."""

from __future__ import annotations

import re
from dataclasses import dataclass

from durable_core.errors import ProtocolError
from durable_core.http.headers import Headers
from durable_core.model.outgoing import ResponseHead

__all__ = ["Framing", "framing_of"]

_DIGITS = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """Where a body ends.

    Attributes:
        length: its bytes; 0 where chunks or the end of the connection tell.
        chunked: whether it comes in chunks.
        until_close: whether it ends with the connection.
        keeps_alive: whether the connection may be used again after it.
    """

    length: int = 0
    chunked: bool = False
    until_close: bool = False
    keeps_alive: bool = True


def framing_of(method: str, minor: int, head: ResponseHead) -> Framing:
    """Return the framing of the response to a request with this method.

    Args:
        method: of the request.
        minor: of the response's version of HTTP: 1 for HTTP/1.1.
        head: of the response.

    Raises:
        ProtocolError: the fields contradict each other, or name a coding other than ``chunked``.
    """
    keeps_alive = _keeps_alive(minor, head.headers)
    codings = _elements(head.headers, "transfer-encoding")
    lengths = set(_elements(head.headers, "content-length"))
    if method == "HEAD" or head.status in (204, 304):
        return Framing(keeps_alive=keeps_alive)
    if codings:
        if codings != ["chunked"]:
            raise ProtocolError(
                f"the body of the response has the transfer coding {', '.join(codings)!r}; "
                "only 'chunked' is understood"
            )
        # A length beside it, or HTTP/1.0, is a mistake: read it so, and trust no further.
        return Framing(chunked=True, keeps_alive=keeps_alive and minor > 0 and not lengths)
    if not lengths:
        return Framing(until_close=True, keeps_alive=False)
    length = lengths.pop()
    if lengths or _DIGITS.fullmatch(length) is None:
        raise ProtocolError("the response has more than one Content-Length, or one that is none")
    return Framing(length=int(length), keeps_alive=keeps_alive)


def _keeps_alive(minor: int, headers: Headers) -> bool:
    options = _elements(headers, "connection")
    return "close" not in options and (minor > 0 or "keep-alive" in options)


def _elements(headers: Headers, name: str) -> list[str]:
    """Return the elements of a field that holds a list, in lower case."""
    values = ",".join(headers.get_all(name)).split(",")
    return [value.strip(" \t").lower() for value in values if value.strip(" \t")]
