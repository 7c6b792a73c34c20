"""Holding clients until their run ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest

from durable_conformance.store_values import commit, created, ended, result
from durable_core.codec.records import dump_head
from durable_core.codec.tokens import sign_token
from durable_core.engine.long_poll import LongPoll
from durable_core.errors import StoreError
from durable_core.flow.env import AppConfig
from durable_core.flow.wait_url import WaitRequest
from durable_core.http.response import Response
from durable_core.model.run import Phase
from durable_core.platform import SystemIds
from durable_core.ports import Checkpoint, StoredResult
from durable_core.runners.live import Waiters
from durable_core.runners.store_reads import StoreReads
from durable_core.runners.thread_pool import DaemonThreadPool
from support.harness import FakeClock, WatchedStore

SECRET = b"s" * 32


class NoHooks:
    """No function of an application is called here."""

    routes = DaemonThreadPool(1, "unused")

    def run_on_background_loop(self, awaitable: Awaitable[Any]) -> Any:
        raise AssertionError("no client has joined a run")


def holding_on(store: WatchedStore, waiters: Waiters) -> LongPoll:
    env = AppConfig(app="app", clock=FakeClock(5), ids=SystemIds(), secrets=lambda: (SECRET,))
    return LongPoll(env, store, waiters, StoreReads(store), NoHooks(), 1_000)


def wanted(hold_ms: int = 10_000) -> WaitRequest:
    return WaitRequest(
        run_id="r1",
        token=sign_token(SECRET, app="app", run_id="r1", expires_at=99),
        hop=0,
        max_wait_ms=hold_ms,
        again=lambda token, hop: f"?{hop}",
        names=("run", "token"),
    )


def the_end() -> Checkpoint:
    return replace(ended(), result=replace(result(), head=dump_head(Response())))


def ask(holding: LongPoll, asynchronous: bool, wait: WaitRequest) -> Response:
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
@pytest.mark.parametrize("held", [True, False])
def test_a_client_that_is_let_go_needs_no_store(asynchronous: bool, held: bool) -> None:
    """It is sent on, though the store may be closed before its thread or task has its turn."""

    class Closing(WatchedStore):
        def __init__(self) -> None:
            super().__init__()
            self.reads = 0

        def result(self, app: str, run_id: str) -> StoredResult | Phase | None:
            self.reads += 1
            if self.reads == 1 + held:  # held: all are let go while this one waits
                found = super().result(app, run_id)
                waiters.release_all()
                return found
            if self.reads > 1 + held:
                raise StoreError("closed")
            return super().result(app, run_id)

    store = Closing()
    commit(store, created())
    waiters = Waiters(1, lambda: None)
    assert 303 == ask(holding_on(store, waiters), asynchronous, wanted()).status
    assert 0 == len(waiters)


def test_a_store_that_fails_meanwhile_is_an_error() -> None:
    """Where nobody was let go."""

    class Failing(WatchedStore):
        def result(self, app: str, run_id: str) -> StoredResult | Phase | None:
            if len(waiters):
                raise StoreError("no disk")
            return super().result(app, run_id)

    store = Failing()
    commit(store, created())
    waiters = Waiters(1, lambda: None)
    with pytest.raises(StoreError, match="no disk"):
        holding_on(store, waiters).wait(wanted())
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
        waiters.wake(["r1"])
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
    """A client that comes while the process stops is sent on after a moment, not at once.

    Its server may still accept connections, and the client may follow so many redirects only.
    """
    store = WatchedStore()
    commit(store, created())
    waiters = Waiters(1, lambda: None)
    waiters.release_all()
    began = time.monotonic()
    assert 303 == ask(holding_on(store, waiters), asynchronous, wanted()).status
    assert 0.2 < time.monotonic() - began < 5.0
    assert 0 == len(waiters)
