"""Where a client goes next, and what it may take along (RFC 9110, section 15.4)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urljoin, urlsplit

from durable_core.errors import ProtocolError
from durable_core.http.headers import Headers
from durable_core.wire.urls import parse_url

__all__ = ["REDIRECTS", "Journey", "Stage", "is_wait_url"]

REDIRECTS = frozenset({301, 302, 303, 307, 308})

_WAIT_PARAMETERS = ({"durable-run", "durable-token"}, {"runId", "token"})
_OF_CONTENT = (
    *("content-encoding", "content-language", "content-length", "content-location"),
    "content-type",
)


def is_wait_url(url: str) -> bool:
    """Tell whether the URL reads a run, so that asking for it again does not begin another."""
    names = {name for name, _ in parse_qsl(urlsplit(url).query)}
    return any(parameters <= names for parameters in _WAIT_PARAMETERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One request of a journey.

    Attributes:
        method: as the redirects so far have left it.
        url: absolute.
        sends_body: whether the body of the first request goes along.
    """

    method: str
    url: str
    sends_body: bool


class Journey:
    """The first request of a client, and the rules for those it leads to.

    Args:
        method: of the first request.
        url: of the first request, absolute.
        headers: of the first request; they go along to its own origin only.

    Raises:
        ValueError: the URL is not one of HTTP.
    """

    __slots__ = ("_headers", "_origin", "first")

    def __init__(self, *, method: str, url: str, headers: Headers) -> None:
        self._origin = parse_url(url).origin
        self._headers = headers
        self.first = Stage(method=method, url=url, sends_body=True)

    def headers(self, stage: Stage) -> Headers:
        """Return what goes along on a stage."""
        if parse_url(stage.url).origin != self._origin:
            return Headers()
        if stage.sends_body:
            return self._headers
        return self._headers.without(_OF_CONTENT)

    def after(self, stage: Stage, status: int, location: str) -> Stage:
        """Return where a redirect leads from a stage.

        A 303, and a 301 or 302 after POST, make a GET without a body of it, as browsers do.

        Raises:
            ProtocolError: it leads to no URL of HTTP.
        """
        url = _resolved(stage.url, location)
        becomes_get = (status == 303 and stage.method != "HEAD") or (
            status in (301, 302) and stage.method == "POST"
        )
        if becomes_get:
            return Stage(method="GET", url=url, sends_body=False)
        return Stage(method=stage.method, url=url, sends_body=stage.sends_body)

    def at(self, url: str) -> Stage:
        """Return a stage that reads what a server has named; raises ``ProtocolError`` likewise."""
        return Stage(method="GET", url=_resolved("", url), sends_body=False)


def _resolved(base: str, reference: str) -> str:
    try:
        url = urljoin(base, reference)
        parse_url(url)
    except ValueError as error:
        raise ProtocolError(f"the server sends the client nowhere: {error}") from None
    return url
