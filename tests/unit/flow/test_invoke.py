"""``step.invoke``: another endpoint of the application, in a run of its own."""

from __future__ import annotations

import asyncio
import functools
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from durable_core.api.run_info import RunInfo
from durable_core.api.step import step, sync_step
from durable_core.engine import invocation
from durable_core.errors import (
    ChildRunError,
    NonRetriableError,
    StepArgumentError,
    StepError,
    StepTypeError,
    StoreError,
)
from durable_core.flow.child_runs import child_response
from durable_core.flow.env import Limits
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Phase
from durable_core.ports import Checkpoint, Write
from durable_core.runners.settings import Settings
from support.harness import FakeClock, Lab, Ledger, WatchedStore, lab, request, until
from support.undoing import RELEASED, RESERVED, Shop, decoded

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])
#: A client is handed off at once.
AT_ONCE = Settings(unwind_time=2.0, invoke_wait=0.001)


def parent_of(
    child: object, asynchronous: bool, asked: object = None, **options: Any
) -> Callable[[Request], Any]:
    """Return a handler that invokes an endpoint, and returns what became of that."""

    def shown(response: Any) -> object:
        if not isinstance(response, Response):
            return repr(response)
        assert isinstance(response.body, bytes)
        return [response.status, response.body.decode()]

    def sync(request: Request) -> object:
        try:
            return shown(sync_step.invoke("call", child, asked, **options))
        except StepError as error:
            return [error.name, error.message, error.data]

    async def async_(request: Request) -> object:
        try:
            return shown(await step.invoke("call", child, asked, **options))
        except StepError as error:
            return [error.name, error.message, error.data]

    return async_ if asynchronous else sync


def echo(asked: Request) -> object:
    """Answer with what was asked."""
    return {"method": asked.method, "json": asked.json() if asked.body else None}


async def echo_async(asked: Request) -> object:
    """As :func:`echo`."""
    return echo(asked)


@both
@pytest.mark.parametrize("handler", [echo, echo_async])
def test_a_child_that_is_fast_needs_no_handoff(
    asynchronous: bool, handler: Callable[[Request], Any]
) -> None:
    """The client gets the response on its own connection; each run shows the other one."""
    with lab() as process:
        child = process.endpoint(handler, function_id="child")
        endpoint = process.endpoint(parent_of(child, asynchronous, {"a": 1}))
        response = endpoint.handle(request())
        runs = process.durable.runs
        parent, started = sorted(runs.list(), key=lambda run: run.parent is not None)
        [called] = runs.get(parent.id).steps
    assert 200 == response.status
    assert [200, '{"method":"POST","json":{"a":1}}'] == decoded(response)
    assert (parent.id, "completed") == (started.parent, started.status)
    assert ("invoke", "completed", started.id) == (called.kind, called.status, called.child)
    assert {"status": 200, "body": '{"method":"POST","json":{"a":1}}'} == called.result


@both
def test_a_request_of_ones_own(asynchronous: bool) -> None:
    """Method, URL, headers and body are as they are given; any status is a response."""

    def child(asked: Request) -> Response:
        text = f"{asked.method} {asked.path} {asked.query['x']} {asked.headers['x-y']}"
        return Response(status=404, body=text.encode())

    asked = request("/items?x=1", "PUT", b"body", x_y="z")
    with lab() as process:
        handler = process.endpoint(child, function_id="child")
        response = process.endpoint(parent_of(handler, asynchronous, asked)).handle(request())
    assert [404, "PUT /items 1 z"] == decoded(response)


@dataclass
class Item:
    """A typed result."""

    name: str


@both
@pytest.mark.parametrize(
    ("value", "expected"),
    [({"name": "a"}, "Item(name='a')"), (Response(status=409), ["HTTPStatus", 409])],
)
def test_a_typed_result(asynchronous: bool, value: object, expected: object) -> None:
    """The JSON of a 2xx response as the type; any other status is a StepError."""
    with lab() as process:
        child = process.endpoint(lambda request: value, function_id="child")
        endpoint = process.endpoint(parent_of(child, asynchronous, result=Item))
        shown = decoded(endpoint.handle(request()))
    if isinstance(shown, list):
        shown = [shown[0], shown[2]["status"]]
    assert expected == shown


