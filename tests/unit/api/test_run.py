"""What a run is known by: the context of its handler, its labels, its record."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable_core import Durable, run
from durable_core.api.adapter import HTTPHandler
from durable_core.api.run import CurrentRun, RunContext, current_execution
from durable_core.api.run_info import RunInfo
from durable_core.api.step import step, sync_step
from durable_core.errors import HTTPError, NonRetriableError, StepUsageError
from durable_core.http.request import Request
from durable_core.http.response import Response
from support.harness import FakeClock, Lab, lab, request

LABELS = {"tenant": "acme", "order": "7"}


def handler(request: Request) -> Any:
    """Return what it knows of its run, and what its step knows."""
    return [run.id, run.attempt, sync_step.run("inside", lambda: [run.id, run.attempt])]


async def handler_async(request: Request) -> Any:
    return [run.id, run.attempt, await step.run("inside", lambda: [run.id, run.attempt])]


def call(endpoint: HTTPHandler, kind: str, asked: Request) -> Response:
    if kind == "def":
        return endpoint.handle(asked)
    return asyncio.run(endpoint.handle_async(asked))


def body_of(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


each_kind = pytest.mark.parametrize(
    ("kind", "function"), [("def", handler), ("async def", handler_async)]
)


def only_run(process: Lab) -> RunInfo:
    [listed] = process.durable.runs.list()
    return process.durable.runs.get(listed.id)


@each_kind
def test_a_handler_and_its_steps_know_their_run(kind: str, function: Callable[..., Any]) -> None:
    """Both kinds of handlers, and functions of steps in their threads."""
    with lab() as process:
        seen = json.loads(body_of(call(process.endpoint(function), kind, request())))
        known = only_run(process)

    assert [known.id, 1, [known.id, 1]] == seen


def test_the_context() -> None:
    """It says what the run was begun with; the time is that of the request, in UTC."""
    contexts: list[RunContext | None] = []

    def remember(request: Request) -> None:
        contexts.append(Durable.current_run())
        assert f"<run {run.id}>" == repr(run)

    with lab(clock=FakeClock(1_700_000_000_500)) as process:
        endpoint = process.endpoint(remember, labels=LABELS, version="v7", record="always")
        endpoint.handle(request())
        known = only_run(process)

    assert contexts == [
        RunContext(
            id=known.id,
            key=None,
            labels=LABELS,
            version="v7",
            started_at=datetime.fromtimestamp(1_700_000_000, UTC) + timedelta(milliseconds=500),
            attempt=1,
        )
    ]


def test_a_handler_knows_its_attempt() -> None:
    """Failures of the handler count; replays of an attempt do not."""
    attempts: list[int] = []
    clock = FakeClock()

    def fails_once(request: Request) -> str:
        attempts.append(run.attempt)
        sync_step.sleep("nap", "30m")
        if run.attempt == 1:
            raise ValueError("once")
        return "end"

    with lab(clock=clock) as process:
        answer = process.sleep_through(process.endpoint(fails_once), clock, naps=2)

    assert (200, [1, 1, 2]) == (answer.status, attempts)


def test_outside_runs() -> None:
    """There is no run, and what asks for one says so."""
    assert Durable.current_run() is None
    assert "<no run>" == repr(run)
    with pytest.raises(StepUsageError, match=r"run\.labels was read outside a run"):
        _ = run.labels
    with pytest.raises(StepUsageError, match="no execution outside a run"):
        current_execution()


def test_each_execution_is_its_own_key() -> None:
    """The handler and its step are in one; its replay is another one, and the first is let go."""
    seen: list[int] = []
    numbers: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()

    def number() -> None:
        seen.append(numbers.setdefault(current_execution(), len(seen)))

    def sleeps(request: Request) -> None:
        number()
        sync_step.run("inside", number)
        sync_step.sleep("nap", "1m")

    clock = FakeClock()
    with lab(clock=clock) as process:
        process.sleep_through(process.endpoint(sleeps), clock)
        gc.collect()

    assert ([0, 0, 2], 0) == (seen, len(numbers))


def test_run_has_what_the_context_has() -> None:
    """Each field of the context is a property of ``run``."""
    names = [field.name for field in fields(RunContext)]
    assert names == [
        name for name, value in vars(CurrentRun).items() if isinstance(value, property)
    ]


def streams(request: Request) -> Response:
    def chunks() -> Iterator[bytes]:
        yield b"a"
        yield b"b"

    return Response(body=chunks())


def refuses(request: Request) -> None:
    raise HTTPError(402, "pay first")


def fails(request: Request) -> None:
    raise NonRetriableError("no seat left")


@pytest.mark.parametrize(
    ("function", "status"),
    [
        (lambda request: "end", "completed"),
        (streams, "completed"),
        (refuses, "completed"),
        (fails, "failed"),
    ],
)
@pytest.mark.parametrize("record", ["needed", "always"])
def test_runs_without_steps_leave_a_record_where_that_is_asked_for(
    function: Callable[[Request], Any], status: str, record: str
) -> None:
    """By default they leave none; both ways the client has the response."""
    with lab() as process:
        answer = process.endpoint(function, record=record).handle(request())
        if not isinstance(answer.body, bytes):
            assert isinstance(answer.body, Iterator)
            assert [b"a", b"b"] == list(answer.body)
        found = process.durable.runs.list()

    assert ([] if record == "needed" else [status]) == [each.status for each in found]


def test_a_record_that_is_always_kept_is_one_commit() -> None:
    """The run, its request and its result are stored together."""
    with lab() as process:
        process.endpoint(lambda request: "end", record="always").handle(request())
        assert 1 == len(process.watched.checkpoints())


def test_labels_and_version() -> None:
    """A function makes the labels of a request; an endpoint's version goes before the app's."""
    with lab(version="app 1") as process:
        by_request = process.endpoint(
            lambda request: "end",
            record="always",
            labels=lambda request: {"user": request.query["user"]},
        )
        fixed = process.endpoint(
            lambda request: "end",
            record="always",
            function_id="fixed",
            labels={"b": "2", "a": "1"},
            version="mine",
        )
        by_request.handle(request("/it?user=7"))
        fixed.handle(request())
        runs = process.durable.runs.list()

    assert {"app 1": {"user": "7"}, "mine": {"a": "1", "b": "2"}} == {
        each.version: each.labels for each in runs
    }


def test_labels_of_a_function_are_checked() -> None:
    """What it returns must be labels; the run does not begin otherwise."""
    labels: Any = lambda request: {"user": 7}  # noqa: E731
    with lab() as process:
        endpoint = process.endpoint(lambda request: "end", labels=labels)
        with pytest.raises(TypeError, match="labels: the value of 'user' must be a str, not int"):
            endpoint.handle(request())


def test_the_trace_context_is_kept() -> None:
    """Of the request that began the run, whatever the case of the header's name."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with lab() as process:
        process.endpoint(handler).handle(request(Traceparent=parent))
        assert parent == only_run(process).traceparent


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_arguments_are_recorded(kind: str) -> None:
    """Those of each ``step.run``, as far as they are JSON of at most 64 KiB."""

    def changes(given: dict[str, int], more: int = 0) -> int:
        given["a"] += 1
        return more

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        (({"a": 1},), {"more": 2}),
        (({"a": 1},), {}),
        (({"a": 1, "x": "y" * 65_536},), {}),
        (({"a": 1, "x": object()},), {}),
    ]

    def with_steps(request: Request) -> None:
        for index, (args, kwargs) in enumerate(calls):
            sync_step.run(f"s{index}", changes, *args, **kwargs)
        sync_step.run("none", int)

    async def with_steps_async(request: Request) -> None:
        for index, (args, kwargs) in enumerate(calls):
            await step.run(f"s{index}", changes, *args, **kwargs)
        await step.run("none", int)

    with lab() as process:
        function = with_steps if kind == "def" else with_steps_async
        call(process.endpoint(function, record_arguments=True), kind, request())
        steps = only_run(process).steps

    assert [
        {"args": [{"a": 1}], "kwargs": {"more": 2}},
        {"args": [{"a": 1}], "kwargs": {}},
        {"left_out": True},
        {"left_out": True},
        None,
    ] == [each.arguments for each in steps]


def test_arguments_of_a_step_that_failed_are_recorded() -> None:
    """They are what one wants to know of it."""

    def with_step(request: Request) -> None:
        sync_step.run("charge", int, "seven")

    with lab() as process:
        process.call(process.endpoint(with_step, record_arguments=True, retries=0))
        [charge] = only_run(process).steps

    assert ("failed", {"args": ["seven"], "kwargs": {}}) == (charge.status, charge.arguments)


def test_arguments_are_not_recorded_unless_asked_for() -> None:
    """They may hold what should not lie in a store."""
    with lab() as process:
        process.endpoint(lambda request: sync_step.run("a", int, "7")).handle(request())
        [a] = only_run(process).steps

    assert a.arguments is None
