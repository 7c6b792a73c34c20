"""What adapters share: applications that answer by a handler of the core."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from durable_core.adapter.app import AdapterApp, check_callable, resolve_handler
from durable_core.errors import ConfigurationError, HTTPError
from durable_core.flow.env import Limits
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.routing import Application
from support.harness import lab

REQUEST = Request(method="GET", url="http://h/a%0Ab?durable-token=secret")


class Handler:
    """Answers with what it was given, or fails."""

    engine: Any = SimpleNamespace(limits=Limits(body=7))

    def __init__(self, error: BaseException | None = None) -> None:
        self._error = error

    def handle(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        if self._error is not None:
            raise self._error
        return Response.json([request.method, max_wait, route])

    async def handle_async(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        return self.handle(request, max_wait=max_wait, route=route)


def answers(app: AdapterApp, **options: Any) -> tuple[Response, Response]:
    """Return the answers of both kinds."""
    return app.respond(REQUEST, **options), asyncio.run(app.respond_async(REQUEST, **options))


def test_what_servers_need() -> None:
    """The handler, the engine to start and stop, and the limits to keep to."""
    handler = Handler()
    app = AdapterApp(handler)

    assert (handler, (Handler.engine,)) == (app.endpoint, app.durables)
    assert Limits(body=7) == app.limits


def test_answers() -> None:
    """It asks the handler, and passes on for how long and by which route."""
    one, other = answers(AdapterApp(Handler()), max_wait=2.0, route="/{x}")

    assert b'["GET",2.0,"/{x}"]' == one.body == other.body


def test_http_errors() -> None:
    """They are the response that they describe."""
    for response in answers(AdapterApp(Handler(HTTPError(418, "short and stout")))):
        assert (418, b"short and stout" in bytes(response.body)) == (response.status, True)  # type: ignore[arg-type]


def test_failures(caplog: pytest.LogCaptureFixture) -> None:
    """Any other error is a 500 without a word, logged without the query and on one line."""

    class App(AdapterApp):
        logger = logging.getLogger("durable.x")

    for response in answers(App(Handler(ZeroDivisionError("secret")))):
        assert (500, False) == (response.status, b"secret" in bytes(response.body))  # type: ignore[arg-type]
    assert [("durable.x", "GET /a%0Ab failed")] * 2 == [
        (record.name, record.getMessage()) for record in caplog.records
    ]
    assert all(record.exc_info and record.exc_info[1] for record in caplog.records)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_exits_pass(error: type[BaseException]) -> None:
    """What ends a process is no failed request."""
    with pytest.raises(error):
        AdapterApp(Handler(error())).respond(REQUEST)


def test_handler_of() -> None:
    """A handler is itself, routes become one, what is callable is the server's own."""
    handler = Handler()
    with lab() as process:
        assert handler is resolve_handler(handler, None)
        assert resolve_handler(len, None) is None
        assert isinstance(resolve_handler({}, process.durable), Application)
    with pytest.raises(ConfigurationError, match="durable="):
        resolve_handler({}, None)


@pytest.mark.parametrize("served", [5, None, object()])
def test_what_is_neither_an_endpoint_nor_routes(served: object) -> None:
    """The error says what a server takes."""
    with pytest.raises(ConfigurationError, match=r"serves an endpoint, or app\(durable, routes\)"):
        resolve_handler(served, None)


def test_an_endpoint_of_another_adapter() -> None:
    """It is an endpoint already: the advice is not to decorate it."""
    with pytest.raises(ConfigurationError, match="is for another kind of server"):
        check_callable(OtherApp(Handler()), "ASGI", 3)
    check_callable(OtherApp(Handler()), "WSGI", 2)


class OtherApp(AdapterApp):
    def __call__(self, environ: object, start_response: object) -> None:
        """Answer nothing: it is only looked at."""
