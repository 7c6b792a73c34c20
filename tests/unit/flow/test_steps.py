"""The steps: memos, marks, tickets, limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.api.stream import sync_stream
from durable_core.codec.tokens import event_id
from durable_core.errors import StepError, StoreError
from durable_core.flow.env import Limits
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.step_ids import hash_step_id
from durable_core.model.run import Phase
from durable_core.ports import Checkpoint, Write
from support.harness import FakeClock, Ledger, WatchedStore, event, lab, request, until

Handler = Callable[[Request], Any]


def finish(handler: Handler, store: WatchedStore | None = None, **options: Any) -> bytes:
    """Run it to its end in one process; give the body of the answer."""
    limits = options.pop("limits", None)
    with lab(store, limits=limits) as process:
        response = process.call(process.endpoint(handler, **options))
    return body_of(response)


def body_of(response: Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


# What is durable when


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_steps_wait_for_the_checkpoint_before(count: int, asynchronous: bool) -> None:
    """A step's function starts after the commit of the step before, and n steps cost n commits."""
    store = WatchedStore()

    def work(n: int) -> int:
        store.log.append(f"step {n}")
        return n

    def sync(request: Request) -> object:
        for n in range(count):
            sync_step.run(f"s{n}", work, n)
        store.log.append("end")
        return "end"

    async def async_(request: Request) -> object:
        for n in range(count):
            await step.run(f"s{n}", work, n)
        store.log.append("end")
        return "end"

    finish(async_ if asynchronous else sync, store)

    steps = [entry for entry in store.log if entry != "commit"]
    assert [*(f"step {n}" for n in range(count)), "end"] == steps
    for n in range(1, count):
        assert "commit" == store.log[store.log.index(f"step {n}") - 1]
    assert "commit" == store.log[-1]
    assert count <= store.log.count("commit") <= count + 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_end_of_a_sleep_is_stored_with_the_step_after_it(asynchronous: bool) -> None:
    """A run that wakes commits once for the sleep, the step and its end; it shows the sleep's."""
    clock, store = FakeClock(), WatchedStore()
    seen: list[object] = []

    def work() -> str:
        seen.append(store.memos()["nap"])
        [run] = process.durable.runs.list()
        seen.append([(each.name, each.status) for each in process.durable.runs.get(run.id).steps])
        return "done"

    def sync(request: Request) -> object:
        sync_step.sleep("nap", "1h")
        return sync_step.run("work", work)

    async def async_(request: Request) -> object:
        await step.sleep("nap", "1h")
        return await step.run("work", work)

    with lab(store, clock=clock) as process:
        response = process.sleep_through(process.endpoint(async_ if asynchronous else sync), clock)
        assert b'"done"' == body_of(response)
    assert [0, [("nap", "completed"), ("work", "running")]] == seen
    [last] = store.checkpoints()[-1]
    assert isinstance(last, Checkpoint)
    assert ["nap", "work"] == [memo.op.name for memo in last.memos]
    assert last.result is not None


@pytest.mark.parametrize("form", ["timed out", "signal", "branch", "stream"])
def test_an_end_that_a_replay_might_not_see_is_stored_before_the_next_step(form: str) -> None:
    """So is a wait's time-out, what has an address, and what goes on beside others or a stream."""
    clock, store, seen = FakeClock(), WatchedStore(), []

    def work() -> str:
        seen.append(store.memos()["op"])
        return "done"

    def sync(request: Request) -> object:
        if form == "timed out":
            sync_step.wait_for_event("op", event="never", timeout="1h")
        elif form == "signal":
            sync_step.wait_for_signal("op", signal="go", timeout="1 day")
        else:
            sync_stream.push("chunk")
            sync_step.sleep("op", "1h")
        return sync_step.run("work", work)

    async def async_(request: Request) -> object:
        async def nap_and_work() -> str:
            await step.sleep("op", "1h")
            return await step.run("work", work)

        return (await asyncio.gather(nap_and_work(), step.sleep("other", "30m")))[0]

    with lab(store, clock=clock) as process:
        endpoint = process.endpoint(async_ if form == "branch" else sync)
        first = endpoint.handle(request())
        until(lambda: process.suspended() == 1)
        if form == "signal":
            process.durable.signal("go")
        process.pass_nap(clock)
        assert b'"done"' == body_of(process.follow(endpoint, first))
    assert [1] == seen