@both
def test_a_result_of_another_type(asynchronous: bool) -> None:
    """It is a StepTypeError, which no retry mends."""
    with lab() as process:
        child = process.endpoint(lambda request: {"nam": "a"}, function_id="child")
        endpoint = process.endpoint(parent_of(child, asynchronous, result=Item))
        detail = decoded(endpoint.handle(request()))["detail"]
    assert StepTypeError.__name__ in detail
    assert "the response to step 'call' does not fit" in detail


@both
def test_a_child_that_takes_long(asynchronous: bool) -> None:
    """The parent is suspended meanwhile, and goes on when the child has ended."""
    clock, done = FakeClock(), Ledger()

    def child(asked: Request) -> str:
        sync_step.sleep("nap", "1h")
        return sync_step.run("work", done.did, "work", "slept")

    with lab(clock=clock, settings=AT_ONCE) as process:
        handler = process.endpoint(child, function_id="child")
        endpoint = process.endpoint(parent_of(handler, asynchronous))
        first = endpoint.handle(request())
        assert 302 == first.status
        runs = process.durable.runs
        until(lambda: process.suspended() > 1)
        shown = {run.parent is None: run for run in runs.list()}
        [waiting] = runs.get(shown[True].id).steps
        assert ("waiting", shown[False].id) == (waiting.status, waiting.child)
        assert {"suspended"} == {run.status for run in runs.list()}
        clock.advance(3600)
        process.poke()
        assert [200, '"slept"'] == decoded(process.follow(endpoint, first))
    assert {"work": 1} == done.counts()


@both
def test_a_child_that_fails(asynchronous: bool) -> None:
    """The parent gets a StepError with the problem document of the child."""

    def child(asked: Request) -> None:
        raise NonRetriableError("no stock", public="sold out")

    with lab() as process:
        handler = process.endpoint(child, function_id="child")
        endpoint = process.endpoint(parent_of(handler, asynchronous))
        name, message, data = decoded(endpoint.handle(request()))
        [started] = [run for run in process.durable.runs.list() if run.parent is not None]
        [parent] = [run for run in process.durable.runs.list() if run.parent is None]
        [called] = process.durable.runs.get(parent.id).steps
    assert ("RunFailed", "NonRetriableError: no stock") == (name, message)
    assert ("urn:durable:run-failed", started.id) == (data["type"], data["run_id"])
    assert ("failed", started.id) == (called.status, called.child)


@both
def test_a_child_that_is_cancelled(asynchronous: bool) -> None:
    """It has failed for its parent, once its steps are undone."""
    shop = Shop()
    with lab(settings=AT_ONCE) as process:
        child = process.endpoint(shop.handler(False, 3600), function_id="child")
        endpoint = process.endpoint(parent_of(child, asynchronous))
        first = endpoint.handle(request())
        runs = process.durable.runs
        until(lambda: shop.ledger.counts()["reserve c"])
        [started] = [run for run in runs.list() if run.parent is not None]
        assert runs.cancel(started.id, reason="stop")
        name, message, data = decoded(process.follow(endpoint, first))
    assert ("RunCancelled", "the run was cancelled: stop") == (name, message)
    assert ["c", "b", "a"] == data["undone"]
    assert {**RESERVED, **RELEASED} == shop.ledger.counts()


@both
def test_cancelling_the_parent_cancels_the_child_and_its_child(asynchronous: bool) -> None:
    """At once, also where no process works on them."""
    store = WatchedStore()
    with lab(store, settings=AT_ONCE) as process:

        def last(asked: Request) -> None:
            sync_step.sleep("nap", 3600)

        grandchild = process.endpoint(last, function_id="grandchild")
        child = process.endpoint(parent_of(grandchild, asynchronous), function_id="child")
        endpoint = process.endpoint(parent_of(child, asynchronous))
        endpoint.handle(request())
        until(lambda: len(store.list("lab", limit=9)) == 3)
        until(lambda: all(each.owner is None for each in store.list("lab", limit=9)))
        [parent] = [run for run in process.durable.runs.list() if run.parent is None]
    with lab(store) as process:
        assert process.durable.runs.cancel(parent.id)
        assert {"cancelled"} == {run.status for run in process.durable.runs.list()}


