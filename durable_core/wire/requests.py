"""How requests and responses are stored: the head as JSON text, the body apart, as bytes."""

from __future__ import annotations

import json

from durable_core.model.http import SENSITIVE_HEADERS, Headers, Request, Response
from durable_core.model.json_text import dumper

__all__ = ["dump_head", "dump_request", "load_request", "load_response"]

# Escaped to ASCII: a client may put bytes into its URL that no UTF-8 text can hold.
_dump = dumper(json.JSONEncoder(check_circular=False, separators=(",", ":")))


def dump_request(request: Request, *, stored_headers: frozenset[str]) -> str:
    """Return everything about the request except its body.

    Args:
        request: the request of the run.
        stored_headers: lower-case names of credential headers (``SENSITIVE_HEADERS``) to store
            all the same. Of others only the name is kept, so that replay can tell.
    """
    secret = SENSITIVE_HEADERS - stored_headers
    headers, withheld = [], set(request.headers.withheld)
    for name, value in request.headers.raw:
        if name.lower() in secret:
            withheld.add(name.lower())
        else:
            headers.append((name, value))
    return _dump(
        {
            "method": request.method,
            "url": request.url,
            "root_path": request.root_path,
            "headers": headers,
            "path_params": dict(request.path_params),
            "withheld": sorted(withheld),
        }
    )


def load_request(text: str, body: bytes) -> Request:
    """Return the request that ``dump_request`` was given, less the withheld headers."""
    head = json.loads(text)
    return Request(
        method=head["method"],
        url=head["url"],
        headers=Headers._trusted(map(tuple, head["headers"]), frozenset(head["withheld"])),
        body=body,
        path_params=head["path_params"],
        root_path=head["root_path"],
    )


def dump_head(response: Response) -> str:
    """Return status and headers of the response."""
    return _dump({"status": response.status, "headers": response.headers.raw})


def load_response(text: str, body: bytes) -> Response:
    """Return the response with the head that ``dump_head`` was given and this body."""
    head = json.loads(text)
    return Response(
        status=head["status"], headers=Headers._trusted(map(tuple, head["headers"])), body=body
    )
