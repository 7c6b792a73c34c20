"""Handlers that nobody wrote: programs of steps, sleeps and branches, with a crash anywhere."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_core.api.step import step, sync_step
from durable_core.errors import StepError
from durable_core.flow.handoff import handoff_response, new_token
from durable_core.flow.options import ResolvedOptions
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.ports import RunRecord
from durable_core.runners.settings import Settings
from support.harness import Ledger, WatchedStore, lab, request, until

#: A client is handed off soon where a run waits for another one.
SETTINGS = Settings(unwind_time=2.0, invoke_wait=0.02)


@dataclass(frozen=True)
class Work:
    """A step whose function fails so often; three retries are allowed."""

    failures: int


@dataclass(frozen=True)
class Nap:
    """A sleep of so many milliseconds."""

    ms: int


@dataclass(frozen=True)
class Own:
    """Code of the handler's own between the steps, which gives way to other tasks."""


@dataclass(frozen=True)
class Sequence:
    """One after the other."""

    parts: tuple[Program, ...]


@dataclass(frozen=True)
class Branches:
    """Side by side, by ``gather``, in a TaskGroup, or by ``step.parallel``.

    In ``def`` handlers the first two stand for one after the other.
    """

    parts: tuple[Program, ...]
    form: Literal["gather", "group", "parallel"]


@dataclass(frozen=True)
class Invoke:
    """A program in a run of its own."""

    part: Program


Program: TypeAlias = Work | Nap | Own | Sequence | Branches | Invoke

leaves: st.SearchStrategy[Program] = st.one_of(
    st.builds(Work, st.sampled_from([0, 0, 0, 1, 5])),
    st.builds(Nap, st.sampled_from([0, 1, 20])),
    st.builds(Own),
)


forms: st.SearchStrategy[Literal["gather", "group", "parallel"]] = st.sampled_from(
    ["gather", "group", "parallel"]
)


def _branching(inner: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    parts = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.builds(Sequence, parts) | st.builds(Branches, parts, forms) | st.builds(Invoke, inner)


programs = st.recursive(leaves, _branching, max_leaves=8)


def expected(program: Program) -> Any:
    """Return what the program gives."""
    match program:
        case Work(failures=failures):
            return "failed" if failures > 3 else "done"
        case Sequence(parts=parts) | Branches(parts=parts):
            return [expected(part) for part in parts]
        case Invoke(part=part):
            return expected(part)
    return None


def work_of(program: Program, path: str = "p") -> Iterator[tuple[str, int]]:
    """Yield the id of each step with a function, and how often it is called."""
    if isinstance(program, Work):
        yield path, min(program.failures, 3) + 1
    if isinstance(program, Sequence | Branches):
        for n, part in enumerate(program.parts):
            yield from work_of(part, f"{path}-{n}")
    if isinstance(program, Invoke):
        yield from work_of(program.part, f"{path}-0")


def part_at(program: Program, path: str) -> Program:
    """Return the part of a program that has this path."""
    for n in path.split("-")[1:]:
        assert isinstance(program, Sequence | Branches | Invoke)
        program = program.part if isinstance(program, Invoke) else program.parts[int(n)]
    return program


async def run_async(program: Program, ledger: Ledger, child: object, path: str = "p") -> Any:
    match program:
        case Work(failures=failures):
            try:
                error = ValueError(path)
                return await step.run(path, ledger.fails, path, failures, error, "done")
            except StepError:
                return "failed"
        case Nap(ms=ms):
            return await step.sleep(path, ms / 1000)
        case Own():
            await asyncio.sleep(0.001)
            return None
        case Sequence(parts=parts):
            return [
                await run_async(part, ledger, child, f"{path}-{n}") for n, part in enumerate(parts)
            ]
        case Branches(parts=parts):
            todo = [run_async(part, ledger, child, f"{path}-{n}") for n, part in enumerate(parts)]
            if program.form == "gather":
                return await asyncio.gather(*todo)
            if program.form == "parallel":
                return list(await step.parallel(f"{path}-all", *[_given(each) for each in todo]))
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(each) for each in todo]
            return [task.result() for task in tasks]
        case Invoke():
            return await step.invoke(path, child, f"{path}-0", result=object)


