"""The handler that answers the page: its files, its documents, its streams, and its actions."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from durable_core import BadRequest, Durable, Event, HTTPError, Request, Response
from durable_core.adapters import (
    CallFunction,
    CallHook,
    FlowHandler,
    HTTPHandler,
    RequestEffect,
    RequestFlow,
    check_verdict,
    is_async,
    problem,
    problem_from_http_error,
)
from durable_core.errors import (
    BodyNotStoredError,
    ConfigurationError,
    LimitExceededError,
    RunNotFoundError,
    RunUndoneError,
    SingletonError,
    StoreError,
)
from durable_dashboard import _documents as documents
from durable_dashboard._documents import text_of
from durable_dashboard._live import (
    AsyncBody,
    Changes,
    Feed,
    Source,
    SyncBody,
    encode,
    encode_chunks,
    end_in_time,
)
from durable_dashboard._page import (
    NAMES,
    PAGE,
    PAGE_HEADERS,
    check_action,
    check_local,
    check_site,
    serve_asset,
)
from durable_wsgi import EndpointServer, WSGIApp

__all__ = ["Authorize", "Dashboard", "create_dashboard_server"]

_logger = logging.getLogger("durable.dashboard")
#: What the documents and actions are below, so that no asset or mount point is taken for one.
_API = "_api/"
_STREAM_HEADERS = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache, no-store"),
    ("x-accel-buffering", "no"),
)
_READS = ("GET", "HEAD")
#: Seconds after which a stream in a task ends, and its client is asked again whether it may come.
_LONGEST = 30.0
#: Seconds for which the stream of a run holds a thread.
_MOST_WAIT = 25.0

#: How many event streams may hold a thread each: this server has no other clients.
_STREAMS = 100

Authorize: TypeAlias = Callable[[Request], Any]


class Dashboard(FlowHandler):
    """Answers the requests of the dashboard's page; ``Durable.dashboard`` makes and wraps one.

    Args:
        durable: the application.
        authorize, read_only: see ``Durable.dashboard``.
        thread_streams: how many event streams may hold a thread of a server each. Default:
            ``Limits.thread_streams``.

    Raises:
        ConfigurationError: the engine of the application is not the embedded one.
        TypeError: ``authorize`` is no function.
    """

    def __init__(
        self,
        durable: Durable[Any],
        *,
        authorize: Authorize | None = None,
        read_only: bool = False,
        thread_streams: int | None = None,
    ) -> None:
        if durable.engine.store is None:
            raise ConfigurationError(
                f"the dashboard looks into a store, and {durable.engine.name} has none: its runs "
                "are shown by its own server"
            )
        if authorize is not None and not callable(authorize):
            raise TypeError(f"authorize must be a function of the request, not {authorize!r}")
        self.engine = durable.engine
        self._durable = durable
        self._authorize = authorize
        self._read_only = read_only
        self._thread_streams = thread_streams
        #: What wakes and ends its event streams.
        self.changes = Changes(durable)
        self._errors = documents.Errors(durable)

    def __repr__(self) -> str:
        """Show the application."""
        return f"<Dashboard of {self._durable.id}{', read-only' if self._read_only else ''}>"

    def read_overview(self) -> dict[str, Any]:
        """Return how the application is doing."""
        return documents.overview(self._durable, self._errors)

    def answer(self, request: Request, max_wait: float) -> RequestFlow[Response]:
        """Answer a request, if it may be answered."""
        return _with_policy((yield from self._answer_or_refuse(request, max_wait)))

    def _answer_or_refuse(self, request: Request, max_wait: float) -> RequestFlow[Response]:
        try:
            principal = yield from self._admit(request)
        except HTTPError as error:
            return problem_from_http_error(error)
        try:
            return (yield from self._answer(request, principal, max_wait))
        except Exception as error:
            return _problem_of(error)

    def _admit(self, request: Request) -> RequestFlow[str]:
        """Return who asks, "" if nobody is named.

        Raises:
            HTTPError: the request is refused.
        """
        if self._authorize is None:
            check_local(request)
            return ""
        return check_verdict((yield CallHook(self._authorize, request))) or ""

    def _answer(self, request: Request, principal: str, max_wait: float) -> RequestFlow[Response]:
        rest = _rest_of(request)
        directory, _, name = rest.rpartition("/")
        if rest in ("", PAGE):
            _check_method(request, _READS)
            return _to_folder(request) or serve_asset(request, PAGE)
        if not directory and name in NAMES:
            _check_method(request, _READS)
            return serve_asset(request, name)
        if rest in _API_READS:
            _check_method(request, _READS)
            check_site(request)
            return (yield from _call(partial(self._read, _API_READS[rest]), request))
        if rest in _API_STREAMS:
            _check_method(request, ("GET",))
            check_site(request)
            if rest == f"{_API}stream":
                return (yield from self._stream(request))
            source = _API_STREAMS[rest](self, request)
            stream: Response = yield _OpenStream(self, source, max_wait)
            return stream
        if rest in _ACTIONS:
            _check_method(request, ("POST",))
            check_action(request)
            if self._read_only:
                raise HTTPError(403, "this dashboard is read-only")
            act = partial(self._act, rest.removeprefix(_API), _ACTIONS[rest], principal)
            return (yield from _call(act, request))
        raise HTTPError(404, "there is nothing at this path")

    def _read(self, read: _Read, request: Request) -> Response:
        return read(self, request)

    def _act(self, name: str, act: _Act, principal: str, request: Request) -> Response:
        asked = request.json()
        if not isinstance(asked, dict):
            raise BadRequest("an action is a JSON object")
        subject = asked.get("id") or asked.get("name")
        who = repr(principal) if principal else "a user of this machine"
        _logger.info("%s of %.80r by %s", name, subject, who)
        return _document(act(self._durable, asked))

    def _stream(self, request: Request) -> RequestFlow[Response]:
        """Answer with what a run streams: as it comes, if this process works; else what is stored.

        A process that only looks is not told what steps in progress stream.
        """
        run_id = _param(request, "id")
        if not self._durable.health()["started"]:
            stored = yield CallFunction(lambda _: self._durable.runs.streamed(run_id), request)
            return Response(headers=_STREAM_HEADERS, body=encode_chunks(stored))
        yield CallFunction(lambda _: self._durable.runs.get(run_id), request)
        wait = Request(
            method="GET",
            url=f"http://dashboard/?{self._durable.runs.wait_query(run_id)}",
            headers={
                "accept": "text/event-stream",
                **_optional("last-event-id", request.headers.get("last-event-id")),
            },
        )
        route: Any = self._durable.endpoint_proxy()
        response: Response = yield _Delegate(getattr(route, "endpoint", route), wait)
        if response.status != 200:
            return Response(status=response.status)
        body = response.body
        if isinstance(body, AsyncIterator):
            body = end_in_time(body, _LONGEST)
        # Its own header fields let any page read it.
        return Response(headers=_STREAM_HEADERS, body=body)


def create_dashboard_server(
    durable: Durable[Any], *, authorize: Authorize | None = None, read_only: bool = False
) -> EndpointServer:
    """Return a server of the dashboard alone: no run is executed by it.

    Args:
        durable: the application, or one that only has the id and the store of it.
        authorize, read_only: as of ``Durable.dashboard``.

    Raises:
        ConfigurationError: ``authorize`` is a coroutine function, or the engine is not the embedded
            one.
    """
    if authorize is not None and is_async(authorize):
        raise ConfigurationError("authorize= of a dashboard by itself must be a plain function")
    dashboard = Dashboard(
        durable, authorize=authorize, read_only=read_only, thread_streams=_STREAMS
    )
    return EndpointServer(
        WSGIApp(dashboard), durables=(dashboard.changes,), limits=durable.engine.limits
    )


# --- requests -------------------------------------------------------------------------------------


def _rest_of(request: Request) -> str:
    """Return the path below the place where the dashboard is mounted, without the first slash.

    Where a router has found it by a template, its last parameter is the rest of the path; else the
    whole path is, below the mount point that the server knows.
    """
    path = request.path
    if request.path_params:
        rest = list(request.path_params.values())[-1]
        if path.endswith(f"/{rest}") or path == rest:
            return rest
    return path.removeprefix("/")


def _to_folder(request: Request) -> Response | None:
    """Send a browser that has left out the last slash to where relative URLs are right."""
    path, _, query = request.url.partition("#")[0].partition("?")
    name = path.rpartition("/")[2]
    if not name or name == PAGE:
        return None
    return Response.redirect(f"{name}/{'?' * bool(query)}{query}", 307)


def _check_method(request: Request, methods: tuple[str, ...]) -> None:
    if request.method not in methods:
        allow = ", ".join(methods)
        raise HTTPError(405, f"{request.method} is not allowed here", {"allow": allow})


def _param(request: Request, name: str) -> str:
    value = request.query.get(name)
    if not value:
        raise BadRequest(f"the query parameter {name!r} is missing")
    return value


def _optional(name: str, value: str | None) -> dict[str, str]:
    return {} if value is None else {name: value}


def _call(function: Callable[[Request], Response], request: Request) -> RequestFlow[Response]:
    """Return what a function answers that reads or writes the store."""
    response: Response = yield CallFunction(function, request)
    return response


# --- answers --------------------------------------------------------------------------------------


def _with_policy(response: Response) -> Response:
    """Return the response with what every response has, errors too."""
    fields = [*response.headers.raw, *PAGE_HEADERS]
    if "cache-control" not in response.headers:
        fields.append(("cache-control", "no-store"))
    return Response(status=response.status, headers=fields, body=response.body)


def _document(document: object) -> Response:
    """Answer with JSON that no cache keeps. All text is ASCII: some of it may be no Unicode."""
    body = json.dumps(document, default=repr).encode("ascii")
    headers = (("content-type", "application/json"), ("cache-control", "no-store"))
    return Response(headers=headers, body=body)


def _download(body: bytes, name: str) -> Response:
    """Answer with what a user's client has sent or got: to be saved, and never to be shown."""
    headers = (
        ("content-type", "application/octet-stream"),
        ("content-disposition", f'attachment; filename="{name}"'),
        ("cache-control", "no-store"),
    )
    return Response(headers=headers, body=body)


