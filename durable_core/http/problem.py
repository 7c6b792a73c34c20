"""Problem documents: how errors look on the wire (RFC 9457)."""

from __future__ import annotations

from durable_core.errors import HTTPError
from durable_core.http.headers import Headers
from durable_core.http.response import Response

__all__ = ["problem", "problem_from_http_error", "refuse_method"]

_CONTENT_TYPE = "application/problem+json"

#: Reason phrases of the IANA registry of HTTP status codes.
_PHRASES = {
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    417: "Expectation Failed",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    423: "Locked",
    424: "Failed Dependency",
    425: "Too Early",
    426: "Upgrade Required",
    428: "Precondition Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    451: "Unavailable For Legal Reasons",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
    506: "Variant Also Negotiates",
    507: "Insufficient Storage",
    508: "Loop Detected",
    511: "Network Authentication Required",
}


def problem(
    status: int, kind: str, title: str | None = None, /, *, detail: str = "", **extra: object
) -> Response:
    """Return a problem document.

    Args:
        status: 400 to 599.
        kind: a word such as ``"invalid-token"``; its type is ``urn:durable:<kind>``.
        title: the meaning of the kind, the same for all documents of it; by default the reason
            phrase.
        detail: a sentence about this occurrence; left out when empty.
        **extra: further members, of other names than these.
    """
    document: dict[str, object] = {
        "type": f"urn:durable:{kind}",
        "title": _phrase(status) if title is None else title,
        "status": status,
    }
    if detail:
        # The text may come from a user's error. A lone surrogate in it must not hide the error.
        document["detail"] = detail.encode("utf-8", "replace").decode("utf-8")
    return Response.json(
        document | extra, status, Headers._trusted([("content-type", _CONTENT_TYPE)])
    )


def problem_from_http_error(error: HTTPError) -> Response:
    """Return the problem document of an ``HTTPError``, with the headers it carries.

    Its kind is the reason phrase of its status, such as ``urn:durable:not-found``.
    """
    kind = _phrase(error.status).lower().replace(" ", "-")
    document = problem(error.status, kind, detail=error.detail)
    headers = Headers(error.headers).with_set("content-type", _CONTENT_TYPE)
    return Response(status=document.status, headers=headers, body=document.body)


def refuse_method(method: str, allow: str) -> Response:
    """Return the answer to a method that a resource has not: 405, to ``OPTIONS`` 204.

    Args:
        method: of the request.
        allow: the methods that there are, as the header ``Allow`` lists them.
    """
    if method == "OPTIONS":
        return Response(status=204, headers=(("allow", allow),))
    error = HTTPError(405, f"{method} is not allowed here", {"allow": allow})
    return problem_from_http_error(error)


def _phrase(status: int) -> str:
    return _PHRASES.get(status) or ("Client Error" if status < 500 else "Server Error")
