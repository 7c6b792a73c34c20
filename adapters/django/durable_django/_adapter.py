"""The adapter that ``Durable`` takes: views stay those of Django."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any, cast

import django
from django.apps import apps
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from durable_asgi import ASGIApplication, ASGIReplay
from durable_core import Durable, Request, Response
from durable_core.adapters import (
    AdapterApp,
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
)
from durable_core.errors import ConfigurationError
from durable_django._exchange import REQUEST_TASK, ViewApp, answer, answer_async
from durable_django._views import CALL, View, exception_to_response, respond, respond_async
from durable_wsgi import WSGIApp, WSGIReplay

__all__ = [
    "DjangoAdapter",
    "DjangoApp",
    "endpoint_adapter",
    "install",
    "installed_host",
    "replay_of",
]

#: In the environ or the scope of a replayed request: its replay.
_REPLAY = "durable_django.replay"
#: A converter in a route of Django, such as ``<int:number>``.
_CONVERTER = re.compile(r"<(?:[^:<>]+:)?(\w+)>")

_ONE_TRANSACTION = (
    "is a durable endpoint in one transaction, which would undo the steps that are done: take "
    "@transaction.atomic away from the view, and put transactions into its steps"
)


class _Site:
    """Django in this process, called as by a server."""

    @functools.cached_property
    def wsgi(self) -> WSGIHandler:
        return WSGIHandler()

    @functools.cached_property
    def asgi(self) -> ASGIApplication:
        handler: Any = ASGIHandler()  # its messages are plain dicts, to type checkers
        return cast(ASGIApplication, handler)


class DjangoApp(WSGIApp, NativeApp):
    """What is no view of the user's, such as the wait route: a WSGI application, and a view."""

    def view(self, request: HttpRequest, **path_params: str) -> HttpResponseBase:
        """Answer as a view of Django: ``path("ready", durable.readiness_endpoint().view)``.

        What answers decides itself who may ask, so Django asks for no CSRF token.
        """
        return answer(self, request, path_params=path_params)

    view.csrf_exempt = True  # type: ignore[attr-defined] # where Django looks for it


_hosts: Hosts[_Site, AdapterApp] = Hosts("durable_django.install(durable) makes it so")
_installed: Host[_Site, AdapterApp] | None = None


def installed_host() -> Host[_Site, AdapterApp] | None:
    """Return what is known of the Durable that is installed."""
    return _installed


class DjangoAdapter(AppAdapter[DjangoApp]):
    """An ``EndpointAdapter`` for the views of Django and of Django REST framework."""

    def adapt(self, engine: NativeEngine, function: Callable[..., Any]) -> Callable[[Request], Any]:
        """Return the handler of the core that runs a view.

        Raises:
            TypeError: what cannot be run again, or is no view yet.
        """
        _check_function(function)
        host = _hosts.of(engine)

        def handle(request: Request) -> Response:
            view = _take_call(function)
            if view is not None:
                return respond(view)
            return WSGIReplay(request, function, _REPLAY).run(host.required().wsgi)

        async def handle_async(request: Request) -> Response:
            view = _take_call(function)
            if view is not None:
                return await respond_async(view)
            return await ASGIReplay(request, function, _REPLAY).run(host.required().asgi)

        handler: Callable[[Request], Any] = handle_async if is_async(function) else handle
        copy_identity(handler, function)
        return handler

    def wrap_native(
        self, engine: NativeEngine, endpoint: NativeEndpoint, function: Callable[..., Any]
    ) -> Any:
        """Return a view like that one, which is durable where Django calls it."""
        app = ViewApp(endpoint)
        host = _hosts.of(engine)
        host.waiting = app
        host.functions.add(function)
        view = _async_view(app, function) if is_async(function) else _view(app, function)
        view.endpoint = endpoint
        for alias in settings.DATABASES:
            view = transaction.non_atomic_requests(using=alias)(view)
        return view

    def check_installed(self, engine: NativeEngine) -> None:
        """See that Django is set up, with all of its views, and knows the engine.

        Raises:
            ConfigurationError: it does not know it.
        """
        host = _hosts.of(engine)
        _import_views()
        host.check_installed()

    def install(self, app: object, engine: NativeEngine) -> None:
        """Make Django run the durable views in it.

        Args:
            app: anything: a process has one Django.
            engine: whose endpoints they are, from now on.
        """
        global _installed
        _installed = _hosts.of(engine)
        _installed.application = _Site()

    def application_lifespan(
        self, engine: NativeEngine, namespaces: Iterable[Mapping[str, object]]
    ) -> None:
        """Import the project's views, and return None: Django has no lifespan."""
        _import_views()


#: The adapter for Django.
endpoint_adapter = DjangoAdapter(
    DjangoApp, EndpointOptions(exception_to_response=exception_to_response)
)


def install(durable: Durable[Any]) -> None:
    """Make Django run the durable views in it. A process has one Django, which has one Durable.

    Args:
        durable: whose endpoints they are; it takes the place of one that was installed before.

    Raises:
        ConfigurationError: it is no ``Durable``.
    """
    check_durable(durable)
    endpoint_adapter.install(None, durable.engine)


