"""Runs of ``async def`` handlers: parking, putting away, replaying."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.api.step import step
from durable_core.errors import NonRetriableError, StepCancelled, StepError, StoreBusyError
from durable_core.flow.driver import drive_async
from durable_core.flow.effects import Effect, Flow, Park
from durable_core.flow.execution import ExecutionState
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Phase
from durable_core.ports import Write
from durable_core.runners.task import TaskRun
from durable_core.stores.memory import MemoryStore
from support.harness import FakeClock, Lab, Ledger, event, lab, request, until, until_async

Handler = Callable[[Request], Any]


def finish(handler: Handler, ledger: Ledger, **options: Any) -> Response:
    """Run it to its end in one process."""
    with lab() as process:
        return process.call(process.endpoint(handler, **options))


def body_of(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


# Branches


def test_gather_replays_right() -> None:
    """Branches that sleep and go on meet again with their own results, each step run once."""
    ledger = Ledger()

    async def branch(name: str) -> list[str]:
        first = await step.run(f"{name}1", ledger.did, f"{name}1", f"{name}1")
        await step.sleep(f"{name}-nap", 0.03)
        return [first, await step.run(f"{name}2", ledger.did_async, f"{name}2", f"{name}2")]

    async def handler(request: Request) -> object:
        return await asyncio.gather(branch("a"), branch("b"))

    assert b'[["a1","a2"],["b1","b2"]]' == body_of(finish(handler, ledger))
    assert {"a1": 1, "a2": 1, "b1": 1, "b2": 1} == ledger.counts()


def test_task_group_replays_right() -> None:
    """The same in a TaskGroup, with a retry in one branch and a wait in another."""
    ledger = Ledger()

    async def handler(request: Request) -> object:
        async with asyncio.TaskGroup() as group:
            flaky = group.create_task(
                step.run("flaky", ledger.fails, "flaky", 2, ValueError("no"), "done")
            )
            heard = group.create_task(step.wait_for_event("w", event="never", timeout=0.04))
            other = group.create_task(step.run("other", ledger.did, "other", "other"))
        return [flaky.result(), heard.result(), other.result()]

    assert b'["done",null,"other"]' == body_of(finish(handler, ledger))
    assert {"flaky": 3, "other": 1} == ledger.counts()


def test_return_exceptions_does_not_swallow() -> None:
    """``gather(return_exceptions=True)`` sees step errors, and never what puts a handler away."""
    ledger = Ledger()

    async def handler(request: Request) -> object:
        results = await asyncio.gather(
            step.run("bad", ledger.fails, "bad", 9, NonRetriableError("never"), None),
            step.sleep("nap", 0.03),
            step.run("good", ledger.did, "good", 1),
            return_exceptions=True,
        )
        return [type(each).__name__ for each in results]

    assert b'["StepError","NoneType","int"]' == body_of(finish(handler, ledger))
    assert {"bad": 1, "good": 1} == ledger.counts()


def test_sibling_goes_on_while_one_is_parked() -> None:
    """While a branch sleeps for long, its sibling takes all its steps in the same execution."""
    ledger = Ledger()
    done = threading.Event()

    async def sleeper() -> None:
        await step.sleep("long", "1h")

    async def worker() -> None:
        for n in range(5):
            await step.run(f"w{n}", ledger.did_async, f"w{n}", n)
            await asyncio.sleep(0)
        done.set()

    async def handler(request: Request) -> None:
        await asyncio.gather(sleeper(), worker())

    with lab() as process:
        first = process.endpoint(handler).handle(request())
        assert first.status == 302
        assert done.wait(5)
        [record] = until(process.records.list)
        until(lambda: process.records.get(record.run.id).run.phase is Phase.SUSPENDED)
    assert {f"w{n}": 1 for n in range(5)} == ledger.counts()


def test_client_is_let_go_while_steps_run() -> None:
    """A client is handed off when a branch parks, though a step of a sibling still runs."""
    release = threading.Event()
    ledger = Ledger()

    def slow() -> int:
        assert release.wait(5)
        return ledger.did("slow", 1)

    async def handler(request: Request) -> object:
        _, slow_result = await asyncio.gather(step.sleep("nap", 0.01), step.run("slow", slow))
        return slow_result

    with lab() as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        assert first.status == 302
        assert [] == ledger.calls
        release.set()
        assert b"1" == body_of(process.follow(endpoint, first))
    assert ["slow"] == ledger.calls


def test_memos_resolve_in_the_order_they_were_made() -> None:
    """A race that one branch won is won by the same branch in every replay."""
    order: list[list[str]] = []

    async def handler(request: Request) -> object:
        arrived: list[str] = []

        async def branch(name: str, delay: float) -> None:
            async def work() -> None:
                await asyncio.sleep(delay)

            await step.run(name, work)
            arrived.append(name)

        await asyncio.gather(branch("slow", 0.06), branch("quick", 0.0), branch("middle", 0.02))
        order.append(arrived)
        await step.sleep("nap", "1h")
        return arrived

    clock = FakeClock()
    with lab(clock=clock) as process:
        response = process.sleep_through(process.endpoint(handler), clock)
    assert b'["quick","middle","slow"]' == body_of(response)
    assert [["quick", "middle", "slow"]] * 2 == order


# Cancellation by user code


@asynccontextmanager
async def anyio_timeout(seconds: float) -> AsyncIterator[None]:
    with anyio.fail_after(seconds):
        yield


TIMEOUTS: dict[str, Callable[[float], AbstractAsyncContextManager[object]]] = {
    "asyncio": asyncio.timeout,
    "anyio": anyio_timeout,
}


@pytest.mark.parametrize("library", TIMEOUTS)
def test_step_cancelled_by_a_timeout(library: str) -> None:
    """A step cut off by a timeout is failed for good, and a replay finds it so."""
    ledger = Ledger()
    seen: list[list[type]] = []

    async def slow() -> None:
        ledger.did("slow", None)
        await asyncio.sleep(30)

    async def handler(request: Request) -> object:
        caught: list[type] = []
        try:
            async with TIMEOUTS[library](0.02):
                await step.run("slow", slow)
        except TimeoutError as error:
            caught.append(type(error))
        seen.append(caught)
        await step.sleep("nap", "1h")
        return await step.run("after", ledger.did, "after", "end")

    clock = FakeClock()
    with lab(clock=clock) as process:
        response = process.sleep_through(process.endpoint(handler), clock)
    assert b'"end"' == body_of(response)
    assert [[TimeoutError], [StepCancelled]] == seen
    assert ["slow", "after"] == ledger.calls
    assert issubclass(StepCancelled, StepError)


@pytest.mark.parametrize("kind", ["sleep", "wait"])
@pytest.mark.parametrize("library", TIMEOUTS)
def test_timeout_around_a_sleep_or_wait_is_refused(library: str, kind: str) -> None:
    """A timeout around a sleep or a wait fails the run and names the step's own ``timeout``."""

    async def handler(request: Request) -> None:
        async with TIMEOUTS[library](0.02):
            if kind == "sleep":
                await step.sleep("held", "1h")
            else:
                await step.wait_for_event("held", event="x", timeout="1h")

    from durable_core.runners.settings import Settings

    with lab(settings=Settings()) as process:
        response = process.call(process.endpoint(handler))
    assert 500 == response.status
    assert b"WaitInterruptedError" in body_of(response)
    assert b"timeout=" in body_of(response)
    assert b"'held'" in body_of(response)


