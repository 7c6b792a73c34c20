"""The HTTP route that takes events."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from durable_core.api.effects import FlowHandler, RequestFlow, SendEvents
from durable_core.api.engine import Engine
from durable_core.codec.records import check_events, parse_events
from durable_core.errors import (
    BadRequest,
    ConfigurationError,
    HTTPError,
    LimitExceededError,
    StoreError,
)
from durable_core.flow.error_responses import store_unavailable_response
from durable_core.http.problem import problem_from_http_error
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import Event
from durable_core.platform import logger

__all__ = ["EventsRoute"]

_ALLOW = "OPTIONS, POST"


class EventsRoute(FlowHandler):
    """Answers ``POST`` of a JSON object or array of events with ``{"ids": [...]}``.

    Args:
        engine: takes the events.
        event_key: what clients must send as ``Authorization: Bearer <key>``.
        public: take events from anybody instead.

    Raises:
        ConfigurationError: neither a key nor ``public=True``, or both.
    """

    def __init__(self, engine: Engine, event_key: str | None, public: bool) -> None:
        if public == (event_key is not None):
            raise ConfigurationError(
                "events_endpoint() needs either event_key= (clients send it as a bearer token) or "
                "public=True (anybody may send events)"
            )
        if event_key == "":
            raise ConfigurationError("event_key must not be empty")
        self.engine = engine
        self._key = event_key
        self._source = _source_of(event_key)

    def __repr__(self) -> str:
        """Show the application, and who may send."""
        return f"<EventsRoute of {self.engine.env.app}, {'public' if self._key is None else 'key'}>"

    def answer(self, request: Request, max_wait: float) -> RequestFlow[Response]:
        """Send the events of the request; answer with their ids, or why there are none."""
        try:
            events = self._accept(request)
            if isinstance(events, Response):
                return events
            ids: Sequence[str] = yield SendEvents(events, self._source)
            return Response.json({"ids": list(ids)})
        except HTTPError as error:
            return problem_from_http_error(error)
        except StoreError as error:
            logger.error("events were refused, the store is unavailable: %s", error)
            return store_unavailable_response(error)

    def _accept(self, request: Request) -> tuple[Event, ...] | Response:
        """Return the events of the request, or an answer that needs none."""
        if request.method == "OPTIONS":
            return Response(status=204, headers=(("allow", _ALLOW),))
        if request.method != "POST":
            raise HTTPError(405, f"{request.method} is not allowed here", {"allow": _ALLOW})
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
