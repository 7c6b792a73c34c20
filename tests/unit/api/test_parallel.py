"""``step.parallel``: branches in threads and in tasks, and races."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import DuplicateStepIdError, StepError, StepUsageError
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.ports import RunRecord
from support.harness import FakeClock, Lab, Ledger, lab, request

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])


def decoded(response: Response) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def finish(handler: Callable[[Request], Any], process: Lab | None = None) -> Any:
    if process is not None:
        return decoded(process.call(process.endpoint(handler)))
    with lab() as process:
        return decoded(process.call(process.endpoint(handler)))


def record_of(process: Lab) -> RunRecord:
    [record] = process.records.list()
    return process.records.get(record.run.id)


def later(value: str, seconds: float) -> Callable[[], str]:
    """Return a function that takes so long."""

    def work() -> str:
        time.sleep(seconds)
        return value

    return work


class Meeting:
    """Functions that end only when all of them run at the same time."""

    def __init__(self, parties: int) -> None:
        self._threads = threading.Barrier(parties, timeout=10)

    def meet(self, value: int) -> int:
        """Wait for the others."""
        self._threads.wait()
        return value


# All


@both
def test_results_come_in_order_while_all_run(asynchronous: bool) -> None:
    """Branches run at the same time, without a handoff; each step is stored once."""
    meeting = Meeting(3)

    def sync(request: Request) -> object:
        def branch(n: int) -> int:
            return sync_step.run(f"b{n}", meeting.meet, n)

        return sync_step.parallel("all", lambda: branch(0), lambda: branch(1), lambda: branch(2))

    async def async_(request: Request) -> object:
        async def branch(n: int) -> int:
            return await step.run(f"b{n}", meeting.meet, n)

        return await step.parallel("all", lambda: branch(0), lambda: branch(1), lambda: branch(2))

    def as_list(handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        def plain(request: Request) -> object:
            return list(handler(request))

        async def coroutine(request: Request) -> object:
            return list(await handler(request))

        return coroutine if asynchronous else plain

    with lab() as process:
        response = process.endpoint(as_list(async_ if asynchronous else sync)).handle(request())
        assert [0, 1, 2] == decoded(response)
        assert 200 == response.status
        assert {"b0", "b1", "b2"} == {memo.op.name for memo in record_of(process).memos}


@both
@pytest.mark.parametrize("limit", [1, 2])
def test_limit(asynchronous: bool, limit: int) -> None:
    """At most so many branches run at a time, and all of them do."""
    lock, now, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1

    def sync(request: Request) -> int:
        branches = [lambda n=n: sync_step.run(f"b{n}", work) for n in range(5)]
        return len(sync_step.parallel("all", *branches, limit=limit))

    async def async_(request: Request) -> int:
        branches = [lambda n=n: step.run(f"b{n}", work) for n in range(5)]
        return len(await step.parallel("all", *branches, limit=limit))

    assert 5 == finish(async_ if asynchronous else sync)
    assert most == limit


@both
def test_branches_sleep_and_retry(asynchronous: bool) -> None:
    """A branch that waits unwinds the handler when the others have come as far as they can."""
    ledger = Ledger()

    def sync(request: Request) -> list[object]:
        def sleeper() -> str:
            sync_step.run("before", ledger.did, "before", None)
            sync_step.sleep("nap", 0.02)
            return sync_step.run("after", ledger.did, "after", "slept")

        def flaky() -> str:
            return sync_step.run("flaky", ledger.fails, "flaky", 2, ValueError("no"), "at last")

        def plain() -> str:
            return sync_step.run("plain", ledger.did, "plain", "done")

        return list(sync_step.parallel("all", sleeper, flaky, plain))

    async def async_(request: Request) -> list[object]:
        async def sleeper() -> str:
            await step.run("before", ledger.did, "before", None)
            await step.sleep("nap", 0.02)
            return await step.run("after", ledger.did, "after", "slept")

        async def flaky() -> str:
            return await step.run("flaky", ledger.fails, "flaky", 2, ValueError("no"), "at last")

        async def plain() -> str:
            return await step.run("plain", ledger.did, "plain", "done")

        return list(await step.parallel("all", sleeper, flaky, plain))

    assert ["slept", "at last", "done"] == finish(async_ if asynchronous else sync)
    assert {"before": 1, "after": 1, "flaky": 3, "plain": 1} == ledger.counts()


@both
def test_the_first_error_in_order_is_raised_at_the_end(asynchronous: bool) -> None:
    """All branches end; then the error of the first one that failed is raised."""
    ledger = Ledger()

    def sync(request: Request) -> str:
        def fails(name: str) -> Any:
            options = sync_step.options(retries=0)
            return options.run(name, ledger.fails, name, 9, ValueError(name), None)

        try:
            sync_step.parallel(
                "all",
                lambda: sync_step.run("good", ledger.did, "good", 1),
                lambda: fails("one"),
                lambda: fails("two"),
            )
        except StepError as error:
            return error.message
        return ""

    async def async_(request: Request) -> str:
        async def fails(name: str) -> Any:
            options = step.options(retries=0)
            return await options.run(name, ledger.fails, name, 9, ValueError(name), None)

        try:
            await step.parallel(
                "all",
                lambda: step.run("good", ledger.did, "good", 1),
                lambda: fails("one"),
                lambda: fails("two"),
            )
        except StepError as error:
            return error.message
        return ""

    assert "one" == finish(async_ if asynchronous else sync)
    assert {"good": 1, "one": 1, "two": 1} == ledger.counts()


@both
def test_one_id_in_two_branches(asynchronous: bool) -> None:
    """It is refused, also where one thread runs one branch after the other."""

    def sync(request: Request) -> str:
        same = [lambda: sync_step.run("same", int)] * 2
        try:
            sync_step.parallel("all", *same, limit=1)
        except DuplicateStepIdError:
            return "refused"
        return ""

    async def async_(request: Request) -> str:
        same = [lambda: step.run("same", int)] * 2
        try:
            await step.parallel("all", *same, limit=1)
        except DuplicateStepIdError:
            return "refused"
        return ""

    assert "refused" == finish(async_ if asynchronous else sync)


WHO: ContextVar[str] = ContextVar("who")


@both
def test_context_of_the_handler(asynchronous: bool) -> None:
    """Branches see what the handler has set; what they set is their own."""

    def sync(request: Request) -> list[str]:
        WHO.set("handler")

        def branch(n: int) -> str:
            seen = sync_step.run(f"b{n}", WHO.get)
            WHO.set(f"branch {n}")
            return seen

        return [*sync_step.parallel("all", lambda: branch(0), lambda: branch(1)), WHO.get()]

    async def async_(request: Request) -> list[str]:
        WHO.set("handler")

        async def branch(n: int) -> str:
            seen = await step.run(f"b{n}", WHO.get)
            WHO.set(f"branch {n}")
            return seen

        return [*await step.parallel("all", lambda: branch(0), lambda: branch(1)), WHO.get()]

    assert ["handler"] * 3 == finish(async_ if asynchronous else sync)


# Races


class Runners:
    """Functions of which one ends, and the others when they are let."""

    def __init__(self) -> None:
        self.late = threading.Event()
        self.began = threading.Barrier(3, timeout=10)

    def run(self, name: str, winner: str) -> str:
        """Wait for the others to begin; then end at once, or late."""
        self.began.wait()
        if name != winner:
            self.late.wait(20)
        return name


@both
@pytest.mark.parametrize("winner", ["a", "c"])
def test_race(asynchronous: bool, winner: str) -> None:
    """The first that returns wins; losers are stored as cancelled; a replay has the same winner."""
    runners, clock = Runners(), FakeClock()

    def sync(request: Request) -> list[str]:
        branches = [
            lambda name=name: sync_step.run(name, runners.run, name, winner) for name in "abc"
        ]
        first = sync_step.parallel("fastest", *branches, mode="race")
        sync_step.sleep("nap", "1h")
        return [first]

    async def async_(request: Request) -> list[str]:
        branches = [lambda name=name: step.run(name, runners.run, name, winner) for name in "abc"]
        first = await step.parallel("fastest", *branches, mode="race")
        await step.sleep("nap", "1h")
        return [first]

    with lab(clock=clock) as process:
        endpoint = process.endpoint(async_ if asynchronous else sync)
        assert [winner] == decoded(process.sleep_through(endpoint, clock))
        memos = {memo.op.name: memo for memo in record_of(process).memos}
    runners.late.set()
    losers = set("abc") - {winner}
    assert json.dumps({"winner": "abc".index(winner)}, separators=(",", ":")) == (
        memos["fastest"].value
    )
    assert dict.fromkeys(losers, False) == {name: memos[name].ok for name in losers}
    assert all("StepCancelled" in memos[name].value for name in losers)


@both
def test_race_with_a_sleep(asynchronous: bool) -> None:
    """A branch that sleeps loses against one that works, and does not hold the run up."""
    clock = FakeClock()

    def sync(request: Request) -> str:
        def work() -> str:
            return sync_step.run("work", later("worked", 0.02))

        def sleeper() -> str:
            sync_step.sleep("nap", "1h")
            return "slept"

        return sync_step.parallel("fastest", sleeper, work, mode="race")

    async def async_(request: Request) -> str:
        async def sleeper() -> str:
            await step.sleep("nap", "1h")
            return "slept"

        def work() -> Any:
            return step.run("work", later("worked", 0.02))

        return await step.parallel("fastest", sleeper, work, mode="race")

    with lab(clock=clock) as process:
        assert "worked" == finish(async_ if asynchronous else sync, process)


@both
def test_race_that_a_sleep_wins(asynchronous: bool) -> None:
    """When its time comes, the sleep wins against a wait that nothing answers."""
    clock = FakeClock()

    def sync(request: Request) -> str:
        def sleeper() -> str:
            sync_step.sleep("nap", "30m")
            return "slept"

        def waiter() -> str:
            sync_step.wait_for_event("wait", event="never", timeout="10h")
            return "waited"

        return sync_step.parallel("fastest", waiter, sleeper, mode="race")

    async def async_(request: Request) -> str:
        async def sleeper() -> str:
            await step.sleep("nap", "30m")
            return "slept"

        async def waiter() -> str:
            await step.wait_for_event("wait", event="never", timeout="10h")
            return "waited"

        return await step.parallel("fastest", waiter, sleeper, mode="race")

    with lab(clock=clock) as process:
        endpoint = process.endpoint(async_ if asynchronous else sync)
        assert "slept" == decoded(process.sleep_through(endpoint, clock))


@both
def test_the_loser_of_a_replay_is_no_change_of_the_code(asynchronous: bool) -> None:
    """A replay that decides a race may not come to the loser's stored step any more."""

    def sync(request: Request) -> object:
        short = partial(sync_step.sleep, "short", "1ms")
        long = partial(sync_step.wait_for_event, "long", event="nothing", timeout="1h")
        sync_step.parallel("first", short, long, mode="race")
        return "done"

    async def async_(request: Request) -> object:
        short = partial(step.sleep, "short", "1ms")
        long = partial(step.wait_for_event, "long", event="nothing", timeout="1h")
        await step.parallel("first", short, long, mode="race")
        return "done"

    with lab() as process:
        endpoint = process.endpoint(async_ if asynchronous else sync, on_mismatch="fail")
        assert "done" == decoded(process.follow(endpoint, endpoint.handle(request())))