def _due_at(process: Lab) -> int:
    """Return when the only run is due, 0 while it is live."""
    [record] = process.records.list()
    return record.due_at or 0


@pytest.mark.parametrize("loser", ["sleep", "wait"])
def test_a_race_is_decided_once(loser: str) -> None:
    """A loser that is cancelled by hand stays out of it in every replay, when it is due, too."""
    ledger, seen, clock = Ledger(), [], FakeClock()

    async def held() -> object:
        if loser == "sleep":
            await step.sleep("held", "1h")
            return None
        return await step.wait_for_event("held", event="x", timeout="1h")

    async def handler(request: Request) -> object:
        winner = asyncio.create_task(step.run("work", ledger.did_async, "work", 1))
        tasks = {asyncio.create_task(held()), winner}
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        seen.append((done == {winner}, [each.cancelled() for each in others]))
        await step.run("after", ledger.did, "after", 1)
        await step.sleep("nap", "2h")
        await step.sleep("another", "2h")
        return "end"

    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        for nap in range(2):
            until(lambda n=nap: len(seen) > n and _due_at(process))  # type: ignore[misc]
            assert _due_at(process) - clock.now() > 3_600_000  # not when the loser would be
            clock.advance(7200)
            process.poke()
        assert b'"end"' == body_of(process.follow(endpoint, first))
    assert [(True, [True])] * 3 == seen
    assert ["work", "after"] == ledger.calls


