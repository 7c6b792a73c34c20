"""An application on a store in memory, with an eye on what it does: for tests of orchestration."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from durable_core.api.adapter import HTTPHandler, endpoint_adapter
from durable_core.api.durable import Durable
from durable_core.codec.records import dump_request
from durable_core.engine.embedded import EmbeddedEngine, embedded
from durable_core.errors import StoreError
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.retry import RetryPolicy
from durable_core.model.event import Event
from durable_core.model.run import Phase
from durable_core.ports import (
    Checkpoint,
    Clock,
    ReapWorkers,
    Register,
    RunFilter,
    RunRecord,
    Store,
    StoredRequest,
    Write,
)
from durable_core.runners.settings import Settings
from durable_core.stores.memory import MemoryStore

__all__ = [
    "AT_ONCE",
    "QUICK",
    "FakeClock",
    "Lab",
    "Ledger",
    "Records",
    "WatchedStore",
    "a_request",
    "event",
    "lab",
    "request",
    "until",
]

T = TypeVar("T")

#: Settings under which nothing takes longer than it must.
QUICK = Settings(unwind_time=2.0)
#: A step or handler is tried again at once.
AT_ONCE = RetryPolicy(base="1ms", max="1ms")
#: For how long a test waits for what must happen, seconds. On a busy machine a process that serves
#: takes 20 s to start.
PATIENCE = 45.0


class FakeClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, now: int = 1_700_000_000_000) -> None:
        self._now = now
        self._elapsed = 0.0

    def now(self) -> int:
        """Return the time as epoch milliseconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on."""
        self._now += round(seconds * 1000)
        self._elapsed += seconds

    def elapsed(self) -> float:
        """Return the seconds for which it has moved on."""
        return self._elapsed

    def set_back(self, seconds: float) -> None:
        """Set the wall clock back, as an administrator does."""
        self._now -= round(seconds * 1000)


class WatchedStore(MemoryStore):
    """A store in memory that notes every commit, and can fail or crash on purpose.

    Attributes:
        log: what happened, in order: ``"commit"`` for a commit of checkpoints; tests add to it.
        batches: the writes of each commit.
        fault: called with the writes before each commit; it may raise.
        seconds: how long a commit takes.
        crashed: set once a commit has been refused after :meth:`crash_after`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.crashed = threading.Event()
        self.log: list[str] = []
        self.batches: list[tuple[Write[Any], ...]] = []
        self.fault: Callable[[Sequence[Write[Any]]], None] | None = None
        self.seconds = 0.0

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Note the writes, and commit them unless that is to fail."""
        if self.fault is not None:
            self.fault(writes)
        if self.seconds:
            time.sleep(self.seconds)
        self._check_direct(writes)
        answers = super().commit(writes, wait=wait)
        self.batches.append(tuple(writes))
        if any(isinstance(write, Checkpoint) for write in writes):
            self.log.append("commit")
        return answers

    def _check_direct(self, writes: Sequence[Write[object]]) -> None:
        """No write may say that it removes no pending record, or is one memo, if that is wrong."""
        for write in writes:
            if isinstance(write, Checkpoint) and write.is_one_memo:
                assert 1 == len(write.memos)
                assert _with_memos_only(write) == write
            row = self._runs.get(write.run_id) if isinstance(write, Checkpoint) else None
            if row is not None and isinstance(write, Checkpoint) and write.no_pending_row:
                assert not {memo.op.id for memo in write.memos} & row.pending.keys()
                assert write.result is None or not row.pending

    def checkpoints(self) -> list[tuple[Write[Any], ...]]:
        """Return the commits that have to do with runs."""
        return [batch for batch in self.batches if any(isinstance(w, Checkpoint) for w in batch)]

    def memos(self) -> Counter[str]:
        """Return how often each step has been stored, by its name."""
        return Counter(
            memo.op.name
            for batch in self.batches
            for write in batch
            if isinstance(write, Checkpoint)
            for memo in write.memos
        )

    def crash_after(self, checkpoints: int) -> None:
        """Take so many more commits about runs, and none after: as if the process had died."""
        left = checkpoints

        def fault(writes: Sequence[Write[Any]]) -> None:
            nonlocal left
            about_runs = any(isinstance(write, Checkpoint) for write in writes)
            if all(isinstance(write, Register) for write in writes) or (
                left > 0 and not about_runs
            ):
                return
            if left <= 0:
                self.crashed.set()
                raise StoreError("the process has crashed")
            left -= 1

        self.fault = fault

    def recover(self) -> None:
        """Take commits again; what the dead process held is free, as when its death is seen."""
        self.fault = None
        self.crashed.clear()
        dead = tuple(peer.id for peer in self.workers())
        self.commit([ReapWorkers(ids=dead, now=0)], wait=1.0)


class Ledger:
    """Counts what the functions of steps did, as the outside world would see it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls: list[str] = []
        self.failed: Counter[str] = Counter()

    def did(self, name: str, value: T) -> T:
        """Note that a step's function ran, and return the value."""
        with self._lock:
            self.calls.append(name)
        return value

    async def did_async(self, name: str, value: T) -> T:
        """As :meth:`did`, on the event loop."""
        await asyncio.sleep(0)
        return self.did(name, value)

    def fails(self, name: str, times: int, error: Exception, value: T) -> T:
        """Raise the error so often, then return the value."""
        with self._lock:
            self.calls.append(name)
            self.failed[name] += 1
            if self.failed[name] <= times:
                raise error
        return value

    def counts(self) -> Counter[str]:
        """Return how often each function ran."""
        with self._lock:
            return Counter(self.calls)