@both
def test_failures_do_not_win(asynchronous: bool) -> None:
    """A branch that fails is out; if all fail, the error of the first one is raised."""
    ledger = Ledger()

    def sync(request: Request) -> str:
        def fails(name: str) -> str:
            options = sync_step.options(retries=0)
            return options.run(name, ledger.fails, name, 9, ValueError(name), "")

        def slow() -> str:
            return sync_step.run("slow", later("slow", 0.05))

        first = sync_step.parallel("one", lambda: fails("a"), slow, mode="race")
        try:
            sync_step.parallel("two", lambda: fails("b"), lambda: fails("c"), mode="race")
        except StepError as error:
            return f"{first} {error.message}"
        return ""

    async def async_(request: Request) -> str:
        async def fails(name: str) -> str:
            options = step.options(retries=0)
            return await options.run(name, ledger.fails, name, 9, ValueError(name), "")

        async def slow() -> str:
            return await step.run("slow", later("slow", 0.05))

        first = await step.parallel("one", lambda: fails("a"), slow, mode="race")
        try:
            await step.parallel("two", lambda: fails("b"), lambda: fails("c"), mode="race")
        except StepError as error:
            return f"{first} {error.message}"
        return ""

    assert "slow b" == finish(async_ if asynchronous else sync)


def test_a_coroutine_that_loses_is_cancelled() -> None:
    """Its task gets the cancellation before the handler goes on."""
    seen: list[str] = []

    async def slow() -> str:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return "late"

    async def quick() -> str:
        return "quick"

    async def handler(request: Request) -> list[str]:
        first = await step.parallel(
            "fastest", lambda: step.run("slow", slow), lambda: step.run("q", quick), mode="race"
        )
        return [first, *seen]

    assert ["quick", "cancelled"] == finish(handler)


