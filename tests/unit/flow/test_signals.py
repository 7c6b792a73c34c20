"""Signals: one step waits for a name, and what is sent goes to it alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from durable_core import Signal
from durable_core.api.step import step, sync_step
from durable_core.errors import (
    LimitExceededError,
    SignalConflictError,
    StepTypeError,
)
from durable_core.flow.env import Limits
from durable_core.flow.signals import deliver_signal
from durable_core.http.request import Request
from durable_core.model.run import Phase
from durable_core.ports import Checkpoint, Delivered, Write
from durable_core.stores.memory import MemoryStore
from support.harness import FakeClock, Lab, WatchedStore, lab, request, until

both = pytest.mark.parametrize("kind", ["def", "async def"])


@dataclass
class Answer:
    approved: bool


def shown(got: Signal[Any] | None) -> object:
    if got is None:
        return "none"
    return [got.name, got.data.approved if isinstance(got.data, Answer) else got.data]


def waiting(kind: str, signal: str = "go", timeout: object = "1h", **options: Any) -> Any:
    """Return a handler that answers with the data of a signal, or with how the wait failed."""

    def plain(request: Request) -> object:
        got = sync_step.wait_for_signal("wait", signal=signal, timeout=timeout, **options)  # type: ignore[call-overload]
        return shown(got)

    async def asynchronous(request: Request) -> object:
        got = await step.wait_for_signal("wait", signal=signal, timeout=timeout, **options)  # type: ignore[call-overload]
        return shown(got)

    return plain if kind == "def" else asynchronous


def until_suspended(process: Lab, runs: int = 1) -> list[str]:
    def look() -> list[str]:
        ids = [record.run.id for record in process.records.list(Phase.SUSPENDED)]
        return ids if len(ids) == runs else []

    return until(look)


@both
def test_a_signal_ends_the_wait(kind: str) -> None:
    """The sender learns which run has it; a second one finds nobody."""
    with lab() as process:
        handler = process.endpoint(waiting(kind))
        first = handler.handle(request())
        [run_id] = until_suspended(process)
        [info] = process.durable.runs.get(run_id).steps
        assert ("signal", "waiting", "go") == (info.kind, info.status, info.event)

        assert process.durable.signal("other") is None
        assert run_id == process.durable.signal("go", {"by": ["Ada", 1, None]})
        answer = process.follow(handler, first)

        assert process.durable.signal("go") is None
        assert b'["go",{"by":["Ada",1,null]}]' == answer.body
        [info] = process.durable.runs.get(run_id).steps
        assert {"signal": "go", "data": {"by": ["Ada", 1, None]}} == info.result
        assert ("completed", None) == (info.status, info.event)


@both
def test_a_wait_has_a_time_out(kind: str) -> None:
    """Then the handler gets None, and the name is free."""
    clock = FakeClock()
    with lab(clock=clock) as process:
        handler = process.endpoint(waiting(kind, timeout="59m"))
        first = handler.handle(request())
        until_suspended(process)
        clock.advance(3600)
        process.poke()

        assert b'"none"' == process.follow(handler, first).body
        assert process.durable.signal("go") is None


@both
def test_a_conflict_fails_the_second_wait(kind: str) -> None:
    """The error is stored, names step and signal, and may be caught; the first wait goes on."""
    caught: list[str] = []

    def plain(request: Request) -> object:
        try:
            sync_step.wait_for_signal("wait", signal="go", timeout="1h")
        except SignalConflictError as error:
            caught.append(str(error))
            sync_step.sleep("nap", "1ms")
            return "conflict"
        return "got it"

    async def asynchronous(request: Request) -> object:
        try:
            await step.wait_for_signal("wait", signal="go", timeout="1h")
        except SignalConflictError as error:
            caught.append(str(error))
            await step.sleep("nap", "1ms")
            return "conflict"
        return "got it"

    with lab() as process:
        handler = process.endpoint(plain if kind == "def" else asynchronous)
        first = handler.handle(request())
        [run_id] = until_suspended(process)

        assert b'"conflict"' == process.follow(handler, handler.handle(request())).body
        assert run_id == process.durable.signal("go")
        assert b'"got it"' == process.follow(handler, first).body
    assert 1 <= len(caught)
    assert 1 == len(set(caught))
    assert "step 'wait': another run waits for the signal 'go' already" in caught[0]
    assert 'on_conflict="replace"' in caught[0]


@both
def test_a_conflict_may_replace_the_first_wait(kind: str) -> None:
    """The first one gets nothing, and goes on after its time-out."""
    clock = FakeClock()
    with lab(clock=clock) as process:
        handler = process.endpoint(waiting(kind, on_conflict="replace"))
        first = handler.handle(request())
        [old] = until_suspended(process)
        second = handler.handle(request())
        [new] = [run_id for run_id in until_suspended(process, 2) if run_id != old]

        assert new == process.durable.signal("go", 7)
        assert b'["go",7]' == process.follow(handler, second).body
        clock.advance(3601)
        process.poke()
        assert b'"none"' == process.follow(handler, first).body


@both
def test_a_step_sends_a_signal_once(kind: str) -> None:
    """A replay has the id of the run that got it, and sends nothing."""

    def plain(request: Request) -> object:
        to = sync_step.send_signal("send", "go", {"n": 1})
        sync_step.sleep("nap", "1ms")
        return to

    async def asynchronous(request: Request) -> object:
        to = await step.send_signal("send", "go", {"n": 1})
        await step.sleep("nap", "1ms")
        return to

    with lab() as process:
        waiter = process.endpoint(waiting(kind), function_id="waiter")
        sender = process.endpoint(plain if kind == "def" else asynchronous)
        first = waiter.handle(request())
        [run_id] = until_suspended(process)

        answer = process.call(sender)
        assert f'"{run_id}"'.encode() == answer.body
        assert b'["go",{"n":1}]' == process.follow(waiter, first).body
        assert b"null" == process.call(sender).body
        [newest, *_] = process.durable.runs.list()
        info = process.durable.runs.get(newest.id).steps[0]
        assert ("send-signal", "completed", None) == (info.kind, info.status, info.result)


@both
def test_a_branch_signals_its_own_run(kind: str) -> None:
    """A run that is live and waits is told at once."""

    def plain(request: Request) -> object:
        def send() -> object:
            sync_step.sleep("nap", "10ms")
            return sync_step.send_signal("send", "go", 1)

        waited, sent = sync_step.parallel(
            "both", lambda: sync_step.wait_for_signal("w", signal="go", timeout="1h"), send
        )
        return [waited and waited.data, sent is not None]

    async def asynchronous(request: Request) -> object:
        async def send() -> object:
            await step.sleep("nap", "10ms")
            return await step.send_signal("send", "go", 1)

        waited, sent = await step.parallel(
            "both", lambda: step.wait_for_signal("w", signal="go", timeout="1h"), send
        )
        return [waited and waited.data, sent is not None]

    with lab() as process:
        handler = process.endpoint(plain if kind == "def" else asynchronous)
        assert b"[1,true]" == process.call(handler).body


@both
def test_data_has_a_type(kind: str) -> None:
    """What does not fit is an error that names step, signal and remedy."""
    with lab() as process:
        handler = process.endpoint(waiting(kind, data=Answer), retries=0)
        answers = []
        for data in ({"approved": True}, {"approved": "yes"}):
            first = handler.handle(request())
            until_suspended(process)
            process.durable.signal("go", data)
            answers.append(process.follow(handler, first))

        assert b'["go",true]' == answers[0].body
        assert isinstance(answers[1].body, bytes)
        assert StepTypeError.__name__.encode() in answers[1].body
        for text in (b"signal 'go'", b"step 'wait'", b"approved", b"mend its sender"):
            assert text in answers[1].body


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"signal": ""}, "signal name must have 1 to 255 characters, not 0"),
        ({"signal": 7}, "signal name must be a str, not int"),
        ({"signal": "\ud800"}, "lone surrogates"),
        ({"timeout": "soon"}, "timeout"),
        ({"on_conflict": "ignore"}, "on_conflict must be 'fail' or 'replace', not 'ignore'"),
    ],
)
@both
def test_bad_arguments_of_a_wait(kind: str, arguments: dict[str, Any], text: str) -> None:
    """Each is a mistake that no retry mends; the message names step and argument."""
    with lab() as process:
        response = process.call(process.endpoint(waiting(kind, **arguments)))
        assert 500 == response.status
        assert isinstance(response.body, bytes)
        assert b"step 'wait'" in response.body
        assert text in response.body.decode()


@pytest.mark.parametrize(
    ("name", "data", "id", "error", "text"),
    [
        ("", None, None, ValueError, "signal name must have 1 to 255 characters"),
        ("go", object(), None, TypeError, "the data of signal 'go' is not JSON"),
        ("go", "x" * 100, None, LimitExceededError, "at most 50 are allowed (Limits.event)"),
        ("go", None, "", ValueError, "signal id must have 1 to 255 characters"),
    ],
)
def test_bad_signals(
    name: str, data: object, id: str | None, error: type[Exception], text: str
) -> None:
    """Nothing is sent, by whichever way."""
    with lab(limits=Limits(event=50)) as process:
        for send in (process.durable.signal, run_async(process.durable.signal_async)):
            with pytest.raises(error) as caught:
                send(name, data, id=id)
            assert text in str(caught.value)
        if id is None:

            def handler(request: Request) -> object:
                return sync_step.send_signal("send", name, data)

            response = process.call(process.endpoint(handler, retries=0))
            assert isinstance(response.body, bytes)
            assert text in response.body.decode()


def run_async(fn: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: asyncio.run(fn(*args, **kwargs))


def test_a_signal_with_an_id_is_sent_once() -> None:
    """Also by a process that has no worker, and in a task."""
    with lab() as process:
        handler = process.endpoint(waiting("def"))
        first = handler.handle(request())
        [run_id] = until_suspended(process)
        process.stop()

        assert run_id == process.durable.signal("go", 1, id="s1")
        assert run_id == asyncio.run(process.durable.signal_async("go", 2, id="s1"))
        assert b'["go",1]' == process.follow(handler, first).body


def test_a_signal_goes_to_another_process() -> None:
    """Two engines on one store: the one that executes the run is told."""
    store = MemoryStore()
    with lab(store) as one, lab(store) as two:
        handler = one.endpoint(waiting("async def"))
        first = handler.handle(request())
        [run_id] = until_suspended(one)
        two.endpoint(waiting("async def"))

        assert run_id == two.durable.signal("go", 1)
        assert b'["go",1]' == one.follow(handler, first).body


def test_signals_are_values() -> None:
    """They are equal by name and data."""
    assert Signal("go", 1) == Signal("go", 1) != Signal("go", 2)


@both
def test_what_comes_while_the_time_ends_is_not_lost(kind: str) -> None:
    """Its sender was told that the run has it, so the run gets it."""
    clock, sent = FakeClock(), list[str | None]()

    class Late(WatchedStore):
        """Delivers just before the address is closed."""

        def commit(
            self, writes: Sequence[Write[object]], *, wait: float
        ) -> Sequence[object | BaseException]:
            for write in writes:
                if isinstance(write, Checkpoint) and write.closing:
                    late = deliver_signal("lab", Signal("go", "late"), "s1", write.now)
                    [answer] = super().commit([late], wait=wait)
                    assert isinstance(answer, Delivered)
                    sent.append(answer.run_id)
            return super().commit(writes, wait=wait)

    with lab(Late(), clock=clock) as process:
        handler = process.endpoint(waiting(kind, timeout="59m"))
        first = handler.handle(request())
        run_id = until_suspended(process)
        clock.advance(3600)
        process.poke()
        answer = process.follow(handler, first)

    assert run_id == sent
    assert b'["go","late"]' == answer.body