def _problem_of(error: Exception) -> Response:
    """Return the answer that an error stands for, or raise it.

    Reading of text that users wrote raises none of these: such an error is about what was asked.
    """
    match error:
        case HTTPError():
            return problem_from_http_error(error)
        case RunNotFoundError():
            return problem(404, "run-not-found", detail="there is no such run (any more)")
        case BodyNotStoredError():
            return problem(404, "body-not-stored", detail="the body is not stored with the run")
        case RunUndoneError() | SingletonError():
            return problem(409, "conflict", detail=str(error))
        case StoreError():
            _logger.error("the dashboard cannot use the store: %s", error)
            return problem(503, "store-unavailable", detail=str(error))
        case LimitExceededError():
            return problem(413, "content-too-large", detail=str(error))
    raise error


@dataclass(frozen=True)
class _OpenStream(RequestEffect):
    """Open an event stream; answered with the response."""

    dashboard: Dashboard
    source: Source
    max_wait: float

    def perform(self, engine: Any) -> Response:
        changes, most = self.dashboard.changes, self.dashboard._thread_streams
        if most is None:
            most = engine.env.limits.thread_streams
        woken = threading.Event()
        close = engine.hold_thread(woken.set) if changes.in_threads < most else None
        # Past the limit a client gets what there is, and comes again.
        held = 0.0 if close is None else self.max_wait
        feed = Feed(self.source, changes, time.monotonic() + held)
        body = SyncBody(feed, changes, woken, close or (lambda: None))
        return Response(headers=_STREAM_HEADERS, body=body)

    async def perform_async(self, engine: Any) -> Response:
        changes = self.dashboard.changes
        feed = Feed(self.source, changes, time.monotonic() + _LONGEST)
        body = AsyncBody(feed, changes)
        return Response(headers=_STREAM_HEADERS, body=body)


