"""What is not deterministic shows when everything is replayed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

import pytest

from durable_core import Request, step
from durable_core.errors import NotDeterministicError
from durable_core.sync import step as sync_step
from durable_core.testing.harnesses import harness
from support.harness_sample import plain_app

Handler = Callable[[Request], Coroutine[Any, Any, object] | object]


def replayed(handler: Handler) -> object:
    """Run a handler in a harness that replays everything; return what it answers."""
    durable = plain_app()
    endpoint = durable.endpoint(handler)
    with harness(durable) as t:
        t.replay_everything()
        return t.client(endpoint).get("/it", follow=True).json()


def changing_ids() -> Handler:
    numbers = count()

    def handler(request: Request) -> None:
        sync_step.run("first", int)
        sync_step.run(f"charge-{next(numbers)}", int)
        sync_step.run("last", int)

    return handler


def changing_ids_async() -> Handler:
    numbers = count()

    async def handler(request: Request) -> None:
        await step.run("first", int)
        await step.run(f"charge-{next(numbers)}", int)

    return handler


def changing_sleeps() -> Handler:
    numbers = count()

    def handler(request: Request) -> None:
        sync_step.sleep(f"charge-{next(numbers)}", 0)
        sync_step.sleep("last", "1s")

    return handler


def changing_branches() -> Handler:
    numbers = count()

    async def branch() -> None:
        await step.run(f"charge-{next(numbers)}", int)

    async def handler(request: Request) -> None:
        await asyncio.gather(branch(), step.run("other", int))

    return handler


@pytest.mark.parametrize(
    ("make", "missing", "instead"),
    [
        (changing_ids, "charge-0", "step 'charge-1' was instead"),
        (changing_ids_async, "charge-0", "step 'charge-1' was instead"),
        (changing_sleeps, "charge-0", "step 'charge-1' was instead"),
        (changing_branches, "charge-0", "others were instead"),
    ],
)
def test_changing_ids_are_found(make: Callable[[], Handler], missing: str, instead: str) -> None:
    """The error names the step that was not asked for again, and what was."""
    with pytest.raises(NotDeterministicError) as found:
        replayed(make())

    text = str(found.value)
    assert text.startswith(
        f"GET /it is not deterministic: when it was replayed, step {missing!r} was not asked for "
        f"again, {instead}."
    )


def test_a_step_that_is_left_out_is_found() -> None:
    """Also if no other step comes after it."""
    calls = count()

    def handler(request: Request) -> int:
        if next(calls) == 0:
            sync_step.run("only-once", int)
        return 1

    with pytest.raises(NotDeterministicError, match="'only-once' was not asked for again, the han"):
        replayed(handler)


def test_the_error_cannot_be_caught_by_the_handler() -> None:
    """A handler that catches everything is unwound all the same."""
    numbers = count()

    def handler(request: Request) -> int:
        for _ in range(3):
            try:
                sync_step.run(f"charge-{next(numbers)}", int)
            except Exception:
                return 1
        return 2

    with pytest.raises(NotDeterministicError):
        replayed(handler)


def test_parallel_branches_are_no_error() -> None:
    """Branches that do not keep in step, and one that is slow between its steps, are fine."""

    async def branch(name: str, steps: int) -> list[str]:
        done = []
        for index in range(steps):
            for _ in range(50 * index):
                await asyncio.sleep(0)
            done.append(await step.run(f"{name}{index}", str.upper, name))
        return done

    async def handler(request: Request) -> list[list[str]]:
        first = await step.run("first", str)
        branches = await asyncio.gather(branch("a", 4), branch("b", 2), branch("c", 1))
        return [[first], *branches]

    assert [[""], ["A"] * 4, ["B"] * 2, ["C"]] == replayed(handler)


def test_repeated_ids_and_caught_failures_are_no_error() -> None:
    """Loops over one id, and a step that fails for good, are replayed as they were."""
    calls: list[int] = []

    def save(item: int) -> int:
        calls.append(item)
        if item == 2:
            raise ValueError(item)
        return item

    async def handler(request: Request) -> list[object]:
        saved: list[object] = []
        for item in range(4):
            try:
                saved.append(await step.run("save", save, item))
            except Exception as error:
                saved.append(type(error).__name__)
        await step.sleep("nap", "1h")
        return saved

    assert [0, 1, "StepError", 3] == replayed(handler)
    assert [0, 1, 2, 2, 2, 2, 3] == calls


def test_without_it_nothing_is_looked_for() -> None:
    """A handler that is not deterministic runs as it would."""
    durable = plain_app()
    endpoint = durable.endpoint(changing_ids())
    with harness(durable) as t:
        t.crash_after("first")
        assert 200 == t.client(endpoint).get("/", follow=True).status
