"""The HTTP route that takes events."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

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


class EventsRoute:
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

    def handle(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this thread; see ``HTTPHandler.handle``."""
        try:
            events = self._accept(request)
            if isinstance(events, Response):
                return events
            return _taken(self.engine.send(events, self._source))
        except (HTTPError, StoreError) as error:
            return _refused(error)

    async def handle_async(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this task; see ``HTTPHandler.handle_async``."""
        try:
            events = self._accept(request)
            if isinstance(events, Response):
                return events
            return _taken(await self.engine.send_async(events, self._source))
        except (HTTPError, StoreError) as error:
            return _refused(error)

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


def _taken(ids: Sequence[str]) -> Response:
    return Response.json({"ids": list(ids)})


def _refused(error: HTTPError | StoreError) -> Response:
    if isinstance(error, HTTPError):
        return problem_from_http_error(error)
    logger.error("events were refused, the store is unavailable: %s", error)
    return store_unavailable_response(error)