def test_a_lost_branch_asks_for_no_further_step() -> None:
    """In its own code it goes on, but its next step ends it."""
    ledger, lost, go_on = Ledger(), threading.Event(), threading.Event()

    def loser() -> str:
        go_on.wait(10)
        try:
            return sync_step.run("late", ledger.did, "late", "late")
        finally:
            lost.set()

    def handler(request: Request) -> str:
        first = sync_step.parallel(
            "fastest", loser, lambda: sync_step.run("quick", ledger.did, "quick", "q"), mode="race"
        )
        go_on.set()
        assert lost.wait(10)
        return first

    assert "q" == finish(handler)
    assert {"quick": 1} == ledger.counts()


def test_fewer_branches_than_the_winner() -> None:
    """A replay by code that has lost the branch that won is refused, with the remedy."""
    first = [True]

    def handler(request: Request) -> Any:
        branches: list[Callable[[], Any]] = [
            lambda: sync_step.wait_for_event("e", event="never", timeout="1h"),
            lambda: sync_step.run("b", int),
        ]
        known = branches if first else branches[:1]
        first.clear()
        value = sync_step.parallel("fastest", *known, mode="race")
        sync_step.sleep("nap2", 0.01)
        return value

    with lab() as process:
        response = process.call(process.endpoint(handler))
    assert 500 == response.status
    assert b"is a race of 1 branches" in bytes(response.body)  # type: ignore[arg-type]


