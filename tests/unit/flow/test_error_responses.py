"""Responses of errors: what ``exception_to_response`` makes of them, in handlers and in steps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import HTTPError, RetryAfterError, StepError
from durable_core.http.request import Request
from durable_core.http.response import Response
from support.harness import Lab, Ledger, lab, request


class FrameworkError(Exception):
    """An exception of a web framework: it stands for a response."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def translate(error: Exception) -> Response | None:
    """Return the response of a framework's exception, as a framework would."""
    if not isinstance(error, FrameworkError):
        return None
    body = json.dumps({"name": "é"}, ensure_ascii=False).encode() + b"\xff"
    return Response(status=error.status, headers=(("x-own", "1"), ("x-own", "2")), body=body)


def shape(response: Response) -> tuple[int, tuple[str, ...], object]:
    """Return what is the framework's own of a response."""
    return response.status, response.headers.get_all("x-own"), response.body


def shape_of(status: int) -> tuple[int, tuple[str, ...], object]:
    """Return what the framework makes of its exception with this status."""
    response = translate(FrameworkError(status))
    assert response is not None
    return shape(response)


def raise_framework_error(ledger: Ledger, status: int) -> None:
    """Do what a step does that raises a framework's exception."""
    ledger.fails("find", 99, FrameworkError(status), None)


async def raise_framework_error_async(ledger: Ledger, status: int) -> None:
    """The same, on the event loop."""
    ledger.fails("find", 99, FrameworkError(status), None)


def handler_of(
    ledger: Ledger, status: int, *, asynchronous: bool, slept: bool
) -> Callable[[Request], Any]:
    """Return a handler whose only step but a sleep raises."""

    def handler(request: Request) -> object:
        if slept:
            sync_step.sleep("nap", 0.01)
        return sync_step.run("find", raise_framework_error, ledger, status)

    async def handler_async(request: Request) -> object:
        if slept:
            await step.sleep("nap", 0.01)
        return await step.run("find", raise_framework_error_async, ledger, status)

    return handler_async if asynchronous else handler


def ask(process: Lab, handler: Any, **options: Any) -> Response:
    return process.call(process.endpoint(handler, exception_to_response=translate, **options))


@pytest.mark.parametrize("slept", [False, True], ids=["attached", "handed-off"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async-def"])
@pytest.mark.parametrize(
    ("status", "attempts"),
    [(404, 1), (422, 1), (302, 1), (408, 3), (425, 3), (429, 3), (500, 3), (503, 3)],
)
def test_exceptions_of_steps(status: int, attempts: int, asynchronous: bool, slept: bool) -> None:
    """A step whose exception is a response is called again only if the response says so.

    The client gets that response in the end.
    """
    ledger = Ledger()
    handler = handler_of(ledger, status, asynchronous=asynchronous, slept=slept)
    with lab() as process:
        response = ask(process, handler, retries=2)

    assert shape_of(status) == shape(response)
    assert attempts == len(ledger.calls)


def test_a_client_error_keeps_the_connection() -> None:
    """The client of a step's 404 gets it at once, without a redirect."""
    handler = handler_of(Ledger(), 404, asynchronous=False, slept=False)
    with lab() as process:
        endpoint = process.endpoint(handler, exception_to_response=translate)

        assert shape_of(404) == shape(endpoint.handle(request()))


@pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async-def"])
def test_replay_gives_the_same_response(asynchronous: bool) -> None:
    """The handler catches the error, sleeps, and raises it in the replay."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        try:
            return sync_step.run("find", raise_framework_error, ledger, 409)
        except StepError:
            sync_step.sleep("nap", 0.01)
            raise

    async def handler_async(request: Request) -> object:
        try:
            return await step.run("find", raise_framework_error_async, ledger, 409)
        except StepError:
            await step.sleep("nap", 0.01)
            raise

    with lab() as process:
        response = ask(process, handler_async if asynchronous else handler)

    assert shape_of(409) == shape(response)
    assert 1 == len(ledger.calls)


def test_a_caught_error_is_an_ordinary_step_error() -> None:
    """It has the name and the text of the original error."""

    def handler(request: Request) -> object:
        try:
            sync_step.run("find", raise_framework_error, Ledger(), 404)
        except StepError as error:
            return [error.step_id, error.name, error.message]
        return None

    with lab() as process:
        response = process.call(process.endpoint(handler, exception_to_response=translate))
    assert b'["find","FrameworkError","404"]' == response.body


def test_an_error_that_sets_its_delay_is_retried() -> None:
    """``RetryAfterError`` asks for another attempt, whatever response is made of it."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        return sync_step.run("a", ledger.fails, "a", 2, RetryAfterError("busy", 0), "done")

    with lab() as process:
        endpoint = process.endpoint(
            handler, exception_to_response=lambda error: Response.text("no", 404)
        )
        response = process.call(endpoint)
    assert b'"done"' == response.body
    assert 3 == len(ledger.calls)


def breaks(error: Exception) -> Response | None:
    raise LookupError("in the translation")


def streams(error: Exception) -> Response | None:
    return Response(status=404, body=iter((b"a", b"b")))


def makes_too_much(error: Exception) -> Response | None:
    return Response(status=404, body=b"x" * 65_537)


@pytest.mark.parametrize(
    ("translation", "name", "attempts"),
    [
        (breaks, "LookupError: in the translation", 2),
        (streams, "TypeError: exception_to_response made a streamed response", 2),
        (makes_too_much, "LimitExceededError: exception_to_response made", 1),
    ],
    ids=["breaks", "streams", "too-much"],
)
def test_a_translation_that_is_of_no_use(
    translation: Callable[[Exception], Response | None], name: str, attempts: int
) -> None:
    """Its own error is the step's, and says what is wrong."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        try:
            return sync_step.run("find", raise_framework_error, ledger, 404)
        except StepError as error:
            return f"{error.name}: {error.message}"

    with lab() as process:
        endpoint = process.endpoint(handler, exception_to_response=translation, retries=1)
        response = process.call(endpoint)
    assert isinstance(response.body, bytes)
    assert name in response.body.decode()
    assert attempts == len(ledger.calls)


def in_group(asynchronous_error: Exception, ledger: Ledger) -> Callable[[Request], Any]:
    """Return a handler whose task group ends by this error of one of its tasks."""

    async def fail() -> None:
        ledger.did("task", None)
        raise asynchronous_error

    async def handler(request: Request) -> object:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
        return None

    return handler


@pytest.mark.parametrize(
    ("error", "status"), [(HTTPError(404), 404), (FrameworkError(418), 418)], ids=["own", "other"]
)
def test_the_only_error_of_a_task_group(error: Exception, status: int) -> None:
    """A group with one member stands for that member, in a handler and in a step."""
    ledger = Ledger()
    grouped = in_group(error, ledger)

    async def handler(request: Request) -> object:
        return await step.run("group", grouped, request)

    with lab() as process:
        for each in (grouped, handler):
            endpoint = process.endpoint(
                each, exception_to_response=translate, function_id=each.__qualname__
            )

            assert status == endpoint.handle(request()).status
    assert 2 == len(ledger.calls)
