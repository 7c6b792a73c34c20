"""Handlers of every kind, each as ``def`` and as ``async def``: what the replay laws range over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from durable_core.api.step import step, sync_step
from durable_core.errors import (
    HTTPError,
    NonRetriableError,
    RetryAfterError,
    StepError,
    StepInterrupted,
)
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import Event, TypedEvent
from support.harness import AT_ONCE, Ledger

__all__ = ["CORPUS", "Behaviour", "World"]

Handler = Callable[[Request], Any]


@dataclass(slots=True)
class World:
    """What the handlers of one experiment touch.

    Attributes:
        ledger: counts what is done.
        send: sends an event.
        child: an endpoint; see :meth:`answer`.
    """

    ledger: Ledger
    send: Callable[[Event], object]
    child: object = None

    def answer(self, request: Request) -> object:
        """Do a step and a nap in a child run, then answer with what was asked; 0 fails."""
        asked = request.json()
        sync_step.run(f"inside-{asked}", self.ledger.did, f"inside-{asked}", asked)
        sync_step.sleep(f"nap-{asked}", 0.01)
        if asked == 0:
            raise NonRetriableError("nothing was asked")
        return asked

    def ask(self, name: str, *events: Event) -> str:
        """Do a step whose effect is that somebody answers with events."""
        self.ledger.did(name, None)
        for event in events:
            self.send(event)
        return name


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One behaviour, twice, and how it must end."""

    name: str
    twins: Callable[[World], tuple[Handler, Handler]]
    status: int
    body: bytes
    calls: dict[str, int]


def _indexed(name: str, index: int) -> str:
    """Return what a step is called at its n-th use."""
    return f"{name}:{index}" if index else name


def _sequential(world: World) -> tuple[Handler, Handler]:
    did = world.ledger.did

    def sync(request: Request) -> object:
        first = sync_step.run("a", did, "a", 1)
        second = sync_step.run("b", did, "b", first + 1)
        return Response.json({"sum": first + second}, 201, {"x-made-by": "steps"})

    async def asynchronous(request: Request) -> object:
        first = await step.run("a", did, "a", 1)
        second = await step.run("b", world.ledger.did_async, "b", first + 1)
        return Response.json({"sum": first + second}, 201, {"x-made-by": "steps"})

    return sync, asynchronous


def _parallel(world: World) -> tuple[Handler, Handler]:
    did = world.ledger.did

    def branch(n: int) -> int:
        return sync_step.run(f"p{n}", did, f"p{n}", n)

    def sync(request: Request) -> object:
        with ThreadPoolExecutor(3) as pool:
            branches = [pool.submit(copy_context().run, branch, n) for n in range(3)]
            return [branch.result() for branch in branches]

    async def asynchronous(request: Request) -> object:
        return await asyncio.gather(*[step.run(f"p{n}", did, f"p{n}", n) for n in range(3)])

    return sync, asynchronous


def _loop(world: World) -> tuple[Handler, Handler]:
    did = world.ledger.did

    def sync(request: Request) -> object:
        return [sync_step.run("again", did, _indexed("again", n), n) for n in range(4)]

    async def asynchronous(request: Request) -> object:
        return [await step.run("again", did, _indexed("again", n), n) for n in range(4)]

    return sync, asynchronous


def _retry(world: World) -> tuple[Handler, Handler]:
    fails = world.ledger.fails

    def sync(request: Request) -> object:
        sync_step.run("a", world.ledger.did, "a", 1)
        return sync_step.run("flaky", fails, "flaky", 2, ValueError("no"), "at last")

    async def asynchronous(request: Request) -> object:
        await step.run("a", world.ledger.did, "a", 1)
        return await step.run("flaky", fails, "flaky", 2, ValueError("no"), "at last")

    return sync, asynchronous


def _retry_after(world: World) -> tuple[Handler, Handler]:
    fails, error = world.ledger.fails, RetryAfterError("busy", 0.01)

    def sync(request: Request) -> object:
        return sync_step.run("flaky", fails, "flaky", 1, error, "at last")

    async def asynchronous(request: Request) -> object:
        return await step.run("flaky", fails, "flaky", 1, error, "at last")

    return sync, asynchronous


