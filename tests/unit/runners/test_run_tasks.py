"""When a handler is suspended, and what it awaits of its own."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import anyio
import pytest
import uvloop

from durable_core.api.step import step
from durable_core.flow.scope import CURRENT_RUN
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Phase
from durable_core.runners.run_tasks import (
    RunTask,
    RunTasks,
    context_outside_run,
    coordinates_steps,
    enter_run,
    watch_loop,
)
from durable_core.runners.settings import Settings
from durable_core.runners.task import STEP_CODE
from support.harness import (
    FakeClock,
    Lab,
    Ledger,
    WatchedStore,
    event,
    lab,
    request,
    until,
    until_async,
)

Branch = Callable[[], Coroutine[Any, Any, None]]
Scenario = Callable[[Branch], Awaitable[None]]
#: Seconds in which a handler is suspended at once. After 30 it is, whatever it waits for.
SOON = 20.0


def body_of(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


def is_suspended(process: Lab) -> bool:
    """Tell whether the only run is suspended."""
    return any(each.run.phase is Phase.SUSPENDED for each in process.records.list())


async def nap() -> None:
    await step.sleep("nap", "1h")


# Handlers of which every task waits for parked steps


async def alone(branch: Branch) -> None:
    await branch()


async def gathered(branch: Branch) -> None:
    await asyncio.gather(branch(), step.wait_for_event("other", event="never", timeout="2h"))


async def gathered_five_times(branch: Branch) -> None:
    inner: Awaitable[Any] = asyncio.gather(branch())
    for _ in range(4):
        inner = asyncio.gather(inner)
    await inner


async def in_a_task(branch: Branch) -> None:
    await asyncio.create_task(branch())


async def in_a_group(branch: Branch) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(branch())
        group.create_task(step.wait_for_event("other", event="never", timeout="2h"))


async def in_nested_groups(branch: Branch) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(in_a_group(branch))


async def in_an_anyio_group(branch: Branch) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(branch)


async def in_wait(branch: Branch) -> None:
    await asyncio.wait({asyncio.create_task(branch())}, return_when=asyncio.FIRST_COMPLETED)


async def in_a_generator(branch: Branch) -> None:
    async def chunks() -> Any:
        await branch()
        yield 1

    async for _ in chunks():
        pass


async def beside_a_task_that_ends_later(branch: Branch) -> None:
    await asyncio.gather(branch(), asyncio.sleep(0.05))


@pytest.mark.parametrize(
    "scenario",
    [
        alone,
        gathered,
        gathered_five_times,
        in_a_task,
        in_a_group,
        in_nested_groups,
        in_an_anyio_group,
        in_wait,
        in_a_generator,
        beside_a_task_that_ends_later,
    ],
)
def test_all_wait_for_steps(scenario: Scenario, caplog: pytest.LogCaptureFixture) -> None:
    """The handler is suspended at once, without a warning, and ends when the sleep has ended."""

    async def handler(request: Request) -> str:
        await scenario(nap)
        return "end"

    clock = FakeClock()
    with caplog.at_level(logging.WARNING, "durable"), lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        until(lambda: is_suspended(process), SOON)
        clock.advance(7200)
        process.poke()
        assert b'"end"' == body_of(process.follow(endpoint, first))
    warnings = [each.getMessage() for each in caplog.records]
    assert [] == [each for each in warnings if "clock was set" not in each]


# Handlers that await something of their own


async def sleeps(release: threading.Event) -> None:
    while not release.is_set():
        await asyncio.sleep(0.2)


async def a_thread(release: threading.Event) -> None:
    await asyncio.to_thread(release.wait, 5)


async def two_threads(release: threading.Event) -> None:
    await asyncio.gather(asyncio.to_thread(release.wait, 5), asyncio.to_thread(release.wait, 5))


async def an_outer_event(release: threading.Event) -> None:
    happened, loop = asyncio.Event(), asyncio.get_running_loop()
    threading.Thread(
        target=lambda: (release.wait(5), loop.call_soon_threadsafe(happened.set))
    ).start()
    await happened.wait()


async def a_bounded_wait(release: threading.Event) -> None:
    done: set[asyncio.Task[bool]] = set()
    task = asyncio.create_task(asyncio.to_thread(release.wait, 5))
    while not done:
        done, _ = await asyncio.wait({task}, timeout=0.05)


OWN_WAITS = [sleeps, a_thread, two_threads, an_outer_event, a_bounded_wait]


@pytest.mark.parametrize("own_wait", OWN_WAITS)
@pytest.mark.parametrize("where", ["parent", "task", "group"])
def test_own_wait(own_wait: Callable[[threading.Event], Awaitable[None]], where: str) -> None:
    """A handler goes on after a wait of its own although a step sleeps for an hour."""
    release, ledger = threading.Event(), Ledger()

    async def work() -> None:
        await own_wait(release)
        await step.run("after", ledger.did, "after", 1)

    async def handler(request: Request) -> str:
        if where == "parent":
            sleeper = asyncio.create_task(nap())
            await work()
            await sleeper
        elif where == "task":
            await asyncio.gather(nap(), work())
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(nap())
                await work()
        return "end"

    clock = FakeClock()
    with lab(clock=clock) as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        assert 302 == first.status
        [live] = process.engine.worker.live.all()  # type: ignore[union-attr]
        until(lambda: live.ex.parked)
        asyncio.run(asyncio.sleep(0.1))
        assert not is_suspended(process)
        assert not live.ex.closed
        release.set()
        until(lambda: ledger.calls)
        until(lambda: is_suspended(process), SOON)
        clock.advance(3600)
        process.poke()
        assert b'"end"' == body_of(process.follow(endpoint, first))
    assert ["after"] == ledger.calls


def test_event_wakes_a_live_handler() -> None:
    """While the handler awaits something of its own, an event ends a wait without a replay."""
    release, entered = threading.Event(), []

    async def handler(request: Request) -> object:
        entered.append(1)
        waits = step.wait_for_event("wait", event="go", timeout="1h")
        heard, _ = await asyncio.gather(waits, asyncio.to_thread(release.wait, 5))
        return heard is not None

    with lab() as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        [live] = process.engine.worker.live.all()  # type: ignore[union-attr]
        until(lambda: live.ex.parked)
        process.durable.send(event("go"))
        until(lambda: not live.ex.parked)
        release.set()
        assert b"true" == body_of(process.follow(endpoint, first))
    assert [1] == entered


def test_own_wait_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that awaits something of its own for longer is suspended, and warned of once."""
    entered: list[int] = []

    async def handler(request: Request) -> str:
        entered.append(1)
        sleeper = asyncio.create_task(nap())
        if len(entered) == 1:
            await asyncio.Event().wait()
        await sleeper
        return "end"

    clock = FakeClock()
    with lab(clock=clock, settings=Settings(max_own_wait=0.1)) as process:
        assert b'"end"' == body_of(process.sleep_through(process.endpoint(handler), clock))
    [warning] = [each.getMessage() for each in caplog.records if "awaited" in each.getMessage()]
    assert warning.endswith(
        "it is suspended at step 'nap'; for 0.1 seconds it has also awaited something that "
        "is no step"
    )
    assert 2 == len(entered)