def test_no_step_no_record() -> None:
    """A handler without steps writes nothing."""
    store = WatchedStore()
    assert b"null" != finish(lambda request: "x", store)
    assert [] == store.checkpoints()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_failed_attempts_and_starts_are_recorded(asynchronous: bool) -> None:
    """Each failed call of a step, and of the handler, has its times, its error and its retry."""
    store, fails = WatchedStore(), ["a", "handler"]

    def work(name: str) -> str:
        if name in fails:
            fails.remove(name)
            raise OSError(f"{name} is down")
        return name

    def sync(request: Request) -> object:
        sync_step.run("first", work, "first")
        return [sync_step.run("a", work, "a"), work("handler")]

    async def async_(request: Request) -> object:
        await step.run("first", work, "first")
        return [await step.run("a", work, "a"), work("handler")]

    with lab(store) as process:
        process.durable.start()
        process.endpoint(async_ if asynchronous else sync).handle(request())
        until(lambda: process.records.list()[0].run.phase.ended)
        record = process.records.get(process.records.list()[0].run.id)

    assert Phase.COMPLETED is record.run.phase
    assert [("first", 1), ("a", 2)] == [(memo.op.name, memo.attempts) for memo in record.memos]
    own, of_step = record.failed_attempts
    assert ("", 1, "OSError", "handler is down") == (
        own.op_id,
        own.number,
        own.error_name,
        own.error_message,
    )
    a = record.memos[1]
    assert (a.op.id, 1, "OSError", "a is down") == (
        of_step.op_id,
        of_step.number,
        of_step.error_name,
        of_step.error_message,
    )
    for memo in record.memos:
        assert memo.started_at is not None
        assert record.run.created_at <= memo.started_at <= memo.ended_at
    for failed in record.failed_attempts:
        assert failed.started_at <= failed.ended_at
        assert failed.retry_at is not None
    assert a.started_at is not None
    assert of_step.retry_at is not None
    assert of_step.ended_at <= of_step.retry_at <= a.started_at


def test_a_first_try_adds_no_attempt() -> None:
    """A run whose steps succeed at once has no row for a failed attempt."""
    store = WatchedStore()
    finish(lambda request: sync_step.run("only", str, 1), store)

    [run] = store.list("lab", limit=9)
    record = store.get("lab", run.run.id)
    assert record is not None
    assert ((), 1) == (record.failed_attempts, len(record.memos))


@pytest.mark.parametrize("good", range(4))
@pytest.mark.parametrize("asynchronous", [False, True])
def test_store_error_is_never_success(good: int, asynchronous: bool) -> None:
    """When a checkpoint is refused the client gets 503, and no later step runs."""
    store, ledger = WatchedStore(), Ledger()

    def sync(request: Request) -> object:
        return [sync_step.run(f"s{n}", ledger.did, f"s{n}", n) for n in range(3)]

    async def async_(request: Request) -> object:
        return [await step.run(f"s{n}", ledger.did, f"s{n}", n) for n in range(3)]

    with lab(store) as process:
        process.durable.start()
        left = good

        def fault(writes: Sequence[Write[Any]]) -> None:
            nonlocal left
            if any(isinstance(write, Checkpoint) for write in writes):
                if left <= 0:
                    raise StoreError("the disk is full")
                left -= 1

        store.fault = fault
        response = process.endpoint(async_ if asynchronous else sync).handle(request())
        committed = len(store.checkpoints())
        store.fault = None
        if committed < 3:
            assert 503 == response.status
            assert "retry-after" in response.headers
            assert good + 1 == len(ledger.calls)
        else:
            assert 200 == response.status
        if good:
            until(lambda: all(each.run.phase.ended for each in process.records.list()))
            [record] = process.records.list()
            assert Phase.COMPLETED is record.run.phase
            assert {f"s{n}" for n in range(3)} == set(ledger.calls)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_store_error_is_hidden_from_the_handler(asynchronous: bool) -> None:
    """``except Exception`` does not see that the store failed, nor can it answer for it."""
    ledger = Ledger()

    class Unreadable(WatchedStore):
        broken = False

        def event_seq(self, app: str) -> int:
            if self.broken:
                raise StoreError("cannot read")
            return super().event_seq(app)

    store = Unreadable()

    def work() -> None:
        ledger.did("a", None)
        store.broken = True
        store.batches.clear()

    def sync(request: Request) -> object:
        try:
            sync_step.run("a", work)
            sync_step.run("b", ledger.did, "b", 1)
        except Exception:
            ledger.did("caught", None)
        return "success"

    async def async_(request: Request) -> object:
        try:
            await step.run("a", work)
            await step.run("b", ledger.did, "b", 1)
        except Exception:
            ledger.did("caught", None)
        return "success"

    with lab(store) as process:
        response = process.endpoint(async_ if asynchronous else sync).handle(request())
        store.broken = False
    assert "caught" not in ledger.calls
    assert (503 if "b" not in ledger.calls else 200) == response.status


