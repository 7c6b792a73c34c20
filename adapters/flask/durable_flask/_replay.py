"""Views, called for a client and in a replay, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from threading import get_ident
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import flask

from durable_core import Request, Response
from durable_core.adapters import NotReachedError
from durable_wsgi import replay_environ

__all__ = ["CALL", "REPLAY", "Replay", "View", "respond"]

#: The key in the environ of a replayed request that has its replay.
REPLAY = "durable_flask.replay"


class View:
    """A call of a view by Flask.

    Args:
        function: the user's.
        args: none, unless another view calls it.
        arguments: what Flask has found in the path.
    """

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], arguments: dict[str, Any]
    ) -> None:
        self.function = function
        self._args = args
        self._arguments = arguments
        self._thread = get_ident()
        self._is_taken = False

    def __call__(self) -> Any:
        """Call it."""
        return self.function(*self._args, **self._arguments)

    def take(self) -> bool:
        """Tell whether a run may make this call: once, and in the thread of Flask's request.

        In another thread, as where the client reads an event stream, Flask ends the request, with
        its contexts, before or while the view runs.
        """
        if self._is_taken or get_ident() != self._thread:
            return False
        self._is_taken = True
        return True


#: The call that the run to be made is for.
CALL: ContextVar[View | None] = ContextVar("durable_flask_call", default=None)


def respond(view: View) -> Response:
    """Call a view, and return the response that Flask makes of what it returns or raises.

    Raises:
        Exception: what the view raised, if the application has no handler for it.
    """
    app = flask.current_app
    try:
        value = view()
    except Exception as error:
        value = app.handle_user_exception(error)
    return _core_response(app.make_response(value))


def _core_response(response: flask.Response) -> Response:
    fields = list(response.headers.items())
    if response.is_streamed:
        return Response(status=response.status_code, headers=fields, body=_Body(response))
    response.direct_passthrough = False  # of a file
    body = response.get_data()
    flask.after_this_request(lambda outer: _close_with(outer, response))
    return Response(status=response.status_code, headers=fields, body=body)


def _close_with(outer: flask.Response, inner: flask.Response) -> flask.Response:
    outer.call_on_close(inner.close)
    return outer


class _Body:
    """A streamed body of Flask's, closed when it is not read any more."""

    def __init__(self, response: flask.Response) -> None:
        self._response = response
        self._chunks = iter(response.iter_encoded())

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        self._response.close()


class Replay:
    """A stored request, sent through the application again.

    Args:
        request: the stored request.
        function: the view that it is for.
    """

    def __init__(self, request: Request, function: Callable[..., Any]) -> None:
        self._request = request
        self._function = function
        self._response: Response | None = None
        self._error: Exception | None = None
        self._status = ""

    def run(self, application: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]) -> Any:
        """Send it through an application; return the response of the view.

        Raises:
            NotReachedError: it was answered without a call of the view.
            Exception: what the view raised.
        """
        environ = {**replay_environ(self._request), REPLAY: self}
        answer = application(environ, self._start_response)
        try:
            for _ in answer:
                pass
        finally:
            if hasattr(answer, "close"):
                answer.close()
        if self._error is not None:
            raise self._error
        if self._response is None:
            raise NotReachedError(
                f"in a replay the application answered {self._status!r} before it reached the "
                "view: a function before the request may need what is not stored with the run, "
                "such as the header Authorization; see durable.is_replaying()"
            )
        return self._response

    def call(self, view: View) -> flask.Response | None:
        """Call the view if it is the one; what is around it gets a response that nobody reads."""
        if view.function is not self._function or self._response or self._error:
            return None
        try:
            self._response = respond(view)
        except Exception as error:
            self._error = error
        return flask.Response(status=204)

    def _start_response(self, status: str, *_: object) -> Callable[[bytes], None]:
        self._status = status
        return lambda data: None
