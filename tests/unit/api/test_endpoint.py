"""Endpoints as servers call them."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from asgiref.sync import async_to_sync

from durable_core.adapter.app import AdapterApp
from durable_core.api.adapter import AppAdapter, HTTPHandler
from durable_core.api.durable import Durable
from durable_core.api.endpoint import Endpoint, is_wait
from durable_core.api.functions import key_of
from durable_core.api.step import sync_step
from durable_core.errors import HTTPError
from durable_core.flow.env import Limits
from durable_core.flow.scope import HandlerKind
from durable_core.http.headers import SENSITIVE_HEADERS
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.stores.memory import MemoryStore
from support.harness import FakeClock, Ledger, lab, request

ROOT = Path(__file__).resolve().parents[3]


def echo(request: Request) -> object:
    return [request.method, request.path, request.text()]


def body_of(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "QUERY"])
def test_methods(method: str) -> None:
    """The usual methods are served, each with its body."""
    with lab() as process:
        response = process.endpoint(echo).handle(request("/it", method, b"text"))
    assert f'["{method}","/it","text"]'.encode() == response.body


@pytest.mark.parametrize("method", ["HEAD", "TRACE", "BREW"])
def test_other_methods(method: str) -> None:
    """Others get 405 with ``Allow``, and start no run."""
    with lab() as process:
        response = process.endpoint(echo).handle(request("/it", method))
    assert 405 == response.status
    assert "DELETE, GET, OPTIONS, PATCH, POST, PUT, QUERY" == response.headers["allow"]


def test_options_starts_no_run() -> None:
    """OPTIONS is answered with 204 and ``Allow``, unless the handler declares it."""
    with lab() as process:
        plain = process.endpoint(echo).handle(request("/it", "OPTIONS"))
        own = process.endpoint(echo, methods=("GET", "OPTIONS")).handle(request("/it", "OPTIONS"))
    assert (204, b"") == (plain.status, plain.body)
    assert "GET" in plain.headers["allow"]
    assert b'["OPTIONS","/it",""]' == own.body


def test_head_runs_as_get() -> None:
    """HEAD runs as GET, where ``methods`` lists it."""
    with lab() as process:
        endpoint = process.endpoint(echo, methods=("GET", "HEAD"))
        assert b'["GET","/it",""]' == endpoint.handle(request("/it", "HEAD")).body


def test_too_large_a_body() -> None:
    """A body beyond the limit is 413; one at the limit is served."""
    with lab(limits=Limits(body=10)) as process:
        endpoint = process.endpoint(echo)
        assert 413 == endpoint.handle(request("/it", "POST", b"x" * 11)).status
        assert 200 == endpoint.handle(request("/it", "POST", b"x" * 10)).status
        assert 413 == asyncio.run(endpoint.handle_async(request("/it", "POST", b"x" * 11))).status


# authorize


@pytest.mark.parametrize("asynchronous_server", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("verdict", "status"), [(True, 200), (None, 200), (False, 403)])
def test_authorize(
    verdict: bool | None, status: int, asynchronous: bool, asynchronous_server: bool
) -> None:
    """The hook decides before the run begins; False is 403."""
    ledger = Ledger()

    def authorize(request: Request) -> bool | None:
        return ledger.did("authorize", verdict)

    async def authorize_async(request: Request) -> bool | None:
        await asyncio.sleep(0)
        return ledger.did("authorize", verdict)

    def handler(request: Request) -> object:
        return ledger.did("handler", "end")

    with lab() as process:
        hook: Any = authorize_async if asynchronous else authorize
        endpoint = process.endpoint(handler, authorize=hook)
        if asynchronous_server:

            async def main() -> Response:
                response = await endpoint.handle_async(request())
                await process.durable.stop_async()
                return response

            response = asyncio.run(main())
        else:
            response = endpoint.handle(request())
    assert status == response.status
    assert ["authorize", *(["handler"] if status == 200 else [])] == ledger.calls


def test_authorize_with_an_answer_of_its_own() -> None:
    """An HTTPError of the hook is the answer."""

    def authorize(request: Request) -> None:
        raise HTTPError(401, "who are you", {"www-authenticate": "Bearer"})

    with lab() as process:
        endpoint = process.endpoint(echo, authorize=authorize)
        for response in (
            endpoint.handle(request()),
            asyncio.run(endpoint.handle_async(request())),
        ):
            assert (401, "Bearer") == (response.status, response.headers["www-authenticate"])


def test_authorize_is_not_called_on_replay() -> None:
    """Once the run has begun the hook is asked no more: neither on replay nor at the wait URL."""
    ledger = Ledger()

    def authorize(request: Request) -> bool:
        return ledger.did("authorize", "secret" == request.headers.get("authorization"))

    def handler(request: Request) -> str:
        ledger.did("handler", None)
        sync_step.sleep("nap", "1h")
        return "end"

    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler, authorize=authorize)
        asked = request(authorization="secret")
        assert b'"end"' == process.sleep_through(endpoint, clock, asked=asked).body
    assert ["authorize", "handler", "handler"] == ledger.calls


# Headers on replay


@pytest.mark.parametrize("stored", [False, True])
def test_reading_what_a_replay_cannot_have_is_warned_of(
    stored: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In the first execution, once for each endpoint and header; not in ``authorize``, and not if
    the header is stored."""

    def handler(request: Request) -> object:
        return [request.headers.get("authorization"), request.headers.get("cookie")]

    def authorize(request: Request) -> bool:
        return "authorization" in request.headers

    options = {"store_headers": ("Authorization",)} if stored else {}
    with lab() as process:
        endpoint = process.endpoint(handler, authorize=authorize, **options)
        for _ in range(2):
            endpoint.handle(request(authorization="secret"))
    warnings = [each.getMessage() for each in caplog.records if "is replayed" in each.getMessage()]
    assert ([] if stored else [True]) == ["'authorization'" in each for each in warnings]
    assert "secret" not in caplog.text