@both
def test_children_of_a_run_that_ends_are_cancelled(asynchronous: bool) -> None:
    """So are those of a parent that is past its time."""
    shop, clock = Shop(), FakeClock()
    with lab(clock=clock, settings=AT_ONCE) as process:
        child = process.endpoint(shop.handler(False, 86_400), function_id="child")
        endpoint = process.endpoint(parent_of(child, asynchronous), run_timeout="1h")
        first = endpoint.handle(request())
        until(lambda: shop.ledger.counts()["reserve c"])
        until(lambda: process.suspended() > 1)
        clock.advance(3600)
        process.poke()
        assert "urn:durable:run-timed-out" == decoded(process.follow(endpoint, first))["type"]
        [started] = [run for run in process.durable.runs.list() if run.parent is not None]
        process.durable.runs.wait(started.id, timeout="20s")
        assert "cancelled" == process.durable.runs.get(started.id).status
    assert {**RESERVED, **RELEASED} == shop.ledger.counts()


@both
def test_a_child_that_takes_too_long(asynchronous: bool) -> None:
    """It is cancelled when the step's time is over, and the step has failed."""
    clock = FakeClock()

    def child(asked: Request) -> None:
        sync_step.sleep("nap", "2h")

    with lab(clock=clock, settings=AT_ONCE) as process:
        handler = process.endpoint(child, function_id="child")
        endpoint = process.endpoint(parent_of(handler, asynchronous, timeout="1h"))
        first = endpoint.handle(request())
        until(lambda: process.suspended() > 1)
        clock.advance(3600)
        process.poke()
        name, message, data = decoded(process.follow(endpoint, first))
        [started] = [run for run in process.durable.runs.list() if run.parent is not None]
    assert "TimeoutError" == name
    assert f"run {started.id} took longer than 3600 s (timeout=), and was cancelled" == message
    assert ({"run_id": started.id}, "cancelled") == (data, started.status)
    assert "its parent run has waited for 3600 s" == started.cancel_reason


def test_a_child_that_ends_when_the_time_is_over() -> None:
    """Its response is not lost, although its parent has not been told of its end in time."""
    with lab() as process:
        child = process.endpoint(echo, function_id="child")
        process.endpoint(parent_of(child, False)).handle(request())
        [started] = [run for run in process.durable.runs.list() if run.parent is not None]
        nobody: Any = None  # only a call that begins a child needs its execution
        call = invocation.invocation(process.engine, nobody, "child", request(), "call", 1000)
        outcome = call.give_up(started.id)
    assert isinstance(outcome, str)
    assert 200 == child_response(outcome).status


