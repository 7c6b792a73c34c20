"""Responses on their way through the server to a client that waits, and back.

The server keeps a status, one value for each header, and a body of text. A response that is more
than that, or whose headers the server would mix with its own, goes in an envelope that only the
wait URL of this library opens. A mark tells a handler's response from what the server says itself.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import unquote, urlsplit

from durable_core import Headers, Request, Response
from durable_core.engines.remote import Run, check_labels, problem, refuse_host
from durable_core.errors import HeaderNotStoredError
from durable_inngest._config import Config

__all__ = [
    "FAILED",
    "MARK",
    "dump_request",
    "dump_response",
    "function_of",
    "load_request",
    "load_response",
    "load_run",
    "plain_response",
    "refused",
    "with_origin",
]


# --- requests -------------------------------------------------------------------------------------
#
# The client's request as the server keeps it, and how it comes back from there.

#: The name under which we send what is ours.
_MARK = "durable"
#: Of a request's body, bytes. It is a part of the first checkpoint, in base64, and so is a result.
_MOST_BODY = 2 * 1024 * 1024


class _ReplayedHeaders(Headers):
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
    refusal = refuse_host(config.hosts, request)
    if refusal is None and len(request.body) > _MOST_BODY:
        text = f"at most {_MOST_BODY} bytes are accepted: the Inngest server keeps no larger body"
        return problem(413, "content-too-large", detail=text)
    return refusal


def dump_request(request: Request, config: Config, run: Run, fn: str) -> dict[str, object]:
    """Return the event that begins the run of a request.

    Args:
        request: the client's request.
        config: has what our URL is called in place of what the request shows.
        run: has what the server does not know of, and a replay must see.
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
    event: dict[str, object] = {"name": "inngest/http.request", "data": data}
    known = {"labels": dict(run.labels), "version": run.version, "principal": run.principal}
    kept = {name: value for name, value in known.items() if value}
    if kept:
        # Of all fields that the server keeps as they are, this one has no meaning to it.
        event["v"] = json.dumps({_MARK: kept})
    return event


def load_run(batch: object, run: Run) -> Run:
    """Return a run with what was kept of it with the event that has begun it.

    Args:
        batch: the run's events, decoded from JSON.
        run: what the server knows of it.
    """
    event = batch[0] if isinstance(batch, list) and batch else None
    text = event.get("v") if isinstance(event, dict) else None
    try:
        kept = json.loads(text)[_MARK] if text else {}
        return replace(
            run,
            labels=check_labels(kept.get("labels", {})),
            version=kept.get("version"),
            principal=kept.get("principal"),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return run  # another library has begun it


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
        headers=_ReplayedHeaders(headers),
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
    seen = Request(
        method=request.method,
        url=origin + _path(request.url) + (f"?{query}" if query else ""),
        headers=request.headers,
        body=request.body,
        path_params=request.path_params,
        root_path=request.root_path,
    )
    return seen if request.principal is None else seen.with_principal(request.principal)


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


# --- envelope -------------------------------------------------------------------------------------

#: Names, in a response that the server keeps, the form that it is in.
MARK = "x-durable-response"
#: What it says of a run that has failed.
FAILED = "failed"
_ENVELOPE = "application/vnd.durable.response+json"
#: What servers and proxies on the way set, or remove, as they like.
_NOT_KEPT = frozenset(
    {
        *("connection", "content-encoding", "content-length", "date", "keep-alive"),
        *("proxy-authenticate", "proxy-connection", "server", "te", "trailer"),
        *("transfer-encoding", "upgrade", "vary"),
    }
)


def plain_response(response: Response) -> dict[str, object]:
    """Return a response that was sent to its client already, as the server shows it."""
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    body = _text_of(response) or ""
    return {"headers": headers, "status": response.status, "body": body, "version": 2}


def dump_response(response: Response, *, failed: bool = False) -> dict[str, object]:
    """Return a response for the server to keep until its client asks for it."""
    mark = FAILED if failed else "1"
    text = _text_of(response)
    names = [name for name, _ in response.headers.items()]
    if text is None or len(names) != len(set(names)) or any(map(_is_touched, names)):
        return _enveloped(response, mark)
    return {**plain_response(response), "headers": {**dict(response.headers.items()), MARK: mark}}


def load_response(status: int, headers: Mapping[str, str], body: bytes) -> Response | None:
    """Return the handler's response that the server has kept; None if it is none.

    Args:
        status, headers, body: what the server answers; header names in lower case.

    Raises:
        ValueError: an envelope that is damaged.
    """
    if MARK not in headers:
        return None
    if headers.get("content-type") == _ENVELOPE:
        return _opened(body)
    kept = [(name, value) for name, value in headers.items() if not _is_touched(name)]
    return Response(status=status, headers=Headers(kept), body=body)


def _text_of(response: Response) -> str | None:
    assert isinstance(response.body, bytes)
    try:
        return response.body.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _is_touched(name: str) -> bool:
    """Tell whether a header does not come through the server as the handler has set it."""
    return name in _NOT_KEPT or name == MARK or name.startswith(("access-control-", "x-inngest-"))


def _enveloped(response: Response, mark: str) -> dict[str, object]:
    assert isinstance(response.body, bytes)
    inside = {
        "status": response.status,
        "headers": response.headers.raw,
        "body": b64encode(response.body).decode("ascii"),
    }
    return {
        "headers": {"content-type": _ENVELOPE, MARK: mark},
        "status": response.status,
        "body": json.dumps(inside),
        "version": 2,
    }


def _opened(body: bytes) -> Response:
    try:
        inside = json.loads(body)
        headers = Headers([(name, value) for name, value in inside["headers"]])
        content = b64decode(inside["body"], validate=True)
        return Response(status=inside["status"], headers=headers, body=content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the envelope of a response is damaged: {error!r}") from None
