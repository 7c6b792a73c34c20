"""``push`` and ``pipe``, as code inside and outside runs calls them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.api.stream import stream, sync_stream
from durable_core.errors import NonRetriableError
from durable_core.http.request import Request
from support.harness import lab
from support.streams import asks_stream, read


def test_outside_a_run() -> None:
    """Nothing happens, and nothing is read."""
    stream.push({"a": 1})
    sync_stream.push(object())

    def never() -> Any:
        raise AssertionError("it was called")

    assert "" == sync_stream.pipe(never)
    assert "" == asyncio.run(stream.pipe(never))


@pytest.mark.parametrize("value", [object(), (1, 2), {1: 2}, float("nan"), b"x"])
def test_what_json_cannot_hold(value: object) -> None:
    """It is refused where it is pushed, with a reason."""
    caught: list[TypeError] = []

    def push() -> int:
        try:
            sync_stream.push(value)
        except TypeError as error:
            caught.append(error)
        return 1

    with lab() as process:
        told = read(
            process.endpoint(lambda request: sync_step.run("a", push)).handle(asks_stream())
        )

    assert ["meta", "commit a", "redirect", "200: 1"] == told
    assert "what is pushed cannot be sent: $" in str(caught[0])


def test_pipe_returns_the_text() -> None:
    """It is the step's result; each chunk is an event of that step."""

    async def generate() -> AsyncIterator[bytes]:
        whole = "h\u00e9llo \N{SNOWMAN}".encode()
        for index in range(len(whole)):
            yield whole[index : index + 1]

    async def handler(request: Request) -> object:
        return await step.run("a", stream.pipe, generate)

    with lab() as process:
        told = read(process.endpoint(handler).handle(asks_stream()))

    assert '200: "h\u00e9llo \N{SNOWMAN}"' == told[-1]
    assert ["h", "\u00e9", "l", "l", "o", " ", "\N{SNOWMAN}"] == [
        event[3:] for event in told if event.startswith("a: ")
    ]


def test_pipe_in_def_handlers_and_plain_steps() -> None:
    """The plain face works in ``def`` handlers and in plain functions of ``async def`` ones."""

    async def handler(request: Request) -> object:
        return await step.run("a", sync_stream.pipe, io.BytesIO(b"ab"))

    with lab() as process:
        asynchronous = read(process.endpoint(handler).handle(asks_stream()))
        plain = read(
            process.endpoint(
                lambda request: sync_step.run("a", sync_stream.pipe, ["a", "b"]), function_id="2"
            ).handle(asks_stream())
        )

    assert ["meta", "a: ab", "commit a", "redirect", '200: "ab"'] == asynchronous
    assert ["meta", "a: a", "a: b", "commit a", "redirect", '200: "ab"'] == plain


def test_order_of_push_and_pipe() -> None:
    """What a step pushes and pipes comes in the order of the calls."""

    async def mixed() -> int:
        stream.push(1)
        await stream.pipe(["x"])
        stream.push(2)
        return 1

    async def handler(request: Request) -> object:
        return await step.run("a", mixed)

    with lab() as process:
        told = read(process.endpoint(handler).handle(asks_stream()))

    assert ["a: 1", "a: x", "a: 2"] == told[1:4]


def test_a_source_that_fails() -> None:
    """Its error is the step's; what was piped is rolled back."""

    def source() -> Any:
        yield "a"
        raise NonRetriableError("no more")

    with lab() as process:
        told = read(
            process.endpoint(lambda request: sync_step.run("a", sync_stream.pipe, source)).handle(
                asks_stream()
            )
        )

    assert ["meta", "a: a", "rollback a", "redirect", 'failed 500: "no more"'] == told


def test_threads_and_tasks_of_a_step() -> None:
    """They push for the step while it runs, and for nobody afterwards."""
    go_on = asyncio.Event()

    async def left_behind() -> None:
        await go_on.wait()
        stream.push("too late")

    tasks: list[asyncio.Task[None]] = []

    async def busy() -> int:
        tasks.append(asyncio.create_task(left_behind()))
        await asyncio.to_thread(stream.push, "from a thread")
        return 1

    async def handler(request: Request) -> object:
        result = await step.run("a", busy)
        go_on.set()
        await asyncio.gather(*tasks)
        return result

    with lab() as process:
        told = read(process.endpoint(handler).handle(asks_stream()))

    assert ["meta", "a: from a thread", "commit a", "redirect", "200: 1"] == told