@both
def test_an_endpoint_that_invokes_itself(
    asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last level is refused with an error that says so, which fails all of them."""
    monkeypatch.setattr(invocation, "MAX_DEPTH", 5)
    endpoints: list[Any] = []

    def sync(asked: Request) -> str:
        sync_step.invoke("again", endpoints[0])
        return "never"

    async def async_(asked: Request) -> str:
        await step.invoke("again", endpoints[0])
        return "never"

    with lab(settings=AT_ONCE) as process:
        endpoints.append(process.endpoint(async_ if asynchronous else sync))
        problem = decoded(process.call(endpoints[0]))
        runs = process.durable.runs.list()
    assert "at most 5 are allowed: does an endpoint invoke itself?" in problem["detail"]
    assert (6, {"failed"}) == (len(runs), {run.status for run in runs})


@both
def test_an_endpoint_that_invokes_two_of_itself(asynchronous: bool) -> None:
    """The run above all of them may have so many below it. One more fails for good, with an error
    that says so, and the others end with it.
    """
    endpoints: list[Any] = []

    def sync(asked: Request) -> str:
        sync_step.parallel(
            "both",
            lambda: sync_step.invoke("one", endpoints[0]),
            lambda: sync_step.invoke("two", endpoints[0]),
        )
        return "never"

    async def async_(asked: Request) -> str:
        await asyncio.gather(step.invoke("one", endpoints[0]), step.invoke("two", endpoints[0]))
        return "never"

    with lab(settings=AT_ONCE, limits=Limits(child_runs=20)) as process:
        endpoints.append(process.endpoint(async_ if asynchronous else sync))
        problem = decoded(process.call(endpoints[0]))
        runs = until(lambda: _every_run(process))
    assert "than the 20 that may begin below one run (Limits.child_runs)" in problem["detail"]
    assert 21 == len(runs)
    assert {run.status for run in runs} <= {"failed", "cancelled"}


def _every_run(process: Lab) -> Sequence[RunInfo]:
    runs = process.durable.runs.list()
    return runs if all(run.ended is not None for run in runs) else ()


def test_a_hundred_levels_work() -> None:
    """Each level is a run of its own, and none holds a thread for another one."""
    endpoints: list[Any] = []

    def handler(asked: Request) -> int:
        left: int = asked.json()
        if left == 0:
            return 0
        return sync_step.invoke("next", endpoints[0], left - 1, result=int) + 1

    with lab(settings=Settings(worker_threads=1, invoke_wait=0.001)) as process:
        endpoints.append(process.endpoint(handler))
        response = process.call(endpoints[0], request(method="POST", body=b"100"))
        deepest = max(record.run.depth for record in process.records.list())
    assert (100, 100) == (decoded(response), deepest)


@both
def test_parents_do_not_starve_their_children(asynchronous: bool) -> None:
    """With one thread for replays, and all of a server's threads held by parents that wait."""
    child_threads = Settings(worker_threads=1, serving_threads=4, invoke_wait=20.0)

    def nested(process: Lab, inner: object) -> Callable[[Request], object]:
        def child(asked: Request) -> object:
            return sync_step.invoke("inner", inner, result=str)

        return child

    with lab(settings=child_threads) as process:
        inner = process.endpoint(lambda request: "inner", function_id="inner")
        child = process.endpoint(nested(process, inner), function_id="child")
        endpoint = process.endpoint(parent_of(child, asynchronous))
        with ThreadPoolExecutor(20) as clients:
            responses = list(clients.map(lambda _: endpoint.handle(request()), range(20)))
        shown = [decoded(process.follow(endpoint, each)) for each in responses]
    assert [[200, '"inner"']] * 20 == shown


def test_parents_of_an_asynchronous_server_do_not_starve_their_children() -> None:
    """``def`` parents hold all threads that serve clients; the children have others."""
    with lab(settings=Settings(worker_threads=1, serving_threads=2, invoke_wait=20.0)) as process:
        child = process.endpoint(echo, function_id="child")
        endpoint = process.endpoint(parent_of(child, False))

        async def ask() -> list[Response]:
            return await asyncio.gather(*(endpoint.handle_async(request()) for _ in range(10)))

        try:
            responses = asyncio.run(ask())
        finally:
            process.stop()
    assert [200] * 10 == [each.status for each in responses]


@both
def test_a_crash_after_each_checkpoint(asynchronous: bool) -> None:
    """Wherever the process dies, one child has begun, each step counts once, both runs end."""
    checkpoints = 0
    while True:
        ledger, store = Ledger(), WatchedStore()
        store.crash_after(checkpoints)
        with lab(store, settings=AT_ONCE) as process:
            endpoint = _deploy(process, ledger, asynchronous)
            endpoint.handle(request())
            until(functools.partial(_stopped, store))
        if not store.crashed.is_set():
            break
        checkpoints += 1
        store.recover()
        if not store.list("lab", limit=1):
            continue
        with lab(store, settings=AT_ONCE) as process:
            _deploy(process, ledger, asynchronous)
            process.durable.start()
            until(functools.partial(_all_ended, store))
        assert {1} == set(store.memos().values())
        records = store.list("lab", limit=9)
        assert [0, 1] == sorted(record.run.depth for record in records)
        assert {Phase.COMPLETED} == {record.run.phase for record in records}
        assert {"before", "inside", "after"} == ledger.counts().keys()
        assert sum(ledger.counts().values()) <= 4  # the step in flight has run once more
    assert checkpoints > 4


def _deploy(process: Lab, ledger: Ledger, asynchronous: bool) -> Any:
    def child(asked: Request) -> str:
        return sync_step.run("inside", ledger.did, "inside", "in")

    async def child_async(asked: Request) -> str:
        return await step.run("inside", ledger.did, "inside", "in")

    called = process.endpoint(child_async if asynchronous else child, function_id="child")

    def sync(asked: Request) -> str:
        sync_step.run("before", ledger.did, "before", 1)
        text = sync_step.invoke("call", called, result=str)
        return sync_step.run("after", ledger.did, "after", text)

    async def async_(asked: Request) -> str:
        await step.run("before", ledger.did, "before", 1)
        text = await step.invoke("call", called, result=str)
        return await step.run("after", ledger.did, "after", text)

    return process.endpoint(async_ if asynchronous else sync)


def _all_ended(store: WatchedStore) -> bool:
    records = store.list("lab", limit=9)
    return bool(records) and all(each.run.phase.ended for each in records)


def _stopped(store: WatchedStore) -> bool:
    return store.crashed.is_set() or _all_ended(store)


def test_children_side_by_side() -> None:
    """Each branch waits for its own; the results are those of a sequence."""

    async def handler(asked: Request) -> list[object]:
        calls = (step.invoke(f"call-{n}", child, n, result=dict) for n in range(5))
        return [each["json"] for each in await asyncio.gather(*calls)]

    def in_threads(asked: Request) -> list[object]:
        def call(n: int) -> dict[str, object]:
            return sync_step.invoke(f"call-{n}", child, n, result=dict)

        calls = [functools.partial(call, n) for n in range(5)]
        return [each["json"] for each in sync_step.parallel("all", *calls)]

    with lab(settings=AT_ONCE) as process:
        child = process.endpoint(echo, function_id="child")
        one = process.endpoint(handler)
        other = process.endpoint(in_threads, function_id="in-threads")
        assert [0, 1, 2, 3, 4] == decoded(process.call(one))
        assert [0, 1, 2, 3, 4] == decoded(process.call(other))


def test_a_stop_hands_the_client_off() -> None:
    """A parent that waits in place does not hold up the process, and goes on in the next one."""
    store, begun = WatchedStore(), threading.Event()

    def child(asked: Request) -> str:
        begun.set()
        sync_step.sleep("nap", 0.05)
        return "done"

    answers: list[Response] = []
    with lab(store, settings=Settings(invoke_wait=20.0)) as process:
        endpoint = process.endpoint(parent_of(process.endpoint(child, function_id="child"), False))
        client = threading.Thread(target=lambda: answers.append(endpoint.handle(request())))
        client.start()
        assert begun.wait(20)
    client.join(20)
    assert 302 == answers[0].status
    with lab(store) as process:
        endpoint = process.endpoint(parent_of(process.endpoint(child, function_id="child"), False))
        assert [200, '"done"'] == decoded(process.follow(endpoint, answers[0]))


@both
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"endpoint": print}, "invokes what @durable.endpoint returns, not <built-in"),
        ({"request": object()}, "takes a Request, or a value that is JSON"),
        ({"request": request(method="GET")}, "child serves POST, not GET"),
        ({"request": "x" * 100}, "has a body of 102 bytes; at most 64 are allowed"),
        ({"timeout": 0}, "timeout must be 1 ms or more"),
        ({"timeout": "soon"}, "timeout"),
        ({"result": object()}, "result"),
    ],
)
def test_bad_arguments(asynchronous: bool, arguments: dict[str, Any], text: str) -> None:
    """Each is refused before anything begins, in words that name it."""
    with lab(limits=Limits(body=64)) as process:
        child = process.endpoint(echo, function_id="child", methods=("POST",))
        given = {"endpoint": child, "request": None, **arguments}
        handler = parent_of(given.pop("endpoint"), asynchronous, given.pop("request"), **given)
        problem = decoded(process.endpoint(handler).handle(request()))
        assert StepArgumentError.__name__ in problem["detail"]
        assert text in problem["detail"]
        assert [] == process.durable.runs.list()


