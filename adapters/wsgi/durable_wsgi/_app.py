"""WSGI applications for the handlers of the core."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Protocol
from wsgiref.types import StartResponse, WSGIEnvironment

from durable_core import Durable, HTTPError, Response
from durable_core.adapter.app import AdapterApp
from durable_core.http.problem import problem, problem_from_http_error
from durable_core.routing import Application, Routes
from durable_wsgi._request import request_line, to_request
from durable_wsgi._response import Runner, to_answer

__all__ = ["MAX_WAIT", "MAX_WAIT_SINGLE_THREADED", "Startable", "WSGIApp", "app", "durables_of"]

#: Seconds for which a client is held at a wait URL.
MAX_WAIT = 25.0
#: The same where the server answers one request at a time: others must get their turn, and
#: servers such as gunicorn end a worker that is silent for too long.
MAX_WAIT_SINGLE_THREADED = 2.0


class Startable(Protocol):
    """What works in the background of a server's process: a ``Durable``."""

    def start(self) -> None:
        """Start working; nothing if that is so."""
        ...

    def stop(self, timeout: float, /) -> None:
        """Put everything away within so many seconds; nothing if that is so."""
        ...


class WSGIApp(AdapterApp):
    """A WSGI application that answers by a handler of the core.

    Args:
        handler: an endpoint, the wait route, the events route, an ``Application`` of routes.

    Attributes:
        endpoint: the handler.
    """

    logger = logging.getLogger("durable.wsgi")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        head = environ["REQUEST_METHOD"] == "HEAD"
        run: Runner | None = getattr(self.endpoint.engine, "run_on_background_loop", None)
        try:
            answer = to_answer(self._respond(environ), head=head, run=run)
        except Exception:
            self.logger.exception("%s failed", request_line(environ))
            answer = to_answer(problem(500, "internal-error"), head=head)
        return answer.send(start_response)

    def _respond(self, environ: WSGIEnvironment) -> Response:
        try:
            request = to_request(environ, self.limits.body)
        except HTTPError as error:
            return problem_from_http_error(error)
        return self.respond(
            request, max_wait=MAX_WAIT if environ["wsgi.multithread"] else MAX_WAIT_SINGLE_THREADED
        )


def app(durable: Durable[Any], routes: Routes) -> WSGIApp:
    """Return a WSGI application that answers by routes.

    Args:
        durable: whose endpoints they lead to.
        routes: ``{"GET /users/{id}": target}`` (several methods: ``"GET,POST /users"``), or
            ``Route`` objects. A target is an endpoint or a plain function of the request.

    Raises:
        ConfigurationError: conflicting or malformed routes.
    """
    return WSGIApp(Application(durable, routes))


def durables_of(application: object) -> tuple[Startable, ...]:
    """Return what a WSGI callable names as its ``durables``; nothing if it names none."""
    return tuple(getattr(application, "durables", ()))