def _caught(world: World) -> tuple[Handler, Handler]:
    ledger, error = world.ledger, NonRetriableError("never")

    def sync(request: Request) -> object:
        try:
            sync_step.run("broken", ledger.fails, "broken", 9, error, None)
        except StepError as failed:
            return [failed.name, failed.message, sync_step.run("plan b", ledger.did, "plan b", 5)]
        return None

    async def asynchronous(request: Request) -> object:
        try:
            await step.run("broken", ledger.fails, "broken", 9, error, None)
        except StepError as failed:
            other = await step.run("plan b", ledger.did, "plan b", 5)
            return [failed.name, failed.message, other]
        return None

    return sync, asynchronous


def _exhausted(world: World) -> tuple[Handler, Handler]:
    fails = world.ledger.fails

    def sync(request: Request) -> object:
        return sync_step.run("broken", fails, "broken", 9, ValueError("still"), None)

    async def asynchronous(request: Request) -> object:
        return await step.run("broken", fails, "broken", 9, ValueError("still"), None)

    return sync, asynchronous


def _sleep(world: World) -> tuple[Handler, Handler]:
    did = world.ledger.did

    def sync(request: Request) -> object:
        first = sync_step.run("a", did, "a", 1)
        sync_step.sleep("nap", 0.03)
        return first + sync_step.run("b", did, "b", 2)

    async def asynchronous(request: Request) -> object:
        first = await step.run("a", did, "a", 1)
        await step.sleep("nap", 0.03)
        return first + await step.run("b", did, "b", 2)

    return sync, asynchronous


def _wait_matched(world: World) -> tuple[Handler, Handler]:
    answer = Event("answered", {"n": 7}, id="answer-1", ts=1)

    def sync(request: Request) -> object:
        sync_step.run("ask", world.ask, "ask", answer)
        event = sync_step.wait_for_event("reply", event="answered", timeout="1h")
        return event and [event.data, sync_step.run("b", world.ledger.did, "b", 2)]

    async def asynchronous(request: Request) -> object:
        await step.run("ask", world.ask, "ask", answer)
        event = await step.wait_for_event("reply", event="answered", timeout="1h")
        return event and [event.data, await step.run("b", world.ledger.did, "b", 2)]

    return sync, asynchronous


def _wait_timed_out(world: World) -> tuple[Handler, Handler]:
    did = world.ledger.did

    def sync(request: Request) -> object:
        event = sync_step.wait_for_event("reply", event="answered", timeout=0.03)
        return [event, sync_step.run("b", did, "b", 2)]

    async def asynchronous(request: Request) -> object:
        event = await step.wait_for_event("reply", event="answered", timeout=0.03)
        return [event, await step.run("b", did, "b", 2)]

    return sync, asynchronous


def _two_waits(world: World) -> tuple[Handler, Handler]:
    first, second = (Event("answered", {"n": n}, id=f"answer-{n}", ts=n) for n in (1, 2))

    def sync(request: Request) -> object:
        sync_step.run("ask", world.ask, "ask", first, second)
        one = sync_step.wait_for_event("one", event="answered", timeout="1h")
        two = sync_step.wait_for_event("two", event="answered", timeout="1h")
        return [one and one.data["n"], two and two.data["n"]]

    async def asynchronous(request: Request) -> object:
        await step.run("ask", world.ask, "ask", first, second)
        one = await step.wait_for_event("one", event="answered", timeout="1h")
        two = await step.wait_for_event("two", event="answered", timeout="1h")
        return [one and one.data["n"], two and two.data["n"]]

    return sync, asynchronous


def _signals(world: World) -> tuple[Handler, Handler]:
    """A signal that nobody waits for is lost, also for a wait that comes after it; no callback."""
    did = world.ledger.did

    def sync(request: Request) -> object:
        sent = sync_step.send_signal("send", f"go-{request.url}", 1)
        got = sync_step.wait_for_signal("wait", signal=f"go-{request.url}", timeout=0.03)
        answer = sync_step.wait_for_callback("answer", timeout=0.03)
        return [sent, got, answer, sync_step.run("b", did, "b", 2)]

    async def asynchronous(request: Request) -> object:
        sent = await step.send_signal("send", f"go-{request.url}", 1)
        got = await step.wait_for_signal("wait", signal=f"go-{request.url}", timeout=0.03)
        answer = await step.wait_for_callback("answer", timeout=0.03)
        return [sent, got, answer, await step.run("b", did, "b", 2)]

    return sync, asynchronous


