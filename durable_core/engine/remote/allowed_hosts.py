"""Which hosts a client may name in a request that begins a run.

A server calls a run at the URL that its client has used. A client that could name any host would
choose where the server sends its signed calls to, and have it knock at doors that only it reaches.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from durable_core.errors import ConfigurationError
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.platform import logger

__all__ = ["ANY_HOST", "LOOPBACK_HOSTS", "allows_host", "check_host", "is_loopback", "refuse_host"]

#: Whatever a client names.
ANY_HOST = ("*",)
#: This machine, by each of its usual names, at every port.
LOOPBACK_HOSTS = ("localhost:*", "127.0.0.1:*", "[::1]:*")

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


def allows_host(patterns: Sequence[str], url: str) -> bool:
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


def refuse_host(patterns: Sequence[str], request: Request) -> Response | None:
    """Return the answer to a request for another host, None for one of the patterns."""
    if allows_host(patterns, request.url):
        return None
    host = urlsplit(request.url).netloc
    logger.warning("refused a request for a host that is not allowed: %.200r", host)
    return problem(421, "misdirected-request", detail="the application does not serve this host")


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