def test_a_retried_parent_begins_another_child() -> None:
    """The one of the failed attempt does not go on beside it."""
    ready: list[bool] = []

    def child(asked: Request) -> str:
        if not ready:
            sync_step.sleep("nap", 3600)
        return "done"

    def fail() -> None:
        if not ready:
            raise NonRetriableError("not now")

    async def handler(asked: Request) -> str:
        text, _ = await asyncio.gather(
            step.invoke("call", endpoint, result=str), step.run("check", fail)
        )
        return str(text)

    with lab(settings=AT_ONCE) as process:
        endpoint = process.endpoint(child, function_id="child")
        assert 500 == process.call(process.endpoint(handler)).status
        runs = process.durable.runs
        [parent] = [run for run in runs.list() if run.parent is None]
        ready.append(True)
        assert runs.retry(parent.id)
        assert "completed" == runs.wait(parent.id, timeout="20s").status
        statuses = [run.status for run in runs.list() if run.parent == parent.id]
    assert ["completed", "cancelled"] == statuses


def test_a_failed_child_is_not_retried() -> None:
    """Its parent has been told that it failed, and the error says what to do instead."""
    ready: list[bool] = []

    def child(asked: Request) -> str:
        sync_step.run("look", lambda: None)
        sync_step.run("check", fail)
        return "done"

    def fail() -> None:
        if not ready:
            raise NonRetriableError("not now")

    with lab() as process:
        endpoint = process.endpoint(child, function_id="child")
        process.call(process.endpoint(parent_of(endpoint, False)))
        runs = process.durable.runs
        [failed] = runs.list(status="failed")
        expected = re.escape(f"resume_from({failed.id!r}, 'check')")
        with pytest.raises(ChildRunError, match=expected):
            runs.retry(failed.id)
        assert "failed" == runs.get(failed.id).status
        ready.append(True)
        copy = runs.resume_from(failed.id, "check")
        assert "completed" == runs.wait(copy, timeout="20s").status