def _send(world: World) -> tuple[Handler, Handler]:
    sent = Event("said", {"n": 1})

    def sync(request: Request) -> object:
        ids = sync_step.send_event("say", sent)
        heard = sync_step.wait_for_event("hear", event="said", timeout=0.03)
        return [len(ids), heard and heard.data, sync_step.run("b", world.ledger.did, "b", 2)]

    async def asynchronous(request: Request) -> object:
        ids = await step.send_event("say", sent)
        heard = await step.wait_for_event("hear", event="said", timeout=0.03)
        return [len(ids), heard and heard.data, await step.run("b", world.ledger.did, "b", 2)]

    return sync, asynchronous


def _nested(world: World) -> tuple[Handler, Handler]:
    did = world.ledger.did

    def helper(name: str) -> int:
        one = sync_step.run(f"{name}-1", did, f"{name}-1", 1)
        sync_step.sleep(f"{name}-nap", 0.01)
        return one + sync_step.run(f"{name}-2", did, f"{name}-2", 2)

    def sync(request: Request) -> object:
        return helper("x") + helper("y")

    async def helper_async(name: str) -> int:
        one = await step.run(f"{name}-1", did, f"{name}-1", 1)
        await step.sleep(f"{name}-nap", 0.01)
        return one + await step.run(f"{name}-2", did, f"{name}-2", 2)

    async def asynchronous(request: Request) -> object:
        return await helper_async("x") + await helper_async("y")

    return sync, asynchronous


def _swallowed(world: World) -> tuple[Handler, Handler]:
    did = world.ledger.did

    def sync(request: Request) -> object:
        sync_step.run("a", did, "a", 1)
        with contextlib.suppress(BaseException):
            sync_step.sleep("nap", 0.03)
        return sync_step.run("b", did, "b", 2)

    async def asynchronous(request: Request) -> object:
        await step.run("a", did, "a", 1)
        with contextlib.suppress(BaseException):
            await step.sleep("nap", 0.03)
        return await step.run("b", did, "b", 2)

    return sync, asynchronous


def _handler_retry(world: World) -> tuple[Handler, Handler]:
    ledger = world.ledger

    def sync(request: Request) -> object:
        first = sync_step.run("a", ledger.did, "a", 1)
        ledger.fails("handler", 2, OSError("outside steps"), None)
        return first + sync_step.run("b", ledger.did, "b", 2)

    async def asynchronous(request: Request) -> object:
        first = await step.run("a", ledger.did, "a", 1)
        ledger.fails("handler", 2, OSError("outside steps"), None)
        return first + await step.run("b", ledger.did, "b", 2)

    return sync, asynchronous


def _non_retriable(world: World) -> tuple[Handler, Handler]:
    did = world.ledger.did

    def sync(request: Request) -> object:
        sync_step.run("a", did, "a", 1)
        raise NonRetriableError("no use")

    async def asynchronous(request: Request) -> object:
        await step.run("a", did, "a", 1)
        raise NonRetriableError("no use")

    return sync, asynchronous


def _http_error(world: World) -> tuple[Handler, Handler]:
    did = world.ledger.did

    def sync(request: Request) -> object:
        sync_step.run("a", did, "a", 1)
        sync_step.sleep("nap", 0.01)
        raise HTTPError(404, "no such trip")

    async def asynchronous(request: Request) -> object:
        await step.run("a", did, "a", 1)
        await step.sleep("nap", 0.01)
        raise HTTPError(404, "no such trip")

    return sync, asynchronous


@dataclass(frozen=True)
class Receipt:
    """What a step gives that is no JSON."""

    number: UUID
    at: datetime
    prices: tuple[Decimal, ...]


def _undone(world: World) -> tuple[Handler, Handler]:
    did = world.ledger.did

    def undo(name: str) -> None:
        did(f"undo {name}", None)

    def sync(request: Request) -> object:
        sync_step.options(undo=undo).run("a", did, "a", "a")
        sync_step.sleep("nap", 0.01)
        sync_step.options(undo=undo).run("b", did, "b", "b")
        raise NonRetriableError("no use")

    async def asynchronous(request: Request) -> object:
        await step.options(undo=undo).run("a", did, "a", "a")
        await step.sleep("nap", 0.01)
        await step.options(undo=undo).run("b", did, "b", "b")
        raise NonRetriableError("no use")

    return sync, asynchronous


