"""In-process clients: they call an application without a server and without a socket."""

from __future__ import annotations

import json
import json as jsonlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, TypedDict, TypeVar, Unpack, cast
from urllib.parse import urlencode, urljoin, urlsplit

from durable_core.api.adapter import HTTPHandler
from durable_core.api.endpoint import is_wait
from durable_core.flow.handoff import new_token
from durable_core.flow.step_options import no_such_option
from durable_core.flow.wait_url import PROXY_PARAMS, WaitRequest, query_reference
from durable_core.http.headers import HeaderFields, Headers
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Phase
from durable_core.routing import Application
from durable_core.testing.simulation import ReadBody, Script, SendRequest, Simulation
from durable_core.testing.worker import Exchange

__all__ = [
    "AsyncClient",
    "BaseClient",
    "Client",
    "Reply",
    "RequestOptions",
    "ask",
    "follow_handoff",
    "resolve_handler",
]

AnswerT = TypeVar("AnswerT")

#: The base of the URLs that tests give as paths.
_BASE = "http://testserver/"


class Reply:
    """A response as a client sees it, its body read to the end.

    Attributes:
        request: the request that it answers.
        status: the status code.
        headers: the header fields.
        body: the content, as bytes.
        run_id: the run that was begun for the request, or the run that a wait URL names; None if
            there is neither.
        is_handoff: True if the client is sent to a wait URL, by a redirect or a token.
    """

    def __init__(
        self,
        request: Request,
        response: Response,
        body: bytes,
        run_id: str | None,
        final: Callable[[Reply], Reply],
    ) -> None:
        self.request = request
        self.status = response.status
        self.headers: Headers = response.headers
        self.body = body
        known = run_id or _requested_run(request)
        self.is_handoff = known is not None and _refers_to(known, self)
        self.run_id = known
        self._final = final

    @property
    def text(self) -> str:
        """The body as text in UTF-8."""
        return self.body.decode("utf-8")

    def json(self) -> Any:
        """Return the value of the JSON body.

        Raises:
            ValueError: the body is not JSON.
        """
        return json.loads(self.body)

    def result(self) -> Reply:
        """Return the final response: this one, or after a handoff the response of the run.

        The clock does not move.

        Raises:
            NotFinishedError: the run has no result yet; the message says what it waits for.
        """
        return self._final(self) if self.is_handoff else self

    def __repr__(self) -> str:
        """Show the status, and the run of a handoff or the size of the body."""
        what = f"handoff of run {self.run_id}" if self.is_handoff else f"{len(self.body)} bytes"
        return f"<Reply {self.status}, {what}>"


def _requested_run(request: Request) -> str | None:
    """Return the run that a wait URL names, None for any other URL."""
    return request.query.get("durable-run") or request.query.get("runId")


def _refers_to(run_id: str, reply: Reply) -> bool:
    if reply.status in (302, 303):
        return run_id in (reply.headers.get("location") or "")
    return reply.status == 200 and _is_token(reply)


def _is_token(reply: Reply) -> bool:
    """Tell whether the body is that of ``async_response="token"``."""
    try:
        value = reply.json()
    except ValueError:
        return False
    return isinstance(value, dict) and value.keys() == {"run_id", "token"}


def ask(
    simulation: Simulation, handler: HTTPHandler, method: str, url: str, options: RequestOptions
) -> Script[Reply]:
    """Send one request, run everything that is due, and return the reply.

    Raises:
        ConnectionResetError: the process died before the run had a checkpoint.
        NotDeterministicError: see ``BaseHarness.replay_everything``.
        NotFinishedError: a handler did not come to an end, or with ``follow=`` the run has none.
    """
    exchange = _make_exchange(handler, method, url, options)
    response = yield SendRequest(exchange)
    body = yield ReadBody(response)
    yield from simulation.settle()
    if exchange.run_id in simulation.worker.lost_runs:
        raise ConnectionResetError(
            "the process died before it answered, and before the run had a step to go on from"
        )
    final = lambda reply: _final_reply(simulation, exchange, reply)  # noqa: E731
    reply = Reply(exchange.request, response, body, exchange.run_id, final)
    if exchange.follow and reply.is_handoff:
        return (yield from follow_handoff(simulation, reply))
    return reply


def follow_handoff(simulation: Simulation, reply: Reply) -> Script[Reply]:
    """Move the clock until the run of a handoff has ended, and return its response."""
    assert reply.run_id is not None
    yield from simulation.finish(reply.run_id)
    return reply.result()


def _final_reply(simulation: Simulation, exchange: Exchange, reply: Reply) -> Reply:
    """Ask the wait URL for the response of the run."""
    run_id = reply.run_id
    assert run_id is not None
    if isinstance(simulation.store.result(simulation.engine.env.app, run_id), Phase):
        raise simulation.not_finished_error(run_id)
    location = reply.headers.get("location") or ""
    request = Request(method="GET", url=urljoin(exchange.request.url, location))
    if location and _has_wait_url(exchange, request):
        response = exchange.handler.handle(request, max_wait=0.0)
    else:
        response = simulation.engine.wait(_make_wait_request(simulation, run_id))
    assert isinstance(response.body, bytes)
    return Reply(request, response, response.body, run_id, lambda same: same)


