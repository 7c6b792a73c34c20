"""The WSGI application, with handlers that are not the core's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIEnvironment
from wsgiref.util import setup_testing_defaults

import pytest

from durable_core import Durable, HTTPError, Limits, Request, Response
from durable_core.api.adapter import EngineLifecycle
from durable_wsgi import WSGIApp, app
from durable_wsgi._app import durables_of
from support.wsgi_sample import make_durable


class FakeEngine:
    """An engine that does nothing."""

    limits = Limits(body=8)

    def start(self, *, server_threads: int | None = None) -> None:
        pass

    def drain(self) -> None:
        pass

    def stop(self, timeout: float) -> None:
        pass

    def run_on_background_loop(self, awaitable: Any) -> Any:
        raise AssertionError("there is nothing to be awaited")


class FakeHandler:
    """A handler that does what it is told to."""

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        self.engine: EngineLifecycle = FakeEngine()
        self.max_waits: list[float] = []
        self._answer = answer

    def handle(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        self.max_waits.append(max_wait)
        return self._answer(request)

    async def handle_async(
        self, request: Request, *, max_wait: float = 25.0, route: str | None = None
    ) -> Response:
        raise AssertionError("WSGI is synchronous")


def failing(error: BaseException) -> FakeHandler:
    def answer(request: Request) -> Response:
        raise error

    return FakeHandler(answer)


def call(application: WSGIApp, **changes: Any) -> tuple[str, dict[str, str], bytes]:
    """Call the application; return status, headers and body."""
    environ: WSGIEnvironment = {"PATH_INFO": "/x", **changes}
    environ = {key.replace("wsgi_", "wsgi."): value for key, value in environ.items()}
    setup_testing_defaults(environ)
    said: list[tuple[str, Sequence[tuple[str, str]]]] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: object = None, /
    ) -> Callable[[bytes], object]:
        said.append((status, headers))
        return lambda data: None

    body: Iterable[bytes] = application(environ, start_response)
    ((status, headers),) = said
    return status, dict(headers), b"".join(body)


def test_answer_of_the_handler() -> None:
    """The handler's response is what the server gets."""
    handler = FakeHandler(lambda request: Response.text(request.path, 201, {"x-own": "1"}))
    application = WSGIApp(handler)

    status, headers, body = call(application)

    assert ("201 Created", "1", b"/x") == (status, headers["x-own"], body)
    assert application.endpoint is handler


@pytest.mark.parametrize(("multithread", "max_wait"), [(True, 25.0), (False, 2.0), (0, 2.0)])
def test_max_wait(multithread: object, max_wait: float) -> None:
    """A server that answers one request at a time lets clients wait for a short time only."""
    handler = FakeHandler(lambda request: Response())
    call(WSGIApp(handler), wsgi_multithread=multithread)

    assert [max_wait] == handler.max_waits


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"CONTENT_LENGTH": "9"}, "413"), ({"CONTENT_LENGTH": "x"}, "400"), ({"HTTP_X": "\0"}, "400")],
)
def test_bad_request(changes: dict[str, str], status: str) -> None:
    """What the adapter refuses never reaches the handler; the limit is the application's."""
    handler = FakeHandler(lambda request: Response())
    line, headers, _ = call(WSGIApp(handler), **changes)

    assert (status, "application/problem+json", []) == (
        line[:3],
        headers["content-type"],
        handler.max_waits,
    )


def test_http_error() -> None:
    """An HTTPError that the handler lets pass becomes its response."""
    status, headers, _ = call(WSGIApp(failing(HTTPError(409, "no", {"x-own": "1"}))))

    assert ("409 Conflict", "1") == (status, headers["x-own"])


def test_unexpected_exception(caplog: pytest.LogCaptureFixture) -> None:
    """Any other exception becomes a 500 without details, and is logged with its traceback."""
    with caplog.at_level(logging.ERROR, "durable.wsgi"):
        status, headers, body = call(
            WSGIApp(failing(ZeroDivisionError("secret"))), QUERY_STRING="durable-token=secret"
        )

    assert ("500", "application/problem+json") == (status[:3], headers["content-type"])
    assert b"secret" not in body
    (record,) = caplog.records
    assert "GET /x failed" == record.message
    assert record.exc_info is not None
    assert ZeroDivisionError is record.exc_info[0]


def test_one_failure_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A client cannot write lines of its own into it."""
    with caplog.at_level(logging.ERROR, "durable.wsgi"):
        call(WSGIApp(failing(ValueError())), PATH_INFO="/x\nERROR made up")

    assert ["GET /x%0AERROR%20made%20up failed"] == caplog.messages


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_exits_pass(error: type[BaseException]) -> None:
    """What ends a process is no failed request."""
    with pytest.raises(error):
        call(WSGIApp(failing(error())))


def test_head_has_no_body() -> None:
    """The body of the answer to HEAD is left out, also that of an error."""
    found = call(WSGIApp(FakeHandler(lambda request: Response.text("long"))), REQUEST_METHOD="HEAD")
    failed = call(WSGIApp(failing(HTTPError(404))), REQUEST_METHOD="HEAD")

    assert (b"", "4") == (found[2], found[1]["content-length"])
    assert (b"", "404 Not Found") == (failed[2], failed[0])


def test_durables() -> None:
    """An application shows what is to be started with it; other callables may, too."""
    handler = FakeHandler(lambda request: Response())

    class Foreign:
        durables = [handler.engine]  # noqa: RUF012 - as a user would write it

    assert (handler.engine,) == WSGIApp(handler).durables == durables_of(WSGIApp(handler))
    assert (handler.engine,) == durables_of(Foreign())
    assert () == durables_of(object())


def test_routes(tmp_path: Path) -> None:
    """``app`` answers by the core's router, and knows whose application it is."""
    durable: Durable[WSGIApp] = make_durable(tmp_path / "db")
    routes = app(durable, {"GET /x": lambda request: "found"})

    assert b'"found"' == call(routes)[2]
    assert "404 Not Found" == call(routes, PATH_INFO="/y")[0]
    assert (durable.engine,) == routes.durables