@pytest.mark.slow
@both
@pytest.mark.parametrize("crashes", [False, True])
def test_the_child_of_a_branch_that_has_lost_is_cancelled(
    asynchronous: bool, crashes: bool
) -> None:
    """While its parent goes on; and the winner does not wait for it. If the process dies when the
    winner is stored, the next one sees to it.
    """
    store = WatchedStore()

    def slow(asked: Request) -> None:
        sync_step.sleep("nap", 3600)

    def handler(asked: Request) -> str:
        branches = [lambda: sync_step.invoke("a", lost), lambda: sync_step.invoke("b", won)]
        response = sync_step.parallel("race", *branches, mode="race")
        sync_step.wait_for_event("go", event="go", timeout="1h")
        return str(response.status)

    async def handler_async(asked: Request) -> str:
        branches = [lambda: step.invoke("a", lost), lambda: step.invoke("b", won)]
        response = await step.parallel("race", *branches, mode="race")
        await step.wait_for_event("go", event="go", timeout="1h")
        return str(response.status)

    def crash_at_winner(writes: Sequence[Write[Any]]) -> None:
        memos = [m for each in writes if isinstance(each, Checkpoint) for m in each.memos]
        if store.crashed.is_set() or any(memo.op.name == "a" for memo in memos):
            store.crashed.set()
            raise StoreError("the process has crashed")

    settings = Settings(unwind_time=2.0, invoke_wait=60.0)
    with lab(store, settings=settings) as process:
        lost = process.endpoint(slow, function_id="lost")
        won = process.endpoint(echo, function_id="won")
        store.fault = crash_at_winner if crashes else None
        process.endpoint(handler_async if asynchronous else handler).handle(request())
        if not crashes:
            until(lambda: process.durable.runs.list(status="cancelled", endpoint="lost"))
    store.recover()
    with lab(store, settings=AT_ONCE) as process:
        lost = process.endpoint(slow, function_id="lost")
        won = process.endpoint(echo, function_id="won")
        process.endpoint(handler_async if asynchronous else handler)
        process.durable.start()
        runs = process.durable.runs
        until(lambda: runs.list(status="cancelled", endpoint="lost"))
        [parent] = runs.list(endpoint="it")
        until(lambda: "suspended" == runs.get(parent.id).status)
        steps = {each.name: (each.status, each.error) for each in runs.get(parent.id).steps}
        assert ("failed", "StepCancelled: another branch has won the race") == steps["a"]
        assert ("waiting", None) == steps["go"]


def test_a_time_out_around_it() -> None:
    """It is refused as around any step that waits: it would not survive a restart."""

    def child(asked: Request) -> None:
        sync_step.sleep("nap", 3600)

    async def handler(asked: Request) -> object:
        async with asyncio.timeout(0.01):
            return await step.invoke("call", endpoint)

    with lab(settings=Settings(invoke_wait=20.0)) as process:
        endpoint = process.endpoint(child, function_id="child")
        problem = decoded(process.endpoint(handler).handle(request()))
    assert "a time-out ended around step 'call' while that waited" in problem["detail"]


def test_an_endpoint_of_another_application() -> None:
    """It has another store, where nobody would tell the parent of its end."""
    with lab() as process, lab() as other:
        child = other.endpoint(echo, function_id="child")
        problem = decoded(process.endpoint(parent_of(child, False)).handle(request()))
    assert "invokes an endpoint of another application" in problem["detail"]