def _branches(world: World) -> tuple[Handler, Handler]:
    did, fails = world.ledger.did, world.ledger.fails

    def sync(request: Request) -> object:
        def sleeper() -> int:
            one = sync_step.run("s1", did, "s1", 1)
            sync_step.sleep("nap", 0.02)
            return one + sync_step.run("s2", did, "s2", 2)

        def flaky() -> str:
            return sync_step.run("flaky", fails, "flaky", 1, ValueError("no"), "at last")

        return list(sync_step.parallel("both", sleeper, flaky))

    async def asynchronous(request: Request) -> object:
        async def sleeper() -> int:
            one = await step.run("s1", did, "s1", 1)
            await step.sleep("nap", 0.02)
            return one + await step.run("s2", did, "s2", 2)

        async def flaky() -> str:
            return await step.run("flaky", fails, "flaky", 1, ValueError("no"), "at last")

        return list(await step.parallel("both", sleeper, flaky))

    return sync, asynchronous


def _race(world: World) -> tuple[Handler, Handler]:
    did = world.ledger.did

    def sync(request: Request) -> object:
        def waiter() -> str:
            sync_step.wait_for_event("reply", event="never", timeout="1h")
            return "waited"

        def worker() -> str:
            sync_step.run("w1", did, "w1", 1)
            return sync_step.run("w2", did, "w2", "worked")

        first = sync_step.parallel("first", waiter, worker, mode="race")
        return [first, sync_step.run("b", did, "b", 2)]

    async def asynchronous(request: Request) -> object:
        async def waiter() -> str:
            await step.wait_for_event("reply", event="never", timeout="1h")
            return "waited"

        async def worker() -> str:
            await step.run("w1", did, "w1", 1)
            return await step.run("w2", did, "w2", "worked")

        first = await step.parallel("first", waiter, worker, mode="race")
        return [first, await step.run("b", did, "b", 2)]

    return sync, asynchronous


def _at_most_once(world: World) -> tuple[Handler, Handler]:
    did = world.ledger.did

    def sync(request: Request) -> object:
        try:
            sync_step.options(at_most_once=True).run("pay", did, "pay", 1)
        except StepInterrupted:
            pass  # whether it has paid, another step would look up
        return sync_step.run("b", did, "b", 2)

    async def asynchronous(request: Request) -> object:
        try:
            await step.options(at_most_once=True).run("pay", did, "pay", 1)
        except StepInterrupted:
            pass
        return await step.run("b", did, "b", 2)

    return sync, asynchronous


def _typed(world: World) -> tuple[Handler, Handler]:
    made = Receipt(UUID(int=7), datetime(2026, 1, 2, tzinfo=UTC), (Decimal("1.10"), Decimal(2)))
    told = Event("told", {"number": str(made.number), "at": "2026-01-02T00:00:00Z", "prices": []})

    def pay() -> Receipt:
        return world.ledger.did("pay", made)

    def shown(receipt: Receipt, again: set[date], event: TypedEvent[Receipt] | None) -> object:
        assert event is not None
        same = [receipt == made, again == {made.at.date()}, event.data.at == made.at]
        return [*same, str(sum(receipt.prices))]

    def sync(request: Request) -> object:
        receipt = sync_step.run("pay", pay)
        dates = sync_step.options(result=set[date])
        again = dates.run("days", lambda: world.ledger.did("days", {receipt.at.date()}))
        sync_step.run("ask", world.ask, "ask", told)
        event = sync_step.wait_for_event("reply", event="told", timeout="1h", data=Receipt)
        return shown(receipt, again, event)

    async def asynchronous(request: Request) -> object:
        receipt = await step.run("pay", pay)
        dates = step.options(result=set[date])
        again = await dates.run("days", lambda: world.ledger.did("days", {receipt.at.date()}))
        await step.run("ask", world.ask, "ask", told)
        event = await step.wait_for_event("reply", event="told", timeout="1h", data=Receipt)
        return shown(receipt, again, event)

    return sync, asynchronous


def _options(world: World) -> tuple[Handler, Handler]:
    fails, did = world.ledger.fails, world.ledger.did

    def sync(request: Request) -> object:
        options = sync_step.options(retries=4, timeout="1m", backoff=AT_ONCE)
        first = options.run("flaky", fails, "flaky", 4, ValueError("no"), "at last")
        try:
            sync_step.options(retry_if=lambda error: False).run(
                "once", fails, "once", 9, ValueError("no"), None
            )
        except StepError as error:
            return [first, error.name, sync_step.run("b", did, "b", 2)]
        return None

    async def asynchronous(request: Request) -> object:
        options = step.options(retries=4, timeout="1m", backoff=AT_ONCE)
        first = await options.run("flaky", fails, "flaky", 4, ValueError("no"), "at last")
        try:
            await step.options(retry_if=lambda error: False).run(
                "once", fails, "once", 9, ValueError("no"), None
            )
        except StepError as error:
            return [first, error.name, await step.run("b", did, "b", 2)]
        return None

    return sync, asynchronous