@both
def test_a_replay_calls_only_the_winner(asynchronous: bool) -> None:
    """The code of the losers does not run again."""
    ledger, clock = Ledger(), FakeClock()

    def sync(request: Request) -> str:
        def branch(name: str, seconds: float) -> str:
            ledger.did(name, None)
            return sync_step.run(name, later(name, seconds))

        first = sync_step.parallel(
            "fastest", lambda: branch("slow", 0.2), lambda: branch("fast", 0), mode="race"
        )
        sync_step.sleep("nap", "1h")
        return first

    async def async_(request: Request) -> str:
        async def branch(name: str, seconds: float) -> str:
            ledger.did(name, None)
            return await step.run(name, later(name, seconds))

        first = await step.parallel(
            "fastest", lambda: branch("slow", 0.2), lambda: branch("fast", 0), mode="race"
        )
        await step.sleep("nap", "1h")
        return first

    with lab(clock=clock) as process:
        endpoint = process.endpoint(async_ if asynchronous else sync)
        assert "fast" == decoded(process.sleep_through(endpoint, clock))
    assert {"slow": 1, "fast": 2} == ledger.counts()


# Bad input


@both
@pytest.mark.parametrize(
    ("branches", "options", "text"),
    [
        ((), {}, "give it at least one branch"),
        ((7,), {}, "a branch must be a function without arguments"),
        ((int,), {"mode": "some"}, "mode must be 'all' or 'race', not 'some'"),
        ((int,), {"limit": 0}, "limit must be an int of 1 or more, not 0"),
        ((int,), {"limit": True}, "limit must be an int of 1 or more, not True"),
    ],
    ids=["none", "no function", "mode", "zero", "bool"],
)
def test_bad_arguments(
    asynchronous: bool, branches: tuple[Any, ...], options: dict[str, Any], text: str
) -> None:
    """What cannot be is refused, with the step and the argument."""
    sync_any: Any = sync_step
    async_any: Any = step

    def sync(request: Request) -> str:
        try:
            sync_any.parallel("x", *branches, **options)
        except ValueError as error:
            return str(error)
        return ""

    async def async_(request: Request) -> str:
        try:
            await async_any.parallel("x", *branches, **options)
        except ValueError as error:
            return str(error)
        return ""

    answer = finish(async_ if asynchronous else sync)
    assert "step 'x': " in answer
    assert text in answer


def test_coroutine_in_place_of_a_branch() -> None:
    """A step that was called already is closed, and the error says how to write it."""

    steps: Any = step
    seen: list[str] = []

    async def handler(request: Request) -> None:
        try:
            await steps.parallel("x", steps.run("a", int))
        except ValueError as error:
            seen.append(str(error))
            raise

    with lab() as process:
        assert 500 == process.endpoint(handler).handle(request()).status
    [text] = seen
    assert "as in lambda: step.run(id, fn), not coroutine" in text


@pytest.mark.parametrize("mode", ["all", "race"])
def test_async_branches_of_a_def_handler(mode: Any) -> None:
    """Nobody would await them: the run fails at once, and no coroutine is taken for a result."""
    seen: list[str] = []

    async def branch() -> int:
        return 5

    def handler(request: Request) -> None:
        try:
            sync_step.parallel("x", branch, branch, mode=mode)
        except StepUsageError as error:
            seen.append(str(error))
            raise

    with lab() as process:
        assert 500 == process.endpoint(handler).handle(request()).status
    [text] = seen
    assert "step 'x': a branch is an async function" in text
