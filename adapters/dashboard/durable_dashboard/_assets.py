"""The files that the page consists of. They are in the package, as they are sent."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from durable_core import HTTPError, Request, Response

__all__ = ["NAMES", "PAGE", "serve_asset"]

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
