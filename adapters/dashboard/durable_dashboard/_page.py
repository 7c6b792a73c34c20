"""Who may ask for the page, and the files that it consists of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from ipaddress import IPv6Address, ip_address
from urllib.parse import SplitResult, urlsplit

from durable_core import HTTPError, Request, Response
from durable_core.adapters import client_of

__all__ = [
    "ACTION_HEADER",
    "NAMES",
    "PAGE",
    "PAGE_HEADERS",
    "check_action",
    "check_local",
    "check_site",
    "serve_asset",
]

#: Header fields of everything that the page consists of. Nothing is loaded from elsewhere, no
#: script is inline, no text becomes HTML, and no other page may show this one.
PAGE_HEADERS = (
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
)
#: The page sends it with each action. A page of another origin cannot, unless it is allowed to.
ACTION_HEADER = "x-durable-action"

#: What proxies add, beside ``x-forwarded-``. Behind one, the address of the client says nothing.
_FORWARDED = frozenset(
    {
        *("forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip"),
        *("cf-connecting-ip", "fastly-client-ip", "fly-client-ip", "x-original-forwarded-for"),
    }
)


def check_local(request: Request) -> None:
    """Refuse what does not come from this machine, and is not meant for it.

    The name of the host is checked, too: a page elsewhere may make its own name resolve to this
    machine (DNS rebinding).

    Raises:
        HTTPError: 403.
    """
    if any(name in _FORWARDED or name[:12] == "x-forwarded-" for name in request.headers):
        raise HTTPError(403, "a proxy has passed this on: the dashboard needs authorize= for that")
    if not _is_loopback(client_of(request)):
        raise HTTPError(403, "without authorize= the dashboard is for this machine only")
    host = _split(request.url).hostname or ""
    if not (host == "localhost" or host.endswith(".localhost") or _is_loopback(host)):
        raise HTTPError(403, "without authorize= the dashboard is asked for by a loopback address")


def check_site(request: Request) -> None:
    """Refuse what a page of another site asks for.

    Raises:
        HTTPError: 403.
    """
    if request.headers.get("sec-fetch-site") not in (None, "same-origin", "none"):
        raise HTTPError(403, "this is for the dashboard's own page")


def check_action(request: Request) -> None:
    """Refuse an action that the dashboard's own page has not asked for (CSRF).

    Raises:
        HTTPError: 403 or 415.
    """
    check_site(request)
    if "sec-fetch-site" not in request.headers:
        # Browsers that send it know better: behind a proxy the host may be another one.
        origin = request.headers.get("origin") or request.url
        if _split(origin).netloc != _split(request.url).netloc:
            raise HTTPError(403, f"{origin} is not where this dashboard is, by the header Host")
    if request.headers.get(ACTION_HEADER) is None:
        raise HTTPError(403, f"an action needs the header {ACTION_HEADER}")
    content_type = request.headers.get("content-type") or ""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise HTTPError(415, "an action is a JSON object")


def _split(url: str) -> SplitResult:
    """Return the parts of a URL; none of them, if it is malformed."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _is_loopback(address: str) -> bool:
    try:
        found = ip_address(address.strip("[]").partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped.is_loopback
    return found.is_loopback


# --- files ----------------------------------------------------------------------------------------
#
# They are in the package, as they are sent.

#: The page itself.
PAGE = "index.html"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
#: The files that browsers ask for by name. ``client.js`` is for pages of the application: a copy of
#: ``clients/js/durable-client.js``, because an archive of the package has no files from elsewhere.
NAMES = frozenset(
    {
        *("app.css", "app.js", "client.js", "curl.js", "dialogs.js", "dom.js", "format.js"),
        *("icon.svg", "log.js", "overview.js", "run.js", "runs.js", "server.js", "waterfall.js"),
    }
)


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    content_type: str
    tag: str


@cache
def _load(name: str) -> _Asset:
    content = files("durable_dashboard").joinpath("static", name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    return _Asset(content, _TYPES[name.rpartition(".")[2]], tag)


def serve_asset(request: Request, name: str) -> Response:
    """Return a file, or 304 if the browser has it.

    Raises:
        HTTPError: 404, there is none of that name.
    """
    if name != PAGE and name not in NAMES:
        raise HTTPError(404, "there is nothing at this path")
    asset = _load(name)
    headers = (
        ("content-type", asset.content_type),
        ("cache-control", "no-cache"),
        ("etag", asset.tag),
    )
    if asset.tag in (request.headers.get("if-none-match") or ""):
        return Response(status=304, headers=headers[1:])
    return Response(headers=headers, body=asset.content)