@pytest.mark.parametrize("header", ["authorization", "cookie", "proxy_authorization", "x_api_key"])
def test_header_that_is_not_stored(header: str) -> None:
    """On replay a sensitive header that was there is an error that names the option."""
    name = header.replace("_", "-")

    def handler(request: Request) -> object:
        sync_step.sleep("nap", "1h")
        return request.headers.get(name)

    clock, asked = FakeClock(), request("/it", "GET", b"", **{header: "secret"})
    with lab(clock=clock) as process:
        response = process.sleep_through(process.endpoint(handler), clock, asked=asked)
    assert 500 == response.status
    assert b"HeaderNotStoredError" in body_of(response)
    assert b"store_headers" in body_of(response)
    assert b"secret" not in body_of(response)


def test_headers_on_replay() -> None:
    """What was absent stays absent, other headers are there, and stored ones if asked for."""

    def handler(request: Request) -> object:
        seen = [request.headers.get(name) for name in ("cookie", "x-other")]
        sync_step.sleep("nap", "1h")
        return [seen, request.headers.get("authorization")]

    clock, asked = FakeClock(), request(authorization="secret", x_other="1")
    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler, store_headers=("Authorization",))
        response = process.sleep_through(endpoint, clock, asked=asked)
    assert b'[[null,"1"],"secret"]' == response.body


def test_sensitive_headers_are_not_in_the_store() -> None:
    """Nothing of a sensitive header is stored."""

    def handler(request: Request) -> None:
        sync_step.sleep("nap", "1h")

    asked = Request(
        method="GET", url="http://h/it", headers=dict.fromkeys(SENSITIVE_HEADERS, "s3cret")
    )
    with lab() as process:
        process.endpoint(handler).handle(asked)
        [run] = process.durable.runs.list()
        shown = process.durable.runs.request(run.id).headers
        assert "s3cret" not in repr(process.watched.batches)
    assert (SENSITIVE_HEADERS, ()) == (shown.withheld, tuple(shown))


