"""Holding clients until their run ends."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

import pytest

from durable_conformance.store_values import commit, created, ended, result
from durable_core.flow.env import Env
from durable_core.flow.wait import WaitRequest
from durable_core.model.response import Response
from durable_core.ports import RunWrite
from durable_core.runtime.holding import Holding
from durable_core.runtime.live import Waiters
from durable_core.runtime.system import SystemIds
from durable_core.wire.requests import dump_head
from durable_core.wire.tokens import sign_token
from support.harness import FakeClock, WatchedStore

SECRET = b"s" * 32


def holding_on(store: WatchedStore, waiters: Waiters) -> Holding:
    env = Env(app="app", clock=FakeClock(5), ids=SystemIds(), secrets=lambda: (SECRET,))
    return Holding(env, store, waiters)


def wanted(hold_ms: int = 10_000) -> WaitRequest:
    return WaitRequest(
        run_id="r1",
        token=sign_token(SECRET, app="app", run_id="r1", expires_at=99),
        hop=0,
        hold_ms=hold_ms,
        again=lambda token, hop: f"?{hop}",
        names=("run", "token"),
    )


def the_end() -> RunWrite:
    return replace(ended(), result=replace(result(), head=dump_head(Response())))


def ask(holding: Holding, asynchronous: bool, wait: WaitRequest) -> Response:
    return asyncio.run(holding.wait_async(wait)) if asynchronous else holding.wait(wait)


both = pytest.mark.parametrize("asynchronous", [False, True])


@both
def test_ended_run_is_not_held(asynchronous: bool) -> None:
    """A run that has ended is answered at once, and nobody signs up."""
    store = WatchedStore()
    commit(store, created())
    commit(store, the_end())
    waiters = Waiters(1, lambda: pytest.fail("signed up"))
    assert 200 == ask(holding_on(store, waiters), asynchronous, wanted()).status


@both
def test_end_just_before_signing_up_is_not_missed(asynchronous: bool) -> None:
    """A run that ends between the look and the signing up is answered at once."""
    store = WatchedStore()
    commit(store, created())

    def end() -> None:
        commit(store, the_end())

    waiters = Waiters(1, end)
    assert 200 == ask(holding_on(store, waiters), asynchronous, wanted()).status
    assert 0 == len(waiters)


@both
def test_held_until_woken(asynchronous: bool) -> None:
    """A client is held until the run ends."""
    store = WatchedStore()
    commit(store, created())
    held = threading.Event()
    waiters = Waiters(1, held.set)
    answers: list[int] = []
    client = threading.Thread(
        target=lambda: answers.append(
            ask(holding_on(store, waiters), asynchronous, wanted()).status
        )
    )
    client.start()
    assert held.wait(10)
    commit(store, the_end())
    while client.is_alive():
        waiters.ended(["r1"])
        client.join(0.01)
    assert [200] == answers


@both
def test_not_held_for_ever(asynchronous: bool) -> None:
    """After the hold the client is sent on."""
    store = WatchedStore()
    commit(store, created())
    waiters = Waiters(1, lambda: None)
    answer = ask(holding_on(store, waiters), asynchronous, wanted(hold_ms=1))
    assert (303, "?1") == (answer.status, answer.headers["location"])
    assert 0 == len(waiters)


def test_cancelled_client_signs_off() -> None:
    """A client that goes away is no longer counted."""
    store = WatchedStore()
    commit(store, created())
    waiters = Waiters(1, lambda: None)

    async def main() -> None:
        client = asyncio.create_task(holding_on(store, waiters).wait_async(wanted()))
        while not len(waiters):
            await asyncio.sleep(0)
        client.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client
        assert 0 == len(waiters)

    asyncio.run(main())


@both
def test_nobody_is_held_once_all_are_released(asynchronous: bool) -> None:
    """A client that comes while the process stops is sent on at once."""
    store = WatchedStore()
    commit(store, created())
    waiters = Waiters(1, lambda: None)
    waiters.release_all()
    began = time.monotonic()
    assert 303 == ask(holding_on(store, waiters), asynchronous, wanted()).status
    assert time.monotonic() - began < 5.0
    assert 0 == len(waiters)