@dataclass(frozen=True)
class _Delegate(RequestEffect):
    """Have another handler answer."""

    handler: HTTPHandler
    request: Request

    def perform(self, engine: Any) -> Response:
        return self.handler.handle(self.request, max_wait=_MOST_WAIT)

    async def perform_async(self, engine: Any) -> Response:
        return await self.handler.handle_async(self.request, max_wait=_MOST_WAIT)


# --- documents ------------------------------------------------------------------------------------

_Read: TypeAlias = Callable[[Dashboard, Request], Response]


def _config(dashboard: Dashboard, request: Request) -> Response:
    return _document(documents.read_config(dashboard._durable, read_only=dashboard._read_only))


def _runs(dashboard: Dashboard, request: Request) -> Response:
    return _document(documents.find_runs(dashboard._durable, request))


def _run(dashboard: Dashboard, request: Request) -> Response:
    document, _ = documents.read_run(dashboard._durable, _param(request, "id"))
    return _document(document)


def _step(dashboard: Dashboard, request: Request) -> Response:
    run_id, name = _param(request, "id"), _param(request, "step")
    return _document(documents.read_step(dashboard._durable, run_id, name))


def _value(dashboard: Dashboard, request: Request) -> Response:
    run_id, name = _param(request, "id"), _param(request, "step")
    value = documents.read_value(dashboard._durable, run_id, name, _param(request, "part"))
    # A half of a character becomes what JSON writes for it.
    return _download(text_of(value).encode("utf-8", "backslashreplace"), "value.json")


