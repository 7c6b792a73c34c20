"""Django's own features in durable views: first in one execution, then over a replay."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.core.files.uploadedfile import SimpleUploadedFile, UploadedFile
from django.core.signals import request_finished
from django.db import transaction
from django.http import (
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.http.response import HttpResponseBase
from django.test import Client, TestCase, override_settings
from django.urls import include, path, re_path, reverse
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.http import require_GET, require_POST

from durable_core import Durable, Event
from durable_core.errors import ConfigurationError
from durable_core.sync import step
from durable_django import DjangoApp, endpoint_adapter, install

#: Without a replay, and with one.
TWICE = pytest.mark.parametrize("replay", [False, True], ids=["at-once", "replayed"])


@dataclass
class World:
    """Django, and what has happened in it."""

    durable: Durable[DjangoApp]
    urls: ModuleType
    log: list[object] = field(default_factory=list)

    def route(self, route: str, view: Any, name: str = "it") -> None:
        """Add a route."""
        self.urls.urlpatterns.append(path(route, view, name=name))

    def ask(self, method: str, url: str, replay: bool, **options: Any) -> Any:
        """Return the response, after a replay if one is wanted."""
        client = Client()
        url += ("&" if "?" in url else "?") + "replay=1" if replay else ""
        response = client.generic(method, url, **options)
        return self.follow(client, response) if replay else response

    def follow(self, client: Client, response: Any) -> Any:
        """Return what the client of a run gets that is handed off, after a replay."""
        assert 302 <= response.status_code <= 303, response.content
        self.durable.send(Event("go"))
        location = response.headers["location"]
        return client.get(response.request["PATH_INFO"] + location)


@pytest.fixture
def world(tmp_path: Path, urls: ModuleType) -> Iterator[World]:
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    install(durable)
    yield World(durable, urls)
    durable.stop()


def pause(request: Any) -> None:
    """Do a step, and wait for an event if the client wants a replay."""
    step.run("first", lambda: None)
    if "replay" in request.GET:
        step.wait_for_event("go", event="go", timeout="1h")


@TWICE
def test_path_query_headers_and_json(world: World, replay: bool) -> None:
    """The request and the arguments of the path are what they always are."""

    @world.durable.endpoint
    def order(request: HttpRequest, shop: str, number: int) -> JsonResponse:
        pause(request)
        seen = [shop, number, request.GET["size"], request.headers["x-trace"]]
        url = reverse("it", kwargs={"shop": "a", "number": 1})
        body = request.body.decode()
        return JsonResponse({"seen": seen, "body": body, "url": url}, status=201)

    world.route("<slug:shop>/<int:number>/", order)
    response = world.ask(
        "POST",
        "/corner/7/?size=large",
        replay,
        data=b'{"items": []}',
        content_type="application/json",
        headers={"x-trace": "t1"},
    )
    expected = {"seen": ["corner", 7, "large", "t1"], "body": '{"items": []}', "url": "/a/1/"}
    assert (201, expected) == (response.status_code, response.json())


@TWICE
def test_forms_and_uploads(world: World, replay: bool) -> None:
    """Form fields and uploaded files are there."""

    @world.durable.endpoint
    def upload(request: HttpRequest) -> HttpResponse:
        pause(request)
        file = request.FILES["file"]
        assert isinstance(file, UploadedFile)
        return JsonResponse({"title": request.POST["title"], "text": file.read().decode()})

    world.route("", upload)
    client = Client()
    data = {"title": "notes", "file": SimpleUploadedFile("a.txt", b"hello")}
    response = client.post("/?replay=1" if replay else "/", data)
    response = world.follow(client, response) if replay else response
    assert {"title": "notes", "text": "hello"} == response.json()


RETURNED: list[tuple[Callable[[], HttpResponseBase], int, bytes, str]] = [
    (lambda: HttpResponse("text"), 200, b"text", "text/html; charset=utf-8"),
    (lambda: JsonResponse({"a": 1}), 200, b'{"a": 1}', "application/json"),
    (lambda: HttpResponse(b"raw", "image/png", 202), 202, b"raw", "image/png"),
    (lambda: HttpResponseRedirect("/other"), 302, b"", "text/html; charset=utf-8"),
    (lambda: StreamingHttpResponse(iter(["on", "e"])), 200, b"one", "text/html; charset=utf-8"),
    (lambda: FileResponse(BytesIO(b"hi"), filename="a.txt"), 200, b"hi", "text/plain"),
]


@TWICE
@pytest.mark.parametrize(("make", "status", "body", "kind"), RETURNED)
def test_what_a_view_returns(
    world: World,
    replay: bool,
    make: Callable[[], HttpResponseBase],
    status: int,
    body: bytes,
    kind: str,
) -> None:
    """Whatever is a response of Django is one."""

    @world.durable.endpoint
    def it(request: HttpRequest) -> HttpResponseBase:
        pause(request)
        return make()

    world.route("", it)
    response = world.ask("GET", "/", replay)
    content = b"".join(response) if response.streaming else response.content
    assert (status, body, kind) == (response.status_code, content, response["content-type"])


@TWICE
@pytest.mark.parametrize("stored", [(), ("cookie",)], ids=["not-stored", "stored"])
def test_cookies_of_the_request(world: World, replay: bool, stored: tuple[str, ...]) -> None:
    """They are in a replay if they are stored."""

    @world.durable.endpoint(store_headers=stored)
    def it(request: HttpRequest) -> JsonResponse:
        pause(request)
        return JsonResponse({"user": request.COOKIES.get("user")})

    world.route("", it)
    response = world.ask("GET", "/", replay, headers={"cookie": "user=ann"})
    assert {"user": None if replay and not stored else "ann"} == response.json()


def test_what_a_view_is_called(world: World) -> None:
    """Name, docstring and signature are those of the function, and so is the name of its route."""

    @world.durable.endpoint
    def order(request: HttpRequest, shop: str) -> HttpResponse:
        """Order something."""
        return HttpResponse(shop)

    world.route("<shop>/", order, name="order")
    signature = "(request: 'HttpRequest', shop: 'str') -> 'HttpResponse'"
    facts = (order.__name__, order.__doc__, str(inspect.signature(order)))
    assert ("order", "Order something.", signature) == facts
    assert "/corner/" == reverse(order, args=["corner"]) == reverse("order", args=["corner"])


@TWICE
def test_cookies(world: World, replay: bool) -> None:
    """Cookies that a view sets reach the client, with their attributes."""

    @world.durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        pause(request)
        response = HttpResponse("done")
        response.set_cookie("a", "1", max_age=60, httponly=True, samesite="Lax")
        response.set_cookie("b", "2")
        return response

    world.route("", it)
    cookies = world.ask("GET", "/", replay).cookies
    assert ["a", "b"] == list(cookies)
    assert (60, True, "Lax") == (
        int(cookies["a"]["max-age"]),
        cookies["a"]["httponly"],
        cookies["a"]["samesite"],
    )


@TWICE
@pytest.mark.parametrize("inside", [False, True], ids=["in-the-view", "in-a-step"])
@pytest.mark.parametrize(("error", "status"), [(Http404, 404), (PermissionDenied, 403)])
def test_errors_of_clients(
    world: World, replay: bool, inside: bool, error: type[Exception], status: int
) -> None:
    """Django answers them, and a step that raises one is not tried again."""

    def fail() -> None:
        world.log.append("failed")
        raise error("no such thing")

    @world.durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        pause(request)
        if inside:
            step.run("fail", fail)
        fail()
        return HttpResponse()

    world.route("", it)
    assert status == world.ask("GET", "/", replay).status_code
    assert ["failed"] == world.log


@TWICE
def test_classes(world: World, replay: bool) -> None:
    """A method of a class-based view may be durable, beside others that are not."""

    class Orders(View):
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("list")

        @world.durable.endpoint
        def post(self, request: HttpRequest, shop: str) -> HttpResponse:
            pause(request)
            return HttpResponse(f"{type(self).__name__} {shop}", status=201)

    world.route("<shop>/", Orders.as_view())
    response = world.ask("POST", "/corner/", replay)
    assert (201, b"Orders corner") == (response.status_code, response.content)


@TWICE
def test_middleware_and_decorators(world: World, replay: bool) -> None:
    """What middleware and decorators do holds for each execution; a waiting client passes both."""

    class Note:
        def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
            self.get_response = get_response

        def __call__(self, request: HttpRequest) -> HttpResponse:
            request.user_name = "ann"  # type: ignore[attr-defined]
            world.log.append(("request", world.durable.is_replaying()))
            return self.get_response(request)

    @require_POST
    @world.durable.endpoint
    def it(request: Any) -> HttpResponse:
        pause(request)
        return HttpResponse(request.user_name)

    world.urls.Note = Note  # type: ignore[attr-defined]
    world.route("", it)
    names = ["durable_django.DurableMiddleware", f"{world.urls.__name__}.Note"]
    with override_settings(MIDDLEWARE=names):
        assert b"ann" == world.ask("POST", "/", replay).content
        expected = [("request", False), ("request", True)] if replay else [("request", False)]
        assert expected == world.log
        assert 405 == world.ask("GET", "/", False).status_code


@TWICE
def test_csrf(world: World, replay: bool) -> None:
    """The token is checked when the client sends it, and a replay does not need it."""

    @world.durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        pause(request)
        return HttpResponse("done")

    world.route("", it)
    client = Client(enforce_csrf_checks=True)
    url = "/?replay=1" if replay else "/"
    assert 403 == client.post(url).status_code
    client.cookies["csrftoken"] = "x" * 32
    response = client.post(url, headers={"x-csrftoken": "x" * 32})
    response = world.follow(client, response) if replay else response
    assert b"done" == response.content


@TWICE
def test_prefixes(world: World, replay: bool) -> None:
    """Below an included prefix the wait URL is right; a run is shown by its route."""

    @world.durable.endpoint
    def deep(request: HttpRequest, name: str) -> HttpResponse:
        pause(request)
        return HttpResponse(f"{name} {request.path} {reverse('inner:deep', args=['x'])}")

    inner = ([path("deep/<name>", deep, name="deep")], "inner")
    world.urls.urlpatterns.append(path("inner/", include(inner)))
    response = world.ask("GET", "/inner/deep/a%20b", replay)
    assert b"a b /inner/deep/a b /inner/deep/x" == response.content
    assert {"GET /inner/deep/{name}"} == {run.name for run in world.durable.runs.list()}


@TWICE
def test_rest_framework(world: World, replay: bool) -> None:
    """Views of Django REST framework: its request, its response, its errors and its renderers."""
    from rest_framework import serializers
    from rest_framework.decorators import api_view
    from rest_framework.request import Request
    from rest_framework.response import Response
    from rest_framework.views import APIView

    class Order(serializers.Serializer[Any]):
        items = serializers.ListField(child=serializers.CharField())

    @api_view(["POST"])
    @world.durable.endpoint
    def create(request: Request, shop: str) -> Response:
        order = Order(data=request.data)
        order.is_valid(raise_exception=True)
        pause(request)
        return Response({"shop": shop, **order.validated_data}, status=201)

    class Orders(APIView):
        @world.durable.endpoint
        def put(self, request: Request) -> Response:
            pause(request)
            return Response(request.data["items"])

    world.route("shops/<shop>/", create)
    world.route("orders/", Orders.as_view())
    sent: dict[str, Any] = {"data": b'{"items": ["tea"]}', "content_type": "application/json"}
    created = world.ask("POST", "/shops/corner/", replay, **sent)
    assert (201, {"shop": "corner", "items": ["tea"]}) == (created.status_code, created.json())
    assert ["tea"] == world.ask("PUT", "/orders/", replay, **sent).json()
    bad = world.ask("POST", "/shops/corner/", False, data=b"{}", content_type="application/json")
    assert (400, {"items": ["This field is required."]}) == (bad.status_code, bad.json())


def test_a_login_that_refuses_the_replay(world: World) -> None:
    """A run that cannot reach its view again fails, and says what stood in its way."""

    def login(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        def checked(request: HttpRequest) -> HttpResponse:
            is_known = "authorization" in request.headers
            return view(request) if is_known else HttpResponse("who are you?", status=401)

        return checked

    @login
    @world.durable.endpoint(retries=0)
    def it(request: HttpRequest) -> HttpResponse:
        pause(request)
        return HttpResponse("done")

    world.route("", it)
    assert 500 == world.ask("GET", "/", True, headers={"authorization": "Basic x"}).status_code
    [run] = world.durable.runs.list()
    error = str(world.durable.runs.get(run.id).error)
    assert "answered '401 Unauthorized' before it reached the view" in error


def test_one_transaction_around_a_view(world: World) -> None:
    """ATOMIC_REQUESTS would undo steps that are done: the decorator keeps a function out of it."""

    @world.durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        pause(request)
        return HttpResponse(str(transaction.get_connection().in_atomic_block))

    class Orders(View):
        @world.durable.endpoint
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("never")

    apart = transaction.non_atomic_requests(Orders.as_view())
    for route, view in (("", it), ("orders/", Orders.as_view()), ("apart/", apart)):
        world.route(route, view)
    connection = transaction.get_connection()
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        assert b"False" == world.ask("GET", "/", False).content
        assert b"never" == world.ask("GET", "/apart/", False).content
        with pytest.raises(ConfigurationError, match="ATOMIC_REQUESTS is set for the database"):
            world.ask("GET", "/orders/", False)
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
        connection.close()


def test_atomic_requests_of_other_views(world: World) -> None:
    """REST framework's views need the decorator, too; classes may have it on ``dispatch``."""
    from rest_framework.decorators import api_view
    from rest_framework.response import Response

    @api_view(["GET"])
    @world.durable.endpoint
    def rest(request: Any) -> Response:
        return Response(transaction.get_connection().in_atomic_block)

    @method_decorator(transaction.non_atomic_requests(using="default"), name="dispatch")
    class Apart(View):
        @world.durable.endpoint
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse(str(transaction.get_connection().in_atomic_block))

    @transaction.non_atomic_requests
    @api_view(["GET"])
    @world.durable.endpoint
    def apart(request: Any) -> Response:
        return Response(transaction.get_connection().in_atomic_block)

    for route, view in (("rest/", rest), ("apart/", apart), ("class/", Apart.as_view())):
        world.route(route, view)
    connection = transaction.get_connection()
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        assert b"false" == world.ask("GET", "/apart/", False).content
        assert b"False" == world.ask("GET", "/class/", False).content
        with pytest.raises(ConfigurationError, match="ATOMIC_REQUESTS is set for the database"):
            world.ask("GET", "/rest/", False)
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
        connection.close()


