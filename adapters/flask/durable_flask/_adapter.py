"""The adapter that ``Durable`` takes: views stay those of Flask."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import flask

from durable_core import Durable, Request, Response
from durable_core.adapters import (
    RUN_PARAM,
    TOKEN_PARAM,
    AppAdapter,
    EndpointOptions,
    Host,
    Hosts,
    NativeApp,
    NativeEndpoint,
    NativeEngine,
    check_durable,
    check_nested_call,
    copy_identity,
    is_async,
    parse_request,
    pull,
    pull_response,
)
from durable_core.errors import ConfigurationError
from durable_flask._body import KEY, RequestBody
from durable_flask._tasks import TaskReplay, respond_async
from durable_flask._views import CALL, View, call, core_response, exception_to_response, respond
from durable_wsgi import WSGIApp, WSGIExchange, WSGIReplay, length_of_plain

__all__ = ["FlaskAdapter", "FlaskApp", "endpoint_adapter", "install"]

#: A parameter of a rule, such as ``<int:number>``.
_TYPED = re.compile(r"<(?:[^:<>]+:)?(\w+)>")
#: The key in the environ of a replayed request that has its replay.
_REPLAY = "durable_flask.replay"
_WSGI = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]


_Host = Host[flask.Flask, WSGIApp]
_hosts: Hosts[flask.Flask, WSGIApp] = Hosts("durable_flask.install(app, durable) makes it so")


class _ViewApp(WSGIApp):
    """A WSGI application for a view. Flask has found the route, and checked the method.

    Args:
        endpoint: that of the view.
    """

    def __init__(self, endpoint: NativeEndpoint) -> None:
        super().__init__(endpoint)
        self._native = endpoint

    def may_answer_early(self, environ: WSGIEnvironment) -> bool:
        """Tell whether the client may have its response while a coroutine still runs."""
        return (
            self._native.options.max_sync_runtime is not None
            or "event-stream" in environ.get("HTTP_ACCEPT", "").lower()
            or "HTTP_PREFER" in environ
            or "HTTP_LAST_EVENT_ID" in environ
        )

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer the request that Flask is serving."""
        exchange = WSGIExchange(environ, start_response)
        exchange.route = _route()
        return pull(self, exchange)

    def serve(
        self, view: View, environ: WSGIEnvironment, body: RequestBody
    ) -> flask.Response | None:
        """Call a view that has a run only if it needs one; None if it must have one at once."""
        length = length_of_plain(environ, self.limits)
        whole = None if length is None else body.read_to_end(length)
        if whole is None:
            return None

        def request() -> tuple[Request, str | None]:
            exchange = WSGIExchange(environ, _start_nothing)
            return parse_request(exchange, self.limits, whole), _route()

        deferred = self._native.defer_in_thread(request)
        if deferred is None:
            return None
        response, of_run = deferred.serve(lambda: call(view), core_response)
        return response if of_run is None else self._response_of(of_run, environ)

    def _response_of(self, response: Response, environ: WSGIEnvironment) -> flask.Response:
        """Return the response of a run, as Flask takes it."""

        def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            return pull_response(self, WSGIExchange(environ, start_response), response)

        return _response_from(app, environ)


def _route() -> str | None:
    rule = flask.request.url_rule
    return None if rule is None else _TYPED.sub(r"{\1}", rule.rule)


def _start_nothing(status: str, headers: object, error: object = None) -> Any:
    raise AssertionError("there is nothing to start")


class FlaskApp(WSGIApp, NativeApp):
    """A WSGI application for what is no view, such as the wait route: mount it."""


class FlaskAdapter(AppAdapter[FlaskApp]):
    """An ``EndpointAdapter`` for the views of Flask."""

    def adapt(self, engine: NativeEngine, function: Callable[..., Any]) -> Callable[[Request], Any]:
        """Return the handler of the core that runs a view.

        Raises:
            TypeError: a view that cannot be run again: a generator.
        """
        _check_function(function)
        handler = (_async_handler if is_async(function) else _handler)(_hosts.of(engine), function)
        copy_identity(handler, function)
        return handler

    def wrap_native(
        self, engine: NativeEngine, endpoint: NativeEndpoint, function: Callable[..., Any]
    ) -> Any:
        """Return a view like that one, which is durable where Flask calls it."""
        app = _ViewApp(endpoint)
        host = _hosts.of(engine)
        host.waiting = app
        host.functions.add(function)

        @functools.wraps(function)
        def view(*args: Any, **arguments: Any) -> Any:
            return _answer(app, View(function, args, arguments))

        view.endpoint = endpoint  # type: ignore[attr-defined]
        return view

    def check_installed(self, engine: NativeEngine) -> None:
        """See that the application of the views is known.

        Raises:
            ConfigurationError: it is not.
        """
        _hosts.of(engine).check_installed()

    def install(self, app: object, engine: NativeEngine) -> None:
        """Make a Flask application run the durable views in it.

        Raises:
            ConfigurationError: it is no Flask application, or has another engine's endpoints.
        """
        if not isinstance(app, flask.Flask):
            raise ConfigurationError(
                f"durable_flask works in applications of Flask, not in {app!r}"
            )
        host = _hosts.of(engine)
        if host.application is app:
            return
        if isinstance(app.wsgi_app, _Layer):
            raise ConfigurationError(
                "the application has another Durable already, and clients that wait for a run "
                "could not tell them apart: make all endpoints of an application with one"
            )
        host.application = app
        app.wsgi_app = _Layer(app.wsgi_app, host, engine)  # type: ignore[method-assign]
        app.before_request_funcs.setdefault(None, []).insert(0, lambda: _answer_wait(host))

    def application_lifespan(
        self, engine: NativeEngine, namespaces: Iterable[Mapping[str, object]]
    ) -> None:
        """Return None: Flask enters a context for each request."""