def test_a_race_that_the_sleep_wins() -> None:
    """The winner is the one that finished first; replay sees it alone, as the first run did."""
    ledger, seen, clock = Ledger(), [], FakeClock()

    async def handler(request: Request) -> object:
        nap = asyncio.create_task(step.sleep("nap", "1h"))
        answer = asyncio.create_task(step.wait_for_event("answer", event="x", timeout="90m"))
        done, others = await asyncio.wait({nap, answer}, return_when=asyncio.FIRST_COMPLETED)
        for each in others:
            each.cancel()
        seen.append(done == {nap})
        await step.run("after", ledger.did, "after", 1)
        await step.sleep("another", "1h")
        return "end"

    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        assert b'"end"' == body_of(process.sleep_through(endpoint, clock, naps=2))
    assert [True, True] == seen
    assert ["after"] == ledger.calls


def test_failing_sibling_ends_a_sleeping_branch() -> None:
    """In a TaskGroup, a step that fails for good ends a branch that sleeps; it may be caught."""
    ledger = Ledger()

    async def handler(request: Request) -> object:
        names: list[str] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(step.sleep("nap", "1h"))
                group.create_task(
                    step.run("bad", ledger.fails, "bad", 9, NonRetriableError("no"), None)
                )
        except* StepError as errors:
            names += [type(error).__name__ for error in errors.exceptions]
        return [names, await step.run("after", ledger.did, "after", 1)]

    assert b'[["StepError"],1]' == body_of(finish(handler, ledger))
    assert {"bad": 1, "after": 1} == ledger.counts()


def test_failing_sibling_after_retries_ends_a_sleeping_branch() -> None:
    """The same when the step fails for good in a later execution."""
    ledger = Ledger()

    async def handler(request: Request) -> object:
        caught = "nothing"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(step.sleep("nap", "1h"))
                group.create_task(step.run("bad", ledger.fails, "bad", 9, ValueError("no"), None))
        except* StepError:
            caught = "caught"
        return caught

    assert b'"caught"' == body_of(finish(handler, ledger, retries=2))
    assert {"bad": 3} == ledger.counts()


# Ids


async def _one(value: int) -> int:
    return value


def test_one_id_in_a_gather() -> None:
    """One id for all members of a gather works: the calls come from one task."""
    ledger = Ledger()

    async def handler(request: Request) -> object:
        saved = await asyncio.gather(*[step.run("save", ledger.did, f"s{n}", n) for n in range(4)])
        await step.sleep("nap", 0.01)
        return saved

    assert b"[0,1,2,3]" == body_of(finish(handler, ledger))
    assert {f"s{n}": 1 for n in range(4)} == ledger.counts()


@pytest.mark.parametrize("first", ["a", "b"])
def test_one_id_from_two_tasks(first: str) -> None:
    """One id from two tasks is refused, whichever asks first, and the id is named."""

    async def branch(name: str, begun: asyncio.Event) -> None:
        if name == first:
            await step.run("save", begun.set)
        else:
            await begun.wait()
            await step.run("save", begun.set)

    async def handler(request: Request) -> None:
        begun = asyncio.Event()
        await asyncio.gather(branch("a", begun), branch("b", begun))

    response = finish(handler, Ledger())
    assert 500 == response.status
    assert b"DuplicateStepIdError" in body_of(response)
    assert b"'save'" in body_of(response)


# Functions of steps


def test_function_that_raises_stop_iteration() -> None:
    """A plain function that lets StopIteration out fails like any other."""

    def empty() -> int:
        return next(iter([]))

    async def handler(request: Request) -> object:
        try:
            return await step.run("empty", empty)
        except StepError as error:
            return error.message

    assert b'"the function raised StopIteration"' == body_of(finish(handler, Ledger(), retries=0))


