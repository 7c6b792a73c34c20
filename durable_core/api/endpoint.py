"""An endpoint: a wrapped handler, as servers call it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from durable_core.api.effects import (
    CallHook,
    ReadToEnd,
    RequestFlow,
    Serve,
    Wait,
    drive,
    drive_in_task,
)
from durable_core.api.engine import Engine
from durable_core.api.functions import is_async, key_of
from durable_core.api.waiting import WAIT_METHODS, answer_wait
from durable_core.errors import ConfigurationError, HTTPError
from durable_core.flow.options import (
    EndpointOptions,
    ResolvedOptions,
    needs_run_at_once,
    resolve_options,
)
from durable_core.flow.scope import HandlerKind
from durable_core.flow.wait_url import (
    OWN_PARAMS,
    PRIVATE_HEADERS,
    RUN_PARAM,
    TOKEN_PARAM,
    WaitRequest,
    applied_fields,
    is_callback_token,
)
from durable_core.http.headers import Headers, parse_prefer
from durable_core.http.problem import problem, problem_from_http_error
from durable_core.http.request import Request, client_of
from durable_core.http.response import Response
from durable_core.model.event import check_text
from durable_core.runners.settings import RegisteredEndpoint

if TYPE_CHECKING:
    from durable_core.codec.typed import ValueType
    from durable_core.engine.deferred import DeferredRun
    from durable_core.engine.deferred_thread import DeferredPoolRun, DeferredThreadRun

__all__ = [
    "Around",
    "Endpoint",
    "Handler",
    "check_verdict",
    "is_wait",
    "strip_body_for_head",
]


#: A user's handler: ``def`` or ``async def``, from the request to a response or a plain value.
Handler = Callable[[Request], Any]
#: Header fields by which a request is more than one for a new run.
_SPECIAL_FIELDS = frozenset({"idempotency-key", "last-event-id", "prefer"})
#: Gives each execution of a handler its context.
Around: TypeAlias = (
    "Callable[[Request], AbstractContextManager[object] | AbstractAsyncContextManager[object]]"
)


class Endpoint:
    """A durable endpoint. Made by ``Durable.endpoint``.

    Attributes:
        engine: runs it.
        key: which handler a stored run belongs to.
        kind: whether the handler is ``def`` or ``async def``.
    """

    def __init__(
        self,
        engine: Engine,
        handler: Handler,
        options: EndpointOptions,
        around: Around | None = None,
    ) -> None:
        self.engine = engine
        resolved = resolve_options(options, key_of(handler), _result_type(handler))
        self._authorize = resolved.authorize
        self._methods = resolved.methods
        wants_key = resolved.idempotency == "required" or resolved.derive_key is not None
        needs = _need_of_store(resolved, wants_key=wants_key)
        if needs and engine.store is None:
            raise ConfigurationError(f"{engine.name} {needs} the embedded engine")
        #: The store decides whether a run begins, or has it before its handler begins, whatever the
        #: request: a chat page that comes back must find its run.
        self._asks_store = (
            wants_key or resolved.limits is not None or resolved.ui_messages is not None
        )
        #: Requests may be served without a look at anything else.
        self._is_plain = not (
            self._authorize is not None or self._asks_store or resolved.omit_request_body
        )
        self.key = resolved.key
        self.kind = HandlerKind.ASYNC_DEF if is_async(handler) else HandlerKind.DEF
        _check_parameters(handler)
        if around is not None:
            handler = _wrap_in_context(around, handler, self.kind)
        self._may_defer = around is None and not needs_run_at_once(resolved)
        self._registered = RegisteredEndpoint(handler, self.kind, resolved)
        engine.register(self._registered)

    @property
    def options(self) -> ResolvedOptions:
        """How it behaves."""
        return self._registered.options

    def __repr__(self) -> str:
        """Show the key."""
        return f"<Endpoint {self.key}>"

    def handle(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this thread; see ``HTTPHandler.handle``."""
        flow = self._more_than_serve(request, max_wait, route)
        if flow is None:
            return self.engine.serve(self._registered, request, route)
        return drive(flow, self.engine)

    async def handle_async(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        """Answer in this task; see ``HTTPHandler.handle_async``."""
        flow = self._more_than_serve(request, max_wait, route)
        if flow is None:
            return await self.engine.serve_async(self._registered, request, route)
        return await drive_in_task(flow, self.engine)

    def defer(
        self, request: Callable[[], tuple[Request, str | None]]
    ) -> DeferredRun | Coroutine[Any, Any, DeferredRun | None] | None:
        """Return a run that begins only if its handler needs it; see ``Engine.defer``.

        None, or what None is awaited from, if a run must begin first, by :meth:`handle_async`.
        Whoever calls this has read the whole request, and seen that it may be for a new run and no
        more: see ``NativeEndpoint``.
        """
        return self.engine.defer(self._registered, request) if self._may_defer else None

    def defer_in_thread(
        self, request: Callable[[], tuple[Request, str | None]]
    ) -> DeferredThreadRun | None:
        """As :meth:`defer`, for a ``def`` handler that is called in this thread."""
        if not self._may_defer:
            return None
        return self.engine.defer_in_thread(self._registered, request)

    def defer_in_pool(
        self, request: Callable[[], tuple[Request, str | None]], begun: Callable[[], object]
    ) -> DeferredPoolRun | Coroutine[Any, Any, DeferredPoolRun | None] | None:
        """As :meth:`defer`, for a ``def`` handler that a thread of a framework calls."""
        if not self._may_defer:
            return None
        return self.engine.defer_in_pool(self._registered, request, begun)

    def _more_than_serve(
        self, request: Request, max_wait: float, route: str | None
    ) -> RequestFlow[Response] | None:
        """Return the flow that answers a request; None if it is just served, as most are."""
        if self.engine.is_reentry(request):
            return None
        if is_wait(request):
            if request.method == "POST":
                return self._answer_callback(request)
            return answer_wait(request, WaitRequest.from_request(request, OWN_PARAMS, max_wait))
        special = request.headers.has_any(_SPECIAL_FIELDS)
        if special and request.headers.get("last-event-id") and request.method != "OPTIONS":
            return _reconnect(WaitRequest.from_last_event(request, max_wait))
        refusal = self._refusal(request, route)
        if refusal is None and self._is_plain and request.method != "HEAD" and not special:
            return None
        return self._check_and_serve(request, route, refusal, max_wait)

    def _answer_callback(self, request: Request) -> RequestFlow[Response]:
        from durable_core.api.callback_answers import answer_callback  # few requests need it

        stored_headers = self._registered.options.store_headers
        return answer_callback(self.engine, request, OWN_PARAMS, stored_headers)

    def _check_and_serve(
        self, request: Request, route: str | None, refusal: Response | None, max_wait: float
    ) -> RequestFlow[Response]:
        """Refuse a request, or serve it if it is authorized; HEAD as GET without its body."""
        if refusal is not None:
            return refusal
        try:
            if self._authorize is not None:
                principal = check_verdict((yield CallHook(self._authorize, request)))
                if principal is not None:
                    request = request.with_principal(principal)
        except Exception as error:
            return self._answer_refusal(error)
        is_head = request.method == "HEAD"
        if is_head:
            request = _as_get(request)
        if self._registered.options.omit_request_body:
            from durable_core.flow.omitted import OmittedBodyRequest  # few endpoints need it

            request = OmittedBodyRequest.of(request)
        if not is_head:
            return (yield from self._serve(request, route, max_wait))
        if self._registered.options.limits is None:
            response = yield Serve(self._registered, request, route)
        else:
            response = yield from self._serve(request, route, max_wait)
        return (yield from strip_body_for_head(response))

    def _serve(self, request: Request, route: str | None, max_wait: float) -> RequestFlow[Response]:
        """Serve a request; one with a key gets the run of the first request that had it."""
        response: Response
        endpoint = self._registered
        if "prefer" in request.headers and self.engine.store is not None:
            endpoint = _preferring(endpoint, request.headers)
        if self._asks_store or "idempotency-key" in request.headers:
            from durable_core.api import idempotency  # few requests need it

            return (yield from idempotency.serve(self.engine, endpoint, request, route, max_wait))
        response = yield Serve(endpoint, request, route)
        return response

    def _answer_refusal(self, error: Exception) -> Response:
        """Return the response that an exception of ``authorize`` stands for, or raise it."""
        if isinstance(error, HTTPError):
            return problem_from_http_error(error)
        translate = self._registered.options.exception_to_response
        response = None if translate is None else translate(error)
        if response is None:
            raise error
        return response

    def _refusal(self, request: Request, route: str | None) -> Response | None:
        """Return the answer to a request that gets no run; a router has checked the method."""
        if RUN_PARAM in request.url and request.method != "OPTIONS" and _is_wait_url(request):
            # `curl -L -X POST` repeats POST at a 303: each hop would begin another run.
            allow = WAIT_METHODS if self._registered.options.allow_cancel else "GET, HEAD"
            detail = f"the wait URL is asked by GET, do not repeat {request.method} there"
            return problem_from_http_error(HTTPError(405, detail, {"allow": allow}))
        if route is None and request.method not in self._methods:
            allow = ", ".join(sorted({*self._methods, "OPTIONS"}))
            if request.method == "OPTIONS":
                return Response(status=204, headers=(("allow", allow),))
            detail = f"{request.method} is not among the methods of this endpoint"
            error = HTTPError(405, detail, {"allow": allow})
            return problem_from_http_error(error)
        most = self.engine.env.limits.body
        if len(request.body) > most:
            return problem(413, "content-too-large", detail=f"at most {most} bytes are accepted")
        return None


#: What only the embedded engine can follow. Each is the middle of a sentence, from the name of the
#: engine to what is needed; "{}" stands for the value.
_NEEDS = {
    "idempotency_ttl": "knows no keys: idempotency_ttl= needs",
    "store_headers": "keeps no header of a request but content-type: store_headers= needs",
    "on_mismatch": "does not say which steps come later: on_mismatch={!r} needs",
    "omit_request_body": "gives requests to its server: omit_request_body= needs",
    "omit_response_body": "gives responses to its server: omit_response_body= needs",
    "run_timeout": "cannot end a run in good order: run_timeout= needs",
    "allow_cancel": "keeps its runs on a server, which cancels them: allow_cancel= needs",
    "max_sync_runtime": (
        "cannot hand a client off while a step goes on, because its server learns of a step when "
        "that has ended: max_sync_runtime= needs"
    ),
    "on_complete": "does not tell us when a run has ended: on_complete= needs",
    "ui_messages": "has no streams that a chat could read: ui_messages= needs",
    "limits": "has no flow limits: concurrency=, queue_limit=, rate_limit= and singleton= need",
}


def _need_of_store(options: ResolvedOptions, *, wants_key: bool) -> str:
    """Return why only the embedded engine can follow the options; "" if others can."""
    if wants_key:
        return "knows no keys: idempotency= and key= need"
    default = ResolvedOptions(key="")
    for name, need in _NEEDS.items():
        value = getattr(options, name)
        if value != getattr(default, name):
            return need.format(value)
    return ""


def _result_type(handler: Handler) -> ValueType | None:
    """Return the type of what a handler returns besides responses; None if that is JSON."""
    annotations = getattr(handler, "__annotations__", None) or {}  # an AsyncMock has None
    if annotations.get("return") in (None, Response, "Response"):
        return None
    from durable_core.codec.forms import UnknownTypeError  # few handlers need it
    from durable_core.codec.typed import return_type

    try:
        return return_type(handler, besides=(Response, bytes))
    except UnknownTypeError:
        return None


def _wrap_in_context(around: Around, handler: Handler, kind: HandlerKind) -> Handler:
    """Return a handler that runs within the context manager that ``around`` gives."""

    @functools.wraps(handler)
    def call(request: Request) -> Any:
        context = around(request)
        if not isinstance(context, AbstractContextManager):
            raise ConfigurationError(
                "Durable(around=) must return a context manager with __enter__ for 'def' handlers, "
                f"not {context!r}"
            )
        with context:
            return handler(request)

    @functools.wraps(handler)
    async def call_async(request: Request) -> Any:
        context = around(request)
        if isinstance(context, AbstractAsyncContextManager):
            async with context:
                return await handler(request)
        with context:
            return await handler(request)

    return call if kind is HandlerKind.DEF else call_async


#: Types of a parameter that a framework fills in; strings where annotations are not evaluated.
_NO_REQUEST = (str, int, float, bool, dict, list, "str", "int", "float", "bool", "dict", "list")
_FRAMEWORKS = "handlers of a framework need its adapter, such as durable_starlette for FastAPI"


def _check_parameters(handler: Handler) -> None:
    """See that a handler can be called with a request alone.

    Raises:
        TypeError: it cannot, or asks for something else.
    """
    try:
        signature = inspect.signature(handler)
    except ValueError:  # of some functions written in C
        return
    try:
        bound = signature.bind(object())
    except TypeError as error:
        raise TypeError(
            f"a handler is called with one argument, the request; {key_of(handler)}{signature} "
            f"cannot be: {error}; {_FRAMEWORKS}"
        ) from None
    [name] = bound.arguments
    annotation = signature.parameters[name].annotation
    if isinstance(annotation, (str, type)) and annotation in _NO_REQUEST:
        raise TypeError(
            f"a handler is called with the request; {key_of(handler)}{signature} asks for "
            f"something else; {_FRAMEWORKS}"
        )


def is_wait(request: Request) -> bool:
    """Tell whether the request is for the wait URL of a run, or answers a callback."""
    url = request.url
    if RUN_PARAM not in url and TOKEN_PARAM not in url and "%" not in url:
        return False  # the names cannot come out of decoding the query
    query = request.query
    if request.method == "POST":
        return is_callback_token(query.get(TOKEN_PARAM) or "")
    if request.method == "DELETE":
        return RUN_PARAM in query and TOKEN_PARAM in query
    return request.method in ("GET", "HEAD") and (RUN_PARAM in query or TOKEN_PARAM in query)


def _is_wait_url(request: Request) -> bool:
    """Tell whether the URL is the wait URL of a run, whatever the method."""
    return RUN_PARAM in request.query and TOKEN_PARAM in request.query


def _preferring(endpoint: RegisteredEndpoint, headers: Headers) -> RegisteredEndpoint:
    """Return the endpoint as it serves a request with these headers.

    A client that prefers not to wait (``Prefer: respond-async``, RFC 7240), or only for a time
    (``wait``), gets 202 in place of a redirect or a token, at once or after that time. The time
    that the endpoint itself allows may be shorter.
    """
    prefers = parse_prefer(headers)
    options, limit = endpoint.options, 1000 * (prefers.wait or 0)
    if prefers.wait is None and not prefers.respond_async:
        return endpoint
    if options.omit_request_body and limit == 0:
        return endpoint  # a replay, by which the run would begin, has no body
    if options.max_sync_runtime is not None:
        limit = min(limit, options.max_sync_runtime)
    applied = ["respond-async"] if prefers.respond_async else []
    if prefers.wait is not None:
        applied.append(f"wait={limit // 1000}")
    preferred = replace(
        options,
        max_sync_runtime=limit,
        handoff_headers=applied_fields(", ".join(applied)),
    )
    if isinstance(options.async_response, str):
        preferred = replace(preferred, async_response="accepted")
    return replace(endpoint, options=preferred)


def _reconnect(wanted: WaitRequest | None) -> RequestFlow[Response]:
    """Answer a browser that comes back to the URL of a stream.

    None stands for one whose run is not known: any other run would not be its own. It is answered
    such that it stops.
    """
    if wanted is None:
        return Response(status=204, headers=PRIVATE_HEADERS)
    response: Response = yield Wait(wanted)
    return response


def strip_body_for_head(response: Response) -> RequestFlow[Response]:
    """Return the answer to HEAD: that to GET, without its body.

    A streamed body is made all the same, for its run must end; one of bytes stays, as servers
    tell its length.

    Raises:
        Exception: what a streamed body raised.
    """
    if isinstance(response.body, bytes):
        return response
    yield ReadToEnd(response.body)
    return Response(status=response.status, headers=response.headers)


def check_verdict(verdict: object) -> str | None:
    """Return the principal that ``authorize`` has named, if any.

    Raises:
        HTTPError: the request is refused.
        TypeError, ValueError: what it has returned is no verdict, or no name of a principal.
    """
    if verdict is False:
        raise HTTPError(403, "the request was not authorized")
    if verdict is None or verdict is True:
        return None
    if not isinstance(verdict, str):
        raise TypeError(f"authorize= must return True, False, None or a str, not {verdict!r}")
    check_text("a principal, which authorize= returns,", verdict)
    return verdict


def _as_get(request: Request) -> Request:
    """Return the GET request that a HEAD request runs as."""
    as_get = Request(
        method="GET",
        url=request.url,
        headers=request.headers,
        body=request.body,
        path_params=request.path_params,
        root_path=request.root_path,
        client=client_of(request),
    )
    return as_get if request.principal is None else as_get.with_principal(request.principal)
