"""The keeper, on real stores and clocks that tests move."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from durable_conformance.store_values import created, ended, run
from durable_core.api.step import step, sync_step
from durable_core.engine.scheduler import Scheduler
from durable_core.engine.worker import Worker
from durable_core.errors import LeaseLost, StoreError, StoreOutcomeUnknownError
from durable_core.flow.execution import StoredExecution
from durable_core.http.request import Request
from durable_core.model.run import Phase
from durable_core.ports import (
    Checkpoint,
    CheckpointResult,
    Claim,
    Heartbeat,
    Prune,
    ReapWorkers,
    Register,
    Release,
    RunFilter,
    SendEvents,
    Slots,
    WorkerRecord,
    Write,
)
from durable_core.runners.settings import Settings
from durable_core.stores.wakeups import PolledWakeups
from support.harness import (
    FakeClock,
    Lab,
    Ledger,
    WatchedStore,
    a_request,
    event,
    lab,
    request,
    until,
)


def notified(scheduler: Scheduler) -> threading.Event:
    """Return what makes a scheduler look at once."""
    wakeups = scheduler._wakeups
    assert isinstance(wakeups, PolledWakeups)
    return wakeups._notified


def sleeps(request: Request) -> str:
    sync_step.sleep("nap", "1h")
    return "end"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def process(clock: FakeClock) -> Iterator[Lab]:
    with lab(clock=clock) as made:
        yield made


def test_sleep_ends_when_it_is_due(process: Lab, clock: FakeClock) -> None:
    """A run is claimed when its time has come by the wall clock, not before."""
    endpoint = process.endpoint(sleeps)
    first = endpoint.handle(request())
    clock.advance(3599)
    process.poke()
    [record] = process.records.list()
    assert Phase.SUSPENDED is record.run.phase
    clock.advance(1)
    process.poke()
    assert b'"end"' == process.follow(endpoint, first).body


def test_sleep_survives_a_restart(clock: FakeClock) -> None:
    """A sleep that ended while no process ran ends at the start."""
    store = WatchedStore()
    with lab(store, clock=clock) as first:
        response = first.endpoint(sleeps).handle(request())
    clock.advance(3600)
    with lab(store, clock=clock) as second:
        assert b'"end"' == second.follow(second.endpoint(sleeps), response).body


def test_clock_that_was_set_is_noticed(
    process: Lab, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """When the wall clock jumps, the own lease is renewed first, and it is logged."""
    process.durable.start()
    [peer] = process.store.workers()
    with caplog.at_level(logging.WARNING, "durable"):
        clock.advance(3600)
        process.poke()
        until(lambda: process.store.workers()[0].expires_at > peer.expires_at)
    assert "the clock was set by" in caplog.text
    assert peer.id == process.store.workers()[0].id
    beats = [
        write
        for batch in process.watched.batches
        for write in batch
        if isinstance(write, Heartbeat)
    ]
    assert beats[-1].expires_at == clock.now() + 15_000


def test_dead_process_is_taken_over_from(process: Lab, clock: FakeClock) -> None:
    """Runs of a process whose lease is over are freed, with the take-over counted."""
    process.endpoint(sleeps)
    process.durable.start()
    node = process.engine.worker
    assert node is not None
    store = process.store
    dead = WorkerRecord(id="dead", host="elsewhere", pid=1, expires_at=clock.now() - 1)
    store.commit([Register(worker=dead)], wait=1.0)
    store.commit(
        [
            Checkpoint(
                run_id="r1",
                owner="dead",
                epoch=1,
                now=0,
                create=run("r1", app="lab", key="it"),
                request=a_request(),
            )
        ],
        wait=1.0,
    )
    node.scheduler._refresh_workers()
    process.poke()
    until(lambda: process.records.get("r1").run.phase is Phase.SUSPENDED)
    record = process.records.get("r1")
    assert (3, 1) == (record.run.epoch, record.run.crash_count)
    assert ["dead"] != [peer.id for peer in store.workers()]


def test_process_that_was_buried_goes_on_under_a_new_name(
    process: Lab, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that others took for dead loses its live runs, and says so."""
    entered, leave = threading.Event(), threading.Event()
    ledger = Ledger()

    def slow() -> int:
        entered.set()
        assert leave.wait(10)
        return 1

    def handler(request: Request) -> object:
        sync_step.run("first", ledger.did, "first", 1)
        if not entered.is_set():
            sync_step.run("slow", slow)
        return sync_step.run("last", ledger.did, "last", "end")

    endpoint = process.endpoint(handler)
    answers: list[Any] = []
    client = threading.Thread(target=lambda: answers.append(endpoint.handle(request())))
    client.start()
    assert entered.wait(10)
    node = process.engine.worker
    assert node is not None
    before = node.owner
    # Not due before the process has noticed: it could take the run under its old name.
    process.store.commit([ReapWorkers(ids=(before,), now=clock.now() + 1000)], wait=1.0)
    node.scheduler._renew_leases()
    assert before != node.owner
    assert "under a new name" in caplog.text
    clock.advance(1)
    process.poke()
    leave.set()
    client.join(10)
    assert b'"end"' == process.follow(endpoint, answers[0]).body
    assert {"first": 1, "last": 1} == ledger.counts()


