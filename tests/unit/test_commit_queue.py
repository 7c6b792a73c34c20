"""Group commit."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from durable_conformance.store_values import (
    addressed,
    created,
    delivery,
    ended,
    event,
    memo,
    memo_write,
    pending,
    result,
    run,
    suspended,
)
from durable_core.commit_queue import CommitFuture, CommitQueue
from durable_core.errors import (
    LeaseLost,
    StoreBrokenError,
    StoreBusyError,
    StoreConflictError,
    StoreError,
    StoreOutcomeUnknownError,
)
from durable_core.model.step import OpKind
from durable_core.ports import (
    Checkpoint,
    CheckpointResult,
    Heartbeat,
    Release,
    SendEvents,
    Write,
)
from durable_core.stores.memory import MemoryStore
from support.harness import WatchedStore, until

PATIENCE = 10.0


@contextmanager
def queue_on(store: WatchedStore, **options: Any) -> Iterator[CommitQueue]:
    """Give a started queue, and stop it."""
    queue = CommitQueue(store, **options)
    queue.start()
    try:
        yield queue
    finally:
        queue.stop()


class Gate:
    """Holds commits up, one at a time, for as long as a test likes."""

    def __init__(self, store: WatchedStore) -> None:
        self.entered = threading.Semaphore(0)
        self.leave = threading.Semaphore(0)
        self.threads: list[str] = []
        self.open = False
        store.fault = self._hold

    def _hold(self, writes: Sequence[Write[Any]]) -> None:
        self.threads.append(threading.current_thread().name)
        if not self.open:
            self.entered.release()
            assert self.leave.acquire(timeout=PATIENCE)

    def let_all(self) -> None:
        """Hold nothing up any more."""
        self.open = True
        self.leave.release()


def in_threads(count: int, work: Any) -> list[Any]:
    """Call ``work(n)`` in so many threads; return what they gave, errors included."""
    results: list[Any] = [None] * count

    def call(n: int) -> None:
        try:
            results[n] = work(n)
        except Exception as error:
            results[n] = error

    threads = [threading.Thread(target=call, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    return results


def test_execute_answers() -> None:
    """A write that is executed is committed, in the calling thread, and answered."""
    store = WatchedStore()
    gate = Gate(store)
    gate.open = True
    with queue_on(store) as queue:
        assert CheckpointResult() == queue.execute(created())
        assert [threading.current_thread().name] == gate.threads
        assert (1, 1) == (queue.commits, queue.writes)


def test_what_nobody_waits_for_is_committed_soon() -> None:
    """A submitted write is committed by the background thread, unasked."""
    store = WatchedStore()
    with queue_on(store) as queue:
        ticket = queue.submit(created())
        until(lambda: ticket.done)
        assert CheckpointResult() == ticket.result()
        assert store.result("app", "r1") is not None


def test_writes_that_come_during_a_commit_share_the_next() -> None:
    """All that queue while one commit is under way are one commit."""
    store = WatchedStore()
    gate = Gate(store)
    with queue_on(store) as queue:
        first = threading.Thread(target=queue.execute, args=(created("r0"),))
        first.start()
        assert gate.entered.acquire(timeout=PATIENCE)

        tickets = [queue.submit(created(f"r{n}")) for n in range(1, 9)]
        gate.let_all()
        for ticket in tickets:
            queue.wait(ticket)
        first.join(PATIENCE)

        assert [1, 8] == [len(batch) for batch in store.batches]


def test_writes_of_one_run_are_merged() -> None:
    """Queued checkpoints of one lease become one write with all they say, in order."""
    store = WatchedStore()
    gate = Gate(store)
    with queue_on(store) as queue:
        first = threading.Thread(target=queue.execute, args=(created(),))
        first.start()
        assert gate.entered.acquire(timeout=PATIENCE)
        last = memo_write(
            number=3,
            now=30,
            pending=(pending("other"),),
            release=Release(due_at=99),
            state=replace(run(), failures=2),
        )
        tickets = [
            queue.submit(memo_write(number=2, pending=(pending("nap"), pending("step3")))),
            queue.submit(last),
        ]
        gate.let_all()
        assert tickets[0] is tickets[1]
        queue.wait(tickets[0])
        first.join(PATIENCE)

    [[_], [merged]] = store.batches
    assert merged == replace(
        last, memos=(memo(2), memo(3)), pending=(pending("nap"), pending("other"))
    )


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            memo_write(no_pending_row=True),
            memo_write(number=3, no_pending_row=True),
            True,
        ),
        (memo_write(no_pending_row=True), memo_write(number=3), False),
        (memo_write(), memo_write(number=3, no_pending_row=True), False),
        (memo_write(no_pending_row=True), ended(), False),
        (
            memo_write(no_pending_row=True),
            replace(ended(), no_pending_row=True),
            True,
        ),
        (suspended("r1", pending("s")), memo_write(), False),
        (suspended("r1", pending("s")), ended(), False),
    ],
)
def test_a_merged_write_is_direct_if_all_its_memos_are(
    first: Checkpoint, second: Checkpoint, expected: bool
) -> None:
    """What holds for the memos and the end of each holds for those of both."""
    store = WatchedStore()
    store.commit([created()], wait=0)
    queue = CommitQueue(store)
    queue.submit(first)

    queue.execute(second)

    [_, [merged]] = store.batches
    assert isinstance(merged, Checkpoint)
    assert expected == merged.no_pending_row


def test_a_merged_write_keeps_what_the_first_said() -> None:
    """What the later write leaves open is as the earlier one said; sends and ends are kept."""
    store = WatchedStore()
    gate = Gate(store)
    with queue_on(store) as queue:
        first = threading.Thread(target=queue.execute, args=(created("r0"),))
        first.start()
        assert gate.entered.acquire(timeout=PATIENCE)
        one = replace(created(), state=replace(run(), failures=1))
        two = memo_write(number=2, events=(event("e1"),), result=result())
        ticket = queue.submit(one)
        assert ticket is queue.submit(two)
        gate.let_all()
        written = queue.wait(ticket)
        first.join(PATIENCE)

    [_, [merged]] = store.batches
    assert isinstance(merged, Checkpoint)
    assert one.create is merged.create
    assert one.state is merged.state
    assert two.result is merged.result
    assert (event("e1"),) == merged.events
    assert ["e1"] == [id_ for id_, _ in written.sent]


def test_writes_that_send_stay_apart() -> None:
    """The memo of a sending step is marked past its own events, not past those of a sibling."""
    store = WatchedStore()

    async def main(queue: CommitQueue) -> None:
        writes = [
            replace(created(), memos=(memo(2, kind=OpKind.SEND),), events=(event("e1"),)),
            memo_write(memos=(memo(3, kind=OpKind.SEND),), events=(event("e2"),)),
            memo_write(number=4),
        ]
        tickets = [queue.submit(write) for write in writes]
        assert tickets[0] is not tickets[1]
        assert tickets[1] is tickets[2]
        await asyncio.gather(*map(queue.wait_async, tickets))

    with queue_on(store) as queue:
        asyncio.run(main(queue))
    record = store.get("app", "r1")
    assert record is not None
    assert [1, 2, 0] == [each.event_seq for each in record.memos]


def test_what_a_write_delivers_is_not_put_before_an_earlier_wait() -> None:
    """Two branches of a run: one waits, and then the other one delivers to it."""
    store = WatchedStore()
    with queue_on(store) as queue:
        queue.execute(created())
        waits = queue.submit(memo_write(pending=(addressed(),), replacing=("id-wait",)))
        delivers = queue.submit(memo_write(number=3, deliveries=(delivery(),)))
        assert delivers is queue.submit(replace(ended(), deliveries=(delivery("2"),)))
        assert (("r1", "o1"),) == queue.wait(delivers).resumed_runs
        assert queue.wait(waits).refused == ()

    [_, [first, last]] = store.batches
    assert isinstance(first, Checkpoint)
    assert isinstance(last, Checkpoint)
    assert ("id-wait",) == first.replacing
    assert (delivery(), delivery("2")) == last.deliveries


def test_a_lost_lease_does_not_ride_on_the_one_that_counts() -> None:
    """Writes of one run under different leases are not merged; the stale one fails alone."""
    store = WatchedStore()
    gate = Gate(store)
    with queue_on(store) as queue:
        first = threading.Thread(target=queue.execute, args=(created(),))
        first.start()
        assert gate.entered.acquire(timeout=PATIENCE)
        good = queue.submit(memo_write(number=2))
        stale = [
            queue.submit(memo_write(number=3, owner="o9")),
            queue.submit(memo_write(number=4, epoch=9)),
        ]
        gate.let_all()
        assert CheckpointResult() == queue.wait(good)
        for ticket in stale:
            with pytest.raises(LeaseLost):
                queue.wait(ticket)
        first.join(PATIENCE)
    record = store.get("app", "r1")
    assert record is not None
    assert ["step1", "step2"] == [each.op.name for each in record.memos]


def test_a_failing_commit_fails_all() -> None:
    """When the store refuses a commit, everybody in it is told; later ones are unharmed."""
    store = WatchedStore()
    gate = Gate(store)
    with queue_on(store) as queue:
        first = threading.Thread(target=queue.execute, args=(created("r0"),))
        first.start()
        assert gate.entered.acquire(timeout=PATIENCE)
        tickets = [queue.submit(created(f"r{n}")) for n in (1, 2)]

        def refuse(writes: Sequence[Write[Any]]) -> None:
            raise StoreError("no")

        store.fault = refuse
        gate.leave.release()
        for ticket in tickets:
            with pytest.raises(StoreError, match="no"):
                queue.wait(ticket)
            assert ticket.answer is None
        first.join(PATIENCE)
        store.fault = None
        assert CheckpointResult() == queue.execute(created("r3"))


@pytest.mark.parametrize("conflicts", [1, 3])
def test_a_batch_that_met_another_one_is_committed_again(conflicts: int) -> None:
    """A few times; nobody who waits learns of it."""
    store, left = WatchedStore(), conflicts

    def fault(writes: Sequence[Write[Any]]) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise StoreConflictError("met another one")

    store.fault = fault
    with queue_on(store) as queue:
        assert CheckpointResult() == queue.execute(created())
    assert -1 == left


def test_a_batch_that_always_meets_another_one_fails() -> None:
    """With the error that says so, and without being stored."""
    store = WatchedStore()

    def fault(writes: Sequence[Write[Any]]) -> None:
        raise StoreConflictError("met another one")

    store.fault = fault
    with queue_on(store) as queue, pytest.raises(StoreConflictError):
        queue.execute(created())
    assert store.get("app", "r1") is None


class LosesAnswers(MemoryStore):
    """Commits, and loses so many of its answers."""

    def __init__(self, lost: int, then: StoreError | None = None) -> None:
        super().__init__()
        self.lost, self.then = lost, then
        self.commits = 0

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        self.commits += 1
        if self.commits > self.lost:
            if self.then is not None:
                raise self.then
            return super().commit(writes, wait=wait)
        super().commit(writes, wait=wait)
        raise StoreOutcomeUnknownError("the connection broke")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_send_whose_answer_was_lost_is_sent_again_and_taken_once(asynchronous: bool) -> None:
    """Its ids make it the same; whoever waits gets the answer."""
    store = LosesAnswers(2)
    message = SendEvents(app="app", events=(event("1"),), now=1)
    queue = CommitQueue(store)
    queue.start()
    try:
        if asynchronous:
            sent = asyncio.run(queue.wait_async(queue.submit(message)))
        else:
            sent = queue.execute(message)
    finally:
        queue.stop()

    assert (("1",), 3) == (sent.ids, store.commits)
    assert 1 == store.event_seq("app")


@pytest.mark.parametrize("then", [None, StoreError("not connected")])
def test_what_cannot_be_repeated_ends_as_unknown(then: StoreError | None) -> None:
    """A checkpoint is not committed twice; a send that fails later may still have been taken."""
    store = LosesAnswers(1, then)
    queue = CommitQueue(store)
    queue.start()
    try:
        with pytest.raises(StoreOutcomeUnknownError):
            queue.execute(created())
        store.commits = 0
        if then is not None:
            with pytest.raises(StoreOutcomeUnknownError):
                queue.execute(SendEvents(app="app", events=(event("1"),), now=1))
    finally:
        queue.stop()

    assert store.get("app", "r1") is not None
    assert (0 if then is None else 2) == store.commits


def test_what_a_run_has_queued_behind_a_failed_checkpoint_fails() -> None:
    """Its client is told that it failed; the run must not be completed after that."""
    store = WatchedStore()
    gate = Gate(store)
    with queue_on(store) as queue:
        queue_first = threading.Thread(target=queue.execute, args=(created("r0"),))
        gate.open = True
        queue.execute(created("r1"))
        gate.open = False
        queue_first.start()
        assert gate.entered.acquire(timeout=PATIENCE)
        checkpoint = queue.submit(memo_write("r1"))

        def refuse(writes: Sequence[Write[Any]]) -> None:
            tickets.append(queue.submit(memo_write("r1", 3, result=result())))
            tickets.append(queue.submit(created("r2")))
            store.fault = None
            raise StoreError("no")

        tickets: list[CommitFuture[Any]] = []
        store.fault = refuse
        gate.leave.release()
        with pytest.raises(StoreError, match="no"):
            queue.wait(checkpoint)
        with pytest.raises(StoreError, match="no"):
            queue.wait(tickets[0])
        assert CheckpointResult() == queue.wait(tickets[1])
        queue_first.join(PATIENCE)
    record = store.get("app", "r1")
    assert record is not None
    assert record.ended_at is None


def test_what_is_queued_behind_a_write_that_fails_alone_fails_too() -> None:
    """The others of its commit are unharmed, but its run is not completed without it."""
    store = WatchedStore()
    gate = Gate(store)
    gate.open = True
    with queue_on(store) as queue:
        queue.execute(created("r1"))
        again = queue.submit(memo_write("r1", 1))  # that number is taken
        other = queue.submit(created("r2"))
        behind: list[CommitFuture[CheckpointResult]] = []

        def meanwhile(writes: Sequence[Write[Any]]) -> None:
            store.fault = None
            behind.append(queue.submit(memo_write("r1", 3, result=result())))

        store.fault = meanwhile
        for ticket in (again, *behind):
            with pytest.raises(StoreError, match="memo with this number"):
                queue.wait(ticket)
        with pytest.raises(StoreError, match="memo with this number"):
            queue.wait(behind[0])
        assert CheckpointResult() == queue.wait(other)
    record = store.get("app", "r1")
    assert record is not None
    assert record.ended_at is None


def test_what_builds_on_a_failed_write_fails() -> None:
    """A write is not even tried if an earlier one that it is to come after has failed."""
    store = WatchedStore()
    with queue_on(store) as queue:
        queue.execute(created("r1"))
        failed = queue.submit(memo_write("r1", 1))
        until(lambda: failed.done)
        last = memo_write("r1", 2, result=result())
        refused = queue.submit(last, after=(failed,))
        with pytest.raises(StoreError, match="memo with this number"):
            queue.wait(refused)
        assert CheckpointResult() == queue.execute(last)


def test_an_interrupt_in_a_commit_is_no_success() -> None:
    """Whatever else ends a commit fails its writes, and is raised where it happened."""
    store = WatchedStore()

    def interrupt(writes: Sequence[Write[Any]]) -> None:
        raise KeyboardInterrupt

    with queue_on(store) as queue:
        store.fault = interrupt
        with pytest.raises(KeyboardInterrupt):
            queue.execute(created())
        store.fault = None
        ticket = queue.submit(created())
        assert CheckpointResult() == queue.wait(ticket)


def test_busy_store_in_a_thread() -> None:
    """A thread waits for a busy store for the busy timeout, and then is told."""
    waits: list[float] = []

    class Busy(WatchedStore):
        def commit(
            self, writes: Sequence[Write[object]], *, wait: float
        ) -> Sequence[object | BaseException]:
            waits.append(wait)
            raise StoreBusyError("locked")

    store = Busy()
    with queue_on(store, busy_timeout=1.5) as queue, pytest.raises(StoreBusyError):
        queue.execute(created())
    assert [1.5] == waits


def test_busy_store_on_an_event_loop() -> None:
    """A loop never waits for a busy store: the commit goes to the background thread."""
    calls: list[tuple[str, float]] = []
    release = threading.Event()

    class Busy(WatchedStore):
        def commit(
            self, writes: Sequence[Write[object]], *, wait: float
        ) -> Sequence[object | BaseException]:
            calls.append((threading.current_thread().name, wait))
            if wait == 0.0:
                raise StoreBusyError("locked")
            assert release.wait(PATIENCE)
            return super().commit(writes, wait=wait)

    async def main(queue: CommitQueue) -> None:
        committing = asyncio.ensure_future(queue.wait_async(queue.submit(created())))
        other = asyncio.ensure_future(queue.wait_async(queue.submit(memo_write())))
        while len(calls) < 2:
            await asyncio.sleep(0)
        later = asyncio.ensure_future(queue.wait_async(queue.submit(created("r2"))))
        await asyncio.sleep(0)  # the loop goes on meanwhile
        assert not committing.done()
        release.set()
        async with asyncio.timeout(PATIENCE):
            written = await asyncio.gather(committing, other, later)
            assert [CheckpointResult()] * 3 == list(written)

    store = Busy()
    with queue_on(store) as queue:
        asyncio.run(main(queue))
    here = threading.current_thread().name
    assert [(here, 0.0), ("durable-writer", 5.0)] == calls[:2]


def test_slow_store_on_an_event_loop() -> None:
    """When commits take long, a loop leaves them to the background thread until they do not."""
    store = WatchedStore()
    gate = Gate(store)
    gate.open = True

    async def commit_some(queue: CommitQueue, count: int, first: int) -> None:
        for n in range(first, first + count):
            await queue.wait_async(queue.submit(created(f"r{n}")))

    with queue_on(store) as queue:
        store.seconds = 0.02
        asyncio.run(commit_some(queue, 3, 0))
        assert "durable-writer" == gate.threads[-1]
        store.seconds = 0.0
        here, numbers = threading.current_thread().name, itertools.count(10)

        def is_here() -> bool:
            asyncio.run(commit_some(queue, 1, next(numbers)))
            return here == gate.threads[-1]

        until(is_here)  # some commits take long on a busy machine, too


def test_tasks_of_one_tick_share_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writes of all tasks that wait in one tick are one commit."""
    monkeypatch.setattr("durable_core.commit_queue._LINGER", PATIENCE)  # the tick may take long
    store = WatchedStore()

    async def main(queue: CommitQueue) -> None:
        await asyncio.gather(*[queue.wait_async(queue.submit(created(f"r{n}"))) for n in range(20)])

    with queue_on(store) as queue:
        asyncio.run(main(queue))
    assert [20] == [len(batch) for batch in store.batches]