def _request(dashboard: Dashboard, request: Request) -> Response:
    return _document(documents.read_request(dashboard._durable, _param(request, "id")))


def _response(dashboard: Dashboard, request: Request) -> Response:
    return _document(documents.read_response(dashboard._durable, _param(request, "id")))


def _body(dashboard: Dashboard, request: Request) -> Response:
    part = _param(request, "part")
    return _download(documents.read_body(dashboard._durable, _param(request, "id"), part), "body")


def _overview(dashboard: Dashboard, request: Request) -> Response:
    return _document(dashboard.read_overview())


_API_READS: dict[str, _Read] = {
    f"{_API}config": _config,
    f"{_API}runs": _runs,
    f"{_API}run": _run,
    f"{_API}step": _step,
    f"{_API}value": _value,
    f"{_API}request": _request,
    f"{_API}response": _response,
    f"{_API}body": _body,
    f"{_API}overview": _overview,
}


# --- streams --------------------------------------------------------------------------------------


def _runs_live(dashboard: Dashboard, request: Request) -> Source:
    """Send a page of runs, and again whenever one of it is another."""
    sent: list[object] = []

    def next_event() -> bytes | None:
        document = _or_problem(dashboard, lambda: documents.find_runs(dashboard._durable, request))
        known = [document.get("runs"), document.get("problem")]
        if known == sent:
            return None
        sent[:] = known
        return encode("problem" if "problem" in document else "runs", document)

    return next_event


def _run_live(dashboard: Dashboard, request: Request) -> Source:
    """Send a run, and then the steps that are new; a browser that comes again says what it has."""
    run_id, durable = _param(request, "id"), dashboard._durable
    position = documents.RunPosition.parse(request.headers.get("last-event-id"))
    sent: dict[str, Any] = {}
    ended: object = None  # by which a run that has ended is known to be the same still

    def read() -> dict[str, Any]:
        nonlocal position
        document, position = documents.read_run(durable, run_id, position)
        return document

    def next_event() -> bytes | None:
        nonlocal sent, ended
        if ended is not None and ended == documents.run_version(durable, run_id):
            return None
        version = documents.run_version(durable, run_id)
        document = _or_problem(dashboard, read)
        run = document.get("run")
        ended = version if run is not None and run["ended"] is not None else None
        if not document.get("finished") and {**document, "now": 0} == sent:
            return None
        sent = {**document, "now": 0}
        return encode("problem" if run is None else "run", document, str(position))

    return next_event


def _overview_live(dashboard: Dashboard, request: Request) -> Source:
    """Send the overview, every two seconds at most."""
    sent_at = 0.0

    def next_event() -> bytes | None:
        nonlocal sent_at
        if time.monotonic() - sent_at < _OVERVIEW_PAUSE:
            return None
        document = _or_problem(dashboard, dashboard.read_overview)
        sent_at = time.monotonic()
        return encode("problem" if "problem" in document else "overview", document)

    return next_event


