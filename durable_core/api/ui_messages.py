"""The routes by which a chat page comes back to its answer, and stops it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from durable_core.api.effects import CallEngine, CallHook, FlowHandler, RequestFlow, Wait
from durable_core.api.endpoint import check_verdict
from durable_core.api.engine import Engine
from durable_core.errors import ConfigurationError, HTTPError, RunNotFoundError, RunUndoneError
from durable_core.flow.chats import CHAT
from durable_core.flow.handoff import new_token
from durable_core.flow.options import Authorize
from durable_core.flow.wait_url import OWN_PARAMS, PRIVATE_HEADERS, StreamWanted, WaitRequest
from durable_core.http.problem import problem_from_http_error
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Run, plain_key
from durable_core.ports import RunFilter, RunRecord

if TYPE_CHECKING:
    from durable_core.codec.ui_stream import UIMode

__all__ = ["UIMessagesRoute"]

_ALLOW = "DELETE, GET, OPTIONS"
_NOTHING = Response(status=204, headers=PRIVATE_HEADERS)
#: What the clients of a run are told that one of them has stopped.
_REASON = "stopped in the chat"
#: Asks for the answer even if it is complete.
_ENDED_PARAM = "ended"


class UIMessagesRoute(FlowHandler):
    """Answers ``GET .../{chat id}/stream`` with the answer in progress, and stops it at DELETE.

    Args:
        engine: has the runs.
        authorize: decides who may ask, as ``authorize=`` of an endpoint. A principal that it names
            finds only the runs that are theirs.
        public: let anybody ask instead who knows the id of a chat.

    Raises:
        ConfigurationError: not exactly one of the two, or another engine than the embedded one.
    """

    def __init__(self, engine: Engine, authorize: Authorize | None, public: bool) -> None:
        if public == (authorize is not None):
            raise ConfigurationError(
                "ui_messages_endpoint() needs either authorize= (it says who may read a chat) or "
                "public=True (anybody may who knows its id)"
            )
        if authorize is not None and not callable(authorize):
            raise ConfigurationError(f"authorize= must be a function, not {authorize!r}")
        if engine.store is None:
            raise ConfigurationError(
                f"{engine.name} has no streams that a chat could read: ui_messages_endpoint() "
                "needs the embedded engine"
            )
        self.engine = engine
        self._authorize = authorize

    def __repr__(self) -> str:
        """Show the application, and who may ask."""
        who = "public" if self._authorize is None else "authorized"
        return f"<UIMessagesRoute of {self.engine.env.app}, {who}>"

    def answer(self, request: Request, max_wait: float) -> RequestFlow[Response]:
        """Answer with the stream of the chat's last run, or stop that run."""
        try:
            return (yield from self._answer(request, max_wait))
        except HTTPError as error:
            return problem_from_http_error(error)

    def _answer(self, request: Request, max_wait: float) -> RequestFlow[Response]:
        if request.method == "OPTIONS":
            return Response(status=204, headers=(("allow", _ALLOW),))
        if request.method not in ("GET", "DELETE"):
            raise HTTPError(405, f"{request.method} is not allowed here", {"allow": _ALLOW})
        principal = None
        if self._authorize is not None:
            principal = check_verdict((yield CallHook(self._authorize, request)))
        # Of the caller's own: others may have used the id of their chat.
        where = RunFilter(label=(CHAT, _chat_of(request)), principal=principal)
        found: list[RunRecord] = yield CallEngine(lambda engine: engine.list(where, 1))
        run = found[0].run if found else None
        mode = None if run is None else self._mode_of(run)
        if run is None or mode is None:
            return _NOTHING
        if request.method == "DELETE":
            return (yield from _stop(run))
        if run.phase.ended and request.query.get(_ENDED_PARAM) is None:
            return _NOTHING
        named = (run.id, new_token(self.engine.env, run.id))
        wanted = WaitRequest.from_request(request, OWN_PARAMS, max_wait, run=named)
        response: Response = yield Wait(wanted.reading(StreamWanted(ui_messages=mode)))
        return response

    def _mode_of(self, run: Run) -> UIMode | None:
        """Return how the run's endpoint answers chats; None if it does not."""
        endpoint = self.engine.endpoints.get(plain_key(run))
        return None if endpoint is None else endpoint.options.ui_messages


def _stop(run: Run) -> RequestFlow[Response]:
    try:
        yield CallEngine(lambda engine: engine.cancel(run.id, _REASON))
    except (RunUndoneError, RunNotFoundError):
        pass  # it has ended, or does so now
    return _NOTHING


def _chat_of(request: Request) -> str:
    """Return the id of the chat: the last but one segment of the path."""
    segments = urlsplit(request.url).path.split("/")
    if len(segments) < 3 or segments[-1] != "stream" or not segments[-2]:
        raise HTTPError(404, "the path of this route ends with /{chat id}/stream")
    return unquote(segments[-2])
