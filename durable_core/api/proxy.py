"""The wait route for a URL of one's own, with CORS for browsers on other origins."""

from __future__ import annotations

from durable_core.api.endpoint import hop_of, stream_wanted
from durable_core.api.engine import Engine
from durable_core.errors import HTTPError
from durable_core.flow.handoff import query_reference, with_headers
from durable_core.flow.wait import WaitRequest
from durable_core.model.request import Request
from durable_core.model.response import Response
from durable_core.wire.problem import problem_from_http_error

__all__ = ["Proxy"]

_ALLOW = "GET, HEAD, OPTIONS"
_OWN_PARAMS = frozenset({"runId", "token", "hop"})
_CORS = (
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "GET, OPTIONS"),
    ("access-control-allow-headers", "Content-Type, Last-Event-ID"),
    ("access-control-expose-headers", "*"),
)


class Proxy:
    """Answers ``GET ?runId=...&token=...`` with the run's own response.

    Mount it where ``async_redirect_url`` points. The headers of CORS are added to the response,
    but for those that it has itself; nothing else of it is touched.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def handle(self, request: Request, *, hold: float = 25.0, route: str | None = None) -> Response:
        """Answer in this thread; see ``HTTPHandler.handle``."""
        answer = _without_run(request) or self.engine.wait(_wait_request(request, hold))
        return _with_cors(answer)

    async def handle_async(
        self, request: Request, *, hold: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this task; see ``HTTPHandler.handle_async``."""
        answer = _without_run(request)
        if answer is None:
            answer = await self.engine.wait_async(_wait_request(request, hold))
        return _with_cors(answer)


def _with_cors(answer: Response) -> Response:
    """Add what is missing: browsers refuse a response that allows its origin twice."""
    missing = (field for field in _CORS if field[0] not in answer.headers)
    return with_headers(answer, tuple(missing))


def _without_run(request: Request) -> Response | None:
    if request.method == "OPTIONS":
        headers = (("access-control-max-age", "86400"), ("allow", _ALLOW))
        return Response(status=204, headers=headers)
    if request.method in ("GET", "HEAD"):
        return None
    error = HTTPError(405, f"{request.method} is not allowed here", {"allow": _ALLOW})
    return problem_from_http_error(error)


def _wait_request(request: Request, hold: float) -> WaitRequest:
    query = request.query
    run_id = query.get("runId") or ""
    # What else async_redirect_url has in its query is the application's, and stays.
    others = tuple(pair for pair in query.items() if pair[0] not in _OWN_PARAMS)

    def again(token: str, hop: int) -> str:
        own = (("runId", run_id), ("token", token), ("hop", str(hop)))
        return query_reference((*own, *others))

    return WaitRequest(
        run_id=run_id,
        token=query.get("token") or "",
        hop=hop_of(query.get("hop")),
        hold_ms=int(hold * 1000),
        again=again,
        names=("runId", "token"),
        stream=stream_wanted(request, "from"),
    )