_LIBRARY = """
import asyncio, contextlib

async def wait(event):
    await event.wait()

async def wait_in_task(event):
    async with waiting_for(asyncio.create_task(event.wait())):
        pass

@contextlib.asynccontextmanager
async def waiting_for(task):
    yield
    await task

async def call(function):
    await function()
"""


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A package whose coroutines wait for steps and for each other."""
    monkeypatch.setattr("durable_core.runners.run_tasks._COORDINATING", set())
    coordinates_steps("library")
    package: dict[str, Any] = {"__name__": "library.inside"}
    exec(_LIBRARY, package)
    return package


@pytest.mark.parametrize("how", ["wait", "wait_in_task"])
def test_a_library_that_coordinates_steps(
    library: dict[str, Any], caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Its coroutines and tasks wait for each other by events: the handler is suspended at once."""
    entered: list[int] = []

    async def handler(request: Request) -> str:
        entered.append(1)
        event = asyncio.Event()

        async def sleep() -> None:
            await nap()
            event.set()

        sleeper = asyncio.create_task(sleep())
        await library[how](event)
        await sleeper
        return "end"

    clock = FakeClock()
    with lab(clock=clock, settings=Settings(max_own_wait=60)) as process:
        assert b'"end"' == body_of(process.sleep_through(process.endpoint(handler), clock))
    assert 2 == len(entered)
    assert [] == [each for each in caplog.records if "awaited" in each.getMessage()]


