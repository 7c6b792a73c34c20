"""Which hosts a client may name in a request that begins a run.

The server calls a run at the URL that its client has used. A client that could name any host would
choose where the server sends its signed calls to, and have it knock at doors that only it reaches.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from durable_core.errors import ConfigurationError

__all__ = ["ANY", "LOOPBACK", "allows", "check_host", "is_loopback"]

#: Whatever a client names.
ANY = ("*",)
#: This machine, by each of its usual names, at every port.
LOOPBACK = ("localhost:*", "127.0.0.1:*", "[::1]:*")

_NAME = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
_PATTERN = re.compile(rf"\*|(?:(?:\*\.)?{_NAME}|\[[0-9a-f:.]+\])(?::(?:\*|[0-9]{{1,5}}))?")
_BELOW = re.compile(rf"{_NAME}\.")


def check_host(pattern: str) -> str:
    """Return a pattern of hosts in lower case.

    It is ``*``, or a host with or without ``*.`` before it (for every name below it) and a port
    behind it (``:*`` for every port; without one, the port is that of the scheme).

    Raises:
        ConfigurationError: it is something else.
    """
    lower = pattern.strip().lower()
    if _PATTERN.fullmatch(lower) is None:
        raise ConfigurationError(
            "allowed_hosts must be hosts such as 'shop.example', '*.shop.example' or "
            f"'shop.example:8443', or '*' for any, not {pattern!r}"
        )
    return lower


def allows(patterns: Sequence[str], url: str) -> bool:
    """Tell whether the host of an http or https URL is among those of the patterns."""
    if "*" in patterns:
        return True
    parts = urlsplit(url)
    usual = 443 if parts.scheme == "https" else 80
    try:
        port = usual if parts.port is None else parts.port
    except ValueError:
        return False
    host = parts.hostname or ""
    if "@" in parts.netloc:
        return False
    return any(_matches(pattern, host, port, usual) for pattern in patterns)


def is_loopback(url: str) -> bool:
    """Tell whether a URL is of this machine, by its host."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _matches(pattern: str, host: str, port: int, usual: int) -> bool:
    name, colon, wanted = pattern.rpartition(":")
    if not colon or pattern.endswith("]"):
        name, wanted = pattern, str(usual)
    if wanted not in ("*", str(port)):
        return False
    if name.startswith("*."):
        return host.endswith(name[1:]) and _BELOW.fullmatch(host[: -len(name) + 2]) is not None
    return name.strip("[]") == host