def test_cancelled_waiter_is_harmless() -> None:
    """A task that stops waiting for its write keeps neither the write nor others from ending."""
    store = WatchedStore()
    gate = Gate(store)

    async def main(queue: CommitQueue) -> None:
        first = threading.Thread(target=queue.execute, args=(created("r0"),))
        first.start()
        assert await asyncio.to_thread(gate.entered.acquire, timeout=PATIENCE)
        ticket = queue.submit(created("r1"))
        gone = asyncio.ensure_future(queue.wait_async(ticket))
        stays = asyncio.ensure_future(queue.wait_async(queue.submit(created("r2"))))
        await asyncio.sleep(0)
        gone.cancel()
        gate.let_all()
        async with asyncio.timeout(PATIENCE):
            assert CheckpointResult() == await stays
        with pytest.raises(asyncio.CancelledError):
            await gone
        first.join(PATIENCE)
        until(lambda: ticket.done)

    with queue_on(store) as queue:
        asyncio.run(main(queue))
    assert store.result("app", "r1") is not None


def test_stop_commits_what_is_queued() -> None:
    """After a stop nothing is left in the queue."""
    store = WatchedStore()
    queue = CommitQueue(store)
    queue.start()
    ticket = queue.submit(created())
    queue.stop()
    assert ticket.done