def test_what_a_library_calls_awaits_something_of_its_own(
    library: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The innermost code counts: a function of the application's that the library calls."""
    entered: list[int] = []

    async def wait() -> None:
        if len(entered) == 1:
            await asyncio.Event().wait()

    async def handler(request: Request) -> str:
        entered.append(1)
        sleeper = asyncio.create_task(nap())
        await library["call"](wait)
        await sleeper
        return "end"

    clock = FakeClock()
    with lab(clock=clock, settings=Settings(max_own_wait=0.1)) as process:
        assert b'"end"' == body_of(process.sleep_through(process.endpoint(handler), clock))
    assert 1 == sum("awaited" in each.getMessage() for each in caplog.records)


def test_a_task_of_the_handler_beside_a_library_awaits_something_of_its_own(
    library: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has started a task decides, not who else waits."""
    entered: list[int] = []

    async def handler(request: Request) -> str:
        entered.append(1)
        own = asyncio.Event()
        waiter = asyncio.create_task(own.wait())
        if len(entered) == 2:
            own.set()
        await library["call"](nap)
        await waiter
        return "end"

    clock = FakeClock()
    with lab(clock=clock, settings=Settings(max_own_wait=0.1)) as process:
        assert b'"end"' == body_of(process.sleep_through(process.endpoint(handler), clock))
    assert 1 == sum("awaited" in each.getMessage() for each in caplog.records)


class _Run:
    """A live run, as the task factory sees it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.tasks = RunTasks(loop, STEP_CODE)

    def started_one(self, context: contextvars.Context) -> bool:
        """Tell whether a task that code in this context starts is one of the run's."""
        before = len(self.tasks.others)
        task = context.run(asyncio.create_task, asyncio.sleep(0))
        return len(self.tasks.others) > before and task in self.tasks.others


def test_a_task_counts_unless_its_context_is_outside_its_run() -> None:
    """A task of a framework is none of the run that it sees, until it calls the handler; another
    run that begins in its context is not affected."""

    async def main() -> list[bool]:
        loop = asyncio.get_running_loop()
        watch_loop(loop)
        outer, inner = _Run(loop), _Run(loop)
        handler = contextvars.copy_context()
        handler.run(CURRENT_RUN.set, cast(Any, outer))
        framework = handler.run(context_outside_run)
        begun = framework.copy()
        begun.run(CURRENT_RUN.set, cast(Any, inner))
        counts = [outer.started_one(handler), outer.started_one(framework)]
        counts += [inner.started_one(begun), outer.started_one(begun)]
        enter_run(framework)
        return [*counts, outer.started_one(framework)]

    assert [True, False, True, False, True] == asyncio.run(main())


@pytest.mark.parametrize("order", [["code", "watched"], ["watched", "code"]])
def test_the_collector_may_close_a_left_task_in_any_order(order: list[str]) -> None:
    """A task that a handler has left behind is freed without an error."""

    async def wait() -> None:
        await asyncio.Event().wait()

    async def main() -> tuple[Any, Any]:
        code = wait()
        tasks = RunTasks(asyncio.get_running_loop(), STEP_CODE)
        watched: Any = tasks.watch(code, RunTask())
        watched.send(None)
        return code, watched

    code, watched = asyncio.run(main())
    for each in order:
        {"code": code, "watched": watched}[each].close()
    assert code.cr_frame is None
    assert watched.gi_frame is None


def test_looking_at_the_clock_does_not_delay_the_limit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A step that waits for long looks at the clock meanwhile; that is nothing new to wait for."""
    monkeypatch.setattr("durable_core.runners.suspend._LONGEST_TIMER", 0.02)
    entered: list[int] = []

    async def handler(request: Request) -> str:
        entered.append(1)
        sleeper = asyncio.create_task(nap())
        if len(entered) == 1:
            await asyncio.Event().wait()
        await sleeper
        return "end"

    clock = FakeClock()
    with lab(clock=clock, settings=Settings(max_own_wait=0.1)) as process:
        assert b'"end"' == body_of(process.sleep_through(process.endpoint(handler), clock))
    assert 1 == sum("awaited" in each.getMessage() for each in caplog.records)


def test_limit_does_not_count_steps() -> None:
    """A step that takes longer than a handler may await something of its own is not cut short."""
    ledger = Ledger()

    async def slow() -> int:
        await asyncio.sleep(0.3)
        return ledger.did("slow", 1)

    async def handler(request: Request) -> object:
        return await asyncio.gather(step.sleep("nap", "10ms"), step.run("slow", slow))

    with lab(settings=Settings(max_own_wait=0.05)) as process:
        assert b"[null,1]" == body_of(process.call(process.endpoint(handler)))
    assert ["slow"] == ledger.calls


def test_branch_does_not_oversleep_while_it_is_stored() -> None:
    """With commits of 200 ms, a branch that sleeps for 1 s beside a wait of 30 s sleeps for 1 s."""
    ledger, store = Ledger(), WatchedStore()
    store.seconds = 0.2

    async def branch() -> None:
        await step.run("before", ledger.did, "before", 1)
        await step.sleep("pause", "1s")
        await step.run("after", ledger.did, "after", 1)

    async def handler(request: Request) -> None:
        await asyncio.gather(
            step.wait_for_event("wait", event="never", timeout="30s"),
            branch(),
        )

    with lab(store) as process:
        endpoint = process.endpoint(handler)
        assert 302 == endpoint.handle(request()).status
        until(lambda: is_suspended(process), SOON)
        [record] = process.records.list()
        [pause] = [
            each for each in process.records.get(record.run.id).pending if each.op.name == "pause"
        ]
        assert pause.due_at == record.due_at
        until(lambda: "after" in ledger.calls, SOON)
    assert ["before", "after"] == ledger.calls


def test_slow_redirect_url() -> None:
    """A slow ``async_redirect_url`` is honoured although another branch waits meanwhile."""

    async def redirect_url(run_id: str, token: str) -> str:
        await asyncio.sleep(0.2)
        return f"https://wait.test/{run_id}"

    async def handler(request: Request) -> None:
        await asyncio.gather(nap(), step.sleep("other", "1h"))

    with lab() as process:
        endpoint = process.endpoint(handler, async_redirect_url=redirect_url)
        response = endpoint.handle(request())
        assert response.headers["location"].startswith("https://wait.test/")


# Loops


def test_uvloop() -> None:
    """All of this holds on another implementation of the event loop, too."""
    release, ledger = asyncio.Event(), Ledger()

    async def work() -> None:
        await release.wait()
        await step.run("after", ledger.did_async, "after", 1)

    async def waits(request: Request) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(nap())
            group.create_task(work())

    async def with_a_time_out(request: Request) -> None:
        async with asyncio.timeout(0.05):
            await asyncio.gather(nap())

    async def main(process: Lab) -> None:
        endpoint = process.endpoint(waits)
        assert 302 == (await endpoint.handle_async(request())).status
        await asyncio.sleep(0.1)
        assert not is_suspended(process)
        release.set()
        await until_async(lambda: is_suspended(process))
        refusing = process.endpoint(with_a_time_out, function_id="refusing")
        first = await refusing.handle_async(request())
        while "location" in first.headers:
            location = first.headers["location"]
            first = await refusing.handle_async(request("/it" + location), max_wait=2.0)
        assert b"WaitInterruptedError" in body_of(first)

    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with lab(clock=FakeClock()) as process, runner:
        runner.run(asyncio.wait_for(main(process), 10))
    assert ["after"] == ledger.calls


def test_tasks_of_others_are_left_alone() -> None:
    """A watched loop makes tasks of code that belongs to no run as it did before."""

    class OwnTask(asyncio.Task[Any]):
        pass

    async def coroutine() -> int:
        return 1

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **options: OwnTask(coro, loop=loop, **options))
        watch_loop(loop)
        factory = loop.get_task_factory()
        watch_loop(loop)
        assert factory is loop.get_task_factory()
        made = coroutine()
        task = asyncio.create_task(made, name="mine")
        assert isinstance(task, OwnTask)
        assert made is task.get_coro()
        assert ("mine", 1) == (task.get_name(), await task)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()

    asyncio.run(main())


def test_a_factory_without_options_makes_the_tasks_of_others() -> None:
    """A server's task is made with a loop and a coroutine only, also on uvloop.

    uvloop gives a factory the context of each task, which is None for most.
    """
    made: list[str] = []

    def make(loop: asyncio.AbstractEventLoop, coro: Any) -> asyncio.Task[Any]:
        made.append(coro.__name__)
        return asyncio.Task(coro, loop=loop)

    async def request() -> int:
        return 1

    async def main() -> int:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(make)
        watch_loop(loop)
        factory: Any = loop.get_task_factory()
        result: int = await factory(loop, request(), context=None)
        return result

    assert 1 == asyncio.run(main())
    assert "request" in made


def test_a_loop_without_attributes_is_used_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """Where ``call_at`` cannot be watched, the log says so and runs go on without it."""

    class Slotted:
        __slots__ = ("__weakref__", "factory")

        def get_task_factory(self) -> None:
            return None

        def set_task_factory(self, factory: object) -> None:
            self.factory = factory

        def call_at(self, *args: object) -> None: ...

    with caplog.at_level(logging.WARNING):
        watch_loop(cast("asyncio.AbstractEventLoop", Slotted()))

    assert ["time-outs around steps are not noticed on Slotted"] == caplog.messages
