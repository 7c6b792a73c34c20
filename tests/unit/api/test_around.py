"""``Durable(around=...)``: a context for each execution of a handler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.http.request import Request
from support.harness import FakeClock, lab, request

TENANT: ContextVar[str] = ContextVar("tenant")


def handler(request: Request) -> list[str]:
    before = sync_step.run("a", TENANT.get)
    sync_step.sleep("nap", "1h")
    return [before, sync_step.run("b", TENANT.get), TENANT.get()]


async def async_handler(request: Request) -> list[str]:
    before = await step.run("a", TENANT.get)
    await step.sleep("nap", "1h")
    return [before, await step.run("b", TENANT.get), TENANT.get()]


@pytest.mark.parametrize(
    ("face", "asynchronous"), [(handler, False), (async_handler, False), (async_handler, True)]
)
def test_each_execution_has_its_context(face: Any, asynchronous: bool) -> None:
    """The first one and the replay alike: what it sets is there, and it is left at the end."""
    told: list[str] = []

    @contextmanager
    def plain(request: Request) -> Iterator[None]:
        token = TENANT.set(request.query["tenant"])
        told.append("entered")
        try:
            yield
        finally:
            TENANT.reset(token)
            told.append("left")

    @asynccontextmanager
    async def around_async(request: Request) -> AsyncIterator[None]:
        with plain(request):
            yield

    clock = FakeClock()
    with lab(clock=clock, around=around_async if asynchronous else plain) as process:
        endpoint = process.endpoint(face)
        last = process.sleep_through(endpoint, clock, asked=request("/it?tenant=ada"))

    assert b'["ada","ada","ada"]' == last.body
    assert ["entered", "left"] * 2 == told


def test_an_asynchronous_one_is_not_for_def_handlers() -> None:
    """The run fails with an error that says so."""

    @asynccontextmanager
    async def around(request: Request) -> AsyncIterator[None]:
        yield

    with lab(around=around) as process:
        answer = process.endpoint(handler, retries=0).handle(request())

    assert isinstance(answer.body, bytes)
    assert b"must return a context manager with __enter__" in answer.body