def test_a_decorator_that_makes_one_transaction(world: World) -> None:
    """``transaction.atomic`` is refused below the endpoint, and above it; steps may have it."""

    def plain(request: HttpRequest) -> HttpResponse:
        with transaction.atomic():
            return HttpResponse(str(step.run("first", lambda: 1)))

    @world.durable.endpoint
    def inside(request: HttpRequest) -> HttpResponse:
        return HttpResponse(step.run("first", transaction.atomic(lambda: "done")))

    with pytest.raises(TypeError, match="in one transaction"):
        world.durable.endpoint(transaction.atomic(plain))
    with pytest.raises(TypeError, match="in one transaction"):
        world.durable.endpoint(require_GET(transaction.atomic(plain)))
    for route, view in (("", transaction.atomic(inside)), ("steps/", inside)):
        world.route(route, view)
    assert b"done" == world.ask("GET", "/steps/", False).content
    with pytest.raises(ConfigurationError, match="in one transaction"):
        world.ask("GET", "/", False)


class InTestCase(TestCase):
    """What Django's ``TestCase`` does for a test."""


def test_the_transaction_of_a_test_case(world: World) -> None:
    """A view without a step works in a ``TestCase``, whose transaction is no mistake."""

    @world.durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(transaction.get_connection().in_atomic_block))

    world.route("", it)
    case = InTestCase("id")
    InTestCase.setUpClass()
    try:
        case._pre_setup()  # type: ignore[attr-defined] # what runs before each test
        assert b"True" == world.ask("GET", "/", False).content
        case._post_teardown()  # type: ignore[attr-defined]
    finally:
        InTestCase.tearDownClass()


