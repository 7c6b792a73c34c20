"""Absolute URLs, as a client of HTTP needs them: where to connect, and what to ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

__all__ = ["Origin", "Target", "parse_url"]

_PORTS = {"http": 80, "https": 443}
#: What may stand in a path or a query; the rest is percent-encoded, an existing ``%`` is not.
_SAFE = "%/:?#[]@!$&'()*+,;=-._~"
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"[0-9A-Za-z\-._~%!$&'()*+,;=]+|\[[0-9A-Fa-f:.]+\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Scheme, host and port: what connections, and trust, belong to (RFC 6454)."""

    scheme: str
    host: str
    port: int

    @property
    def is_secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """What stands in the ``Host`` field: the port only where it is not the scheme's."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An origin, and the path and query to ask it for."""

    origin: Origin
    path: str


def parse_url(url: str) -> Target:
    """Return where an absolute ``http`` or ``https`` URL leads; its fragment is dropped.

    Raises:
        ValueError: another scheme, no host, a port that is none, credentials or control
            characters in the URL. The message does not show the query, which may hold a token.
    """
    if _CONTROLS.search(url) is not None:
        raise ValueError(f"a URL must hold no control characters, unlike {_shown(url)}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"the URL is malformed: {error}") from None
    if parts.scheme not in _PORTS:
        raise ValueError(
            f"a URL must be absolute and begin with http:// or https://, not {_shown(url)}"
        )
    if "@" in parts.netloc:
        raise ValueError("the URL must hold no credentials; send an Authorization header instead")
    host = _ascii_host(parts.hostname or "")
    if _HOST.fullmatch(f"[{host}]" if ":" in host else host) is None:
        raise ValueError(f"a URL must name a host, unlike {_shown(url)}")
    path = quote(parts.path or "/", safe=_SAFE)
    if parts.query:
        path += "?" + quote(parts.query, safe=_SAFE)
    return Target(
        origin=Origin(scheme=parts.scheme, host=host, port=port or _PORTS[parts.scheme]), path=path
    )


def _ascii_host(host: str) -> str:
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError(f"the host of the URL is no name: {host!r}") from None


def _shown(url: str) -> str:
    """Return the URL without its query, which may hold a token."""
    return repr(url.partition("?")[0])