def test_on_commit_is_told() -> None:
    """The listener gets every ticket, with its answer or without."""
    told: list[tuple[Write[Any], object]] = []

    def on_commit(batch: Sequence[CommitFuture[Any]]) -> None:
        told.extend((ticket.write, ticket.answer) for ticket in batch)

    store = WatchedStore()
    beat = Heartbeat(id="nobody", expires_at=1)
    with queue_on(store, on_commit=on_commit) as queue:
        assert queue.execute(beat) is False
        with pytest.raises(LeaseLost):
            queue.execute(memo_write("none"))
    assert [(beat, False), (memo_write("none"), None)] == told


@pytest.mark.parametrize("seconds", [0.0, 0.0005])
def test_nobody_is_forgotten(seconds: float) -> None:
    """Threads and tasks that commit at once, without pause, all come to their end."""
    store = WatchedStore()
    store.seconds = seconds

    def thread_work(queue: CommitQueue, n: int) -> int:
        for i in range(60):
            queue.execute(created(f"t{n}-{i}"))
        return 60

    async def task_work(queue: CommitQueue, n: int) -> int:
        for i in range(60):
            await queue.wait_async(queue.submit(created(f"a{n}-{i}")))
        return 60

    async def tasks(queue: CommitQueue) -> list[int]:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.gather(*[task_work(queue, n) for n in range(8)])

    with queue_on(store) as queue:
        done: list[Any] = []
        loop_thread = threading.Thread(target=lambda: done.extend(asyncio.run(tasks(queue))))
        loop_thread.start()
        assert [60] * 8 == in_threads(8, lambda n: thread_work(queue, n))
        loop_thread.join(PATIENCE)
        assert [60] * 8 == done
        assert 16 * 60 == queue.writes
        assert queue.commits < queue.writes