def test_a_django_without_the_middleware(world: World) -> None:
    """The error names the setting."""

    @world.durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        return HttpResponse("done")

    world.route("", it)
    with (
        override_settings(MIDDLEWARE=[]),
        pytest.raises(ConfigurationError, match=r"durable_django\.DurableMiddleware"),
    ):
        world.ask("GET", "/", False)


def test_what_cannot_be_durable(world: World) -> None:
    """Views of classes, decorators of methods, and generators are refused with their remedy."""

    class Plain(View):
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse()

    def generator(request: HttpRequest) -> Iterator[str]:
        yield ""

    with pytest.raises(TypeError, match="stands below @api_view"):
        world.durable.endpoint(Plain.as_view())
    with pytest.raises(TypeError, match=r"put @durable\.endpoint on the method itself"):
        method_decorator(world.durable.endpoint, name="get")(Plain)
    with pytest.raises(TypeError, match="is a generator"):
        world.durable.endpoint(generator)


def test_a_body_over_the_limit(world: World) -> None:
    """It is refused as Django refuses it, and the view does not run."""

    @world.durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        world.log.append(len(request.body))
        return HttpResponse("done")

    world.urls.urlpatterns.append(re_path("^$", it))
    sent = {"content_type": "text/plain"}
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=100):
        assert 200 == world.ask("POST", "/", False, data=b"x" * 100, **sent).status_code
        assert world.ask("POST", "/", False, data=b"x" * 101, **sent).status_code in (400, 413)
    assert [100] == world.log


