"""Which run a step belongs to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import StepUsageError
from durable_core.flow.scope import CURRENT_RUN
from durable_core.http.request import Request
from durable_core.http.response import Response
from support.harness import lab, request


def body_of(handler: Callable[[Request], Any]) -> str:
    """Run a handler to its end; give the text of its answer."""
    with lab() as process:
        response: Response = process.call(process.endpoint(handler, retries=0))
    assert isinstance(response.body, bytes)
    return response.body.decode()


def test_outside_a_run() -> None:
    """A step outside a run is an error that says where steps work."""
    for call in (
        lambda: sync_step.run("x", int),
        lambda: sync_step.sleep("x", 1),
        lambda: step.run("x", int),
        lambda: step.wait_for_event("x", event="e", timeout=1),
    ):
        with pytest.raises(StepUsageError, match="outside a run"):
            call()


def test_wrong_face() -> None:
    """The face for the other kind of handler is an error with the right import in it."""

    def sync(request: Request) -> object:
        return step.run("x", int)

    async def asynchronous(request: Request) -> object:
        return sync_step.run("x", int)

    assert "from durable_core.sync import step" in body_of(sync)
    assert "from durable_core import step" in body_of(asynchronous)


@pytest.mark.parametrize("where", ["function", "thread", "task"])
def test_step_in_a_step(where: str) -> None:
    """A step within a step's function is an error that names both."""

    def inner_sync() -> object:
        return sync_step.run("inner", int)

    async def inner() -> object:
        if where == "task":
            return await asyncio.create_task(_step())
        return await _step()

    async def _step() -> object:
        return await step.run("inner", int)

    def sync(request: Request) -> object:
        return sync_step.run("outer", inner_sync)

    async def asynchronous(request: Request) -> object:
        return await step.run("outer", inner)

    def thread_function() -> object:
        return step.run("inner", int)

    async def with_thread(request: Request) -> object:
        return await step.run("outer", thread_function)

    handlers: dict[str, list[Callable[[Request], Any]]] = {
        "function": [sync, asynchronous],
        "thread": [with_thread],
        "task": [asynchronous],
    }
    for handler in handlers[where]:
        text = body_of(handler)
        assert "inner" in text
        assert "inside step 'outer'" in text


def test_thread_without_the_context() -> None:
    """A thread that does not carry the handler's context is outside the run."""
    caught: list[Exception] = []

    def elsewhere() -> None:
        try:
            sync_step.run("x", int)
        except StepUsageError as error:
            caught.append(error)

    def handler(request: Request) -> object:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(10)
        return None

    assert "null" == body_of(handler)
    assert len(caught) == 1


def test_nothing_is_left_behind() -> None:
    """After a request the thread that served it is outside any run again."""

    def handler(request: Request) -> object:
        return sync_step.run("x", int)

    with lab() as process:
        process.endpoint(handler).handle(request())
    assert CURRENT_RUN.get() is None
    with pytest.raises(StepUsageError):
        sync_step.run("x", int)