def test_leader_wakes_one_who_still_waits() -> None:
    """A leader that leaves passes the lead to a waiter whose write is still queued."""
    store = WatchedStore()
    gate = Gate(store)
    queue = CommitQueue(store)  # its background thread is not started: only waiters can lead
    results: list[Any] = []
    first = threading.Thread(target=lambda: results.append(queue.execute(created("r0"))))
    first.start()
    assert gate.entered.acquire(timeout=PATIENCE)
    others = [
        threading.Thread(target=lambda n=n: results.append(queue.execute(created(f"r{n}"))))
        for n in range(1, 5)
    ]
    for thread in others:
        thread.start()
    until(lambda: len(queue._blocked) == 4)
    gate.let_all()
    for thread in [first, *others]:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert [CheckpointResult()] * 5 == results


@pytest.mark.parametrize("seconds", [0.0, 1.0])
@pytest.mark.parametrize("error", [StoreError("not open"), StoreBusyError("locked")])
def test_after_a_stop_nobody_waits_for_ever(error: StoreError, seconds: float) -> None:
    """A task whose write comes too late is told, although there is no background thread."""

    class Closed(WatchedStore):
        def commit(self, writes: Sequence[Write[Any]], *, wait: float) -> Any:
            raise error

    async def main(queue: CommitQueue) -> None:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(type(error)):
                await queue.wait_async(queue.submit(memo_write()))

    queue = CommitQueue(Closed())
    queue.start()
    queue._average = seconds
    queue.stop()
    asyncio.run(main(queue))


