"""The calls of views, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from threading import Event, Lock, get_ident
from typing import Any

import flask
from werkzeug.exceptions import HTTPException

from durable_core import Response
from durable_core.adapters import is_async
from durable_core.errors import NonRetriableError

__all__ = ["CALL", "View", "call", "core_response", "exception_to_response", "respond"]


class View:
    """A call of a view by Flask.

    Args:
        function: the user's.
        args: none, unless another view calls it.
        arguments: what Flask has found in the path.

    Attributes:
        function: the user's.
        ended: set when a coroutine that a run has taken has ended; None for a ``def`` view.
    """

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], arguments: dict[str, Any]
    ) -> None:
        self.function = function
        self._args = args
        self._arguments = arguments
        self._thread = get_ident()
        self._lock = Lock()
        self._is_taken = False
        self.ended: Event | None = Event() if is_async(function) else None

    def __call__(self) -> Any:
        """Call it."""
        return self.function(*self._args, **self._arguments)

    def take(self) -> bool:
        """Tell whether a run may make this call: once, and in the thread of Flask's request.

        In another thread, as where the client reads an event stream, Flask ends the request, with
        its contexts, before or while a ``def`` view runs. A coroutine is called on a loop.
        """
        if get_ident() != self._thread and self.ended is None:
            return False
        with self._lock:
            was_taken, self._is_taken = self._is_taken, True
        return not was_taken

    def wait_for_end(self) -> None:
        """Wait until the run that has taken this call has made it; from now on none may take it."""
        if self.ended is not None and not self.take():
            self.ended.wait()


#: The call that the run to be made is for.
CALL: ContextVar[View | None] = ContextVar("durable_flask_call", default=None)


def respond(view: View) -> Response:
    """Call a view, and return the response that Flask makes of what it returns or raises.

    Raises:
        Exception: what the view raised, if the application has no handler for it.
    """
    return core_response(call(view))


def call(view: View) -> flask.Response:
    """Call a view, and return what Flask makes of what it returns or raises.

    Raises:
        NonRetriableError: it returned what is no response, which another call does not mend.
        Exception: what the view raised, if the application has no handler for it.
    """
    app = flask.current_app
    try:
        value = view()
    except Exception as error:
        value = app.handle_user_exception(error)
    try:
        return app.make_response(value)
    except TypeError as error:
        raise NonRetriableError(str(error)) from error


def exception_to_response(error: Exception) -> Response | None:
    """Return the response for an ``HTTPException`` of a step, as of ``abort``; None for others.

    So such a step is not tried again.
    """
    if not isinstance(error, HTTPException):
        return None
    app = flask.current_app
    answer = app.make_response(app.handle_user_exception(error))
    return Response(
        status=answer.status_code, headers=list(answer.headers.items()), body=answer.get_data()
    )


def core_response(response: flask.Response) -> Response:
    """Return a response of Flask's as the core has it."""
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
