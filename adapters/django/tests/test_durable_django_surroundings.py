"""What is around a view: what Django keeps for each thread, and other code that reads the body."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
from django.core.asgi import get_asgi_application
from django.core.cache import cache
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import clear_script_prefix, path, reverse, set_script_prefix
from django.utils import timezone, translation

from durable_asgi import create_endpoint_server
from durable_core import Durable, Limits
from durable_core.errors import ConfigurationError
from durable_core.sync import step, stream
from durable_django import DjangoApp, endpoint_adapter, install

DURABLE = "durable_django.DurableMiddleware"
CSRF = "django.middleware.csrf.CsrfViewMiddleware"


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[Durable[DjangoApp]]:
    durable = Durable(
        id="shop",
        endpoint_adapter=endpoint_adapter,
        store=tmp_path / "db",
        limits=Limits(body=4_000_000),
    )
    install(durable)
    yield durable
    durable.stop()


class Paris:
    """Middleware that sets the time zone and the prefix."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        set_script_prefix("/shop/")
        with timezone.override("Europe/Paris"):
            return self.get_response(request)


class Reader(Paris):
    """Middleware that reads the form."""

    def __call__(self, request: HttpRequest) -> HttpResponse:
        assert "a" in request.FILES
        return self.get_response(request)


def test_a_view_in_another_thread(durable: Durable[DjangoApp], urls: ModuleType) -> None:
    """It has the language, the time zone and the prefix, and its connections do not stay open."""
    seen: list[object] = []

    @durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        seen.append(threading.current_thread())
        connection: Any = connections["default"]  # of this thread
        connection.ensure_connection()
        close = connection.close_if_unusable_or_obsolete

        def noted_close() -> None:
            seen.append("closed")
            close()

        connection.close_if_unusable_or_obsolete = noted_close
        step.run("push", lambda: stream.push("hi"))
        seen.append((translation.get_language(), str(timezone.get_current_timezone())))
        seen.append(reverse("it"))
        return HttpResponse()

    urls.Paris = Paris  # type: ignore[attr-defined]
    urls.urlpatterns.append(path("it/", it, name="it"))
    middleware = [DURABLE, "django.middleware.locale.LocaleMiddleware", f"{urls.__name__}.Paris"]
    with override_settings(MIDDLEWARE=middleware), translation.override(None):
        headers = {"accept": "text/event-stream", "accept-language": "de"}
        response: Any = Client().get("/it/", headers=headers)
        assert b"event: inngest.response" in b"".join(response)
    clear_script_prefix()
    thread, *others = seen
    assert thread is not threading.current_thread()
    assert [("de", "Europe/Paris"), "/shop/it/", "closed"] == others


def test_a_body_without_a_length(durable: Durable[DjangoApp], urls: ModuleType) -> None:
    """Under ASGI the body of a request may be chunked."""

    @durable.endpoint
    def threads(request: HttpRequest) -> HttpResponse:
        return HttpResponse(request.body)

    @durable.endpoint
    async def tasks(request: HttpRequest) -> HttpResponse:
        return HttpResponse(request.body)

    urls.urlpatterns.extend([path("threads", threads), path("tasks", tasks)])
    with override_settings(MIDDLEWARE=[DURABLE]):
        site: Any = get_asgi_application()  # its messages are plain dicts, to type checkers
    with create_endpoint_server(site, durable=durable).listen() as server:
        for name in ("threads", "tasks"):
            response = httpx2.post(f"{server.url}/{name}", content=iter([b"tea ", b"cup"]))
            assert (200, "tea cup") == (response.status_code, response.text)


@pytest.mark.parametrize(("size", "statuses"), [(1_000, (200,)), (3_000_000, (400, 413))])
def test_a_token_in_an_upload(
    durable: Durable[DjangoApp], urls: ModuleType, size: int, statuses: tuple[int, ...]
) -> None:
    """The check of the CSRF token reads the form; the view still has it, or it is too large."""

    @durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(request.FILES["a"].size))  # type: ignore[union-attr]

    urls.urlpatterns.append(path("", it))
    client = Client(enforce_csrf_checks=True)
    client.cookies["csrftoken"] = "x" * 32
    form = {"csrfmiddlewaretoken": "x" * 32, "a": SimpleUploadedFile("a", b"x" * size)}
    with override_settings(MIDDLEWARE=[DURABLE, CSRF]):
        assert client.post("/", form).status_code in statuses


def test_a_form_that_was_read_above(durable: Durable[DjangoApp], urls: ModuleType) -> None:
    """A durable view names the remedy; other views are not harmed."""

    def plain(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(request.FILES["a"].size))  # type: ignore[union-attr]

    urls.Reader = Reader  # type: ignore[attr-defined]
    urls.urlpatterns.extend([path("plain", plain), path("durable", durable.endpoint(plain))])
    with override_settings(MIDDLEWARE=[f"{urls.__name__}.Reader", DURABLE]):
        form = {"a": SimpleUploadedFile("a", b"xyz")}
        assert b"3" == Client().post("/plain", form).content
        with pytest.raises(ConfigurationError, match="first in settings"):
            Client().post("/durable", {"a": SimpleUploadedFile("a", b"xyz")})


def test_throttles_and_permissions_that_let_replays_pass(
    durable: Durable[DjangoApp], urls: ModuleType
) -> None:
    """A client's limit holds for its requests; replays are neither counted nor refused."""
    from rest_framework.permissions import BasePermission
    from rest_framework.response import Response
    from rest_framework.throttling import AnonRateThrottle
    from rest_framework.views import APIView

    class Known(BasePermission):
        def has_permission(self, request: Any, view: Any) -> bool:
            return durable.is_replaying() or "authorization" in request.headers

    class First(AnonRateThrottle):
        rate = "2/hour"

        def allow_request(self, request: Any, view: Any) -> bool:
            return durable.is_replaying() or super().allow_request(request, view)

    class Orders(APIView):
        permission_classes = (Known,)
        throttle_classes = (First,)

        @durable.endpoint(retries=0)
        def get(self, request: Any) -> Response:
            for name in ("one", "two", "three"):
                step.sleep(name, "10ms")
            return Response("done")

    urls.urlpatterns.append(path("", Orders.as_view()))
    cache.clear()
    client = Client(headers={"authorization": "Bearer x"})
    answers = [client.get("/", follow=True) for _ in range(3)]
    assert [200, 200, 429] == [answer.status_code for answer in answers]
    assert 2 == len(durable.runs.list())