def _given(code: Coroutine[Any, Any, Any]) -> Callable[[], Coroutine[Any, Any, Any]]:
    return lambda: code


def run_sync(program: Program, ledger: Ledger, child: object, path: str = "p") -> Any:
    match program:
        case Work(failures=failures):
            try:
                return sync_step.run(path, ledger.fails, path, failures, ValueError(path), "done")
            except StepError:
                return "failed"
        case Nap(ms=ms):
            return sync_step.sleep(path, ms / 1000)
        case Own():
            return None
        case Branches(parts=parts, form="parallel"):
            todo = [
                functools.partial(run_sync, part, ledger, child, f"{path}-{n}")
                for n, part in enumerate(parts)
            ]
            return list(sync_step.parallel(f"{path}-all", *todo))
        case Sequence(parts=parts) | Branches(parts=parts):
            return [run_sync(part, ledger, child, f"{path}-{n}") for n, part in enumerate(parts)]
        case Invoke():
            return sync_step.invoke(path, child, f"{path}-0", result=object)


def finish(program: Program, asynchronous: bool, crashes: tuple[int, ...]) -> tuple[Any, Ledger]:
    """Run the program to its end, in one process after the other."""
    store, ledger = WatchedStore(), Ledger()
    child: Any = None

    def sync(request: Request) -> Any:
        path = request.json() if request.body else "p"
        return Response.json(run_sync(part_at(program, path), ledger, child, path))

    async def async_(request: Request) -> Any:
        path = request.json() if request.body else "p"
        return Response.json(await run_async(part_at(program, path), ledger, child, path))

    handler = async_ if asynchronous else sync
    for attempt, crash in zip(count(), (*crashes, None), strict=False):
        if crash is not None:
            store.crash_after(crash)
        with lab(store, settings=SETTINGS) as process:
            child = endpoint = process.endpoint(handler)
            process.durable.start()
            records = _roots(store)
            if attempt and records:
                run_id = records[0].run.id
                token = new_token(process.durable.engine.env, run_id)
                answer = handoff_response(ResolvedOptions(key="it"), "GET", run_id, token)
            else:
                answer = endpoint.handle(request())
            if crash is None:
                return process.follow(endpoint, answer).body, ledger
            if answer.status == 200:
                return answer.body, ledger
            until(lambda: store.crashed.is_set() or _ended(store))
        store.recover()
    raise AssertionError("the last process does not crash")


def _roots(store: WatchedStore) -> list[RunRecord]:
    """Return the run that the client has begun, if it is stored."""
    return [each for each in store.list("lab", limit=1000) if each.run.parent is None]


def _ended(store: WatchedStore) -> bool:
    records = _roots(store)
    return bool(records) and records[0].run.phase.ended


def body(value: Any) -> Any:
    return Response.json(value).body


both = pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])


@both
@given(program=programs)
@settings(max_examples=60)
def test_any_program(program: Program, asynchronous: bool) -> None:
    """Every program gives its result, and its steps are called as often as they must be."""
    result, ledger = finish(program, asynchronous, ())
    assert body(expected(program)) == result
    assert dict(work_of(program)) == ledger.counts()


@both
@given(program=programs, crashes=st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple))
@settings(max_examples=60)
def test_any_program_with_crashes(
    program: Program, asynchronous: bool, crashes: tuple[int, ...]
) -> None:
    """With crashes in between the result is the same; only steps in flight are called again."""
    result, ledger = finish(program, asynchronous, crashes)
    failing = {name for name, calls in work_of(program) if calls > 1}
    counts = ledger.counts()
    if not failing:
        assert body(expected(program)) == result
        width = max(1, len(dict(work_of(program))))
        for name, calls in work_of(program):
            assert calls <= counts[name] <= calls + len(crashes)
        assert sum(counts.values()) <= len(dict(work_of(program))) + len(crashes) * width