def test_replay_sees_the_same_request() -> None:
    """Method, URL, path, query, headers and body are those of the request."""

    def handler(request: Request) -> object:
        seen = [
            request.method,
            request.url,
            list(request.query.get_all("q")),
            request.headers["x-one"],
            request.json(),
        ]
        sync_step.run("seen", lambda: seen)
        sync_step.sleep("nap", "1h")
        return [seen, sync_step.run("again", lambda: seen)]

    clock = FakeClock()
    with lab(clock=clock) as process:
        asked = request("/it?q=1&q=%C3%A4", "POST", b'{"a": [1]}', x_one="1")
        endpoint = process.endpoint(handler)
        answer = body_of(process.sleep_through(endpoint, clock, asked=asked)).decode()
    one = '["POST","http://test/it?q=1&q=%C3%A4",["1","\N{LATIN SMALL LETTER A WITH DIAERESIS}"]'
    assert 2 == answer.count(one + ',"1",{"a":[1]}]')


# Keys and labels


def test_labels() -> None:
    """A run is labelled by method and path, by the route where it is known, or as it is told."""

    def handler(request: Request) -> None:
        sync_step.sleep("nap", "1h")

    with lab() as process:
        endpoint = process.durable.endpoint
        endpoint(handler).handle(request("/users/7"))
        endpoint(handler).handle(request("/users/7"), route="/users/{id}")
        endpoint(function_id="mine")(handler).handle(request("/users/7"))
        endpoint(function_id="own", name="A user")(handler).handle(request("/users/7"))
        labels = {record.run.function_id for record in process.records.list()}

    assert {"A user", "mine", "GET /users/{id}", "GET /users/7"} == labels


def test_key_of() -> None:
    """A handler's key is its module and qualified name."""

    def inner(request: Request) -> None: ...

    assert f"{__name__}:test_key_of.<locals>.inner" == key_of(inner)

    class Callable:
        def __call__(self, request: Request) -> None: ...

    assert key_of(Callable()).endswith(":test_key_of.<locals>.Callable")