def test_function_that_exits_is_a_crash() -> None:
    """A step that calls ``sys.exit`` does not fail: it is called again, as after a crash."""
    ledger = Ledger()

    async def exits() -> int:
        ledger.did("exits", None)
        if len(ledger.calls) < 3:
            raise SystemExit(1)
        return 1

    async def handler(request: Request) -> object:
        await step.run("before", ledger.did, "before", 1)
        return await step.run("exits", exits)

    with lab() as process:
        endpoint = process.endpoint(handler, retries=0)
        endpoint.handle(request())
        [record] = until(process.records.list)
        until(lambda: process.records.get(record.run.id).run.phase.ended)
        assert Phase.COMPLETED is process.records.get(record.run.id).run.phase
    assert ["before", "exits", "exits"] == ledger.calls


# Clients


def test_client_that_goes_away() -> None:
    """A run whose client has gone goes on to its end."""
    ledger = Ledger()

    async def main() -> None:
        started = asyncio.Event()
        release = asyncio.Event()

        async def slow() -> int:
            started.set()
            await release.wait()
            return ledger.did("slow", 1)

        async def handler(request: Request) -> object:
            return await step.run("slow", slow)

        process = Lab()
        try:
            endpoint = process.endpoint(handler)
            client = asyncio.create_task(endpoint.handle_async(request()))
            await started.wait()
            client.cancel()
            with pytest.raises(asyncio.CancelledError):
                await client
            release.set()
            runs = await until_async(
                lambda: [each for each in process.records.list() if each.run.phase.ended]
            )
            assert Phase.COMPLETED is runs[0].run.phase
        finally:
            await process.durable.stop_async(5)

    asyncio.run(main())
    assert ["slow"] == ledger.calls


def test_event_wakes_a_wait_in_place() -> None:
    """An event that comes while a sibling keeps the handler live ends its wait at once."""

    async def main() -> None:
        entered = 0
        waiting = asyncio.Event()

        async def slow() -> int:
            waiting.set()
            await asyncio.sleep(0.1)
            return 1

        async def handler(request: Request) -> object:
            nonlocal entered
            entered += 1
            heard, one = await asyncio.gather(
                step.wait_for_event("w", event="go", timeout="1h"), step.run("slow", slow)
            )
            return [heard and heard.data, one]

        process = Lab()
        try:
            endpoint = process.endpoint(handler)
            first = await endpoint.handle_async(request())
            await waiting.wait()
            await process.durable.send_async(event("go", n=1))
            location = first.headers["location"]
            final = await endpoint.handle_async(request("/it" + location))
            assert b'[{"n":1},1]' == final.body
            assert 1 == entered
        finally:
            await process.durable.stop_async(5)

    asyncio.run(main())


@pytest.mark.parametrize("retries", [0, 3])
def test_own_code_that_fails_ends_a_sleeping_sibling(retries: int) -> None:
    """An error outside steps that ends a TaskGroup is retried, or final, as any other is."""
    ledger = Ledger()

    async def own() -> None:
        ledger.fails("own", 1, OSError("outside steps"), None)

    async def handler(request: Request) -> object:
        async with asyncio.TaskGroup() as group:
            group.create_task(step.sleep("nap", 0.05))
            group.create_task(own())
        return "end"

    response = finish(handler, ledger, retries=retries)
    assert (200 if retries else 500) == response.status


def test_own_code_that_fails_may_be_caught() -> None:
    """The group's error holds nothing but the failure; the handler goes on after it."""
    ledger = Ledger()

    async def own() -> None:
        await asyncio.sleep(0)
        raise OSError("outside steps")

    async def handler(request: Request) -> object:
        caught = 0
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(step.sleep("nap", "1h"))
                group.create_task(own())
        except* OSError as errors:
            caught = len(errors.exceptions)
        return [caught, await step.run("after", ledger.did, "after", 1)]

    assert b"[1,1]" == body_of(finish(handler, ledger))


def test_sibling_that_fails_in_the_same_tick() -> None:
    """In a replay a step's failure and the sleep of a sibling come in one tick; it is the same."""
    ledger = Ledger()

    async def bad() -> None:
        raise NonRetriableError("no")

    async def branch() -> None:
        await step.run("good", _one, 1)
        await step.sleep("long", "1h")

    async def handler(request: Request) -> object:
        caught = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(step.run("bad", bad))
                group.create_task(branch())
        except* StepError:
            caught = True
        await step.sleep("nap", 0.01)
        return caught

    assert b"true" == body_of(finish(handler, ledger))


class LockedStore(MemoryStore):
    """A store that somebody else can lock."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Commit, unless it is locked: then refuse, or wait."""
        if not self.free.is_set():
            if wait == 0:
                raise StoreBusyError("locked")
            assert self.free.wait(5)
        return super().commit(writes, wait=wait)


