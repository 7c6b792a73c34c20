"""Responses, independent of any server: of a handler, and of another server."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote

from durable_core.duration import is_int
from durable_core.http.headers import HeaderFields, Headers
from durable_core.http.json import chunk_encoder

__all__ = ["Body", "FetchedResponse", "Response", "open_body", "open_body_async", "with_headers"]

#: A complete body, or the chunks of a streamed one.
Body: TypeAlias = bytes | Iterable[bytes] | AsyncIterable[bytes]

_NO_HEADERS = Headers()
_REDIRECTS = (301, 302, 303, 307, 308)
_json_chunks = chunk_encoder(
    json.JSONEncoder(
        ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
    )
)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Response:
    """An HTTP response. Adapters add what the transfer needs, such as ``content-length``.

    Args:
        status: 200 to 599.
        headers: the header fields.
        body: bytes, or a sync or async iterable of bytes, whose chunks are sent at once.

    Raises:
        ValueError: a status outside 200 to 599.
        TypeError: a status that is no ``int``, or a body of another type.
    """

    status: int
    headers: Headers
    body: Body

    def __init__(
        self, *, status: int = 200, headers: HeaderFields | None = None, body: Body = b""
    ) -> None:
        if type(status) is not int:
            status = _plain_int(status)
        if not 200 <= status <= 599:
            raise ValueError(f"a response status must be 200 to 599, not {status}")
        put = object.__setattr__
        put(self, "status", status)
        put(self, "headers", headers if isinstance(headers, Headers) else _headers(headers))
        put(self, "body", body if type(body) is bytes else _check_body(body))

    @property
    def is_streaming(self) -> bool:
        """Whether the body is an iterable of chunks."""
        return not isinstance(self.body, bytes)

    @classmethod
    def json(
        cls, value: object, status: int = 200, headers: HeaderFields | None = None
    ) -> Response:
        """Answer with compact JSON in UTF-8.

        Raises:
            TypeError, ValueError: the value has no JSON form (NaN and infinities have none).
        """
        try:
            text = "".join(_json_chunks(value, 0))
        except RecursionError:
            raise ValueError(
                "a response body must not contain itself, or be nested so deep"
            ) from None
        body = text.encode("utf-8")
        return cls(
            status=status, headers=_with_content_type(headers, "application/json"), body=body
        )

    @classmethod
    def text(cls, text: str, status: int = 200, headers: HeaderFields | None = None) -> Response:
        """Answer with plain text in UTF-8.

        Raises:
            TypeError: it is no str.
        """
        typed = _with_content_type(headers, "text/plain; charset=utf-8")
        return cls(status=status, headers=typed, body=_utf8("text", text))

    @classmethod
    def html(cls, html: str, status: int = 200, headers: HeaderFields | None = None) -> Response:
        """Answer with HTML in UTF-8.

        Raises:
            TypeError: it is no str.
        """
        typed = _with_content_type(headers, "text/html; charset=utf-8")
        return cls(status=status, headers=typed, body=_utf8("html", html))

    @classmethod
    def redirect(cls, location: str, status: int = 302) -> Response:
        """Send the client to ``location``, a URL reference; unsafe characters are escaped.

        Raises:
            TypeError: the location is no str.
            ValueError: a status other than 301, 302, 303, 307, 308.
        """
        if not isinstance(location, str):
            raise TypeError(f"Response.redirect takes a str, not {type(location).__name__}")
        if status not in _REDIRECTS:
            raise ValueError(f"a redirect status must be one of {_REDIRECTS}, not {status!r}")
        target = quote(location, safe=":/%#?=@[]!$&'()*+,;~")
        return cls(status=status, headers=Headers._trusted((("location", target),)))

    @classmethod
    def from_value(cls, value: object) -> Response:
        """Convert the return value of a handler to a response.

        A ``Response`` is returned unchanged; ``bytes`` are sent as ``application/octet-stream``; a
        dict, list, str, int, float, bool or None is sent as JSON (a ``str`` as a JSON string,
        ``None`` as ``null``), all with status 200.

        Raises:
            TypeError: a value of any other type, or JSON that holds one.
            ValueError: NaN or an infinity.
        """
        if isinstance(value, Response):
            return value
        if isinstance(value, bytes):
            return cls(
                headers=_with_content_type(None, "application/octet-stream"), body=bytes(value)
            )
        if value is None or isinstance(value, (dict, list, str, int, float)):
            return cls.json(value)
        raise TypeError(
            "a handler must return a Response, dict, list, str, int, float, bool, None or bytes, "
            f"not {type(value).__name__}"
        )

    def __repr__(self) -> str:
        """Show the status and the kind of body."""
        body = f"{len(self.body)} bytes" if isinstance(self.body, bytes) else "streaming"
        return f"<Response {self.status}, {body}>"


def with_headers(response: Response, fields: Sequence[tuple[str, str]]) -> Response:
    """Return the response with more header fields."""
    headers = Headers((*response.headers.raw, *fields))
    return Response(status=response.status, headers=headers, body=response.body)


def _plain_int(status: object) -> int:
    """Return the number of an ``HTTPStatus`` or another ``int``.

    Raises:
        TypeError: it is none.
    """
    if not is_int(status):
        raise TypeError(f"a response status must be an int, not {type(status).__name__}")
    return int(status)


def _headers(fields: HeaderFields | None) -> Headers:
    if fields is None:
        return _NO_HEADERS
    return fields if isinstance(fields, Headers) else Headers(fields)


def _with_content_type(fields: HeaderFields | None, content_type: str) -> Headers:
    """Return the headers with this content type, unless they name one themselves."""
    if fields is None:
        return Headers._trusted((("content-type", content_type),))
    headers = _headers(fields)
    return headers if "content-type" in headers else headers.with_set("content-type", content_type)


def _utf8(kind: str, text: object) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"Response.{kind} takes a str, not {type(text).__name__}")
    return text.encode("utf-8")


def _check_body(body: object) -> Body:
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    if isinstance(body, (Iterable, AsyncIterable)) and not isinstance(body, (str, Mapping)):
        return body
    raise TypeError(
        f"a response body must be bytes or an iterable of bytes, not {type(body).__name__}; "
        "Response.text() and Response.json() encode other values"
    )


# --- streamed bodies ------------------------------------------------------------------------------
#
# Whoever reads one closes it in the end.


@contextmanager
def open_body(body: Iterable[bytes]) -> Iterator[Iterable[bytes]]:
    """Give a body to who reads it; close it in the end if it can be closed, read or not."""
    try:
        yield body
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()


@asynccontextmanager
async def open_body_async(body: AsyncIterable[bytes]) -> AsyncIterator[AsyncIterable[bytes]]:
    """Do the same for a body that is read on an event loop."""
    try:
        yield body
    finally:
        close = getattr(body, "aclose", None)
        if close is not None:
            await close()


# --- the response of another server ---------------------------------------------------------------
#
# Whole, as a step keeps it.

_CHARSET = re.compile(r""";\s*charset\s*=\s*"?([^\s;"]+)""", re.IGNORECASE)
#: What is about the connection or the coding, which are gone, or is a credential.
_NOT_KEPT = frozenset(
    {
        *("connection", "content-encoding", "content-length", "keep-alive", "set-cookie"),
        *("trailer", "transfer-encoding", "upgrade"),
    }
)


@dataclass(frozen=True, slots=True)
class FetchedResponse:
    """What a server has answered to ``step.fetch``.

    Attributes:
        status: the HTTP status; no 429 and no 5xx, which are errors.
        headers: the header fields, without those about the connection, and without cookies.
        body: the whole body.
    """

    status: int
    headers: Headers
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is 200 to 299."""
        return 200 <= self.status <= 299

    def text(self) -> str:
        """Return the body as text, in the charset that it names, or UTF-8.

        Raises:
            LookupError, UnicodeDecodeError: the charset is unknown, or the body is not in it.
        """
        found = _CHARSET.search(self.headers.get("content-type") or "")
        return self.body.decode(found[1] if found else "utf-8")

    def json(self) -> Any:
        """Return the value of a JSON body.

        Raises:
            ValueError: the body is not JSON.
        """
        return json.loads(self.body)

    def dump(self) -> dict[str, object]:
        """Return it as JSON values: the body as ``text`` if it is UTF-8, else as ``base64``."""
        fields: dict[str, object] = {
            "status": self.status,
            "headers": [
                [name, value] for name, value in self.headers.raw if name.lower() not in _NOT_KEPT
            ],
        }
        try:
            fields["text"] = self.body.decode("utf-8")
        except UnicodeDecodeError:
            fields["base64"] = b64encode(self.body).decode("ascii")
        return fields

    @classmethod
    def load(cls, fields: Mapping[str, Any]) -> FetchedResponse:
        """Return the response of :meth:`dump`."""
        text = fields.get("text")
        body = b64decode(fields["base64"]) if text is None else text.encode("utf-8")
        headers = Headers([(name, value) for name, value in fields["headers"]])
        return cls(fields["status"], headers, body)
