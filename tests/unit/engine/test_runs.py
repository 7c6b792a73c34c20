"""Answers for clients."""

from __future__ import annotations

import asyncio
from typing import Any

from durable_core.api.step import step, sync_step
from durable_core.errors import StoreError
from durable_core.http.request import Request
from durable_core.ports import ReapWorkers
from support.harness import (
    QUICK,
    Ledger,
    WatchedStore,
    lab,
    request,
)


def test_unreadable_store_refuses_a_request() -> None:
    """When the beginning of a run cannot be read from the store, the client gets 503."""

    class Unreadable(WatchedStore):
        def event_seq(self, app: str) -> int:
            raise StoreError("cannot read")

    def handler(request: Request) -> str:
        return "never"

    async def async_handler(request: Request) -> str:
        return "never"

    with lab(Unreadable()) as process:
        assert 503 == process.endpoint(handler, function_id="a").handle(request()).status
        assert 503 == process.endpoint(async_handler, function_id="b").handle(request()).status


def test_lost_lease_sends_the_client_on() -> None:
    """When another process has taken the run, the client is sent to wait for that one's result."""
    store, ledger = WatchedStore(), Ledger()
    stolen: list[Any] = []

    def steals() -> int:
        owners = tuple(peer.id for peer in store.workers())
        stolen.extend(store.commit([ReapWorkers(ids=owners, now=0)], wait=1.0))
        return ledger.did("steals", 1)

    def handler(request: Request) -> object:
        sync_step.run("a", ledger.did, "a", 1)
        if not stolen:
            sync_step.run("steals", steals)
        return sync_step.run("b", ledger.did, "b", "end")

    with lab(store, settings=QUICK) as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        assert 302 == first.status
        assert b'"end"' == process.follow(endpoint, first).body
    assert {"a": 1, "steals": 1, "b": 1} == ledger.counts()


def test_one_own_loop_for_sync_callers() -> None:
    """Under a server with threads all ``async def`` handlers share one loop of the engine's."""
    loops: set[int] = set()

    async def handler(request: Request) -> None:
        loops.add(id(asyncio.get_running_loop()))
        await step.sleep("nap", 0.01)

    with lab() as process:
        endpoint = process.endpoint(handler)
        for _ in range(3):
            process.call(endpoint)
    assert 1 == len(loops)