def _has_wait_url(exchange: Exchange, request: Request) -> bool:
    """Tell whether the handler of the exchange also answers this wait URL."""
    if urlsplit(request.url).netloc != urlsplit(exchange.request.url).netloc:
        return False
    return is_wait(request) or isinstance(exchange.handler, Application)


def _make_wait_request(simulation: Simulation, run_id: str) -> WaitRequest:
    """Return the request that a wait route of the user's own would make."""
    token = new_token(simulation.engine.env, run_id)
    params = (PROXY_PARAMS.run, run_id), (PROXY_PARAMS.token, token)
    request = Request(method="GET", url=_BASE + query_reference(params))
    return WaitRequest.from_request(request, PROXY_PARAMS, 0.0)


class RequestOptions(TypedDict, total=False):
    """The options of a request.

    Attributes:
        headers: header fields, a mapping or pairs.
        json: a value that is sent as JSON, with its content type.
        data: the body: bytes, text (sent as UTF-8), or a mapping (sent as a form).
        path_params: the parameters that a route would find in the path; for an endpoint that is
            tested without its route.
        follow: return the final response, as ``curl -L`` does; the clock moves until the run has
            ended.
    """

    headers: HeaderFields
    json: object
    data: bytes | str | Mapping[str, str]
    path_params: Mapping[str, str]
    follow: bool


class BaseClient(Generic[AnswerT]):
    """Sends requests to one application; ``AnswerT`` is a reply, or the promise of one."""

    def __init__(
        self,
        simulation: Simulation,
        handler: HTTPHandler,
        drive: Callable[[Script[Reply]], AnswerT],
    ) -> None:
        self._simulation = simulation
        self._handler = handler
        self._drive = drive

    def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send a request; return when no handler is live and nothing is due any more.

        Args:
            method: such as ``"GET"``.
            url: a path with its query, or a whole URL.
            **options: see :class:`RequestOptions`.

        Raises:
            ConnectionResetError: the process died before the run had a checkpoint.
            NotDeterministicError: see ``replay_everything``.
            NotFinishedError: a handler did not come to an end within 10 s of real time.
            TypeError: there is no such option.
        """
        return self._drive(ask(self._simulation, self._handler, method, url, options))

    def get(self, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send GET; see :meth:`request`."""
        return self.request("GET", url, **options)

    def head(self, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send HEAD; see :meth:`request`."""
        return self.request("HEAD", url, **options)

    def options(self, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send OPTIONS; see :meth:`request`."""
        return self.request("OPTIONS", url, **options)

    def post(self, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send POST; see :meth:`request`."""
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send PUT; see :meth:`request`."""
        return self.request("PUT", url, **options)

    def patch(self, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send PATCH; see :meth:`request`."""
        return self.request("PATCH", url, **options)

    def delete(self, url: str, **options: Unpack[RequestOptions]) -> AnswerT:
        """Send DELETE; see :meth:`request`."""
        return self.request("DELETE", url, **options)


class Client(BaseClient[Reply]):
    """Sends requests to one application. Made by ``Harness.client``."""


class AsyncClient(BaseClient[Coroutine[Any, Any, Reply]]):
    """Sends requests to one application on an event loop. Made by ``AsyncHarness.client``."""


def resolve_handler(simulation: Simulation, app: object) -> HTTPHandler:
    """Return the object that answers requests: ``app`` itself, or its ``.endpoint``.

    Raises:
        TypeError: ``app`` is neither an endpoint nor an application.
        ValueError: it belongs to another application than the one that the test runs.
    """
    inner = getattr(app, "endpoint", app)
    if isinstance(inner, type) or not (hasattr(inner, "handle") and hasattr(inner, "engine")):
        raise TypeError(
            "a client needs an endpoint, or an application made by app(durable, routes), "
            f"not {app!r}"
        )
    if inner.engine is not simulation.engine:
        raise ValueError(f"{app!r} belongs to another Durable than {simulation.durable!r}")
    return cast(HTTPHandler, inner)


def _make_exchange(
    handler: HTTPHandler, method: str, url: str, options: RequestOptions
) -> Exchange:
    known = RequestOptions.__annotations__
    if unknown := options.keys() - known.keys():
        raise no_such_option("a request of a test", unknown, known)
    headers = Headers(options.get("headers", ()))
    body, content_type = _encode_body(options)
    if content_type and "content-type" not in headers:
        headers = headers.with_set("content-type", content_type)
    request = Request(method=method, url=urljoin(_BASE, url), headers=headers, body=body)
    if "path_params" in options:
        request = request.with_path_params(options["path_params"])
    return Exchange(handler=handler, request=request, follow=options.get("follow", False))


def _encode_body(options: RequestOptions) -> tuple[bytes, str]:
    """Return the body and its content type, "" if there is none."""
    if "json" in options:
        if "data" in options:
            raise TypeError("a request has json= or data=, not both")
        text = jsonlib.dumps(options["json"], ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8"), "application/json"
    data = options.get("data", b"")
    if isinstance(data, Mapping):
        return urlencode(data).encode("ascii"), "application/x-www-form-urlencoded"
    return (data.encode("utf-8"), "") if isinstance(data, str) else (data, "")
