"""A request that this library makes as a client, and the head of what comes back."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from durable_core.http.headers import TOKEN, HeaderFields, Headers

__all__ = ["OutgoingBody", "OutgoingRequest", "ResponseHead", "Timeouts"]

#: Nothing, a whole body, or the chunks of one that is sent as it comes.
OutgoingBody: TypeAlias = bytes | Iterable[bytes] | AsyncIterable[bytes] | None

#: RFC 9110, section 9.2.2: a request may be sent twice without doing its work twice.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long an exchange may take, in seconds; None is for ever.

    Args:
        connect: until there is a connection, TLS included.
        idle: without a byte of it being sent or coming back.
        whole: from its start until the last byte of the response was taken.

    Raises:
        ValueError: a number that is not above 0, or not finite.
    """

    connect: float | None = 10.0
    idle: float | None = 60.0
    whole: float | None = None

    def __post_init__(self) -> None:
        for name in ("connect", "idle", "whole"):
            value = getattr(self, name)
            if value is not None and not (0 < value and math.isfinite(value)):
                raise ValueError(f"the {name} time-out must be seconds above 0, not {value!r}")


@dataclass(frozen=True, slots=True, init=False, repr=False)
class OutgoingRequest:
    """A request to a server.

    Args:
        method: an RFC 9110 token such as ``"GET"``; case matters. ``CONNECT`` is refused.
        url: absolute, ``http`` or ``https``.
        headers: fields beyond those that the transport sets itself.
        body: bytes; an iterable of bytes, which is sent as it comes; None for no body.
        timeouts: how long it may take.
        idempotent: whether it may be sent again when a kept connection proves dead and nothing
            of an answer was seen. None goes by the method and the body: a ``GET`` may, a
            ``POST`` and a body that comes in chunks may not.

    Raises:
        ValueError: a method that is no token, or is ``CONNECT``.
        TypeError: a body of another type.
    """

    method: str
    url: str
    headers: Headers
    body: OutgoingBody
    timeouts: Timeouts
    idempotent: bool = field(compare=False)

    def __init__(
        self,
        *,
        method: str = "GET",
        url: str,
        headers: HeaderFields = (),
        body: OutgoingBody = None,
        timeouts: Timeouts | None = None,
        idempotent: bool | None = None,
    ) -> None:
        if TOKEN.fullmatch(method) is None or method == "CONNECT":
            raise ValueError(f"a method must be a token other than CONNECT, not {method!r}")
        body = _checked_body(body)
        repeatable = body is None or isinstance(body, bytes)
        if idempotent is None:
            idempotent = method in _IDEMPOTENT
        put = object.__setattr__
        put(self, "method", method)
        put(self, "url", url)
        put(self, "headers", headers if isinstance(headers, Headers) else Headers(headers))
        put(self, "body", body)
        put(self, "timeouts", timeouts or Timeouts())
        put(self, "idempotent", idempotent and repeatable)

    def __repr__(self) -> str:
        """Show the method, but not the URL, which may hold a token."""
        return f"<OutgoingRequest {self.method}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """The status and the header fields of a response, before its body.

    Attributes:
        status: 200 to 999; interim responses are passed over.
        reason: what stands after the status, which says nothing to programs.
        headers: the header fields.
    """

    status: int
    reason: str = ""
    headers: Headers


def _checked_body(body: object) -> OutgoingBody:
    if body is None or isinstance(body, bytes):
        return body
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body)
    if isinstance(body, (Iterable, AsyncIterable)) and not isinstance(body, (str, Mapping)):
        return body
    raise TypeError(
        "the body of a request must be bytes, an iterable of bytes or None, "
        f"not {type(body).__name__}"
    )