def test_background_thread_outlives_a_broken_commit(caplog: pytest.LogCaptureFixture) -> None:
    """Event loops rely on it; whose write broke is told."""
    store = WatchedStore()
    with queue_on(store) as queue:

        def break_once(writes: Sequence[Write[Any]]) -> None:
            store.fault = None
            raise MemoryError

        store.fault = break_once
        broken = queue.submit(created("r0"))
        until(lambda: broken.done)
        later = queue.submit(created("r1"))
        until(lambda: later.done)
    assert isinstance(broken.error, StoreError)
    assert CheckpointResult() == later.result()
    assert "a commit failed unexpectedly" in caplog.text


def test_after_a_stop_the_leader_sees_to_what_has_queued_behind_it() -> None:
    """There is no background thread any more that a task could leave its write to."""
    store = WatchedStore()
    with queue_on(store) as queue:
        pass  # stopped
    gate = Gate(store)
    leader = threading.Thread(target=queue.execute, args=(created("r1"),))

    async def waits() -> object:
        ticket = queue.submit(created("r2"))
        waiting = asyncio.create_task(queue.wait_async(ticket))
        for _ in range(3):
            await asyncio.sleep(0)  # it has found another one leading
        gate.let_all()
        async with asyncio.timeout(PATIENCE):
            return await waiting

    leader.start()
    assert gate.entered.acquire(timeout=PATIENCE)
    assert CheckpointResult() == asyncio.run(waits())
    leader.join(PATIENCE)
    assert not leader.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_commits_nothing_for_its_parent() -> None:
    """A step that forks and lets its child return must not have it go on with the run."""
    store = WatchedStore()
    with queue_on(store) as queue:
        queue.execute(created())
        pid = os.fork()
        if pid == 0:
            try:
                queue.execute(memo_write())
            except StoreBrokenError:
                os._exit(7)
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        assert 7 == os.waitstatus_to_exitcode(status)
        assert CheckpointResult() == queue.execute(memo_write())