# Values


@pytest.mark.parametrize("asynchronous", [False, True])
def test_first_execution_sees_what_a_replay_sees(asynchronous: bool) -> None:
    """The result goes through the codec at once: it is a copy, in the first execution too."""
    value: list[Any] = [1, {"a": [True, None, 0.5]}]

    def sync(request: Request) -> object:
        got = sync_step.run("a", lambda: value)
        return [got == value, got is value]

    async def async_(request: Request) -> object:
        got = await step.run("a", lambda: value)
        return [got == value, got is value]

    assert b"[true,false]" == finish(async_ if asynchronous else sync)


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {1}, b"x", float("nan"), object()])
def test_result_that_cannot_be_stored(value: object) -> None:
    """It is a TypeError that names the step, and the run fails without another attempt."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        return sync_step.run("odd", ledger.did, "odd", value)

    body = finish(handler)
    assert b"StepResultError" in body
    assert b"'odd'" in body
    assert ["odd"] == ledger.calls


@pytest.mark.parametrize(
    ("value", "name"), [((1, 2), "StepResultError"), ("x" * 99, "StepResultTooLargeError")]
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_step_whose_result_cannot_be_stored_has_failed_for_good(
    value: object, name: str, asynchronous: bool
) -> None:
    """A handler may catch that: replay shows it the same, and the function is not called again."""
    ledger, seen, clock = Ledger(), [], FakeClock()

    def sync(request: Request) -> object:
        try:
            sync_step.run("odd", ledger.did, "odd", value)
        except StepError as error:
            seen.append((type(error).__name__, error.step_id, str(error)))
        sync_step.sleep("nap", "1h")
        return "end"

    async def async_(request: Request) -> object:
        try:
            await step.run("odd", ledger.did, "odd", value)
        except StepError as error:
            seen.append((type(error).__name__, error.step_id, str(error)))
        await step.sleep("nap", "1h")
        return "end"

    with lab(clock=clock, limits=Limits(step_result=50)) as process:
        response = process.sleep_through(process.endpoint(async_ if asynchronous else sync), clock)
    assert b'"end"' == body_of(response)
    first, again = seen
    assert first == again
    assert (name, "odd") == first[:2]
    assert ["odd"] == ledger.calls


def test_limits() -> None:
    """Results and steps beyond their limits end the run, by the name of the limit."""

    def large(request: Request) -> object:
        return sync_step.run("large", lambda: "x" * 100)

    def much(request: Request) -> object:
        return [sync_step.run(f"s{n}", lambda: "x" * 40) for n in range(5)]

    def many(request: Request) -> object:
        return [sync_step.run(f"s{n}", int) for n in range(5)]

    assert b"Limits.step_result" in finish(large, limits=Limits(step_result=50))
    assert b"Limits.run_state" in finish(much, limits=Limits(run_state=100))
    assert b"one more than the 4 steps" in finish(many, limits=Limits(steps=4))
    assert b"[0,0,0,0,0]" == finish(many, limits=Limits(steps=5))


def test_failed_attempts_are_counted() -> None:
    """A memo says how many attempts it took; the last error is kept while it is tried again."""
    store, ledger = WatchedStore(), Ledger()

    def handler(request: Request) -> object:
        return sync_step.run("flaky", ledger.fails, "flaky", 2, ValueError("no"), 1)

    finish(handler, store)
    writes = [write for batch in store.checkpoints() for write in batch]
    [memo] = [memo for write in writes if isinstance(write, Checkpoint) for memo in write.memos]
    assert (True, 3) == (memo.ok, memo.attempts)


def test_only_an_op_that_was_pending_has_its_record_removed() -> None:
    """A checkpoint is direct unless its op had failed before, slept or waited."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        sync_step.run("good", ledger.fails, "good", 0, ValueError("no"), 1)
        sync_step.sleep("none", 0)
        sync_step.run("flaky", ledger.fails, "flaky", 1, ValueError("no"), 1)
        sync_step.sleep("nap", 0.001)
        return "done"

    store = WatchedStore()
    finish(handler, store=store)

    direct = {
        memo.op.name: write.no_pending_row
        for batch in store.checkpoints()
        for write in batch
        if isinstance(write, Checkpoint)
        for memo in write.memos
    }
    assert {"good": True, "flaky": False, "none": True, "nap": False} == direct


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_retries(retries: int) -> None:
    """A step is called 1 + ``retries`` times at most."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        try:
            return sync_step.run("bad", ledger.fails, "bad", 99, ValueError("no"), 1)
        except StepError:
            return "caught"

    assert b'"caught"' == finish(handler, retries=retries)
    assert {"bad": 1 + retries} == ledger.counts()


# Events


@pytest.mark.parametrize("face", ["def", "async"])
@pytest.mark.parametrize("when", ["before", "during"])
def test_event_around_the_step_before(when: str, face: str) -> None:
    """An event from within the step before is heard; one from before that step is not."""
    with lab() as process:
        send = process.durable.send

        def during() -> None:
            if when == "during":
                send(event("go", id="once", n=1))

        def sync(request: Request) -> object:
            sync_step.run("zero", int)
            send(event("go", id="once", n=1) if when == "before" else event("other", id="other"))
            sync_step.run("first", during)
            heard = sync_step.wait_for_event("w", event="go", timeout=0.05)
            return heard and heard.data

        async def async_(request: Request) -> object:
            await step.run("zero", int)
            await process.durable.send_async(
                event("go", id="once", n=1) if when == "before" else event("other", id="other")
            )
            await step.run("first", during)
            heard = await step.wait_for_event("w", event="go", timeout=0.05)
            return heard and heard.data

        response = process.call(process.endpoint(sync if face == "def" else async_))
        assert (b"null" if when == "before" else b'{"n":1}') == response.body


@pytest.mark.parametrize("face", ["def", "async"])
def test_event_between_step_and_wait(face: str) -> None:
    """An event that comes after the step and before the wait is asked for is heard."""
    with lab() as process:

        def sync(request: Request) -> object:
            sync_step.run("first", int)
            process.durable.send(event("go", id="once", n=1))
            heard = sync_step.wait_for_event("w", event="go", timeout="1h")
            return heard and heard.data

        async def async_(request: Request) -> object:
            await step.run("first", int)
            await process.durable.send_async(event("go", id="once", n=1))
            heard = await step.wait_for_event("w", event="go", timeout="1h")
            return heard and heard.data

        response = process.call(process.endpoint(sync if face == "def" else async_))
        assert b'{"n":1}' == response.body


def test_event_of_a_time_before_the_run() -> None:
    """What was sent before the request came is not heard."""
    with lab() as process:
        process.durable.send(event("go", n=0))

        async def handler(request: Request) -> object:
            heard = await step.wait_for_event("w", event="go", timeout=0.03)
            return heard and heard.data

        assert b"null" == process.call(process.endpoint(handler)).body


def test_second_wait_needs_another_event() -> None:
    """Of two waits in sequence the second is for a later event."""
    with lab() as process:

        def handler(request: Request) -> object:
            sync_step.run("ask", lambda: process.durable.send(event("go", id="one", n=1)) and None)
            one = sync_step.wait_for_event("one", event="go", timeout="1h")
            two = sync_step.wait_for_event("two", event="go", timeout=0.03)
            return [one and one.data, two]

        assert b'[{"n":1},null]' == process.call(process.endpoint(handler)).body


def test_parallel_waits_share_an_event() -> None:
    """One event ends all waits for it that run side by side, in one run and in several."""
    with lab() as process:

        async def handler(request: Request) -> object:
            heard = await asyncio.gather(
                *[step.wait_for_event(f"w{n}", event="go", timeout="1h") for n in range(3)]
            )
            return [each and each.data["n"] for each in heard]

        endpoint = process.endpoint(handler)
        firsts = [endpoint.handle(request()) for _ in range(3)]
        process.durable.send(event("go", n=7))
        assert [b"[7,7,7]"] * 3 == [process.follow(endpoint, each).body for each in firsts]


def test_waits_in_branches_have_marks_of_their_own() -> None:
    """A step of one branch does not hide an event from the wait of another."""
    with lab() as process:

        async def waiting_branch(stepped: asyncio.Event) -> object:
            await step.run("a", int)
            process.durable.send(event("go", id="go", n=1))
            await stepped.wait()  # meanwhile the other branch takes steps
            heard = await step.wait_for_event("w", event="go", timeout="1h")
            return heard and heard.data

        async def other_branch(stepped: asyncio.Event) -> None:
            await asyncio.sleep(0)
            await step.run("b", int)
            await step.run("c", int)
            stepped.set()

        async def handler(request: Request) -> object:
            stepped = asyncio.Event()
            heard, _ = await asyncio.gather(waiting_branch(stepped), other_branch(stepped))
            return heard

        assert b'{"n":1}' == process.call(process.endpoint(handler)).body


@pytest.mark.parametrize("face", ["def", "async"])
def test_run_does_not_hear_itself(face: str) -> None:
    """A wait after ``send_event`` is for what comes after; another run hears the event."""
    with lab() as process:

        def listens(request: Request) -> object:
            heard = sync_step.wait_for_event("w", event="said", timeout="1h")
            return heard and heard.data

        def sync(request: Request) -> object:
            sync_step.send_event("say", event("said", n=1))
            heard = sync_step.wait_for_event("w", event="said", timeout=0.03)
            return {"heard": heard and heard.data}

        async def async_(request: Request) -> object:
            await step.send_event("say", event("said", n=1))
            heard = await step.wait_for_event("w", event="said", timeout=0.03)
            return {"heard": heard and heard.data}

        listener = process.endpoint(listens, function_id="listener")
        first = listener.handle(request())
        speaker = process.endpoint(sync if face == "def" else async_)
        assert b'{"heard":null}' == process.call(speaker).body
        assert b'{"n":1}' == process.follow(listener, first).body


def test_sent_event_ids() -> None:
    """``send_event`` returns ids: the given ones, and others that take the secret to make."""
    with lab(secrets=["secret" * 6]) as process:

        def handler(request: Request) -> object:
            return sync_step.send_event("say", [event("x", id="mine"), event("x"), event("x")])

        body = json.loads(body_of(process.call(process.endpoint(handler))))
        [record] = process.records.list()
        secret, op_id = ("secret" * 6).encode(), hash_step_id("say")
        made = [
            event_id(
                secret,
                app="lab",
                run_id=record.run.id,
                retry_count=0,
                op_id=op_id,
                index=index,
            )
            for index in (1, 2)
        ]
        assert ["mine", *made] == body


def test_one_event_id_is_one_event() -> None:
    """An event that is sent again under its id wakes nobody a second time."""
    with lab() as process:

        def handler(request: Request) -> object:
            one = sync_step.wait_for_event("one", event="go", timeout="1h")
            sync_step.run("again", lambda: process.durable.send(event("go", id="e", n=2)) and None)
            two = sync_step.wait_for_event("two", event="go", timeout=0.03)
            return [one and one.data, two]

        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        process.durable.send(event("go", id="e", n=1))
        process.durable.send(event("go", id="e", n=1))
        assert b'[{"n":1},null]' == process.follow(endpoint, first).body


def test_timer_of_a_wait() -> None:
    """A wait whose time is over gives None, and an event that comes later is not lost."""
    with lab() as process:

        def handler(request: Request) -> object:
            one = sync_step.wait_for_event("one", event="go", timeout=0.02)
            process.durable.send(event("go", id="e", n=1))
            two = sync_step.wait_for_event("two", event="go", timeout="1h")
            return [one, two and two.data]

        assert b'[null,{"n":1}]' == process.call(process.endpoint(handler)).body


def test_sleep_of_no_time_goes_on_at_once() -> None:
    """A sleep of 0, or until a time that is past, needs no handoff."""

    def handler(request: Request) -> object:
        sync_step.sleep("zero", 0)
        sync_step.sleep_until("past", datetime(2020, 1, 1, tzinfo=UTC))
        return "at once"

    with lab() as process:
        response: Response = process.endpoint(handler).handle(request())
    assert (200, b'"at once"') == (response.status, response.body)
