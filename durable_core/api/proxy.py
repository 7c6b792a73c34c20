"""The wait route for a URL of one's own, with CORS for browsers on other origins."""

from __future__ import annotations

from durable_core.api.effects import FlowHandler, RequestFlow
from durable_core.api.engine import Engine
from durable_core.api.waiting import WAIT_METHODS, answer_wait
from durable_core.errors import HTTPError
from durable_core.flow.wait_url import PROXY_PARAMS, WaitRequest, is_callback_token
from durable_core.http.problem import problem_from_http_error
from durable_core.http.request import Request
from durable_core.http.response import Response, with_headers

__all__ = ["Proxy"]

_ALLOW = f"{WAIT_METHODS}, OPTIONS"
_OWN_PARAMS = frozenset({PROXY_PARAMS.run, PROXY_PARAMS.token, PROXY_PARAMS.hop})
_CORS = (
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "GET, DELETE, OPTIONS"),
    ("access-control-allow-headers", "Content-Type, Last-Event-ID, Prefer"),
    ("access-control-expose-headers", "*"),
)


class Proxy(FlowHandler):
    """Answers ``GET ?runId=...&token=...`` with the run's own response.

    Mount it where ``async_redirect_url`` points. The headers of CORS are added to the response,
    but for those that it has itself; nothing else of it is touched.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __repr__(self) -> str:
        """Show the application."""
        return f"<Proxy of {self.engine.env.app}>"

    def answer(self, request: Request, max_wait: float) -> RequestFlow[Response]:
        """Answer with the run's response, and the headers of CORS; or take an answer for it."""
        if request.method == "POST":
            token = request.query.get(PROXY_PARAMS.token) or ""
            if is_callback_token(token):
                from durable_core.api.callback_answers import answer_callback  # few need it

                answer = yield from answer_callback(self.engine, request, PROXY_PARAMS)
                return _with_cors(answer)
        response = _without_run(request)
        if response is None:
            response = yield from answer_wait(request, _proxy_wait_request(request, max_wait))
        return _with_cors(response)


def _with_cors(answer: Response) -> Response:
    """Add what is missing: browsers refuse a response that allows its origin twice."""
    missing = (field for field in _CORS if field[0] not in answer.headers)
    return with_headers(answer, tuple(missing))


def _without_run(request: Request) -> Response | None:
    if request.method == "OPTIONS":
        headers = (("access-control-max-age", "86400"), ("allow", _ALLOW))
        return Response(status=204, headers=headers)
    if request.method in ("GET", "HEAD", "DELETE"):
        return None
    error = HTTPError(405, f"{request.method} is not allowed here", {"allow": _ALLOW})
    return problem_from_http_error(error)


def _proxy_wait_request(request: Request, max_wait: float) -> WaitRequest:
    # What else async_redirect_url has in its query is the application's, and stays.
    others = tuple(pair for pair in request.query.items() if pair[0] not in _OWN_PARAMS)
    return WaitRequest.from_request(request, PROXY_PARAMS, max_wait, others)
