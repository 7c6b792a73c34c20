"""What comes in: ``Request``, independent of any server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, TypeVar
from urllib.parse import parse_qsl, unquote

from durable_core.errors import BadRequest, HTTPError, MissingParameter
from durable_core.http.headers import TOKEN, HeaderFields, Headers

__all__ = [
    "FormParams",
    "QueryParams",
    "Request",
    "client_of",
]


# --- params ---------------------------------------------------------------------------------------
#
# Query and form parameters, parsed when first read.

_T = TypeVar("_T")
#: So many fields of a form are parsed; each costs memory many times its size.
_MOST_FIELDS = 1000
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class QueryParams:
    """The parameters of a URL query, in order; a name may occur more than once.

    Blank values are kept. Bytes that are not UTF-8 become U+FFFD.

    Args:
        raw: the query text, percent-encoded, without the ``?``.
    """

    __slots__ = ("_index", "_items", "_raw")

    _kind: ClassVar[str] = "query parameter"
    _raw: str
    _items: tuple[tuple[str, str], ...] | None
    _index: dict[str, tuple[str, ...]] | None

    def __init__(self, raw: str = "") -> None:
        self._raw = raw
        self._items = None
        self._index = None

    @property
    def raw(self) -> str:
        """The text the parameters were given in, still percent-encoded."""
        return self._raw

    def items(self) -> tuple[tuple[str, str], ...]:
        """Return every ``(name, value)`` pair in order, repeated names too."""
        if self._items is None:
            pairs = parse_qsl(self._raw, keep_blank_values=True) if self._raw else ()
            self._items = tuple(pairs)
        return self._items

    def _by_name(self) -> dict[str, tuple[str, ...]]:
        if self._index is None:
            lists: dict[str, list[str]] = {}
            for name, value in self.items():
                lists.setdefault(name, []).append(value)
            self._index = {name: tuple(values) for name, values in lists.items()}
        return self._index

    def __getitem__(self, name: str) -> str:
        """Return the first value; ``MissingParameter`` (answers 400) when there is none."""
        values = self._by_name().get(name)
        if values is None:
            raise MissingParameter(f"{self._kind} {name!r} is missing")
        return values[0]

    def get(self, name: str, default: _T | None = None) -> str | _T | None:
        """Return the first value, or ``default`` when there is none."""
        values = self._by_name().get(name)
        return default if values is None else values[0]

    def get_all(self, name: str) -> tuple[str, ...]:
        """Return every value of the name in order; empty when there is none."""
        return self._by_name().get(name, ())

    def keys(self) -> tuple[str, ...]:
        """Return the distinct names in order of first appearance."""
        return tuple(self._by_name())

    def __contains__(self, name: object) -> bool:
        return name in self._by_name()

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name())

    def __len__(self) -> int:
        return len(self._by_name())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QueryParams):
            return NotImplemented
        return self.items() == other.items()

    def __hash__(self) -> int:
        return hash(self.items())

    def __repr__(self) -> str:
        """Show the names only: values may be secrets."""
        return f"{type(self).__name__}({', '.join(map(repr, self))})"


class FormParams(QueryParams):
    """The fields of an ``application/x-www-form-urlencoded`` body."""

    __slots__ = ()
    _kind = "form field"

    @classmethod
    def parse(cls, body: bytes) -> FormParams:
        """Read a form body at once.

        Raises:
            BadRequest: the body is not UTF-8, holds a broken percent escape, or more than 1,000
                fields.
        """
        if body.count(b"&") >= _MOST_FIELDS:
            raise BadRequest(f"the form body has more than {_MOST_FIELDS} fields")
        try:
            text = body.decode("utf-8")
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict") if text else ()
        except UnicodeDecodeError:
            raise BadRequest("the form body is not valid UTF-8") from None
        if _BROKEN_ESCAPE.search(text) is not None:
            raise BadRequest("the form body has a '%' that two hex digits do not follow")
        form = cls(text)
        form._items = tuple(pairs)
        return form


# --- request --------------------------------------------------------------------------------------

_NO_PARAMS: Mapping[str, str] = MappingProxyType({})
_NO_HEADERS = Headers()
_FORM = "application/x-www-form-urlencoded"
_COMMON_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_CHARSET = re.compile(r""";\s*charset\s*=\s*"?([^\s;"]+)""", re.IGNORECASE)
#: Charsets that a client may name. Python's other codecs are no charsets, or take quadratic time.
_KNOWN_CHARSET = re.compile(
    r"utf-?8|utf-?(?:16|32)(?:-?[bl]e)?|(?:us-)?ascii|latin-?1|iso-8859-\d{1,2}|koi8-[ru]"
    r"|(?:windows-|cp)125[0-8]|shift_jis|euc-(?:jp|kr)|gb(?:k|2312|18030)|big5",
    re.IGNORECASE,
)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _parse_float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_parse_float)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Request:
    """An HTTP request with its complete body.

    Args:
        method: an RFC 9110 token such as ``"GET"``; case matters.
        url: the absolute URL that the client requested: percent-encoded, with the query.
        headers: the header fields.
        body: the content, after any transfer coding was undone.
        path_params: the parameters that the router found in the path.
        root_path: decoded prefix under which the application is mounted; "" for none.
        client: the address that it came from, as the server knows it; "" if that is not known. It
            is not stored with a run, so handlers do not see it; ``durable_core.adapters.client_of``
            returns it.

    Raises:
        ValueError: a method that is no token, or a URL that is not absolute.
        TypeError: a body that is not ``bytes``.
    """

    method: str
    url: str
    headers: Headers
    body: bytes
    path_params: Mapping[str, str]
    root_path: str
    _client: str = field(compare=False)
    # Set when somebody asks for it; the last one, only if somebody was named.
    _path: str = field(compare=False)
    _query: QueryParams = field(compare=False)
    _text: str = field(compare=False)
    _form: FormParams = field(compare=False)
    _principal: str = field(compare=False)

    def __init__(
        self,
        *,
        method: str,
        url: str,
        headers: HeaderFields = _NO_HEADERS,
        body: bytes = b"",
        path_params: Mapping[str, str] = _NO_PARAMS,
        root_path: str = "",
        client: str = "",
    ) -> None:
        if method not in _COMMON_METHODS and TOKEN.fullmatch(method) is None:
            raise ValueError(f"a method must be an RFC 9110 token such as 'GET', not {method!r}")
        if _ABSOLUTE.match(url) is None:
            raise ValueError("url must be absolute, such as 'http://host/path?query'")
        if not isinstance(body, bytes):
            raise TypeError(f"body must be bytes, not {type(body).__name__}")
        put = object.__setattr__
        put(self, "method", method)
        put(self, "url", url)
        put(self, "headers", headers if isinstance(headers, Headers) else Headers(headers))
        put(self, "body", body)
        put(self, "path_params", path_params)
        put(self, "root_path", root_path)
        put(self, "_client", client)

    def __reduce__(self) -> tuple[Callable[..., Request], tuple[object, ...]]:
        """Copy or pickle what was given: the rest is set when somebody asks for it."""
        given = self.method, self.url, Headers(self.headers), self.body, dict(self.path_params)
        return _request_of, (*given, self.root_path, self._client, self.principal)

    @property
    def path(self) -> str:
        """The decoded path below ``root_path``; it begins with ``/``."""
        path: str | None = getattr(self, "_path", None)
        if path is None:
            path = _path_below(self.root_path, unquote(_raw_path(self.url)))
            object.__setattr__(self, "_path", path)
        return path

    @property
    def principal(self) -> str | None:
        """Whose request it is, as ``authorize=`` has said; None if that says nothing.

        It is stored with the run, so that a replay sees the same.
        """
        return getattr(self, "_principal", None)

    def with_principal(self, principal: str) -> Request:
        """Return the same request, made by this principal."""
        request = Request(
            method=self.method,
            url=self.url,
            headers=self.headers,
            body=self.body,
            path_params=self.path_params,
            root_path=self.root_path,
            client=self._client,
        )
        object.__setattr__(request, "_principal", principal)
        return request

    @property
    def query(self) -> QueryParams:
        """The parameters of the URL's query."""
        query: QueryParams | None = getattr(self, "_query", None)
        if query is None:
            query = QueryParams(self.url.partition("#")[0].partition("?")[2])
            object.__setattr__(self, "_query", query)
        return query

    def json(self) -> Any:
        """Return the body as JSON (RFC 8259: UTF-8), whatever its content type.

        Every call parses the body again. So a handler that changes the returned value does not
        change the value that another caller or a replay sees.

        Raises:
            BadRequest: the body is not UTF-8 or not JSON. ``NaN`` and ``Infinity`` are not JSON.
        """
        try:
            return _DECODER.decode(self.body.decode("utf-8"))
        except UnicodeDecodeError:
            raise BadRequest("the body is not valid UTF-8") from None
        except json.JSONDecodeError as error:
            raise BadRequest(f"the body is not valid JSON: {error}") from None
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not acceptable JSON: {error}") from None

    def text(self) -> str:
        """Return the body as text, in the charset of its content type (UTF-8 by default).

        Raises:
            HTTPError: 415, for a charset that is not known.
            BadRequest: the body is not text in that charset.
        """
        text: str | None = getattr(self, "_text", None)
        if text is None:
            text = _decode(self.body, self.headers.get("content-type") or "")
            object.__setattr__(self, "_text", text)
        return text

    def form(self) -> FormParams:
        """Return the fields of an ``application/x-www-form-urlencoded`` body.

        Raises:
            HTTPError: 415, for any other content type, or none.
            BadRequest: the body is malformed.
        """
        form: FormParams | None = getattr(self, "_form", None)
        if form is None:
            content_type = self.headers.get("content-type") or ""
            if content_type.partition(";")[0].strip().lower() != _FORM:
                raise HTTPError(415, f"the content type must be {_FORM}")
            form = FormParams.parse(self.body)
            object.__setattr__(self, "_form", form)
        return form

    def with_path_params(self, path_params: Mapping[str, str]) -> Request:
        """Return the same request with these path parameters."""
        return Request(
            method=self.method,
            url=self.url,
            headers=self.headers,
            body=self.body,
            path_params=path_params,
            root_path=self.root_path,
            client=self._client,
        )

    def __repr__(self) -> str:
        """Show method and path only: the rest may hold secrets."""
        return f"<Request {self.method} {self.path}>"


