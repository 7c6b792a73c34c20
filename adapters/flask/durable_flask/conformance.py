"""What the conformance suite judges: views of Flask, on the WSGI server of ``durable_wsgi``.

``durable_flask.conformance:subject``. The suite's handlers are made into views.
"""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flask

from durable_core import Durable, Request, Response
from durable_core.adapters import NativeEndpoint, NativeEngine, Routes, is_async
from durable_flask._adapter import FlaskAdapter, FlaskApp
from durable_wsgi import app, create_endpoint_server

__all__ = ["FlaskSubject", "subject"]

_Handler = Callable[[Request], Any]


class _SuiteAdapter(FlaskAdapter):
    """The adapter, for handlers that are made into views."""

    def adapt(self, engine: Any, function: _Handler) -> _Handler:
        return FlaskAdapter.adapt(self, engine, _view(engine, function))

    def wrap_native(self, engine: Any, endpoint: NativeEndpoint, function: _Handler) -> Any:
        return FlaskAdapter.wrap_native(self, engine, endpoint, _view(engine, function))


@functools.cache
def _view(engine: Any, handler: _Handler) -> Callable[..., Any]:
    """Return a view that does what a handler of the core does."""

    @functools.wraps(handler)
    async def view_async(**arguments: str) -> flask.Response:
        value = await handler(_core_request(arguments))
        return _flask_response(engine, Response.from_value(value))

    @functools.wraps(handler)
    def view(**arguments: str) -> flask.Response:
        value = handler(_core_request(arguments))
        return _flask_response(engine, Response.from_value(value))

    return view_async if is_async(handler) else view


def _core_request(arguments: Mapping[str, str]) -> Request:
    request = flask.request
    target = request.environ["REQUEST_URI"]
    return Request(
        method=request.method,
        url=f"{request.scheme}://{request.host}{target}",
        headers=list(request.headers.items()),
        body=request.get_data(),
        path_params=arguments,
        root_path=request.root_path.rstrip("/"),
    )


def _flask_response(engine: NativeEngine, response: Response) -> flask.Response:
    body = response.body
    if isinstance(body, AsyncIterable):  # Flask takes none
        body = _chunks(engine, aiter(body))
    made = flask.Response(body, response.status)
    made.headers.clear()
    for name, value in response.headers.items():
        made.headers.add(name, value)
    return made


def _chunks(engine: NativeEngine, body: Any) -> Iterator[bytes]:
    end: Any = object()
    try:
        while (chunk := engine.run_on_background_loop(anext(body, end))) is not end:
            yield chunk
    finally:
        if hasattr(body, "aclose"):
            engine.run_on_background_loop(body.aclose())


class FlaskSubject:
    """The adapter in an application of Flask."""

    name = "durable-flask"
    capabilities = frozenset(
        {"sync-handlers", "async-handlers", "streaming", "raw-path", "repeated-fields"}
    )
    endpoint_adapter = _SuiteAdapter(FlaskApp)

    @contextmanager
    def serve(self, routes: Routes, *, durable: Durable[Any]) -> Iterator[str]:
        """Serve on a free port; yield the URL."""
        assert isinstance(routes, Mapping)
        application = flask.Flask("suite", static_folder=None)
        for number, (pattern, target) in enumerate(routes.items()):
            methods, _, path = pattern.partition(" ")
            rule = re.sub(r"{(\w+)}", r"<\1>", re.sub(r"{(\w+):path}", r"<path:\1>", path))
            view: Any = (
                target if hasattr(target, "__wrapped__") else _of_core(durable, pattern, target)
            )
            application.add_url_rule(rule, str(number), view, methods=methods.split(","))
        self.endpoint_adapter.install(application, durable.engine)
        with create_endpoint_server(application, durable=durable).listen() as server:
            yield server.url


def _of_core(durable: Durable[Any], pattern: str, target: Any) -> Callable[..., Any]:
    inner = app(durable, {pattern: target})
    return lambda **arguments: flask.Response.from_app(inner, flask.request.environ)


subject = FlaskSubject()
