"""Django's ``Client`` within ``durable_core.testing``, and patterns of the page on Django."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.conf.urls.i18n import i18n_patterns, is_language_prefix_patterns_used
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, connections, transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.test import Client, override_settings
from django.urls import clear_script_prefix, include, path, reverse
from django.utils.translation import get_language

from durable_core import Durable, Request
from durable_core import step as async_step
from durable_core.sync import step
from durable_core.testing import harness
from durable_django import DjangoApp, endpoint_adapter, install


@pytest.fixture
def durable(tmp_path: Path) -> Durable[DjangoApp]:
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    install(durable)
    return durable


def route(urls: ModuleType, template: str, view: Any, name: str = "it") -> None:
    urls.urlpatterns.append(path(template, view, name=name))


def add_order(urls: ModuleType, durable: Durable[DjangoApp]) -> None:
    @durable.endpoint
    def order(request: HttpRequest, name: str) -> JsonResponse:
        number = step.run("save", lambda: f"order of {name}")
        step.sleep("pack", "24h")
        event = step.wait_for_event("sent", event="sent", timeout="2 days")
        by = "nobody" if event is None else event.data["by"]
        return JsonResponse({"number": number, "by": by}, status=201)

    route(urls, "orders/<name>", order)


def test_a_test_without_waiting(durable: Durable[DjangoApp], urls: ModuleType) -> None:
    """The clock of the harness ends the sleep."""
    add_order(urls, durable)
    client = Client()
    with harness(durable) as t:
        handed_off = client.post("/orders/ann")
        assert 303 == handed_off.status_code
        t.advance("24h")
        t.send("sent", {"by": "bike"})
        response = client.get(f"/orders/ann{handed_off.headers['location']}")
        assert 201 == response.status_code
        assert {"number": "order of ann", "by": "bike"} == response.json()
        assert ["save", "pack", "sent"] == [each.name for each in t.steps(t.runs()[0].id)]


def test_a_planned_crash(durable: Durable[DjangoApp], urls: ModuleType) -> None:
    """After a crash the run is replayed through Django, and the step is not repeated."""
    add_order(urls, durable)
    with harness(durable) as t:
        t.crash_after("save")
        Client().post("/orders/ann")
        t.advance("24h")
        t.send("sent", {"by": "bike"})
        [run] = t.runs()
        assert "completed" == run.status
        assert [1, 0, 0] == [each.calls for each in t.steps(run.id)]


def test_authorize_and_a_decorator(durable: Durable[DjangoApp], urls: ModuleType) -> None:
    """``authorize=`` is asked once, before the run; a decorator of the view in each execution."""
    log: list[str] = []

    def authorize(request: Request) -> str | bool:
        log.append("authorize")
        return request.headers.get("x-user") or False

    def with_tenant(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        def checked(request: HttpRequest) -> HttpResponse:
            log.append("decorator")
            is_known = "x-tenant" in request.headers
            return view(request) if is_known else HttpResponse(status=400)

        return checked

    @with_tenant
    @durable.endpoint(authorize=authorize)
    def it(request: HttpRequest) -> HttpResponse:
        step.sleep("nap", "1h")
        return HttpResponse(request.headers["x-tenant"])

    route(urls, "", it)
    client = Client()
    with harness(durable) as t:
        assert 400 == client.get("/", headers={"x-user": "ann"}).status_code
        assert 403 == client.get("/", headers={"x-tenant": "shop"}).status_code
        assert (["decorator", "decorator", "authorize"], []) == (log, list(t.runs()))
        log.clear()
        handed_off = client.get("/", headers={"x-user": "ann", "x-tenant": "shop"})
        t.advance("1h")
        assert b"shop" == client.get(f"/{handed_off.headers['location']}").content
    assert ["decorator", "authorize", "decorator"] == log


class Login:
    """Middleware that logs in whoever has the header."""

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        token = request.headers.get("authorization")
        request.user = AnonymousUser() if token is None else User(username=token)
        return self.get_response(request)


def test_who_it_is_in_a_replay(durable: Durable[DjangoApp], urls: ModuleType) -> None:
    """The first step stores who it is; the cookie is not stored, and nobody is logged in then."""
    seen: list[bool] = []

    @durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        user = getattr(request, "user", None)
        seen.append(user is not None and user.is_authenticated)
        name = step.run("who", lambda: request.user.get_username())
        step.sleep("nap", "1h")
        return HttpResponse(f"hello {name}")

    route(urls, "", it)
    names = ["durable_django.DurableMiddleware", f"{__name__}.Login"]
    with override_settings(MIDDLEWARE=names), harness(durable) as t:
        client = Client()
        handed_off = client.get("/", headers={"authorization": "ann"})
        t.advance("1h")
        assert b"hello ann" == client.get(f"/{handed_off.headers['location']}").content
    assert [True, False] == seen


@pytest.mark.parametrize("later", [False, True], ids=["at once", "in a replay"])
def test_not_found_in_a_step(durable: Durable[DjangoApp], urls: ModuleType, later: bool) -> None:
    """It is the answer after one attempt, made by the project's ``handler404``."""
    calls: list[int] = []

    def find() -> None:
        calls.append(1)
        raise Http404("no such order")

    @durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        try:
            step.run("find", find)
        finally:
            if later and not durable.is_replaying():
                step.sleep("nap", "1h")
        raise AssertionError("not reached")

    urls.handler404 = lambda request, exception: JsonResponse(  # type: ignore[attr-defined]
        {"error": str(exception), "path": request.path}, status=404
    )
    route(urls, "find", it)
    client = Client()
    with harness(durable) as t:
        response = client.get("/find")
        if later:
            t.advance("1h")
            response = client.get(f"/find{response.headers['location']}")
        assert 404 == response.status_code
        assert {"error": "no such order", "path": "/find"} == response.json()
        assert ([1], ["completed"]) == (calls, [run.status for run in t.runs()])


