"""The life of a run: steps, replays, retries, failures."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from durable_conformance.contract import Capability
from durable_conformance.deployment import Deployment, deployment_for
from durable_conformance.plugin import needs, requirement
from durable_conformance.programs import LONG_NAP, NAP, CallLog, Program, Script
from durable_core import NonRetriableError, Request, Response, step


@requirement("L1")
def test_a_run_that_goes_well(deployment: Deployment) -> None:
    """The client has the handler's response on its own connection."""
    call_log = CallLog()

    def program(request: Request, step: Any) -> Script:
        first = yield step.run("a", call_log.record, "a", {"n": 1})
        second = yield step.run("b", call_log.record, "b", [first, None])
        return Response.json(second, 202, {"x-own": "1"})

    with deployment.serving(program) as server:
        reply = server.ask("POST", "/it")

    assert (202, "1", [{"n": 1}, None]) == (reply.status, reply.get("x-own"), reply.json())
    assert {"a": 1, "b": 1} == call_log.counts()


def _without_steps(request: Request, step: Any) -> Script:
    yield from ()
    return {"no": "steps"}


@requirement("L1")
def test_a_run_without_steps(deployment: Deployment) -> None:
    """It is an ordinary request."""
    with deployment.serving(_without_steps) as server:
        reply = server.ask("POST", "/it")

    assert (200, {"no": "steps"}) == (reply.status, reply.json())


@requirement("L12")
@needs(Capability.RUNS)
def test_a_run_is_recorded(deployment: Deployment) -> None:
    """What completed and what failed, under the name of its endpoint, with its steps."""

    def program(request: Request, step: Any) -> Script:
        yield step.run("a", lambda: None)
        yield step.run("b", lambda: None)
        if "fail" in request.query:
            raise NonRetriableError("no")

    with deployment.serving(program) as server:
        assert [200, 500] == [server.finish("POST", f"/it{q}").status for q in ("", "?fail")]
        records = [server.durable.runs.get(each.id) for each in server.durable.runs.list()]

    assert {("completed", "it", "a", "b"), ("failed", "it", "a", "b")} == {
        (each.status, each.name, *(step.name for step in each.steps)) for each in records
    }


@requirement("L13")
def test_a_run_without_steps_is_not_recorded(deployment: Deployment) -> None:
    """Nothing is stored of what an ordinary request is."""
    with deployment.serving(_without_steps) as server:
        assert 200 == server.ask("POST", "/it").status
        assert [] == server.phases()


@requirement("L2")
def test_replay_does_not_execute_again(deployment: Deployment) -> None:
    """However often the handler is replayed, each step is executed once, with one result."""
    call_log = CallLog()

    def program(request: Request, step: Any) -> Script:
        seen = []
        for number in range(4):
            value = yield step.run("work", lambda: call_log.record("work", call_log.count("work")))
            seen.append(value)
            yield step.sleep(f"nap-{number}", 0.01)
        return seen

    with deployment.serving(program) as server:
        assert [1, 2, 3, 4] == [value + 1 for value in server.finish("GET", "/it").json()]

    assert {"work": 4} == call_log.counts()


@requirement("L3")
def test_replay_sees_the_same_request(deployment: Deployment) -> None:
    """Method, URL, query and body are those of the first time."""
    body = bytes(range(256)) * 10
    seen: list[tuple[object, ...]] = []

    def program(request: Request, step: Any) -> Script:
        seen.append((request.method, request.url, request.query.items(), request.body))
        yield step.run("a", lambda: None)
        if len(seen) == 1:
            raise RuntimeError("try the handler again")
        return "done"

    with deployment.serving(program) as server:
        reply = server.finish("PUT", "/it?b=2&a=%26&b=1", body=body)

    assert "done" == reply.json()
    assert (2, seen[0]) == (len(seen), seen[-1])
    assert ("PUT", body) == (seen[0][0], seen[0][3])


@requirement("L3")
@needs(Capability.REQUEST_FIELDS)
def test_replay_sees_the_same_fields(deployment: Deployment) -> None:
    """The header fields of the request are there as the first time, repeated ones as well."""
    seen: list[str] = []

    def program(request: Request, step: Any) -> Script:
        seen.append(",".join(request.headers.get_all("x-own")).replace(" ", ""))
        yield step.run("a", lambda: None)
        if len(seen) == 1:
            raise RuntimeError("try the handler again")
        return "done"

    with deployment.serving(program) as server:
        fields = (("X-Own", "1"), ("X-Own", "2"))
        assert "done" == server.finish("GET", "/it", fields=fields).json()

    assert ["1,2", "1,2"] == seen


def _swallow_errors(request: Request, step: Any) -> Script:
    try:
        yield step.sleep("nap", 0.1)
    except Exception:
        return "swallowed"
    return "slept"