#: Seconds from one overview to the next.
_OVERVIEW_PAUSE = 1.9


def _or_problem(dashboard: Dashboard, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a document, or one that says why there is none: a stream has no status for that."""
    try:
        return read()
    except Exception as error:
        if isinstance(error, StoreError) and dashboard.changes.is_over:
            return {"problem": {"status": 503, "title": "the server is shutting down"}}
        refusal = _problem_of(error)
    assert isinstance(refusal.body, bytes)
    return {"problem": json.loads(refusal.body)}


_API_STREAMS: dict[str, Callable[[Dashboard, Request], Source]] = {
    f"{_API}runs-live": _runs_live,
    f"{_API}run-live": _run_live,
    f"{_API}overview-live": _overview_live,
    f"{_API}stream": _run_live,  # answered apart: the engine has such streams
}


# --- actions --------------------------------------------------------------------------------------

_Asked: TypeAlias = dict[str, Any]
_Act: TypeAlias = Callable[[Durable[Any], _Asked], object]


def _text(asked: _Asked, name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str) or not value or not _is_unicode(value):
        raise BadRequest(f"{name!r} must be a text")
    return value


def _is_unicode(text: str) -> bool:
    """Tell whether a text has a form in UTF-8: JSON may hold halves of characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _cancel(durable: Durable[Any], asked: _Asked) -> object:
    reason = None if asked.get("reason") in (None, "") else _text(asked, "reason")
    try:
        is_cancelled = durable.runs.cancel(_text(asked, "id"), reason=reason)
    except ValueError as error:  # the reason is too long
        raise BadRequest(str(error)) from error
    if not is_cancelled:
        raise HTTPError(409, "the run had ended, or was cancelled already")
    return {"done": "cancelled"}


def _retry(durable: Durable[Any], asked: _Asked) -> object:
    if not durable.runs.retry(_text(asked, "id")):
        raise HTTPError(409, "the run has not failed")
    return {"done": "retried"}


#: Header fields that are wrong for another body.
_OF_THE_BODY = ("content-length", "content-digest", "repr-digest", "digest", "content-md5")


def _resume(durable: Durable[Any], asked: _Asked) -> object:
    run_id, body = _text(asked, "id"), asked.get("body")
    request = None
    if body is not None:
        if not isinstance(body, str) or not _is_unicode(body):
            raise BadRequest("'body' must be a text")
        old, content = durable.runs.request(run_id), body.encode("utf-8")
        request = Request(
            method=old.method,
            url=old.url,
            headers=old.headers.without(_OF_THE_BODY).with_set("content-length", str(len(content))),
            body=content,
            path_params=old.path_params,
            root_path=old.root_path,
        )
    try:
        return {"id": durable.runs.resume_from(run_id, _text(asked, "step"), request=request)}
    except ValueError as error:  # it has no such step
        raise HTTPError(409, str(error)) from error


def _send(durable: Durable[Any], asked: _Asked) -> object:
    data = asked.get("data", {})
    if not isinstance(data, dict):
        raise BadRequest("the data of an event is a JSON object")
    name = _text(asked, "name")
    try:
        [event_id] = durable.send(Event(name, data))
    except (ValueError, TypeError) as error:
        raise BadRequest(str(error)) from error
    return {"id": event_id}


def _signal(durable: Durable[Any], asked: _Asked) -> object:
    name = _text(asked, "name")
    try:
        run_id = durable.signal(name, asked.get("data"))
    except (ValueError, TypeError) as error:
        raise BadRequest(str(error)) from error
    if run_id is None:
        raise HTTPError(409, "no run waits for this signal (any more)")
    return {"id": run_id}


_ACTIONS: dict[str, _Act] = {
    f"{_API}cancel": _cancel,
    f"{_API}retry": _retry,
    f"{_API}resume": _resume,
    f"{_API}send": _send,
    f"{_API}signal": _signal,
}