class Lab:
    """One process's application, on a store that may be shared with an earlier one."""

    def __init__(
        self,
        store: Store | None = None,
        *,
        clock: Clock | None = None,
        settings: Settings = QUICK,
        secrets: Sequence[bytes | str] | None = None,
        token_ttl: str | float = "7 days",
        retry: RetryPolicy = AT_ONCE,
        **options: Any,
    ) -> None:
        options.setdefault("debug", True)  # tests look at the texts of errors
        self.watched = store if isinstance(store, WatchedStore) else WatchedStore()
        self.store: Store = store or self.watched
        self.durable: Durable[HTTPHandler] = Durable(
            id="lab",
            endpoint_adapter=endpoint_adapter,
            engine=EmbeddedEngine(
                self.store,
                secrets=secrets,
                token_ttl=token_ttl,
                settings=settings,
                clock=clock,
            ),
            retry=retry,
            **options,
        )

    @property
    def records(self) -> Records:
        """What the engine has stored of its runs."""
        return Records(self.engine)

    @property
    def engine(self) -> EmbeddedEngine:
        """The engine of the application."""
        return embedded(self.durable.engine)

    def endpoint(self, handler: Callable[[Request], Any], **options: Any) -> HTTPHandler:
        """Make an endpoint of the handler; its key is ``"it"`` unless the options say otherwise."""
        options.setdefault("function_id", "it")
        wrapped: HTTPHandler = self.durable.endpoint(**options)(handler)
        return wrapped

    def call(self, handler: HTTPHandler, asked: Request | None = None) -> Response:
        """Return the final answer: ask, and go on to the wait URL for as long as one is sent."""
        first = handler.handle(asked or request())
        return self.follow(handler, first)

    def follow(self, handler: HTTPHandler, response: Response) -> Response:
        """Wait where the response says, until there is a final one."""
        give_up = time.monotonic() + PATIENCE
        while response.status in (302, 303) and "location" in response.headers:
            if time.monotonic() > give_up:
                raise TimeoutError(f"no final answer; runs: {self.records.list()}")
            location = response.headers["location"]
            response = handler.handle(request("/it" + location), max_wait=2.0)
        return response

    def sleep_through(
        self,
        handler: HTTPHandler,
        clock: FakeClock,
        naps: int = 1,
        asked: Request | None = None,
    ) -> Response:
        """Ask; each time the run is put away, let an hour pass; return the final answer."""
        first = handler.handle(asked or request())
        for nap in range(naps):
            self.pass_nap(clock, nap)
        return self.follow(handler, first)

    def pass_nap(self, clock: FakeClock, before: int = 0) -> None:
        """Let an hour pass once a run has been put away, not counting those so often before."""
        until(lambda: self.suspended() > before)
        clock.advance(3600)
        self.poke()

    def suspended(self) -> int:
        """Return how often runs have been put away."""
        writes = [write for batch in list(self.watched.batches) for write in batch]
        return sum(isinstance(write, Checkpoint) and write.release is not None for write in writes)

    def poke(self) -> None:
        """Have the keeper look at everything now."""
        node = self.engine.worker
        assert node is not None
        node.scheduler.wake()

    def stop(self) -> None:
        """Stop it."""
        self.durable.stop(timeout=5.0)


def _with_memos_only(write: Checkpoint) -> Checkpoint:
    return Checkpoint(
        run_id=write.run_id,
        owner=write.owner,
        epoch=write.epoch,
        now=write.now,
        memos=write.memos,
        no_pending_row=write.no_pending_row,
        is_one_memo=write.is_one_memo,
    )


class Records:
    """The records of an engine, behind what ``durable.runs`` shows of them."""

    def __init__(self, engine: EmbeddedEngine) -> None:
        self._engine = engine

    def get(self, run_id: str) -> RunRecord:
        """Return the record of a run."""
        record = self._engine.get(run_id)
        assert record is not None
        return record

    def list(self, phase: Phase | None = None) -> Sequence[RunRecord]:
        """Return the records of all runs, the newest first, without what they did."""
        return self._engine.list(RunFilter(phases=() if phase is None else (phase,)), 1000)


@contextmanager
def lab(store: Store | None = None, **options: Any) -> Iterator[Lab]:
    """Give a Lab and stop it afterwards."""
    made = Lab(store, **options)
    try:
        yield made
    finally:
        made.stop()


def request(url: str = "/it", method: str = "GET", body: bytes = b"", **headers: str) -> Request:
    """Return a request as a server would make it; ``_`` in header names stands for ``-``."""
    fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Request(method=method, url=f"http://test{url}", headers=fields, body=body)


def a_request() -> StoredRequest:
    """Return a request as it is stored."""
    return StoredRequest(head=dump_request(request(), stored_headers=frozenset()), body=b"")


def until(claim: Callable[[], T], patience: float = PATIENCE) -> T:
    """Wait until the claim holds; return what it gave.

    For states that nobody announces: what a store holds, what another process or thread has done.
    """
    give_up = time.monotonic() + patience
    while not (value := claim()):
        if time.monotonic() > give_up:
            raise TimeoutError(f"it did not come true in {patience} s")
        time.sleep(0.002)
    return value


async def until_async(claim: Callable[[], T], patience: float = PATIENCE) -> T:
    """Wait on an event loop until the claim holds; return what it gave."""
    async with asyncio.timeout(patience):
        while not (value := claim()):
            await asyncio.sleep(0.002)
    return value


def event(name: str, id: str | None = None, **data: object) -> Event:
    """Return an event."""
    return Event(name, data, id=id)