@pytest.mark.parametrize("as_module", [False, True])
def test_key_in_a_script(tmp_path: Path, as_module: bool) -> None:
    """A handler has the same key whether its module is run or imported."""
    (tmp_path / "shop.py").write_text(
        "from durable_core.api.functions import key_of\n"
        "def checkout(request): ...\n"
        "print(key_of(checkout))\n"
    )
    arguments = ["-m", "shop"] if as_module else ["shop.py"]
    told = subprocess.run(
        [sys.executable, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert "shop:checkout\n" == told.stdout


def test_repr() -> None:
    """An endpoint shows its key."""
    with lab() as process:
        assert "<Endpoint it>" == repr(process.endpoint(echo))


# Parts


@pytest.mark.parametrize(
    ("url", "method", "expected"),
    [
        ("/it", "GET", False),
        ("/it?durable-run=x", "GET", True),
        ("/it?durable-token=x", "HEAD", True),
        ("/it?durable%2Drun=x", "GET", True),
        ("/it%3Fdurable%2Drun=x", "GET", False),
        ("/it?durable-run=x", "POST", False),
        ("/durable-run", "GET", False),
        ("/it?x=durable-run", "GET", False),
    ],
)
def test_is_wait(url: str, method: str, expected: bool) -> None:
    """Only GET and HEAD with a reserved parameter are for the wait URL."""
    assert expected is is_wait(request(url, method))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_method_repeated_at_the_wait_url(method: str, asynchronous: bool) -> None:
    """A client that follows a 303 without turning to GET begins no other run."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        ledger.did("handler", None)
        sync_step.sleep("nap", 60)
        return None

    with lab() as process:
        endpoint = process.endpoint(handler)
        location = endpoint.handle(request("/it", method)).headers["location"]
        again = request(f"/it{location}", method)
        ask = asyncio.run(endpoint.handle_async(again)) if asynchronous else endpoint.handle(again)
    assert (405, "GET, HEAD") == (ask.status, ask.headers["allow"])
    assert ["handler"] == ledger.calls


async def _coroutine_function(request: Request) -> str:
    """Answer with the path."""
    return request.path


class _Callable:
    async def __call__(self, request: Request) -> str:
        return request.path


def _decorated(function: Callable[[Request], Any]) -> Callable[[Request], Any]:
    @functools.wraps(function)
    def call(request: Request) -> Any:
        return function(request)

    return call


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (_coroutine_function, HandlerKind.ASYNC_DEF),
        (_Callable(), HandlerKind.ASYNC_DEF),
        (_Callable().__call__, HandlerKind.ASYNC_DEF),
        (functools.partial(_coroutine_function), HandlerKind.ASYNC_DEF),
        (functools.partial(functools.partial(_Callable())), HandlerKind.ASYNC_DEF),
        (_decorated(_coroutine_function), HandlerKind.ASYNC_DEF),
        (_decorated(lambda request: request.path), HandlerKind.DEF),
        (functools.partial(lambda request: request.path), HandlerKind.DEF),
        (async_to_sync(_coroutine_function), HandlerKind.DEF),
    ],
    ids=range(9),
)
def test_what_a_coroutine_comes_from(handler: Callable[[Request], Any], kind: HandlerKind) -> None:
    """A handler that returns a coroutine is taken for ``async def``, in whatever form it comes."""
    with lab() as process:
        endpoint = process.endpoint(handler)
        assert isinstance(endpoint, Endpoint)
        assert kind is endpoint.kind
        assert b'"/it"' == endpoint.handle(request()).body


@pytest.mark.parametrize(
    "handler",
    [
        lambda: None,
        lambda request, order: None,
        lambda *, request: None,
        functools.partial(lambda request: None, request=None),
        str.join,
    ],
    ids=range(5),
)
def test_wrong_number_of_parameters(handler: Callable[..., Any]) -> None:
    """A handler that cannot be called with the request alone is refused when it is defined."""
    with lab() as process, pytest.raises(TypeError, match="called with one argument, the request"):
        process.endpoint(handler)


def test_a_wrapped_endpoint_is_named_after_its_handler() -> None:
    """Its name, docstring and module are those of the function; its repr has the key."""
    durable: Durable[AdapterApp] = Durable(
        id="it", endpoint_adapter=AppAdapter(AdapterApp), store=MemoryStore()
    )
    app: Any = durable.endpoint(function_id="paths")(_coroutine_function)

    assert "_coroutine_function" == app.__name__
    assert "Answer with the path." == app.__doc__
    assert __name__ == app.__module__
    assert "<AdapterApp of <Endpoint paths>>" == repr(app)


@pytest.mark.parametrize("face", ["def", "async def"])
def test_authorize_raises_what_its_framework_raises(face: str) -> None:
    """``exception_to_response`` is asked for it; what it does not know stays an error."""

    def refuse(request: Request) -> None:
        raise PermissionError("no key") if "known" in request.query else LookupError("a bug")

    def translate(error: Exception) -> Response | None:
        return Response.text(str(error), 401) if isinstance(error, PermissionError) else None

    def ask(endpoint: HTTPHandler, url: str) -> Response:
        if face == "def":
            return endpoint.handle(request(url))
        return asyncio.run(endpoint.handle_async(request(url)))

    with lab() as process:
        endpoint = process.endpoint(echo, authorize=refuse, exception_to_response=translate)
        answer = ask(endpoint, "/it?known=1")
        with pytest.raises(LookupError, match="a bug"):
            ask(endpoint, "/it")

    assert (401, b"no key") == (answer.status, answer.body)


@pytest.mark.parametrize(
    "handler", [Mock(), AsyncMock(), len], ids=["mock", "async mock", "built in"]
)
def test_a_handler_that_is_no_python_function(handler: Any) -> None:
    """A test may use a mock, and a function may be written in C."""
    with lab() as process:
        assert process.endpoint(handler) is not None


def test_an_annotation_that_cannot_be_compared() -> None:
    """An annotation may be any object; numpy's, for one, do not compare to a bool."""

    class Shape:
        def __eq__(self, other: object) -> bool:
            raise ValueError("the truth value is ambiguous")

    def handler(request: Any) -> None:
        """Not called."""

    handler.__annotations__["request"] = Shape()
    with lab() as process:
        assert process.endpoint(handler) is not None


def _of_a_framework(item: str) -> str:
    return item


@pytest.mark.parametrize("hint", [str, "str", dict], ids=repr)
def test_a_parameter_of_a_framework(hint: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would get the request; the error names the kind of adapter that fills it in."""
    monkeypatch.setitem(_of_a_framework.__annotations__, "item", hint)
    handler: Any = _of_a_framework
    with lab() as process, pytest.raises(TypeError, match="asks for something else; handlers of a"):
        process.endpoint(handler)
