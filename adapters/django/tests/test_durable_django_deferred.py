"""``def`` views that are called before anything of a run is made, under WSGI."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client, RequestFactory
from django.urls import path

from durable_core import Durable, run
from durable_core import step as async_step
from durable_core.sync import step
from durable_django import DjangoApp, endpoint_adapter, install

STEPS = pytest.mark.parametrize("steps", [0, 1])


@pytest.fixture
def durable(tmp_path: Path, urls: ModuleType) -> Iterator[Durable[DjangoApp]]:
    durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")
    install(durable)
    durable.start()
    yield durable
    durable.stop()


@pytest.fixture
def client() -> Client:
    return Client(headers={"host": "localhost"})  # as every client sends it


def statuses(durable: Durable[DjangoApp]) -> list[str]:
    return [each.status for each in durable.runs.list()]


def do(steps: int) -> None:
    for number in range(steps):
        step.run(f"{number}", lambda: None)


@STEPS
def test_a_run_begins_with_the_first_step(
    durable: Durable[DjangoApp], urls: ModuleType, client: Client, steps: int
) -> None:
    """A view without a step has no run: nothing is live, and nothing is recorded."""

    @durable.endpoint
    def it(request: HttpRequest) -> JsonResponse:
        before = durable.health()["live_runs"]
        do(steps)
        seen = [before, durable.health()["live_runs"], request.body.decode()]
        return JsonResponse({"seen": seen}, status=201, headers={"x-own": "1"})

    urls.urlpatterns.append(path("", it))
    response: Any = client.post("/", {"a": 1}, content_type="application/json")
    assert (201, "1") == (response.status_code, response.headers["x-own"])
    assert {"seen": [0, steps, '{"a": 1}']} == response.json()
    assert ["completed"] * steps == statuses(durable)


@STEPS
def test_errors_of_clients(
    durable: Durable[DjangoApp], urls: ModuleType, client: Client, steps: int
) -> None:
    """Django answers them: without a run, or as the response of the run."""

    @durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        do(steps)
        raise Http404

    urls.urlpatterns.append(path("", it))
    assert 404 == client.get("/").status_code
    assert ["completed"] * steps == statuses(durable)


def test_an_error_before_any_step_is_tried_again(
    durable: Durable[DjangoApp], urls: ModuleType, client: Client
) -> None:
    """A run begins for an error; the next attempt ends it."""
    calls: list[int] = []

    @durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        calls.append(run.attempt if durable.is_replaying() else 1)
        if len(calls) > 1:
            return HttpResponse("done")
        raise LookupError("not today")

    urls.urlpatterns.append(path("", it))
    assert 302 == client.get("/").status_code
    [shown] = durable.runs.list()
    assert "completed" == durable.runs.wait(shown.id, timeout=20).status
    assert [1, 2] == calls


@STEPS
@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_no_response(
    durable: Durable[DjangoApp], urls: ModuleType, client: Client, steps: int, is_async: bool
) -> None:
    """A view that returns nothing has failed, and is not called again."""
    calls: list[None] = []

    @durable.endpoint
    def it(request: HttpRequest) -> Any:
        calls.append(None)
        do(steps)

    @durable.endpoint
    async def it_async(request: HttpRequest) -> Any:
        calls.append(None)
        for number in range(steps):
            await async_step.run(f"{number}", lambda: None)

    urls.urlpatterns.append(path("", it_async if is_async else it))
    assert 500 == client.get("/").status_code
    assert ["failed"] * steps == statuses(durable)
    assert 1 == len(calls)


@STEPS
def test_forms_and_uploads(
    durable: Durable[DjangoApp], urls: ModuleType, client: Client, steps: int
) -> None:
    """A view reads the form before its first step, and the run still has the request."""

    @durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        title = request.POST["title"]
        do(steps)
        return HttpResponse(title)

    urls.urlpatterns.append(path("", it))
    assert b"notes" == client.post("/", {"title": "notes"}).content
    assert ["completed"] * steps == statuses(durable)


@STEPS
def test_streams_and_templates(
    durable: Durable[DjangoApp], urls: ModuleType, client: Client, steps: int
) -> None:
    """Both kinds of responses arrive whole."""

    @durable.endpoint
    def stream(request: HttpRequest) -> StreamingHttpResponse:
        do(steps)
        return StreamingHttpResponse(iter([b"on", b"e"]))

    @durable.endpoint
    def template(request: HttpRequest) -> TemplateResponse:
        do(steps)
        made = engines["django"].from_string("hello {{ name }}")
        return TemplateResponse(request, made, {"name": "ann"})

    urls.urlpatterns.extend([path("stream", stream), path("template", template)])
    streamed: Any = client.get("/stream")
    assert b"one" == streamed.getvalue()
    assert b"hello ann" == client.get("/template").content


@STEPS
def test_rest_framework(
    durable: Durable[DjangoApp], urls: ModuleType, client: Client, steps: int
) -> None:
    """Its parsers, renderers and errors work."""
    from rest_framework import serializers
    from rest_framework.decorators import api_view
    from rest_framework.request import Request
    from rest_framework.response import Response

    class Order(serializers.Serializer[Any]):
        count = serializers.IntegerField()

    @api_view(["POST"])
    @durable.endpoint
    def order(request: Request) -> Response:
        wanted = Order(data=request.data)
        wanted.is_valid(raise_exception=True)
        do(steps)
        return Response({"count": wanted.validated_data["count"]}, status=201)

    urls.urlpatterns.append(path("", order))
    json = "application/json"
    good: Any = client.post("/", {"count": 3}, content_type=json)
    assert (201, {"count": 3}) == (good.status_code, good.json())
    assert 400 == client.post("/", {"count": "x"}, content_type=json).status_code
    assert ["completed"] * steps == statuses(durable)


def test_a_stream_that_a_server_closes_before_it_reads(
    durable: Durable[DjangoApp], urls: ModuleType
) -> None:
    """The run has failed: nobody will read the rest."""

    @durable.endpoint
    def it(request: HttpRequest) -> StreamingHttpResponse:
        do(1)
        return StreamingHttpResponse(iter([b"on", b"e"]))

    urls.urlpatterns.append(path("", it))
    environ = RequestFactory(headers={"host": "localhost"}).get("/").environ
    response: Any = WSGIHandler()(environ, lambda *args: lambda data: None)
    response.close()
    assert ["failed"] == statuses(durable)


@STEPS
@pytest.mark.slow
def test_no_memory_waits_for_the_collector(
    durable: Durable[DjangoApp], urls: ModuleType, steps: int
) -> None:
    """A request leaves no cycle of references."""
    application, environ = WSGIHandler(), RequestFactory(headers={"host": "localhost"})

    def ask() -> None:
        response = application(environ.get("/").environ, lambda *args: lambda data: None)
        assert b"done" == b"".join(response)
        response.close()

    @durable.endpoint
    def it(request: HttpRequest) -> HttpResponse:
        do(steps)
        return HttpResponse("done")

    urls.urlpatterns.append(path("", it))
    assert [] == _garbage(ask)


@STEPS
@pytest.mark.slow
def test_no_memory_of_coroutines_waits_for_the_collector(
    durable: Durable[DjangoApp], urls: ModuleType, steps: int
) -> None:
    """The same for an ``async def`` view, under ASGI."""

    @durable.endpoint
    async def it(request: HttpRequest) -> HttpResponse:
        for number in range(steps):
            await async_step.run(f"{number}", lambda: None)
        return HttpResponse("done")

    urls.urlpatterns.append(path("", it))
    client = AsyncClient()

    async def ask() -> None:
        assert b"done" == (await client.get("/")).content

    with asyncio.Runner() as runner:
        assert [] == _garbage(lambda: runner.run(ask()))


def _garbage(request: Callable[[], object]) -> list[str]:
    request()
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            request()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        names = ("View", "DeferredThreadRun", "StoredExecution")
        return [type(each).__name__ for each in gc.garbage if type(each).__name__ in names]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
