"""Routes that an application mounts beside its endpoints: one takes events, one is for chats."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from durable_core.api.effects import (
    CallEngine,
    CallHook,
    RequestFlow,
    Route,
    SendEvents,
    Wait,
)
from durable_core.api.endpoint import check_verdict
from durable_core.api.engine import Engine
from durable_core.codec.records import check_events, parse_events
from durable_core.errors import (
    BadRequest,
    ConfigurationError,
    HTTPError,
    LimitExceededError,
    RunNotFoundError,
    RunUndoneError,
    StoreError,
)
from durable_core.flow.chats import CHAT
from durable_core.flow.error_responses import store_unavailable_response
from durable_core.flow.handoff import new_token
from durable_core.flow.options import Authorize
from durable_core.flow.wait_url import OWN_PARAMS, PRIVATE_HEADERS, StreamWanted, WaitRequest
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import Event
from durable_core.model.run import Run, plain_key
from durable_core.platform import logger
from durable_core.ports import RunFilter, RunRecord

if TYPE_CHECKING:
    from durable_core.codec.ui_stream import UIMode

__all__ = ["EventsRoute", "UIMessagesRoute"]


# --- events ---------------------------------------------------------------------------------------


class EventsRoute(Route):
    """Answers ``POST`` of a JSON object or array of events with ``{"ids": [...]}``.

    Args:
        engine: takes the events.
        event_key: what clients must send as ``Authorization: Bearer <key>``.
        public: take events from anybody instead.

    Raises:
        ConfigurationError: neither a key nor ``public=True``, or both; a key that is no text.
    """

    methods = ("POST",)

    def __init__(self, engine: Engine, event_key: str | None, public: bool) -> None:
        if public == (event_key is not None):
            raise ConfigurationError(
                "events_endpoint() needs either event_key= (clients send it as a bearer token) or "
                "public=True (anybody may send events)"
            )
        if event_key is not None and (not isinstance(event_key, str) or not event_key):
            raise ConfigurationError("event_key must be a str, and not empty")
        super().__init__(engine)
        self._key = event_key
        self._source = _source_of(event_key)

    def __repr__(self) -> str:
        """Show the application, and who may send."""
        return f"<EventsRoute of {self.engine.env.app}, {'public' if self._key is None else 'key'}>"

    def respond(self, request: Request, max_wait: float) -> RequestFlow[Response]:
        """Send the events of the request; answer with their ids."""
        try:
            ids: Sequence[str] = yield SendEvents(self._read(request), self._source)
        except StoreError as error:
            logger.error("events were refused, the store is unavailable: %s", error)
            return store_unavailable_response(error)
        return Response.json({"ids": list(ids)})

    def _read(self, request: Request) -> tuple[Event, ...]:
        """Return the events of a request, if it may send them."""
        self._check_key(request)
        limits = self.engine.env.limits
        if len(request.body) > limits.body:
            raise HTTPError(413, f"at most {limits.body} bytes are accepted")
        try:
            return check_events(
                parse_events(request.json()), most=limits.events, largest=limits.event
            )
        except LimitExceededError as error:
            raise HTTPError(413, str(error)) from error
        except TypeError as error:
            raise BadRequest(str(error)) from error

    def _check_key(self, request: Request) -> None:
        if self._key is None:
            return
        scheme, _, key = (request.headers.get("authorization") or "").partition(" ")
        sent, wanted = key.strip().encode("utf-8", "replace"), self._key.encode("utf-8", "replace")
        if not (hmac.compare_digest(sent, wanted) and scheme.lower() == "bearer"):
            headers = {"www-authenticate": "Bearer"}
            raise HTTPError(401, "the event key is missing or wrong", headers)


def _source_of(event_key: str | None) -> str:
    """Return the name under which the ids of an endpoint's events are known, without its key."""
    if event_key is None:
        return "public"
    return f"key:{hashlib.sha256(event_key.encode('utf-8', 'replace')).hexdigest()[:32]}"


# --- chats ----------------------------------------------------------------------------------------
#
# The routes by which a chat page comes back to its answer, and stops it.

_NOTHING = Response(status=204, headers=PRIVATE_HEADERS)
#: What the clients of a run are told that one of them has stopped.
_REASON = "stopped in the chat"
#: Asks for the answer even if it is complete.
_ENDED_PARAM = "ended"


class UIMessagesRoute(Route):
    """Answers ``GET .../{chat id}/stream`` with the answer in progress, and stops it at DELETE.

    Args:
        engine: has the runs.
        authorize: decides who may ask, as ``authorize=`` of an endpoint. A principal that it names
            finds only the runs that are theirs.
        public: let anybody ask instead who knows the id of a chat.

    Raises:
        ConfigurationError: not exactly one of the two, or another engine than the embedded one.
    """

    methods = ("DELETE", "GET")

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
        super().__init__(engine)
        self._authorize = authorize

    def __repr__(self) -> str:
        """Show the application, and who may ask."""
        who = "public" if self._authorize is None else "authorized"
        return f"<UIMessagesRoute of {self.engine.env.app}, {who}>"

    def respond(self, request: Request, max_wait: float) -> RequestFlow[Response]:
        """Answer with the stream of the chat's last run, or stop that run."""
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
