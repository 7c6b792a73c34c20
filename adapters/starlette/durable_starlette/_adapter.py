"""The adapter that ``Durable`` takes: handlers stay those of the framework."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from types import CoroutineType
from typing import Any

from durable_asgi import ASGIApp, ASGIApplication
from durable_core import Durable, Request, Response
from durable_core.adapters import (
    AppAdapter,
    BegunCall,
    EndpointOptions,
    Hosts,
    NativeApp,
    NativeEndpoint,
    NativeEngine,
    check_durable,
    copy_identity,
    is_async,
)
from durable_core.errors import ConfigurationError, StepError, StepUsageError
from durable_starlette._errors import exception_to_response, http_exception_of
from durable_starlette._layer import install_layer
from durable_starlette._passage import AttachedPassage, Target, current_passage
from durable_starlette._replay import ReplayPassage
from durable_starlette._routes import add_responses, count_endpoints

__all__ = ["StarletteAdapter", "StarletteApp", "endpoint_adapter", "install"]


_hosts: Hosts[ASGIApplication, ASGIApp] = Hosts(
    "FastAPI(lifespan=durable.lifespan), or durable_starlette.install(app, durable), makes it so"
)


class StarletteApp(ASGIApp, NativeApp):
    """An ASGI application for what is no endpoint, such as the wait route: mount it."""


class StarletteAdapter(AppAdapter[StarletteApp]):
    """An ``EndpointAdapter`` for the handlers of Starlette and FastAPI."""

    def adapt(self, engine: NativeEngine, function: Callable[..., Any]) -> Callable[[Request], Any]:
        """Return the handler of the core that runs a function of the framework.

        Raises:
            TypeError: a function that cannot be run again, such as a generator.
        """
        _check_function(function)
        return _handler_of(engine, function)

    def wrap_native(
        self, engine: NativeEngine, endpoint: NativeEndpoint, function: Callable[..., Any]
    ) -> Any:
        """Return a function like that one, which is durable where the framework calls it."""
        app = ASGIApp(endpoint)
        host = _hosts.of(engine)
        host.waiting = app
        host.functions.add(function)
        return _wrapped(app, endpoint, function)

    def check_installed(self, engine: NativeEngine) -> None:
        """See that the application of the endpoints is known.

        Raises:
            ConfigurationError: it is not.
        """
        _hosts.of(engine).check_installed()

    def install(self, app: Any, engine: NativeEngine) -> None:
        """Make a Starlette or FastAPI application run the durable endpoints in it.

        Raises:
            ConfigurationError: it is no such application.
        """
        host = _hosts.of(engine)
        routes = getattr(app, "routes", ())
        _check_order(routes, host.functions)
        add_responses(routes, engine)
        install_layer(app, engine, lambda: host.waiting)
        host.application = app

    def application_lifespan(
        self, engine: NativeEngine, namespaces: Iterable[Mapping[str, object]]
    ) -> AbstractAsyncContextManager[object] | None:
        """Return the lifespan of the application that most of the endpoints are in."""
        found: dict[int, Any] = {
            id(each): each
            for namespace in namespaces
            for each in namespace.values()
            if hasattr(getattr(each, "router", None), "lifespan_context")
        }
        by_size = [(count_endpoints(app.routes, engine), app) for app in found.values()]
        most, app = max(by_size, key=lambda each: each[0], default=(0, None))
        return app.router.lifespan_context(app) if app is not None and most else None


#: The adapter for Starlette and FastAPI.
endpoint_adapter = StarletteAdapter(
    StarletteApp, EndpointOptions(exception_to_response=exception_to_response)
)


def install(app: Any, durable: Durable[Any]) -> None:
    """Make a Starlette or FastAPI application run the durable endpoints in it.

    ``durable.lifespan`` does this, too.

    Args:
        app: the outermost application.
        durable: whose endpoints they are.

    Raises:
        ConfigurationError: it is no such application, or no ``Durable``.
    """
    check_durable(durable)
    endpoint_adapter.install(app, durable.engine)


def _check_order(routes: Iterable[Any], functions: set[Callable[..., Any]]) -> None:
    """See that the routes lead to the durable functions, not to those that they were made of."""
    for route in routes:
        endpoint = getattr(route, "endpoint", None)
        if endpoint in functions:
            raise ConfigurationError(
                f"the route {route.path!r} leads to {endpoint.__qualname__} as it was before it "
                "was durable: @durable.endpoint stands below @app.get, @app.post and the like"
            )
        inner = getattr(route, "original_router", route)  # what FastAPI has included
        _check_order(getattr(inner, "routes", None) or (), functions)


def _check_function(function: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{function.__qualname__} is a generator, and a durable endpoint is a function: return "
            "a StreamingResponse, or use durable_core.stream in its steps"
        )


def _handler_of(engine: NativeEngine, function: Callable[..., Any]) -> Callable[[Request], Any]:
    host = _hosts.of(engine)

    async def handle_async(request: Request) -> Response:
        passage = current_passage()
        if isinstance(passage, AttachedPassage) and (call := passage.take_call(function)):
            return await passage.execute_async(call)
        return await ReplayPassage(request, function).execute_async(host.required())

    def handle(request: Request) -> Response:
        passage = current_passage()
        if isinstance(passage, AttachedPassage) and passage.take_call(function):
            return passage.execute()
        replay = ReplayPassage(request, function)
        return replay.execute(host.required(), engine.replay_loop())

    handler: Callable[[Request], Any] = handle_async if is_async(function) else handle
    copy_identity(handler, function)
    return handler


def _wrapped(app: ASGIApp, endpoint: NativeEndpoint, function: Callable[..., Any]) -> Any:
    target, calls_async = Target(app, endpoint, function), is_async(function)

    # A coroutine function whatever the endpoint is: the layer takes a thread when it needs one.
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        passage = current_passage()
        if passage is None:
            raise _without_request(function)
        call = functools.partial(function, *args, **kwargs) if args or kwargs else function
        try:
            if calls_async:
                result = passage.call_async(target, call)
                value = result.result() if type(result) is BegunCall else await result
            else:
                value = await passage.call_in_thread(target, call)
        except StepError as error:
            known = http_exception_of(error)
            if known is None:
                raise
            raise known from error
        parts = (
            value.values() if type(value) is dict else value if type(value) is list else (value,)
        )
        if CoroutineType in map(type, parts):
            raise _not_awaited(function, parts)
        return value

    wrapper.endpoint = endpoint  # type: ignore[attr-defined]
    return wrapper


def _not_awaited(function: Callable[..., Any], parts: Iterable[Any]) -> StepUsageError:
    """Return the error for a result with coroutines, which FastAPI would take for any object."""
    coroutines = [each for each in parts if type(each) is CoroutineType]
    for each in coroutines:
        each.close()  # that it is never awaited is not the news
    advice = (
        "write 'await' before the call"
        if is_async(function)
        else "in a 'def' endpoint take steps from durable_core.sync, and call another endpoint by "
        "step.invoke, or make both 'async def'"
    )
    return StepUsageError(
        f"{function.__qualname__} has returned {coroutines[0].__qualname__}, which it has not "
        f"awaited: {advice}"
    )


def _without_request(function: Callable[..., Any]) -> ConfigurationError:
    return ConfigurationError(
        f"{function.__qualname__} is a durable endpoint in an application that does not know "
        "Durable: make it with FastAPI(lifespan=durable.lifespan), call "
        "durable_starlette.install(app, durable) where the lifespan does not run, as in "
        "TestClient(app) without 'with'. In a websocket, a lifespan or a script there is no "
        "request to make a run for: send one"
    )
