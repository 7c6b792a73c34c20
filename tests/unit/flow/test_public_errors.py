"""What clients see of the errors of an application."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from durable_core.api.step import sync_step
from durable_core.errors import HTTPError, NonRetriableError, StepError
from durable_core.http.request import Request
from support.harness import lab

SECRET = "https://api.example.com/?api_key=sk_live_x"


def in_step(error: Exception) -> Callable[[Request], None]:
    def fails() -> None:
        raise error

    def handler(request: Request) -> None:
        sync_step.run("charge", fails)

    return handler


def in_handler(error: Exception) -> Callable[[Request], None]:
    def handler(request: Request) -> None:
        sync_step.run("before", int)
        raise error

    return handler


def document_of(handler: Callable[[Request], None], *, debug: bool) -> dict[str, Any]:
    with lab(debug=debug) as process:
        body = process.call(process.endpoint(handler, retries=0)).body
    assert isinstance(body, bytes)
    shown: dict[str, Any] = json.loads(body)
    return shown


@pytest.mark.parametrize("place", [in_step, in_handler])
@pytest.mark.parametrize("error", [ConnectionError(SECRET), NonRetriableError(SECRET)])
def test_the_text_of_an_error_stays_inside(
    place: Callable[[Exception], Callable[[Request], None]],
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client gets type, status, run id and a neutral detail; the log has it all."""
    shown = document_of(place(error), debug=False)

    assert {"type", "title", "status", "detail", "run_id"} == shown.keys()
    assert "sk_live_x" not in json.dumps(shown)
    assert "sk_live_x" in caplog.text


@pytest.mark.parametrize("place", [in_step, in_handler])
def test_debug_shows_the_error(place: Callable[[Exception], Callable[[Request], None]]) -> None:
    """With ``debug=True`` the document has the error and where it was raised."""
    shown = document_of(place(ConnectionError("no route")), debug=True)

    assert "no route" in shown["detail"]
    assert "Traceback" in shown["traceback"]


@pytest.mark.parametrize("place", [in_step, in_handler])
def test_what_an_error_says_to_the_client(
    place: Callable[[Exception], Callable[[Request], None]],
) -> None:
    """``public=`` of the error is the detail, also of one that a step has raised."""
    error = NonRetriableError(SECRET, public="the card was declined")

    assert "the card was declined" == document_of(place(error), debug=False)["detail"]


@pytest.mark.parametrize("place", [in_step, in_handler])
def test_an_http_error_is_for_the_client(
    place: Callable[[Exception], Callable[[Request], None]],
) -> None:
    """The detail of an ``HTTPError`` is shown as it is."""
    shown = document_of(place(HTTPError(409, "no seat left")), debug=False)

    assert "no seat left" == shown["detail"]


def test_what_a_step_error_says_can_be_set() -> None:
    """A handler that catches a StepError may address it to the client, and raise it again."""

    def handler(request: Request) -> None:
        try:
            in_step(ConnectionError(SECRET))(request)
        except StepError as error:
            error.public = "the bank does not answer"
            raise

    assert "the bank does not answer" == document_of(handler, debug=False)["detail"]
