"""Which request comes next, and what it may carry (RFC 9110, section 15.4)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx2

from durable_core.clients import Headers
from durable_core.errors import ProtocolError

__all__ = ["REDIRECTS", "DowngradeError", "RedirectChain", "Target", "is_wait_url", "parse_url"]

#: The statuses whose ``Location`` is followed.
REDIRECTS = frozenset({301, 302, 303, 307, 308})

_WAIT_PARAMETERS = ({"durable-run", "durable-token"}, {"runId", "token"})
_CONTENT_FIELDS = (
    *("content-encoding", "content-language", "content-length", "content-location"),
    "content-type",
)


class DowngradeError(ProtocolError):
    """The server names an ``http`` URL on an ``https`` connection.

    Such a URL often has a token, which everybody on the way could read.
    """


def parse_url(url: str) -> httpx2.URL:
    """Return an absolute ``http`` or ``https`` URL in its parts.

    Raises:
        TypeError: it is no str.
        ValueError: another scheme, no host, a malformed port or host, credentials or control
            characters. The message does not show the query, which may hold a token.
    """
    if not isinstance(url, str):
        raise TypeError(f"a URL must be a str, not {type(url).__name__}")
    shown = repr(url.partition("?")[0])
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ValueError(f"the URL is malformed: {error}") from None
    if parsed.scheme not in ("http", "https"):
        raise ValueError(f"a URL must be absolute and begin with http:// or https://, not {shown}")
    if parsed.userinfo:
        raise ValueError("the URL must hold no credentials; send an Authorization header instead")
    if not parsed.host or "%" in parsed.host or not 0 < (parsed.port or 1) < 65536:
        raise ValueError(f"a URL must name a host and a port from 1 to 65535, unlike {shown}")
    return parsed


def is_wait_url(url: str) -> bool:
    """Tell whether the URL reads a run, so that a second request does not begin another run."""
    names = {name for name, _ in parse_qsl(urlsplit(url).query)}
    return any(parameters <= names for parameters in _WAIT_PARAMETERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One request of a chain of redirects.

    Attributes:
        method: after the redirects so far.
        url: absolute.
        sends_body: whether it has the body of the first request.
    """

    method: str
    url: str
    sends_body: bool


class RedirectChain:
    """The first request of a client, and the rules for the requests that follow from it.

    Args:
        method: of the first request.
        url: of the first request, absolute.
        headers: of the first request. Only its own origin gets them.

    Raises:
        ValueError: the URL is no HTTP URL.
    """

    __slots__ = ("_headers", "_origin", "first")

    def __init__(self, *, method: str, url: str, headers: Headers) -> None:
        self._origin = parse_url(url).origin
        self._headers = headers
        self.first = Target(method=method, url=url, sends_body=True)

    def is_same_origin(self, target: Target) -> bool:
        """Tell whether a target has scheme, host and port of the first request."""
        return bool(parse_url(target.url).origin == self._origin)

    def headers(self, target: Target) -> Headers:
        """Return which of the first request's headers a target gets."""
        if not self.is_same_origin(target):
            return Headers()
        if target.sends_body:
            return self._headers
        return self._headers.without(_CONTENT_FIELDS)

    def after(self, target: Target, status: int, location: str) -> Target:
        """Return the target of a redirect.

        A 303, and a 301 or 302 after POST, lead to a GET without a body, as in browsers.

        Args:
            target: what was asked.
            status: of the redirect, one of ``REDIRECTS``.
            location: its ``Location``, absolute or relative.

        Raises:
            DowngradeError: it leads from ``https`` to ``http``.
            ProtocolError: it leads to no HTTP URL.
        """
        url = _resolve(target.url, location)
        becomes_get = (status == 303 and target.method != "HEAD") or (
            status in (301, 302) and target.method == "POST"
        )
        if becomes_get:
            return Target(method="GET", url=url, sends_body=False)
        return Target(method=target.method, url=url, sends_body=target.sends_body)

    def read(self, url: str, *, named_by: Target) -> Target:
        """Return the target that reads what a response names.

        Args:
            url: absolute, or relative to the response's own URL.
            named_by: whose response it was.

        Raises:
            DowngradeError, ProtocolError: as ``after``.
        """
        return Target(method="GET", url=_resolve(named_by.url, url), sends_body=False)


def _resolve(base: str, reference: str) -> str:
    try:
        url = urljoin(base, reference)
        scheme = parse_url(url).scheme
    except ValueError as error:
        raise ProtocolError(f"the server names a URL that cannot be used: {error}") from None
    if scheme == "http" and parse_url(base).scheme == "https":
        raise DowngradeError(
            "the server names an http:// URL on an https:// connection, where others could read "
            "the token in it; behind a TLS proxy set Durable(public_url=) on the server"
        )
    return url
