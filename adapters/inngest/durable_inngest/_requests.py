"""The client's request as the server keeps it, and how it comes back from there."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from durable_core.errors import HeaderNotStoredError
from durable_core.model.headers import Headers
from durable_core.model.request import Request
from durable_core.model.response import Response
from durable_core.runtime.logs import logger
from durable_core.wire.problem import problem
from durable_inngest._config import Config
from durable_inngest._hosts import allows

__all__ = [
    "ReplayedHeaders",
    "dump_request",
    "function_of",
    "load_request",
    "refused",
    "with_origin",
]

#: Of a request's body, bytes. It is a part of the first checkpoint, in base64, and so is a result.
_MOST_BODY = 2 * 1024 * 1024


class ReplayedHeaders(Headers):
    """The headers of a replayed request: the server keeps none but the content type.

    Looking up another one raises ``HeaderNotStoredError``: it must never look absent.
    """

    __slots__ = ()

    def _values(self, name: str) -> tuple[str, ...]:
        if name.lower() != "content-type":
            raise HeaderNotStoredError(
                f"header {name.lower()!r} cannot be read on replay: the Inngest server keeps no "
                "header but content-type; read it in a step before the first sleep, wait or retry"
            )
        return super()._values(name)


def refused(request: Request, config: Config) -> Response | None:
    """Return the answer to a client's request that the server could not keep, or must not hear of.

    None where it can be served.
    """
    if not allows(config.hosts, request.url):
        host = urlsplit(request.url).netloc
        logger.warning("refused a request for a host that is not allowed: %.200r", host)
        text = "the application does not serve this host"
        return problem(421, "misdirected-request", detail=text)
    if len(request.body) > _MOST_BODY:
        text = f"at most {_MOST_BODY} bytes are accepted: the Inngest server keeps no larger body"
        return problem(413, "content-too-large", detail=text)
    return None


def dump_request(request: Request, config: Config, fn: str) -> dict[str, object]:
    """Return the event that begins the run of a request.

    Args:
        request: the client's request.
        config: has what our URL is called in place of what the request shows.
        fn: the function's name in the server's lists; "" lets the server name it.
    """
    parts = urlsplit(request.url)
    headers = request.headers
    data = {
        "content_type": headers.get("content-type") or "",
        "domain": config.serve_origin or f"{parts.scheme}://{parts.netloc}",
        "ip": headers.get("x-forwarded-for") or headers.get("x-real-ip") or "",
        "method": request.method,
        "path": config.serve_path or parts.path or "/",
        "query_params": parts.query,
        "body": b64encode(request.body).decode("ascii"),
        "fn": fn,
    }
    return {"name": "inngest/http.request", "data": data}


def function_of(event: Mapping[str, object]) -> str:
    """Return what the server makes one function of, in one application: its origin and name."""
    data = event["data"]
    assert isinstance(data, dict)
    return f"{data['domain']} {data['fn'] or data['method'] + ' ' + data['path']}"


def load_request(batch: object, incoming: Request, *, any_path: bool = False) -> Request | None:
    """Return the request that a run was made for; None if it was made for another path.

    A run is not replayed by a handler that is not its own, whoever asks for that.

    Args:
        batch: the run's events, decoded from JSON.
        incoming: the server's request, which has what routing found out.
        any_path: do not compare the paths: the server calls another one than we see.

    Raises:
        ValueError: there is no such event among them.
    """
    data = _request_data(batch)
    headers: list[tuple[str, str]] = []
    if _text(data, "content_type"):
        headers.append(("content-type", _text(data, "content_type")))
    query = _text(data, "query_params")
    original = Request(
        method=_text(data, "method"),
        url=_text(data, "domain") + _path(incoming.url) + (f"?{query}" if query else ""),
        headers=ReplayedHeaders(headers),
        body=_body(_text(data, "body")),
        path_params=incoming.path_params,
        root_path=incoming.root_path,
    )
    is_same = unquote(_text(data, "path")) == unquote(_path(incoming.url))
    return original if is_same or any_path else None


def with_origin(request: Request, origin: str) -> Request:
    """Return a client's request as its handler sees it, at first and on replay."""
    if not origin:
        return request
    query = urlsplit(request.url).query
    return Request(
        method=request.method,
        url=origin + _path(request.url) + (f"?{query}" if query else ""),
        headers=request.headers,
        body=request.body,
        path_params=request.path_params,
        root_path=request.root_path,
    )


def _path(url: str) -> str:
    return urlsplit(url).path or "/"


def _request_data(batch: object) -> Mapping[str, object]:
    first = batch[0] if isinstance(batch, list) and batch else None
    data = first.get("data") if isinstance(first, dict) else None
    if not isinstance(data, dict):
        raise ValueError("the run was not begun by an HTTP request")
    return data


def _text(data: Mapping[str, object], name: str) -> str:
    value = data.get(name) or ""
    if not isinstance(value, str):
        raise ValueError(f"the run's request has no text as its {name}")
    return value


def _body(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode("utf-8", "surrogatepass")  # as other libraries send it