def test_a_process_that_does_not_know_the_application(tmp_path: Path, urls: ModuleType) -> None:
    """It does not begin to work, so no run is harmed."""
    durable = Durable(id="x", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")

    @durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        return HttpResponse("done")

    with pytest.raises(ConfigurationError, match=r"durable_django\.install"):
        durable.start()


def test_a_client_that_waits_for_a_limited_time(world: World) -> None:
    """It is handed off in mid-step; the view has a request of its own, which ends after it."""
    opened, done = threading.Event(), threading.Event()

    def work() -> int:
        opened.wait(20)
        return 1

    @world.durable.endpoint(max_sync_runtime="50ms")
    def film(request: HttpRequest) -> JsonResponse:
        value = step.run("render", work)
        world.log.append("view")
        return JsonResponse({"path": request.path, "value": value})

    def finished(**kwargs: Any) -> None:
        world.log.append("finished")
        if threading.current_thread().name.startswith("durable-serve"):
            done.set()

    world.route("film/", film)
    client = Client()
    request_finished.connect(finished, weak=False)
    try:
        response = client.post("/film/")
        world.log.append("answered")
        assert 303 == response.status_code
        opened.set()
        assert done.wait(20)
    finally:
        request_finished.disconnect(finished)
    final = client.get(f"/film/{response.headers['location']}")
    assert {"path": "/film/", "value": 1} == final.json()
    assert ["view", "finished"] == world.log[world.log.index("answered") + 1 :][:2]