def test_timeout_before_a_step_could_begin() -> None:
    """A step that user code cancels while the commit before it takes long has failed for good: it
    is not run by this execution, nor by a replay."""
    ledger = Ledger()
    store = LockedStore()

    async def handler(request: Request) -> object:
        await step.run("a", ledger.did_async, "a", 1)
        if ledger.counts()["timed out"] == 0:
            store.free.clear()
        try:
            async with asyncio.timeout(0.02):
                result = await step.run("b", ledger.did_async, "b", "b")
        except TimeoutError:
            ledger.did("timed out", 1)
            store.free.set()
            result = "timed out"
        await step.sleep("nap", 0.2)
        return result

    with lab(store) as process:
        assert b'"timed out"' == process.call(process.endpoint(handler)).body
    assert {"a": 1, "timed out": 2} == ledger.counts()


def test_a_finished_run_leaves_no_cycle_of_references() -> None:
    """The memory of a run is free at its end, and does not wait for Python's cycle collector."""

    async def handler(request: Request) -> int:
        return await step.run("one", asyncio.sleep, 0, 1)

    async def count_unreachable() -> int:
        endpoint = process.endpoint(handler)
        await endpoint.handle_async(request())  # what is made once
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await endpoint.handle_async(request())
            await asyncio.sleep(0.01)
            return gc.collect()
        finally:
            gc.enable()
            await process.durable.stop_async()

    with lab() as process:
        assert 0 == asyncio.run(count_unreachable())


@pytest.mark.parametrize(("tasks", "fewest", "most"), [(1, 0, 8), (2, 40, 400)])
def test_only_branches_that_may_race_take_turns_on_the_loop(
    tasks: int, fewest: int, most: int
) -> None:
    """The replay of finished steps takes ticks only while a handler has several tasks."""
    ticks: list[int] = []

    async def steps(name: str) -> None:
        for number in range(20):
            await step.run(f"{name}-{number}", int)

    async def handler(request: Request) -> None:
        loop, count, ended = asyncio.get_running_loop(), 0, False

        def tick() -> None:
            nonlocal count
            count += 1
            if not ended:
                loop.call_soon(tick)

        tick()
        if tasks == 1:
            await steps("a")
        else:
            await asyncio.gather(*(steps(str(each)) for each in range(tasks)))
        ended = True
        ticks.append(count)
        await step.sleep("nap", 0.03)

    with lab() as process:
        process.call(process.endpoint(handler))
    assert fewest <= ticks[1] <= most


# The driver of its steps


class Scripted(TaskRun):
    """Answers the effects of a flow as a test says: a value, or an error, at once or later."""

    performers: ClassVar[Mapping[type[Effect], Callable[[Any, Any], Any]]] = {
        Park: lambda run, effect: run.answer(effect)
    }

    def __init__(self) -> None:
        self.ex: Any = SimpleNamespace(state=ExecutionState.RUNNING)
        self._interrupted = None

    def answer(self, effect: Effect) -> Any:
        assert isinstance(effect, Park)
        match effect.op_id:
            case "value":
                return effect.due_at
            case "error":
                raise ValueError(effect.due_at)
            case "value later":
                return asyncio.sleep(0, effect.due_at)
        return self._fail_later(effect)

    async def _fail_later(self, effect: Park) -> None:
        raise ValueError(effect.due_at)


ANSWERS = st.sampled_from(["value", "error", "value later", "error later"])


@given(st.lists(ANSWERS, max_size=6), st.booleans())
def test_a_step_is_driven_as_any_flow(answers: list[str], fails: bool) -> None:
    """``TaskRun.drive``, which has the loop of ``drive_async`` in it, does the same."""

    def flow(seen: list[object]) -> Flow[str]:
        for number, kind in enumerate(answers):
            try:
                seen.append((yield Park(kind, number)))
            except ValueError as error:
                seen.append(str(error))
        if fails:
            raise ValueError("the flow's own")
        return "result"

    def outcome(drive: Callable[[Flow[str]], Coroutine[Any, Any, str]]) -> object:
        seen: list[object] = []
        try:
            return asyncio.run(drive(flow(seen))), seen
        except ValueError as error:
            return str(error), seen

    run = Scripted()
    assert outcome(lambda it: drive_async(it, run.answer)) == outcome(run.drive)
