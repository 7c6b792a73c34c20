"""What a client may ask at the wait URL: the result of its run, how far it is, and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durable_core.api.effects import CallEngine, FlowHandler, RequestFlow, Wait
from durable_core.api.engine import Engine
from durable_core.duration import time_of
from durable_core.errors import HTTPError, RunNotFoundError, RunUndoneError
from durable_core.flow.wait_url import (
    PRIVATE_HEADERS,
    PROXY_PARAMS,
    STATUS_PARAM,
    WaitRequest,
    is_callback_token,
)
from durable_core.http.problem import problem, problem_from_http_error, refuse_method
from durable_core.http.request import Request
from durable_core.http.response import Response, with_headers

if TYPE_CHECKING:
    from durable_core.ports import RunProgress, RunRecord

__all__ = ["WAIT_METHODS", "Proxy", "answer_wait"]

#: The methods of a wait URL, as the header Allow lists them.
WAIT_METHODS = "GET, HEAD, DELETE"
#: What the clients of a run are told that one of them has cancelled.
_REASON = "by its client"


def answer_wait(request: Request, wanted: WaitRequest) -> RequestFlow[Response]:
    """Answer a client at a wait URL.

    Args:
        request: GET, HEAD or DELETE.
        wanted: what is in its URL.
    """
    if request.method == "DELETE":
        return (yield from _cancel(wanted))
    if STATUS_PARAM in request.query:
        return (yield from _show(wanted))
    response: Response = yield Wait(wanted)
    return response


def _show(wanted: WaitRequest, status: int = 200) -> RequestFlow[Response]:
    found: tuple[RunProgress, int | None] | Response
    found = yield CallEngine(lambda engine: engine.look_up(wanted))
    if isinstance(found, Response):
        return found
    return Response.json(_document(*found), status, PRIVATE_HEADERS)


def _document(progress: RunProgress, kept_until: int | None) -> dict[str, object]:
    """Return what a client may know of its run: no results, arguments or errors."""
    from durable_core.api.run_info import as_json
    from durable_core.api.runs import show_run
    from durable_core.codec.json import JSONCodec

    run = as_json(show_run(progress.record, JSONCodec()))
    steps: Any = run["steps"]
    shown = ("name", "kind", "status", "attempts", "started", "due")
    return {
        "run_id": run["id"],
        **{name: run[name] for name in ("name", "status", "started", "ended", "due", "labels")},
        "steps_done": progress.steps_done,
        "steps": [{name: step[name] for name in shown} for step in steps],
        "expires": None if kept_until is None else time_of(kept_until).isoformat(),
    }


def _cancel(wanted: WaitRequest) -> RequestFlow[Response]:
    """Cancel a run for its client, if its endpoint allows that."""
    found: Any = yield CallEngine(lambda engine: engine.look_up(wanted))
    if isinstance(found, Response):
        return found
    record: RunRecord = found[0].record
    if not (yield CallEngine(lambda engine: _may_cancel(engine, record))):
        error = HTTPError(405, "this run is not to be cancelled", {"allow": "GET, HEAD"})
        return with_headers(problem_from_http_error(error), PRIVATE_HEADERS)
    try:
        yield CallEngine(lambda engine: engine.cancel(wanted.run_id, _REASON))
    except RunUndoneError:
        return _conflict("the run has failed and is being undone")
    except RunNotFoundError:
        pass  # it was deleted just now, which the next look shows
    return (yield from _cancelled(wanted))


def _cancelled(wanted: WaitRequest) -> RequestFlow[Response]:
    """Answer with what has become of a run: cancelled, being undone, or ended before."""
    found: Any = yield CallEngine(lambda engine: engine.look_up(wanted))
    if isinstance(found, Response):
        return found
    record: RunRecord = found[0].record
    if not record.run.phase.ended:
        return Response.json(_document(*found), 202, PRIVATE_HEADERS)
    if record.run.cancel_reason is None and record.run.phase.value != "cancelled":
        return _conflict("the run has ended already")
    return Response(status=204, headers=PRIVATE_HEADERS)


def _conflict(detail: str) -> Response:
    return with_headers(problem(409, "run-not-cancelled", detail=detail), PRIVATE_HEADERS)


def _may_cancel(engine: Engine, record: RunRecord) -> bool:
    from durable_core.model.run import plain_key

    endpoint = engine.endpoints.get(plain_key(record.run))
    return endpoint is not None and endpoint.options.allow_cancel


# --- the wait route -------------------------------------------------------------------------------
#
# For a URL of one's own, with CORS for browsers on other origins.

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
        if request.method not in ("GET", "HEAD", "DELETE"):
            refusal = refuse_method(request.method, _ALLOW)
            if request.method == "OPTIONS":
                refusal = with_headers(refusal, (("access-control-max-age", "86400"),))
            return _with_cors(refusal)
        return _with_cors((yield from answer_wait(request, _proxy_wait_request(request, max_wait))))


def _with_cors(answer: Response) -> Response:
    """Add what is missing: browsers refuse a response that allows its origin twice."""
    missing = (field for field in _CORS if field[0] not in answer.headers)
    return with_headers(answer, tuple(missing))


def _proxy_wait_request(request: Request, max_wait: float) -> WaitRequest:
    # What else async_redirect_url has in its query is the application's, and stays.
    others = tuple(pair for pair in request.query.items() if pair[0] not in _OWN_PARAMS)
    return WaitRequest.from_request(request, PROXY_PARAMS, max_wait, others)