def _swallow_all(request: Request, step: Any) -> Script:
    try:
        yield step.sleep("nap", 0.1)
    except:  # noqa: E722 - what some handlers do
        return "swallowed"
    return "slept"


def _return_finally(request: Request, step: Any) -> Script:
    answer = "swallowed"
    try:
        yield step.sleep("nap", 0.1)
        answer = "slept"
    finally:
        return answer  # noqa: B012 - what some handlers do


@requirement("L9")
@pytest.mark.parametrize("program", [_swallow_errors, _swallow_all, _return_finally])
def test_the_signal_may_be_swallowed(deployment: Deployment, program: Program) -> None:
    """A handler that catches what suspends it is replayed all the same."""
    with deployment.serving(program) as server:
        assert "slept" == server.finish("GET", "/it").json()


@requirement("L9")
def test_steps_after_the_signal_are_not_executed(deployment: Deployment) -> None:
    """Whoever has swallowed it gets no further with the next step."""
    call_log = CallLog()

    def program(request: Request, step: Any) -> Script:
        try:
            yield step.sleep("nap", 0.1)
        except BaseException:
            yield step.run("never", call_log.record, "never", 0)
            return "swallowed"
        return "slept"

    with deployment.serving(program) as server:
        assert "slept" == server.finish("GET", "/it").json()

    assert {} == call_log.counts()


async def _gathered(numbers: list[int], work: Callable[[int], Any]) -> list[int]:
    return list(await asyncio.gather(*(work(number) for number in numbers)))


async def _grouped(numbers: list[int], work: Callable[[int], Any]) -> list[int]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work(number)) for number in numbers]
    return [task.result() for task in tasks]


async def _in_branches(numbers: list[int], work: Callable[[int], Any]) -> list[int]:
    branches = [functools.partial(work, number) for number in numbers]
    return list(await step.parallel("together", *branches))


@requirement("L10")
@needs(Capability.ASYNC_HANDLERS)
@pytest.mark.parametrize("together", [_gathered, _grouped, _in_branches])
def test_steps_in_parallel(durable_subject: Any, together: Any) -> None:
    """Under ``gather`` and ``TaskGroup``: one branch retries, one sleeps; each step runs once."""
    call_log = CallLog()

    async def work(number: int) -> int:
        if number == 1:
            await step.run("flaky", call_log.fail_first, "flaky", 1, ValueError("not yet"))
        elif number == 2:
            await step.sleep("nap", NAP)
        value: int = await step.run(f"s{number}", call_log.record, f"s{number}", number)
        return value

    async def handler(request: Request) -> Any:
        return await together([0, 1, 2, 3], work)

    more = lambda durable: {"GET /it": durable.endpoint(function_id="it")(handler)}  # noqa: E731
    with deployment_for(durable_subject, "async").serving(more=more) as server:
        assert [0, 1, 2, 3] == server.finish("GET", "/it").json()

    assert {"flaky": 2, "s0": 1, "s1": 1, "s2": 1, "s3": 1} == call_log.counts()


@requirement("L10")
@needs(Capability.ASYNC_HANDLERS)
def test_a_race_keeps_its_winner(durable_subject: Any) -> None:
    """The branch that has won goes on in each replay, though another one would be faster then."""
    call_log = CallLog()

    async def work(name: str, seconds: float) -> str:
        value: str = await step.run(name, call_log.record, name, name)
        await step.sleep(f"{name}-nap", seconds)
        return value

    async def handler(request: Request) -> Any:
        first = await step.parallel(
            "first", lambda: work("slow", LONG_NAP), lambda: work("fast", NAP), mode="race"
        )
        await step.sleep("nap", NAP)
        return [first, await step.run("end", call_log.record, "end", "end")]

    more = lambda durable: {"GET /it": durable.endpoint(function_id="it")(handler)}  # noqa: E731
    with deployment_for(durable_subject, "async").serving(more=more) as server:
        assert ["fast", "end"] == server.finish("GET", "/it").json()

    assert {"slow": 1, "fast": 1, "end": 1} == call_log.counts()


@requirement("L11")
def test_many_runs_at_once(deployment: Deployment, background: Callable[..., Future[Any]]) -> None:
    """Each is answered with its own result."""

    def program(request: Request, step: Any) -> Script:
        number = request.query["n"]
        doubled = yield step.run("double", lambda: 2 * int(number))
        yield step.sleep("nap", NAP)
        return {number: doubled}

    with deployment.serving(program) as server:
        clients = [background(server.finish, "GET", f"/it?n={number}") for number in range(25)]
        seen = [client.result().json() for client in clients]

    assert [{str(number): 2 * number} for number in range(25)] == seen