#: The adapter for Flask.
endpoint_adapter = FlaskAdapter(
    FlaskApp, EndpointOptions(exception_to_response=exception_to_response)
)


def install(app: flask.Flask, durable: Durable[Any]) -> None:
    """Make a Flask application run the durable views in it.

    Args:
        app: the application.
        durable: whose endpoints they are.

    Raises:
        ConfigurationError: it is no Flask application, or no ``Durable``.
    """
    check_durable(durable)
    endpoint_adapter.install(app, durable.engine)


def _handler(host: _Host, function: Callable[..., Any]) -> Callable[[Request], Response]:
    def handle(request: Request) -> Response:
        view = _take_call(function)
        if view is not None:
            return respond(view)
        application = host.required()
        # Not the context of the request that this thread's context is a copy of.
        with application.app_context():
            return WSGIReplay(request, function, _REPLAY).run(application)

    return handle


def _async_handler(host: _Host, function: Callable[..., Any]) -> Callable[[Request], Any]:
    async def handle(request: Request) -> Response:
        view = _take_call(function)
        if view is None:
            return await TaskReplay(request, function, _REPLAY).run_in_task(host.required())
        assert view.ended is not None
        try:
            return await respond_async(view)
        finally:
            view.ended.set()

    return handle


def _take_call(function: Callable[..., Any]) -> View | None:
    view = CALL.get()
    return view if view is not None and view.function is function and view.take() else None


class _Layer:
    """A WSGI application around Flask's own: it keeps what a view may have to read again."""

    def __init__(self, application: _WSGI, host: _Host, engine: NativeEngine) -> None:
        self._application = application
        self._host = host
        self._engine = engine
        self._is_checked = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not self._is_checked:
            _check_order(self._host)
            self._is_checked = True
        if KEY not in environ and _REPLAY not in environ:
            body = RequestBody(environ["wsgi.input"], self._engine.limits.body)
            environ["wsgi.input"] = environ[KEY] = body
        return self._application(environ, start_response)


def _answer(app: _ViewApp, view: View) -> Any:
    """Answer a request that Flask has led to a durable view."""
    environ = flask.request.environ
    replay = environ.get(_REPLAY)
    if isinstance(replay, TaskReplay):
        is_the_one = replay.reach_view(view)
        return flask.Response(status=204) if is_the_one else _nested(replay.function, view)
    if isinstance(replay, WSGIReplay):
        is_the_one = replay.reach(view.function, lambda: respond(view))
        return flask.Response(status=204) if is_the_one else _nested(replay.function, view)
    outer = CALL.get()
    if outer is not None:
        return _nested(outer.function, view)
    body = environ.get(KEY)
    if body is None:
        raise ConfigurationError(
            f"{view.function.__qualname__} is a durable endpoint in an application that does not "
            "know Durable: call durable_flask.install(app, durable)"
        )
    token = CALL.set(view)
    try:
        if view.ended is None:
            response = app.serve(view, environ, body)
            if response is not None:
                return response
        is_early = view.ended is not None and app.may_answer_early(environ)
        if is_early:
            view.take()  # Flask passes the request once more, for the run
        response = _response_from(app, {**environ, "wsgi.input": body.again()})
        if not is_early:
            view.wait_for_end()
        return response
    finally:
        CALL.reset(token)


def _nested(outer: Callable[..., Any], view: View) -> Any:
    """Return what a view returns to another one, which calls it."""
    check_nested_call(outer, view.function)
    return view()


def _answer_wait(host: _Host) -> flask.Response | None:
    """Answer a client that waits for a run; None for other requests."""
    request = flask.request
    query = request.environ.get("QUERY_STRING", "")
    if RUN_PARAM not in query or TOKEN_PARAM not in query or host.waiting is None:
        return None
    if request.method == "OPTIONS":
        return None
    return _response_from(host.waiting, request.environ)


def _response_from(app: _WSGI, environ: WSGIEnvironment) -> flask.Response:
    """Return the response of an application, whole unless it is streamed."""
    response = flask.Response.from_app(app, environ)
    assert isinstance(response, flask.Response)
    if response.content_length is not None:
        response.make_sequence()
    return response


def _check_function(function: Callable[..., Any]) -> None:
    name = getattr(function, "__qualname__", repr(function))
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name} is a generator; return a flask.Response of one")


def _check_order(host: _Host) -> None:
    """See that the routes lead to the durable views, not to those that they were made of."""
    views = host.application.view_functions if host.application is not None else {}
    for endpoint, function in views.items():
        if function in host.functions:
            raise ConfigurationError(
                f"the endpoint {endpoint!r} leads to {function.__qualname__} as it was before it "
                "was durable: @durable.endpoint stands below @app.route, @app.post and the like"
            )