def _request_of(
    method: str,
    url: str,
    headers: Headers,
    body: bytes,
    path_params: Mapping[str, str],
    root_path: str,
    client: str,
    principal: str | None,
) -> Request:
    request = Request(
        method=method,
        url=url,
        headers=headers,
        body=body,
        path_params=path_params,
        root_path=root_path,
        client=client,
    )
    return request if principal is None else request.with_principal(principal)


def client_of(request: Request) -> str:
    """Return the address that a request came from, as the server knows it; "" if it does not.

    Behind a proxy it is that of the proxy, unless the server believes its header fields. It is for
    code that decides who is let in. A stored request has none.
    """
    return request._client


def _raw_path(url: str) -> str:
    head = url.partition("?")[0].partition("#")[0]
    start = head.find("/", head.index("://") + 3)
    return head[start:] if start >= 0 else "/"


def _path_below(root: str, path: str) -> str:
    root = root.rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return path or "/"


def _decode(body: bytes, content_type: str) -> str:
    found = _CHARSET.search(content_type)
    charset = found[1] if found is not None else "utf-8"
    if _KNOWN_CHARSET.fullmatch(charset) is None:
        raise HTTPError(415, f"the charset {charset!r} is not supported")
    try:
        return body.decode(charset)
    except LookupError:
        raise HTTPError(415, f"the charset {charset!r} is not supported") from None
    except UnicodeDecodeError:
        raise BadRequest(f"the body is not valid {charset}") from None