def test_prefixes_of_languages(durable: Durable[DjangoApp], urls: ModuleType) -> None:
    """Below a prefix of ``i18n_patterns`` the wait URL is right, and the language is the path's."""

    @durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        step.sleep("nap", "1h")
        return HttpResponse(f"{get_language()} {reverse('it')}")

    inner = path("orders/", include([path("it/", it, name="it")]))
    urls.urlpatterns.extend(i18n_patterns(inner))
    known: Any = is_language_prefix_patterns_used
    known.cache_clear()  # the module's name is that of every test
    middleware = [
        "durable_django.DurableMiddleware",
        "django.middleware.locale.LocaleMiddleware",
        "django.middleware.common.CommonMiddleware",
    ]
    client = Client()
    with override_settings(MIDDLEWARE=middleware, LANGUAGE_CODE="en"), harness(durable) as t:
        handed_off = client.get("/de/orders/it/")
        t.advance("1h")
        response = client.get(f"/de/orders/it/{handed_off.headers['location']}")
        assert b"de /de/orders/it/" == response.content


def test_the_prefix_of_a_mount(durable: Durable[DjangoApp], urls: ModuleType) -> None:
    """Below a prefix of the server the wait URL is right, and ``reverse`` has it in a replay."""

    @durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        step.sleep("nap", "1h")
        return HttpResponse(f"{request.path} {reverse('it')}")

    route(urls, "orders/", it)
    environ = {"SCRIPT_NAME": "/shop", "PATH_INFO": "/orders/"}
    client = Client()
    with harness(durable) as t:
        handed_off = client.get("/orders/", **environ)  # type: ignore[arg-type]
        location = handed_off.headers["location"]
        assert location.startswith("?")
        t.advance("1h")
        response = client.get(f"/orders/{location}", **environ)  # type: ignore[arg-type]
    clear_script_prefix()
    assert b"/shop/orders/ /shop/orders/" == response.content


@pytest.fixture
def table(tmp_path: Path) -> Any:
    """A table in a file, which other connections see, too."""
    name = str(tmp_path / "shop.db")
    before = connections.settings["default"]["NAME"]
    connection.close()
    connections.settings["default"]["NAME"] = connection.settings_dict["NAME"] = name
    with closing(sqlite3.connect(name, isolation_level=None)) as direct:
        direct.execute("CREATE TABLE orders (name TEXT)")
        yield lambda: [row for (row,) in direct.execute("SELECT name FROM orders")]
    connection.close()
    connections.settings["default"]["NAME"] = connection.settings_dict["NAME"] = before


def insert(name: str) -> str:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("INSERT INTO orders VALUES (%s)", [name])
    return name


def insert_in_thread(name: str) -> str:
    """In a thread that Django does not know, which closes its connection itself."""
    try:
        return insert(name)
    finally:
        connection.close()


def test_a_transaction_in_each_step(
    durable: Durable[DjangoApp], urls: ModuleType, table: Callable[[], list[str]]
) -> None:
    """What a step has committed stays, whatever becomes of the next one; replays repeat nothing."""

    def fail() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("INSERT INTO orders VALUES ('never')")
            raise LookupError("not today")

    @durable.endpoint(retries=0)
    def it(request: HttpRequest) -> HttpResponse:
        step.run("first", insert, "first")
        step.sleep("nap", "1h")
        step.run("second", insert, "second")
        step.run("third", fail)
        return HttpResponse("not reached")

    route(urls, "", it)
    with harness(durable) as t:
        Client().post("/")
        assert ["first"] == table()
        t.advance("1h")
        assert ["failed"] == [run.status for run in t.runs()]
    assert ["first", "second"] == table()


def test_steps_may_use_the_database(
    durable: Durable[DjangoApp], urls: ModuleType, table: Callable[[], list[str]]
) -> None:
    """A ``def`` function of an ``async def`` view's step runs in a thread, as Django demands."""

    @durable.endpoint
    async def it(request: HttpRequest) -> HttpResponse:
        with pytest.raises(SynchronousOnlyOperation):
            insert("outside")
        return HttpResponse(await async_step.run("save", insert_in_thread, "inside"))

    route(urls, "", it)
    assert b"inside" == Client().post("/").content
    durable.stop()
    assert ["inside"] == table()