def test_a_step_looks_at_a_lease_that_may_have_expired() -> None:
    """A write was accepted a moment ago, and another process has taken the run since."""
    clock, ledger = FakeClock(), Ledger()
    with lab(clock=clock) as process:

        def handler(request: Request) -> object:
            node = process.engine.worker
            assert node is not None
            if node.scheduler.alive:
                node.scheduler.stop()
                clock.advance(node.settings.lease)
            sync_step.run("first", ledger.did, "first", 1)
            # In the queue it comes after the result of the first step.
            node.queue.execute(ReapWorkers(ids=(node.owner,), now=clock.now()))
            return sync_step.run("second", ledger.did, "second", "end")

        process.endpoint(handler).handle(request())
        assert {"first": 1} == ledger.counts()


@pytest.mark.parametrize("names", [("first", "second"), ("first", "second", "third")])
@pytest.mark.parametrize("by", ["this process", "another process"])
def test_a_run_that_begins_under_a_lost_name(
    by: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began as the process learned that it had lost the name; nobody holds it, once stored.

    Its steps go on until it is claimed, and not for a moment longer.
    """
    clock, ledger = FakeClock(), Ledger()
    with lab(clock=clock) as process:

        def handler(request: Request) -> object:
            node = process.engine.worker
            assert node is not None
            scheduler, submit = node.scheduler, node.queue.submit
            scheduler.stop()

            def submit_late(write: Any, after: Any = ()) -> Any:
                """Queue the first write after all that is done about the name: it has the old one.

                When the live runs were looked at, this one had no record.
                """
                monkeypatch.undo()
                [live] = node.live.all()
                assert isinstance(live.ex, StoredExecution)
                process.store.commit([ReapWorkers(ids=(node.owner,), now=clock.now())], wait=1.0)
                live.ex.stored = False
                scheduler._renew_leases()
                live.ex.stored = True
                return submit(write, after)

            monkeypatch.setattr(node.queue, "submit", submit_late)
            for name in names[:-1]:
                sync_step.run(name, ledger.did, name, 1)
            if by == "this process":
                scheduler._reap_unowned()
            else:
                node.queue.execute(ReapWorkers(ids=(), now=clock.now(), orphans=True))
            return sync_step.run(names[-1], ledger.did, names[-1], "end")

        process.endpoint(handler).handle(request())
        assert dict.fromkeys(names[:-1], 1) == ledger.counts()


def test_a_run_that_begins_after_its_name_was_lost(clock: FakeClock) -> None:
    """It begins under the new name, and nobody has to take it."""
    with lab(clock=clock) as process:

        def handler(request: Request) -> object:
            node = process.engine.worker
            assert node is not None
            process.store.commit([ReapWorkers(ids=(node.owner,), now=clock.now())], wait=1.0)
            node.scheduler._renew_leases()
            sync_step.run("first", lambda: 1)
            return sync_step.run("second", lambda: process.records.list()[0].owner == node.owner)

        assert b"true" == process.endpoint(handler).handle(request()).body
        [record] = process.records.list()
        assert (Phase.COMPLETED, 1) == (record.run.phase, record.run.epoch)


def test_process_that_was_buried_claims_nothing_under_its_old_name(clock: FakeClock) -> None:
    """It registers anew when a claim is refused, without waiting for its next heartbeat."""
    ledger = Ledger()

    def handler(request: Request) -> object:
        sync_step.sleep("nap", "3s")
        return sync_step.run("after", ledger.did, "after", "end")

    with lab(clock=clock, settings=Settings(heartbeat=3600.0, lease=7200.0)) as process:
        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        node = process.engine.worker
        assert node is not None
        before = node.owner
        process.store.commit([ReapWorkers(ids=(before,), now=clock.now())], wait=1.0)
        clock.advance(4)  # less than what is taken for a clock that was set
        process.poke()

        assert b'"end"' == process.follow(endpoint, first).body

        assert before != node.owner
        assert [node.owner] == [peer.id for peer in process.store.workers()]
        [record] = process.records.list()
        assert (2, 0) == (record.run.epoch, record.run.crash_count)
        assert {"after": 1} == ledger.counts()


def test_store_in_trouble_is_logged_once(process: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """While the store fails the keeper keeps trying, with one message; then it goes on."""
    process.durable.start()
    failed = threading.Semaphore(0)

    def refuse(writes: Sequence[Write[Any]]) -> None:
        failed.release()
        raise StoreError("no space left")

    process.watched.fault = refuse
    node = process.engine.worker
    assert node is not None
    for chore in node.scheduler._chores:
        chore._due = 0.0
    for _ in range(2):
        for chore in node.scheduler._chores:
            chore._due = 0.0
        process.poke()
        assert failed.acquire(timeout=10)
    process.watched.fault = None
    troubles = [r for r in caplog.records if "cannot reach the store" in r.getMessage()]
    assert len(troubles) == 1
    assert node.scheduler.alive


def test_failing_round_does_not_end_the_keeper(
    process: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong in a round, there is a next one."""
    process.durable.start()
    failed = threading.Event()

    def explode(writes: Sequence[Write[Any]]) -> None:
        process.watched.fault = None
        failed.set()
        raise ZeroDivisionError

    node = process.engine.worker
    assert node is not None
    process.watched.fault = explode
    for chore in node.scheduler._chores:
        chore._due = 0.0
    process.poke()
    assert failed.wait(10)
    endpoint = process.endpoint(sleeps)
    assert 302 == endpoint.handle(request()).status
    assert node.scheduler.alive


def test_unknown_endpoint_is_logged_and_kept(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Due runs without code stay due, are logged once, and run when the code is back."""
    store = WatchedStore()
    with lab(store, clock=clock) as first:
        response = first.endpoint(sleeps).handle(request())
    clock.advance(3600)
    with lab(store, clock=clock) as without:
        without.durable.start()
        node = without.engine.worker
        assert node is not None
        node.scheduler.stop()  # which may have begun to say so itself
        for _ in range(2):
            node.scheduler._report_unknown()
        [record] = without.records.list()
        assert Phase.SUSPENDED is record.run.phase
    reports = [r for r in caplog.records if "no code here knows it" in r.getMessage()]
    assert len([r for r in reports if "'it'" in r.getMessage()]) == 1
    with lab(store, clock=clock) as again:
        assert b'"end"' == again.follow(again.endpoint(sleeps), response).body


def test_orphans_fail_after_a_long_time(clock: FakeClock) -> None:
    """A run whose code does not come back fails with the problem ``endpoint-missing``."""
    store = WatchedStore()
    with lab(store, clock=clock) as first:
        response = first.endpoint(sleeps).handle(request())
    clock.advance(3600 + 7 * 86_400 + 1)
    with lab(store, clock=clock, token_ttl="30 days") as without:
        without.durable.start()
        node = without.engine.worker
        assert node is not None
        node.scheduler._report_unknown()  # unless it is just being done
        [record] = without.records.list()
        until(lambda: Phase.FAILED is without.records.list()[0].run.phase)

        def other(request: Request) -> None: ...

        answer = without.store.result("lab", record.run.id)
        assert b"endpoint-missing" in (getattr(answer, "body", None) or b"")
        assert 302 == response.status


def test_old_runs_and_events_are_pruned(process: Lab, clock: FakeClock) -> None:
    """Ended runs and events go when they are old; runs that have not ended stay."""

    def ends(request: Request) -> str:
        return sync_step.run("a", str, "x")

    process.endpoint(sleeps, function_id="sleeper").handle(request())
    process.endpoint(ends).handle(request())
    process.durable.send(event("e", id="e"))
    node = process.engine.worker
    assert node is not None
    clock.advance(86_401)
    node.scheduler._prune()
    assert 2 == len(process.records.list())
    assert ["e"] == process.durable.send(event("e", id="e"))
    clock.advance(7 * 86_400)
    node.scheduler._prune()
    keys = [record.run.endpoint_key for record in process.records.list()]
    assert ["sleeper"] == keys


def test_pruning_goes_on_in_small_batches() -> None:
    """A full batch is followed by another one soon, not at once."""
    store = WatchedStore()
    with lab(store, settings=Settings()) as process:
        process.durable.start()
        node = process.engine.worker
        assert node is not None
        node.scheduler._prune()
    prunes = [write for batch in store.batches for write in batch if isinstance(write, Prune)]
    assert {100} == {prune.limit for prune in prunes}


def test_due_during_a_round_is_not_missed() -> None:
    """What becomes due after the round has looked has a round of its own, at once."""

    class Late(WatchedStore):
        def next_due(
            self, app: str, keys: Sequence[str], *, slots: Sequence[Slots] = ()
        ) -> int | None:
            answer = super().next_due(app, keys, slots=slots)
            for node in nodes:
                node.scheduler.wake_at(200)
            return answer

    nodes: list[Worker] = []
    with lab(Late()) as process:
        process.endpoint(sleeps)
        process.durable.start()
        node = process.engine.worker
        assert node is not None
        node.scheduler.stop()
        nodes.append(node)
        node.scheduler._next_due = 100
        notified(node.scheduler).clear()
        node.scheduler._round()
        assert notified(node.scheduler).is_set()


def test_the_event_mark_is_shared_while_others_work() -> None:
    """An event that another process has stored before a step began does not end the wait after."""
    store = WatchedStore()
    with lab(store) as process:

        def handler(asked: Request) -> object:
            sync_step.run("first", int)
            # As another process does it: nobody here is told.
            sent = SendEvents(app="lab", events=(event("go", id="e1"),), now=1)
            store.commit([sent], wait=1.0)
            sync_step.run("second", int)
            came = sync_step.wait_for_event("go", event="go", timeout=0.001)
            return came is not None

        endpoint = process.endpoint(handler)
        process.durable.start()
        node = process.engine.worker
        assert node is not None
        node.scheduler.stop()
        store.commit(
            [Register(worker=WorkerRecord(id="p", host="h", pid=1, expires_at=2**50))], wait=1.0
        )
        node.scheduler._look = True
        node.scheduler.catch_up()
        first = endpoint.handle(request())

        def ended() -> bool:
            node.scheduler.catch_up()
            return all(each.run.phase.ended for each in process.records.list())

        until(ended)
        assert b"false" == process.follow(endpoint, first).body


def test_a_claim_whose_answer_was_lost_leaves_no_run_stuck(clock: FakeClock) -> None:
    """What the store gave this process without its knowing is given up, and claimed again."""
    lost: list[Write[Any]] = []

    class LosesClaims(WatchedStore):
        def commit(
            self, writes: Sequence[Write[object]], *, wait: float
        ) -> Sequence[object | BaseException]:
            answers = super().commit(writes, wait=wait)
            if not lost and any(isinstance(write, Claim) for write in writes):
                lost.extend(writes)
                raise StoreOutcomeUnknownError("the connection broke")
            return answers

    store = LosesClaims()
    with lab(store, clock=clock) as process:
        endpoint = process.endpoint(sleeps)
        first = endpoint.handle(request())
        clock.advance(3600)
        process.poke()
        assert b'"end"' == process.follow(endpoint, first).body
    assert lost


def test_a_jump_of_the_clock_takes_no_lease_from_a_live_process(
    process: Lab, clock: FakeClock
) -> None:
    """Not even if it comes after the round has looked at the clock."""
    process.durable.start()
    node = process.engine.worker
    assert node is not None
    node.scheduler.stop()
    other = WorkerRecord(id="p", host="elsewhere", pid=1, expires_at=clock.now() + 15_000)
    process.store.commit([Register(worker=other)], wait=1.0)
    node.scheduler._refresh_workers()
    clock.advance(3600)

    node.scheduler._reap_dead()
    node.scheduler._round()

    assert "p" in {each.id for each in process.store.workers()}


def test_nobody_dies_while_nobody_can_write(process: Lab, clock: FakeClock) -> None:
    """After a time without a renewal of its own a process spares the others for two heartbeats."""
    process.durable.start()
    node = process.engine.worker
    assert node is not None
    node.scheduler.stop()
    other = WorkerRecord(id="p", host="elsewhere", pid=1, expires_at=clock.now() - 1)
    process.store.commit([Register(worker=other)], wait=1.0)
    node.scheduler._refresh_workers()

    node.scheduler._renewed -= 60
    node.scheduler._renew_leases()
    node.scheduler._reap_dead()
    assert "p" in {each.id for each in process.store.workers()}

    node.scheduler._spare_until = 0.0
    node.scheduler._renew_leases()
    node.scheduler._reap_dead()
    assert "p" not in {each.id for each in process.store.workers()}


def test_one_process_of_several_prunes_and_maintains(process: Lab, clock: FakeClock) -> None:
    """The one that came first; another app's pruning is none of its business."""
    process.durable.start()
    node = process.engine.worker
    assert node is not None
    scheduler = node.scheduler
    scheduler.stop()

    def leads(**fields: Any) -> tuple[bool, bool]:
        other = WorkerRecord(host="h", pid=1, expires_at=0, **fields)
        scheduler._workers = [other]
        process.watched.batches.clear()
        scheduler._prune()
        pruned = any(
            isinstance(write, Prune) for batch in process.watched.batches for write in batch
        )
        return pruned, scheduler._leads(scheduler._workers)

    assert (False, False) == leads(id="0", app="lab")
    assert (True, False) == leads(id="0", app="other")
    assert (True, True) == leads(id="Z", app="lab")


def test_due_wakes_only_for_what_is_earlier() -> None:
    """A run that is due later than the next known one needs no round of its own."""
    with lab() as process:
        process.durable.start()
        node = process.engine.worker
        assert node is not None
        keeper = node.scheduler
        keeper.stop()
        notified(keeper).clear()
        keeper._next_due = 100
        keeper.wake_at(200)
        assert not notified(keeper).is_set()
        keeper.wake_at(50)
        assert notified(keeper).is_set()


def test_give_up_abandoned() -> None:
    """A run that could not be put away is released later, unless somebody has it already."""
    store = WatchedStore()
    with lab(store) as process:
        process.durable.start()
        node = process.engine.worker
        assert node is not None
        for run_id in ("r1", "r2"):
            store.commit(
                [
                    Checkpoint(
                        run_id=run_id,
                        owner=node.owner,
                        epoch=1,
                        now=0,
                        create=run(run_id, app="lab", key="unknown"),
                        request=a_request(),
                    )
                ],
                wait=1.0,
            )
            node.abandoned.append(
                Checkpoint(
                    run_id=run_id,
                    owner=node.owner,
                    epoch=1 if run_id == "r2" else 9,
                    now=0,
                    release=Release(due_at=7),
                )
            )
        process.poke()
        until(lambda: not node.abandoned)
        assert 7 == process.records.get("r2").due_at
        assert node.owner == process.records.get("r1").owner


def test_what_cannot_be_given_up_is_tried_again_and_holds_nothing_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While the store refuses one release, others are taken and due runs go on; then it is too."""

    class Picky(WatchedStore):
        refuses = True

        def _write_run(self, write: Checkpoint) -> CheckpointResult | LeaseLost:
            if self.refuses and write.run_id == "r1" and write.create is None:
                raise ValueError("not now")
            return super()._write_run(write)

    store = Picky()
    with lab(store) as process:
        process.durable.start()
        node = process.engine.worker
        assert node is not None
        held = replace(created("r1", app="lab", key="it"), owner=node.owner)
        store.commit([held, replace(held, run_id="r2", create=run("r2", app="lab"))], wait=1.0)
        process.endpoint(lambda request: "end")
        for run_id in ("r1", "r2"):
            release = Release(due_at=0)
            node.abandoned.append(
                Checkpoint(run_id=run_id, owner=held.owner, epoch=1, now=0, release=release)
            )
        due = replace(created("r3", app="lab", key="it"), owner="x", request=a_request())
        store.commit([replace(due, release=Release(due_at=0))], wait=1.0)
        process.poke()
        until(lambda: store.list("lab", where=RunFilter(phases=(Phase.COMPLETED,)), limit=9))
        assert ["r1"] == [write.run_id for write in until(lambda: list(node.abandoned))]
        until(lambda: "not now" in caplog.text)
        store.refuses = False
        until(lambda: not node.abandoned)
        assert 1 == caplog.text.count("the scheduler cannot reach the store")
        r2 = process.records.get("r2")
        assert r2 is not None
        assert 0 == r2.due_at


def test_what_others_did_is_looked_at_again_after_a_fault(process: Lab) -> None:
    """A store that fails in the middle of the look hides nothing for good."""
    process.durable.start()
    node = process.engine.worker
    assert node is not None
    node.scheduler.stop()
    process.store.commit([created("r1", app="lab"), ended("r1")], wait=1.0)
    told: list[str] = []
    node.waiters.add("r1", lambda: told.append("ended"))
    ended_ids = process.store.which_ended
    faults = [StoreError("an I/O error")]

    def fails_once(app: str, run_ids: Sequence[str]) -> Sequence[str]:
        if faults:
            raise faults.pop()
        return ended_ids(app, run_ids)

    process.store.which_ended = fails_once  # type: ignore[method-assign]
    node.scheduler.wake()
    with pytest.raises(StoreError, match="an I/O error"):
        node.scheduler.catch_up()
    assert [] == told

    node.scheduler.catch_up()

    assert ["ended"] == told


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_run_without_a_record_survives_the_loss_of_its_lease(
    process: Lab, clock: FakeClock, kind: str
) -> None:
    """A process that others took for dead, as after a freeze, goes on with a run in its first step.

    There is no record of it that they could have taken, so its client is not referred to one.
    """
    entered, leave, ledger = threading.Event(), threading.Event(), Ledger()

    def slow() -> str:
        entered.set()
        assert leave.wait(10)
        return ledger.did("slow", "end")

    async def async_(request: Request) -> object:
        return await step.run("slow", slow)

    def sync(request: Request) -> object:
        return sync_step.run("slow", slow)

    endpoint = process.endpoint(sync if kind == "def" else async_)
    answers: list[Any] = []
    client = threading.Thread(target=lambda: answers.append(endpoint.handle(request())))
    client.start()
    assert entered.wait(10)
    node = process.engine.worker
    assert node is not None
    process.store.commit([ReapWorkers(ids=(node.owner,), now=clock.now())], wait=1.0)
    node.scheduler._renew_leases()
    leave.set()
    client.join(10)
    assert (200, b'"end"') == (answers[0].status, answers[0].body)
    assert {"slow": 1} == ledger.counts()
    [record] = process.records.list()
    assert Phase.COMPLETED is record.run.phase


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_no_client_is_referred_to_a_run_that_was_not_stored(process: Lab, kind: str) -> None:
    """The lease is lost while the write that makes the run waits, and that write fails: 503."""

    def refuse(writes: Sequence[Write[Any]]) -> None:
        if any(isinstance(write, Checkpoint) for write in writes):
            raise StoreError("the disk is full")

    def first() -> None:
        assert isinstance(process.store, WatchedStore)
        process.store.fault = refuse

    def lose_the_lease() -> None:
        assert process.engine.worker is not None
        [live] = process.engine.worker.live.all()
        live.lease_lost()

    def sync(request: Request) -> None:
        sync_step.run("first", first)
        lose_the_lease()
        sync_step.run("second", first)

    async def async_(request: Request) -> None:
        await step.run("first", first)
        lose_the_lease()
        await step.run("second", first)

    endpoint = process.endpoint(sync if kind == "def" else async_)
    assert 503 == endpoint.handle(request()).status


def test_clock_that_was_set_is_noticed_until_the_lease_is_renewed(
    process: Lab, clock: FakeClock
) -> None:
    """A store that cannot be written to at that moment does not make others look dead."""
    process.durable.start()
    node = process.engine.worker
    assert node is not None
    node.scheduler.stop()
    clock.advance(3600)

    def refuse(writes: Sequence[Write[Any]]) -> None:
        raise StoreError("locked")

    process.watched.fault = refuse
    with pytest.raises(StoreError, match="locked"):
        node.scheduler._watch_clock()
    process.watched.fault = None
    node.scheduler._watch_clock()

    [peer] = process.store.workers()
    assert clock.now() + 15_000 == peer.expires_at
    assert node.scheduler._spare_until > time.monotonic()
