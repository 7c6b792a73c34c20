"""WSGI applications for the handlers of the core."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Protocol
from wsgiref.types import StartResponse, WSGIEnvironment

from durable_core import Durable
from durable_core.adapters import AdapterApp, Application, Routes, pull
from durable_wsgi._exchange import WSGIExchange

__all__ = ["Startable", "WSGIApp", "app", "durables_of"]


class Startable(Protocol):
    """What works in the background of a server's process: a ``Durable``."""

    def start(self, *, server_threads: int | None = None) -> None:
        """Start working; nothing if that is so."""
        ...

    def drain(self) -> None:
        """Hand on every client that waits."""
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
        return pull(self, WSGIExchange(environ, start_response))


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