def _invoke(world: World) -> tuple[Handler, Handler]:
    did = world.ledger.did

    def sync(request: Request) -> object:
        first = sync_step.run("a", did, "a", 1)
        second = sync_step.invoke("two", world.child, first + 1, result=int)
        try:
            sync_step.invoke("none", world.child, 0)
        except StepError as error:
            return [second, error.name, sync_step.run("b", did, "b", second + 1)]
        return None

    async def asynchronous(request: Request) -> object:
        first = await step.run("a", did, "a", 1)
        second = await step.invoke("two", world.child, first + 1, result=int)
        try:
            await step.invoke("none", world.child, 0)
        except StepError as error:
            return [second, error.name, await step.run("b", did, "b", second + 1)]
        return None

    return sync, asynchronous


CORPUS = [
    Behaviour("sequential", _sequential, 201, b'{"sum":3}', {"a": 1, "b": 1}),
    Behaviour("parallel", _parallel, 200, b"[0,1,2]", {"p0": 1, "p1": 1, "p2": 1}),
    Behaviour("loop", _loop, 200, b"[0,1,2,3]", {_indexed("again", n): 1 for n in range(4)}),
    Behaviour("retry", _retry, 200, b'"at last"', {"a": 1, "flaky": 3}),
    Behaviour("retry-after", _retry_after, 200, b'"at last"', {"flaky": 2}),
    Behaviour(
        "caught", _caught, 200, b'["NonRetriableError","never",5]', {"broken": 1, "plan b": 1}
    ),
    Behaviour("exhausted", _exhausted, 500, b"StepError", {"broken": 4}),
    Behaviour("sleep", _sleep, 200, b"3", {"a": 1, "b": 1}),
    Behaviour("wait-matched", _wait_matched, 200, b'[{"n":7},2]', {"ask": 1, "b": 1}),
    Behaviour("wait-timed-out", _wait_timed_out, 200, b"[null,2]", {"b": 1}),
    Behaviour("two-waits", _two_waits, 200, b"[1,2]", {"ask": 1}),
    Behaviour("send", _send, 200, b"[1,null,2]", {"b": 1}),
    Behaviour("nested", _nested, 200, b"6", {"x-1": 1, "x-2": 1, "y-1": 1, "y-2": 1}),
    Behaviour("swallowed", _swallowed, 200, b"2", {"a": 1, "b": 1}),
    Behaviour("handler-retry", _handler_retry, 200, b"3", {"a": 1, "b": 1, "handler": 3}),
    Behaviour("non-retriable", _non_retriable, 500, b"NonRetriableError", {"a": 1}),
    Behaviour(
        "options",
        _options,
        200,
        b'["at last","ValueError",2]',
        {"flaky": 5, "once": 1, "b": 1},
    ),
    Behaviour(
        "undone",
        _undone,
        500,
        b'"undone":["b","a"],"not_undone":[]',
        {"a": 1, "b": 1, "undo a": 1, "undo b": 1},
    ),
    Behaviour("branches", _branches, 200, b'[3,"at last"]', {"s1": 1, "s2": 1, "flaky": 2}),
    Behaviour("signals", _signals, 200, b"[null,null,null,2]", {"b": 1}),
    Behaviour(
        "invoke",
        _invoke,
        200,
        b'[2,"RunFailed",3]',
        {"a": 1, "inside-2": 1, "inside-0": 1, "b": 1},
    ),
    Behaviour("race", _race, 200, b'["worked",2]', {"w1": 1, "w2": 1, "b": 1}),
    Behaviour("at-most-once", _at_most_once, 200, b"2", {"pay": 1, "b": 1}),
    Behaviour(
        "typed",
        _typed,
        200,
        b'[true,true,true,"3.10"]',
        {"pay": 1, "days": 1, "ask": 1},
    ),
    Behaviour("http-error", _http_error, 404, b"no such trip", {"a": 1}),
]
