"""Lives of runs that nobody planned: races, waits, time-outs, undoing, clients who come and go.

Some are cut short: their run is cancelled by its client or by an operator, or its time is over.

A random handler is executed with crashes at random commits, for a random client, and the outcome is
held against what the handler says: the response, how often each step was called, what was undone,
and that one request made one run and left nothing behind.

``DURABLE_LAW_EXAMPLES`` sets how many lives each test tries, and ``--hypothesis-show-statistics``
shows in how many of them a process crashed.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import hypothesis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_core.api.run import run
from durable_core.api.step import step, sync_step
from durable_core.errors import NonRetriableError, RunUndoneError, StepError, StoreError
from durable_core.flow.handoff import handoff_response, new_token
from durable_core.flow.options import ResolvedOptions
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import Event
from durable_core.model.run import Phase
from durable_core.ports import RunRecord
from durable_core.runners.settings import Settings
from support.harness import Lab, Ledger, WatchedStore, lab, request, until

SETTINGS = Settings(unwind_time=2.0, invoke_wait=0.02)
EXAMPLES = int(os.environ.get("DURABLE_LAW_EXAMPLES", "40"))
#: A step is called so often before it fails for good.
MOST = 4


# What a handler does


@dataclass(frozen=True)
class Work:
    """A step whose function fails so often."""

    failures: int


@dataclass(frozen=True)
class Endless:
    """A step whose function never ends, and whose attempts may take some milliseconds."""


@dataclass(frozen=True)
class Nap:
    """A sleep of so many milliseconds."""

    ms: int


@dataclass(frozen=True)
class Silence:
    """A wait of so many milliseconds for an event that nobody sends."""

    ms: int


@dataclass(frozen=True)
class Signalled:
    """A wait for a signal, which somebody outside sends again and again."""


@dataclass(frozen=True)
class Called:
    """A wait for a callback, whose URL somebody outside answers again and again."""


@dataclass(frozen=True)
class Told:
    """An event that is sent, and nobody waits for."""


@dataclass(frozen=True)
class Sequence:
    """One after the other."""

    parts: tuple[Life, ...]


@dataclass(frozen=True)
class Parallel:
    """Side by side; in a race the first result counts."""

    parts: tuple[Life, ...]
    mode: Literal["all", "race"]


@dataclass(frozen=True)
class Child:
    """In a run of its own."""

    part: Life


Life: TypeAlias = (
    Work | Endless | Nap | Silence | Signalled | Called | Told | Sequence | Parallel | Child
)

leaves: st.SearchStrategy[Life] = st.one_of(
    st.builds(Work, st.sampled_from([0, 0, 0, 1, 99])),
    st.builds(Nap, st.sampled_from([0, 1, 20])),
    st.builds(Silence, st.sampled_from([1, 20])),
    st.builds(Signalled),
    st.builds(Endless),
    st.builds(Called),
    st.builds(Told),
)
modes: st.SearchStrategy[Literal["all", "race"]] = st.sampled_from(["all", "race"])


def _branching(inner: st.SearchStrategy[Life]) -> st.SearchStrategy[Life]:
    parts = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.builds(Sequence, parts) | st.builds(Parallel, parts, modes) | st.builds(Child, inner)


lives = st.recursive(leaves, _branching, max_leaves=7)
crashes = st.lists(st.integers(0, 5), max_size=2).map(tuple)
clients: st.SearchStrategy[Literal["waits", "repeats", "twice", "streams"]] = st.sampled_from(
    ["waits", "repeats", "twice", "streams"]
)


@dataclass(frozen=True)
class Cut:
    """What ends a run before it has come to its end, after so many milliseconds, if it is not over.

    Its time is over (that of its children, too), an operator cancels it, or its client does.
    """

    by: Literal["time", "operator", "client"]
    ms: int


cuts = st.builds(
    Cut, st.sampled_from(["time", "operator", "client"]), st.sampled_from([1, 5, 20, 60])
)


# What is to be expected of it


def inside(life: Life, path: str) -> Iterator[tuple[str, Life]]:
    """Yield the parts of a part, each with its path."""
    if isinstance(life, Child):
        yield f"{path}-0", life.part
    if isinstance(life, Sequence | Parallel):
        for n, part in enumerate(life.parts):
            yield f"{path}-{n}", part


def part_at(life: Life, path: str) -> Life:
    """Return the part that has this path."""
    for n in path.split("-")[1:]:
        life = [part for _, part in inside(life, "")][int(n)]
    return life


def fits(life: Life, value: Any, path: str = "p") -> bool:
    """Tell whether a value may be the result."""
    match life:
        case Work(failures=failures):
            return bool(value == ("failed" if failures >= MOST else "done"))
        case Endless():
            return bool(value == "late")
        case Signalled() | Called():
            return bool(value == path)
        case Told():
            return bool(value == [path])
        case Sequence() | Parallel(mode="all"):
            known = list(inside(life, path))
            return (
                isinstance(value, list)
                and len(value) == len(known)
                and all(
                    fits(part, each, name) for (name, part), each in zip(known, value, strict=True)
                )
            )
        case Parallel() | Child():
            return any(fits(part, value, name) for name, part in inside(life, path))
    return value is None


def tasks_of(
    life: Life, path: str = "p", *, is_sure: bool = True, is_child: bool = False
) -> Iterator[tuple[str, Work, bool, bool]]:
    """Yield each step with a function: path, step, whether it must run, whether in a child."""
    if isinstance(life, Work):
        yield path, life, is_sure, is_child
    is_race = isinstance(life, Parallel) and life.mode == "race" and len(life.parts) > 1
    for name, part in inside(life, path):
        yield from tasks_of(
            part,
            name,
            is_sure=is_sure and not is_race,
            is_child=is_child or isinstance(life, Child),
        )


def paths_of(kind: type[Life], life: Life, path: str = "p") -> Iterator[str]:
    """Yield the paths of the parts of a kind."""
    if isinstance(life, kind):
        yield path
    for name, part in inside(life, path):
        yield from paths_of(kind, part, name)


# Doing it


class World:
    """What is outside of the process: it outlives crashes.

    Attributes:
        fails: whether the handler fails in the end, so that its steps are undone.
        cut: what cuts it short, if anything does.
        was_cancelled: somebody was told that the run is cancelled.
        urls: where callbacks are answered, and what with.
        over: set when the life has ended; then endless steps end.
    """

    def __init__(self, life: Life, *, fails: bool, cut: Cut | None = None) -> None:
        self.life = life
        self.fails = fails
        self.cut = cut
        self.was_cancelled = False
        self.store = WatchedStore()
        self.ledger = Ledger()
        self.endpoint: Any = None
        self.urls: dict[str, str] = {}
        self.over = threading.Event()

    def work(self, path: str, failures: int) -> str:
        return self.ledger.fails(path, failures, ValueError(path), "done")

    def idle(self) -> None:
        self.over.wait()

    async def idle_async(self) -> None:
        await asyncio.Event().wait()

    def undo(self, path: str, result: object) -> None:
        self.ledger.did(f"undo {path}", None)

    def end(self, value: Any, path: str) -> Response:
        if self.fails and path == "p":
            raise NonRetriableError("the end")
        return Response.json(value)

    def sync(self, asked: Request) -> Response:
        path = asked.json() if asked.body else "p"
        return self.end(live(self, part_at(self.life, path), path), path)

    async def task(self, asked: Request) -> Response:
        path = asked.json() if asked.body else "p"
        return self.end(await live_async(self, part_at(self.life, path), path), path)


def live(world: World, life: Life, path: str) -> Any:
    match life:
        case Work(failures=failures):
            undoable = sync_step.options(undo=partial(world.undo, path))
            try:
                return undoable.run(path, world.work, path, failures)
            except StepError:
                return "failed"
        case Endless():
            hurried = sync_step.options(timeout=0.005, retries=1)
            try:
                return hurried.run(path, world.idle)
            except StepError:
                return "late"
        case Nap(ms=ms):
            return sync_step.sleep(path, ms / 1000)
        case Silence(ms=ms):
            return sync_step.wait_for_event(path, event="nothing", timeout=ms / 1000)
        case Signalled():
            signal = sync_step.wait_for_signal(path, signal=path, timeout="1h")
            return None if signal is None else signal.data
        case Called():
            world.urls[run.callback_url(path)] = path
            answer = sync_step.wait_for_callback(path, timeout="1h")
            return None if answer is None else answer.text()
        case Told():
            return sync_step.send_event(path, Event(path, {}, id=path))
        case Child():
            return sync_step.invoke(path, world.endpoint, f"{path}-0", result=object)
        case Sequence():
            return [live(world, part, name) for name, part in inside(life, path)]
    todo = [partial(live, world, part, name) for name, part in inside(life, path)]
    if life.mode == "race":
        return sync_step.parallel(f"{path}-race", *todo, mode="race")
    return list(sync_step.parallel(f"{path}-all", *todo))


async def live_async(world: World, life: Life, path: str) -> Any:
    match life:
        case Work(failures=failures):
            undoable = step.options(undo=partial(world.undo, path))
            try:
                return await undoable.run(path, world.work, path, failures)
            except StepError:
                return "failed"
        case Endless():
            hurried = step.options(timeout=0.005, retries=1)
            try:
                return await hurried.run(path, world.idle_async)
            except StepError:
                return "late"
        case Nap(ms=ms):
            return await step.sleep(path, ms / 1000)
        case Silence(ms=ms):
            return await step.wait_for_event(path, event="nothing", timeout=ms / 1000)
        case Signalled():
            signal = await step.wait_for_signal(path, signal=path, timeout="1h")
            return None if signal is None else signal.data
        case Called():
            world.urls[run.callback_url(path)] = path
            answer = await step.wait_for_callback(path, timeout="1h")
            return None if answer is None else answer.text()
        case Told():
            return await step.send_event(path, Event(path, {}, id=path))
        case Child():
            return await step.invoke(path, world.endpoint, f"{path}-0", result=object)
        case Sequence():
            return [await live_async(world, part, name) for name, part in inside(life, path)]
    todo: list[Callable[[], Awaitable[Any]]] = [
        partial(live_async, world, part, name) for name, part in inside(life, path)
    ]
    if life.mode == "race":
        return await step.parallel(f"{path}-race", *todo, mode="race")
    return list(await step.parallel(f"{path}-all", *todo))


# The client, and what happens to the process meanwhile


def roots(world: World) -> list[RunRecord]:
    """Return the runs that a client has begun, if they are stored."""
    return [each for each in world.store.list("lab", limit=1000) if each.run.parent is None]


def has_ended(world: World) -> bool:
    return any(record.run.phase.ended for record in roots(world))


def is_over(world: World) -> bool:
    return all(each.run.phase.ended for each in world.store.list("lab", limit=1000))


@contextmanager
def signalling(world: World, process: Lab) -> Iterator[None]:
    """Send every signal that the handler may wait for, and answer its callbacks, over and over."""
    names, over = list(paths_of(Signalled, world.life)), threading.Event()

    def send() -> None:
        while not over.wait(0.002):
            for name in names:
                try:
                    process.durable.signal(name, name)
                except StoreError:
                    pass  # the process has crashed
            for url, answer in list(world.urls.items()):
                world.endpoint.handle(Request(method="POST", url=url, body=answer.encode()))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def cutting(world: World, process: Lab) -> Iterator[None]:
    """Cancel the run after its time, over and over until it has ended."""
    cut, over = world.cut, threading.Event()
    if cut is None or cut.by == "time":
        yield
        return

    def cancel(run_id: str) -> bool:
        if cut.by == "operator":
            return process.durable.runs.cancel(run_id, reason="called off")
        deleted: Response = world.endpoint.handle(wait_request(process, run_id, "DELETE"))
        return deleted.status in (202, 204)

    def watch() -> None:
        if over.wait(cut.ms / 1000):
            return
        while not over.wait(0.002):
            for record in roots(world):
                if record.run.phase.ended:
                    continue
                try:
                    world.was_cancelled |= cancel(record.run.id)
                except (StoreError, RunUndoneError):
                    pass  # the process has crashed; the run has failed and is being undone

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def wait_request(process: Lab, run_id: str, method: str) -> Request:
    token = new_token(process.durable.engine.env, run_id)
    answer = handoff_response(ResolvedOptions(key="it"), "GET", run_id, token)
    return Request(method=method, url="http://test" + answer.headers["location"])


def ask(world: World, process: Lab, client: str, attempt: int) -> Response:
    """Ask for the run: anew by the same key, or where it waits, or as if it were the first time."""
    known = roots(world)
    if client in ("repeats", "twice"):
        keyed = request(method="POST", idempotency_key='"it"')
        with ThreadPoolExecutor(1) as beside:
            if client == "twice":
                beside.submit(world.endpoint.handle, keyed, max_wait=0.05)  # nobody reads it
            repeated: Response = world.endpoint.handle(keyed, max_wait=0.05)
        return repeated
    if attempt and known:
        run_id = known[0].run.id
        token = new_token(process.durable.engine.env, run_id)
        return handoff_response(ResolvedOptions(key="it"), "GET", run_id, token)
    accept = "text/event-stream" if client == "streams" else "*/*"
    answer: Response = world.endpoint.handle(request(accept=accept))
    return answer


def drain(process: Lab, answer: Response) -> threading.Thread:
    """Read an event stream beside, as long as it lasts; its client does not look at it."""

    async def read_async(body: Any) -> None:
        async for _ in body:
            pass

    def read() -> None:
        try:
            if hasattr(answer.body, "__aiter__"):
                process.durable.engine.run_on_background_loop(read_async(answer.body))
            elif not isinstance(answer.body, bytes):
                for _ in answer.body:
                    pass
        except (StoreError, RuntimeError, asyncio.CancelledError):
            pass  # the process has crashed

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def finish(world: World, crashes: tuple[int, ...], client: str, *, is_async: bool) -> Response:
    """Live to the end, in one process after the other; return the last response."""
    try:
        return _finish(world, crashes, client, is_async=is_async)
    finally:
        world.over.set()


def _finish(world: World, crashes: tuple[int, ...], client: str, *, is_async: bool) -> Response:
    for attempt, crash in enumerate((*crashes, None)):
        if crash is not None:
            world.store.crash_after(crash)
        with lab(world.store, settings=SETTINGS, public_url="http://test") as process:
            world.endpoint = process.endpoint(
                world.task if is_async else world.sync, **options_of(world)
            )
            process.durable.start()
            with signalling(world, process), cutting(world, process):
                answer = ask(world, process, client, attempt)
                reader = drain(process, answer)
                if crash is None:
                    last = settle(world, process, answer, reader)
                    # A child of a branch that has lost its race goes on by itself.
                    until(lambda: is_over(world))
                    process.stop()
                    reader.join()
                    return last
                has_answer = partial(is_answered, world, answer, reader)
                until(lambda: world.store.crashed.is_set() or (has_answer() and is_over(world)))  # noqa: B023
            process.stop()
            reader.join()
        if is_final(answer) and not world.store.crashed.is_set():
            return answer
        hypothesis.event("crashes" if world.store.crashed.is_set() else "clean ends")
        world.store.recover()
    raise AssertionError("the last process does not crash")


def options_of(world: World) -> dict[str, Any]:
    """Return the options of the endpoint."""
    options: dict[str, Any] = {"allow_cancel": True}
    if world.cut is not None and world.cut.by == "time":
        options["run_timeout"] = world.cut.ms / 1000
    return options


def is_answered(world: World, answer: Response, reader: threading.Thread) -> bool:
    """Tell whether the client has the end of the run, or finds it in the store.

    A run whose time is over before it is stored has its end in the stream alone.
    """
    is_unstored = not (isinstance(answer.body, bytes) or reader.is_alive() or roots(world))
    return is_unstored or is_final(answer) or has_ended(world)


def is_final(answer: Response) -> bool:
    """Tell whether the answer is that of the run: no redirect, no stream, no word of a crash."""
    return isinstance(answer.body, bytes) and answer.status not in (302, 303, 503)


def settle(world: World, process: Lab, answer: Response, reader: threading.Thread) -> Response:
    """Follow an answer to the response of the run."""
    if isinstance(answer.body, bytes):
        return process.follow(world.endpoint, answer)
    until(lambda: is_answered(world, answer, reader))
    if not roots(world):
        return Response(status=500)
    run_id = roots(world)[0].run.id
    token = new_token(process.durable.engine.env, run_id)
    redirect = handoff_response(ResolvedOptions(key="it"), "GET", run_id, token)
    return process.follow(world.endpoint, redirect)


# The laws

both = pytest.mark.parametrize("is_async", [False, True], ids=["def", "async"])


def check_counts(world: World, crashed: int) -> None:
    """Each step was called as often as it must be, and more only if it was cut off by a crash."""
    counts = world.ledger.counts()
    for path, work, is_sure, _ in tasks_of(world.life):
        calls = min(work.failures, MOST - 1) + 1
        least = 1 if crashed and work.failures else calls
        assert (least if is_sure else 0) <= counts[path], (path, counts)
        assert counts[path] <= calls + crashed * MOST, (path, counts)


def check_one_run(world: World) -> None:
    """One request made one run, nothing waits or is due any more, and no step is stored twice."""
    assert len(roots(world)) <= 1
    assert is_over(world)
    assert {} == {name: n for name, n in world.store.memos().items() if n > 1}


@both
@given(life=lives, crashes=crashes, client=clients)
@settings(max_examples=EXAMPLES)
def test_a_life(life: Life, crashes: tuple[int, ...], client: str, is_async: bool) -> None:
    """Whatever happens, the response is one that the handler may give undisturbed."""
    world = World(life, fails=False)
    response = finish(world, crashes, client, is_async=is_async)
    assert 200 == response.status, response
    assert fits(life, response_value(response)), response.body
    check_counts(world, len(crashes))
    check_one_run(world)


@both
@given(life=lives, crashes=crashes, client=clients)
@settings(max_examples=EXAMPLES)
def test_a_life_that_fails(
    life: Life, crashes: tuple[int, ...], client: str, is_async: bool
) -> None:
    """Each step of the run that has succeeded is undone, and the response says which."""
    world = World(life, fails=True)
    response = finish(world, crashes, client, is_async=is_async)
    assert 500 == response.status, response
    problem = response_value(response)
    undone = set(problem.get("undone", ()))
    own = {path: (work, sure) for path, work, sure, child in tasks_of(life) if not child}
    succeeding = {path for path, (work, _) in own.items() if work.failures < MOST}
    assert {path for path in succeeding if own[path][1]} <= undone <= succeeding, problem
    assert [] == problem.get("not_undone", [])
    counts = world.ledger.counts()
    for path in undone:
        assert 1 <= counts[f"undo {path}"] <= 1 + len(crashes), counts
    check_one_run(world)


@both
@given(life=lives, cut=cuts, crashes=crashes, client=clients)
@settings(max_examples=EXAMPLES)
def test_a_life_that_is_cut_short(
    life: Life, cut: Cut, crashes: tuple[int, ...], client: str, is_async: bool
) -> None:
    """The run completes as if undisturbed, or what it and its children have done is undone."""
    world = World(life, fails=False, cut=cut)
    response = finish(world, crashes, client, is_async=is_async)
    hypothesis.event(f"status {response.status}")
    if response.status == 200:
        assert fits(life, response_value(response)), response.body
    phases = {record.run.phase for record in roots(world)}
    if phases:  # a run without a step that ends in time is not stored
        status = {Phase.COMPLETED: 200, Phase.FAILED: 500, Phase.CANCELLED: 410}
        assert [response.status] == [status[phase] for phase in phases], response.body
    if world.was_cancelled:
        assert {Phase.CANCELLED} == phases
    check_undone(world)
    check_one_run(world)


def check_undone(world: World) -> None:
    """All of a run that has not completed is undone, and nothing of one that has.

    Of a race that was decided, the steps of the losers are left out by a replay.
    """
    sure = {path for path, _, is_sure, _ in tasks_of(world.life) if is_sure}
    works = {path for path, _, _, _ in tasks_of(world.life)}
    for found in world.store.list("lab", limit=1000):
        record = world.store.get("lab", found.run.id)
        assert record is not None
        done = {memo.op.name for memo in record.memos if memo.ok}
        undone = {name.removeprefix("(undo) ") for name in done if name.startswith("(undo) ")}
        if record.run.phase is Phase.COMPLETED:
            assert set() == undone, record
        else:
            assert sure & done <= undone <= works & done, record


def response_value(response: Response) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)