def _import_views() -> None:
    """Set Django up, and import the project's URLs with all of its views."""
    if not apps.models_ready:
        django.setup()
    urls = getattr(settings, "ROOT_URLCONF", None)
    if isinstance(urls, str):
        import_module(urls)


def replay_of(request: HttpRequest) -> WSGIReplay | ASGIReplay | None:
    """Return the replay that a request belongs to; None if a client has sent it."""
    outside = getattr(request, "scope", request.META)
    replay: WSGIReplay | ASGIReplay | None = outside.get(_REPLAY)
    return replay


def _take_call(function: Callable[..., Any]) -> View | None:
    view = CALL.get()
    return view if view is not None and view.function is function and view.take() else None


def _view(app: ViewApp, function: Callable[..., Any]) -> Any:
    @functools.wraps(function)
    def view(*args: Any, **kwargs: Any) -> Any:
        call = View(function, args, kwargs)
        replay = replay_of(call.request)
        if isinstance(replay, WSGIReplay):
            is_the_one = replay.reach(function, lambda: respond(call))
            if is_the_one:
                return _unread()
        if _is_nested(call, replay):
            return call()
        _check_request(call)
        token = CALL.set(call)
        try:
            response = app.serve(call, _template(call))
            return answer(app, call.request, _template(call)) if response is None else response
        finally:
            CALL.reset(token)

    return view


def _async_view(app: AdapterApp, function: Callable[..., Any]) -> Any:
    @functools.wraps(function)
    async def view(*args: Any, **kwargs: Any) -> Any:
        call = View(function, args, kwargs)
        replay = replay_of(call.request)
        if isinstance(replay, ASGIReplay):
            is_the_one = await replay.reach(function, lambda: respond_async(call))
            if is_the_one:
                return _unread()
        if _is_nested(call, replay):
            return await call()
        _check_request(call)
        token = CALL.set(call)
        try:
            return await answer_async(app, call.request, _template(call))
        finally:
            CALL.reset(token)

    return view


def _is_nested(call: View, replay: WSGIReplay | ASGIReplay | None) -> bool:
    """Tell whether another durable view makes this call.

    Raises:
        StepUsageError: their steps cannot be in one run.
    """
    outer: Any = replay or CALL.get()
    if outer is not None:
        check_nested_call(outer.function, call.function)
    return outer is not None


def _unread() -> HttpResponseBase:
    """Return a response for what is around a view in a replay; nobody reads it."""
    return HttpResponse(status=204)


def _template(call: View) -> str | None:
    return None if call.route is None else "/" + _CONVERTER.sub(r"{\1}", call.route)


def _check_request(call: View) -> None:
    name = call.function.__qualname__
    if REQUEST_TASK not in call.request.META:
        raise ConfigurationError(
            f"{name} is a durable endpoint in a Django that does not know Durable: name "
            "'durable_django.DurableMiddleware' first in settings.MIDDLEWARE"
        )
    match = call.request.resolver_match
    apart: Any = getattr(match and match.func, "_non_atomic_requests", ())
    for alias in connections:
        if connections[alias].settings_dict["ATOMIC_REQUESTS"] and alias not in apart:
            raise ConfigurationError(
                f"{name} is a durable endpoint in one transaction, which would undo the steps that "
                f"are done: ATOMIC_REQUESTS is set for the database {alias!r}. Put "
                "@transaction.non_atomic_requests around the view, and transactions into its steps"
            )
        if _is_in_transaction(alias):
            raise ConfigurationError(f"{name} {_ONE_TRANSACTION}")


def _is_in_transaction(alias: str) -> bool:
    """Tell whether this thread is in a transaction, but for that of a ``TestCase``."""
    if not connections[alias].in_atomic_block:
        return False
    try:
        with transaction.atomic(using=alias, durable=True):
            return False
    except RuntimeError:  # Django lets it be the inner one only in a TestCase
        return True


def _check_function(function: Callable[..., Any]) -> None:
    name = getattr(function, "__qualname__", repr(function))
    if hasattr(function, "view_class") or hasattr(function, "cls"):
        raise TypeError(
            f"{name} is the view of a class already: @durable.endpoint stands below @api_view, or "
            "on the method of the class that handles the request"
        )
    if isinstance(function, functools.partial) or function.__module__ == "django.utils.decorators":
        raise TypeError(
            "method_decorator decorates anew in each request, so no run would find its endpoint: "
            "put @durable.endpoint on the method itself"
        )
    if any(isinstance(each, transaction.Atomic) for each in _decorators_of(function)):
        raise TypeError(f"{name} {_ONE_TRANSACTION}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name} is a generator; return a StreamingHttpResponse of one")


def _decorators_of(function: Callable[..., Any]) -> Iterator[object]:
    """Yield what the decorators of a function have left in the functions around it."""
    while hasattr(function, "__wrapped__"):
        for cell in getattr(function, "__closure__", None) or ():
            with suppress(ValueError):  # of a name that has no value yet
                yield cell.cell_contents
        function = function.__wrapped__
