"""What the conformance suite judges: views of Django, on the WSGI server of ``durable_wsgi``.

``durable_django.conformance:subject``. The suite's handlers are made into views.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import AsyncIterable, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.test.utils import override_settings
from django.urls import clear_url_caches, path
from django.views.decorators.http import require_http_methods

from durable_core import Durable, Request, Response
from durable_core.adapters import AdapterApp, NativeEndpoint, NativeEngine, Routes
from durable_django._adapter import DjangoAdapter, DjangoApp
from durable_django._exchange import answer
from durable_wsgi import app, create_endpoint_server

__all__ = ["DjangoSubject", "subject"]

_Handler = Callable[[Request], Any]
_URLS = "durable_django_conformance_urls"
_SETTINGS: dict[str, Any] = {
    "ALLOWED_HOSTS": ["*"],
    "APPEND_SLASH": False,
    "DATA_UPLOAD_MAX_MEMORY_SIZE": None,
    "DEFAULT_CHARSET": "utf-8",
    "MIDDLEWARE": ["durable_django.DurableMiddleware"],
    "ROOT_URLCONF": _URLS,
    "SECRET_KEY": "of the suite",
}


class _SuiteAdapter(DjangoAdapter):
    """The adapter, for handlers that are made into views."""

    def adapt(self, engine: NativeEngine, function: _Handler) -> _Handler:
        return DjangoAdapter.adapt(self, engine, _view(function))

    def wrap_native(
        self, engine: NativeEngine, endpoint: NativeEndpoint, function: _Handler
    ) -> Any:
        _set_up()
        return DjangoAdapter.wrap_native(self, engine, endpoint, _view(function))


@functools.cache
def _view(handler: _Handler) -> Callable[..., HttpResponseBase]:
    """Return a view that does what a handler of the core does."""

    @functools.wraps(handler)
    def view(request: HttpRequest, **arguments: str) -> HttpResponseBase:
        return _django_response(Response.from_value(handler(_core_request(request, arguments))))

    return view


def _core_request(request: HttpRequest, arguments: Mapping[str, str]) -> Request:
    target = request.META["REQUEST_URI"]
    return Request(
        method=request.method or "",
        url=f"{request.scheme}://{request.get_host()}{target}",
        headers=list(request.headers.items()),
        body=request.body,
        path_params=arguments,
        root_path=request.META["SCRIPT_NAME"],
    )


def _django_response(response: Response) -> HttpResponseBase:
    assert not isinstance(response.body, AsyncIterable)
    made: HttpResponseBase
    if isinstance(response.body, bytes):
        made = HttpResponse(response.body, status=response.status)
    else:
        made = StreamingHttpResponse(response.body, status=response.status)
    del made.headers["content-type"]
    for name, value in response.headers.items():
        if name.lower() == "set-cookie":
            made.cookies.load(value)
        else:
            made.headers[name] = value
    return made


class DjangoSubject:
    """The adapter in a Django."""

    name = "durable-django"
    capabilities = frozenset({"sync-handlers", "streaming", "raw-path"})
    endpoint_adapter = _SuiteAdapter(DjangoApp)

    @contextmanager
    def serve(self, routes: Routes, *, durable: Durable[Any]) -> Iterator[str]:
        """Serve on a free port; yield the URL."""
        assert isinstance(routes, Mapping)
        urls = sys.modules[_URLS] = ModuleType(_URLS)
        urls.urlpatterns = [  # type: ignore[attr-defined]
            _route(durable, pattern, target) for pattern, target in routes.items()
        ]
        _set_up()
        with override_settings(**_SETTINGS):  # others may have configured it in this process
            clear_url_caches()
            self.endpoint_adapter.install(None, durable.engine)
            application = get_wsgi_application()
            with create_endpoint_server(application, durable=durable).listen() as server:
                yield server.url


def _set_up() -> None:
    if not settings.configured:
        settings.configure(**_SETTINGS)
        django.setup()


def _route(durable: Durable[Any], pattern: str, target: Any) -> Any:
    methods, _, template = pattern.partition(" ")
    route = re.sub(r"{(\w+)}", r"<str:\1>", re.sub(r"{(\w+):path}", r"<path:\1>", template))
    if hasattr(target, "__wrapped__"):
        view = require_http_methods(methods.split(","))(target)
    else:
        view = _of_core(durable, pattern, target)
    return path(route.removeprefix("/"), view)


def _of_core(durable: Durable[Any], pattern: str, target: Any) -> Callable[..., HttpResponseBase]:
    inner = app(durable, {pattern: target})
    return lambda request, **arguments: answer(AdapterApp(inner.endpoint), request)


subject = DjangoSubject()
