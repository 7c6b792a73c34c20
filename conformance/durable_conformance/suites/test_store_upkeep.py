"""Processes, ends of runs, and looking at them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from durable_conformance.plugin import requirement
from durable_conformance.store_values import (
    REQUEST,
    claim,
    commit,
    created,
    ended,
    event,
    failed_attempt,
    matched_seqs,
    memo,
    memo_write,
    peer,
    pending,
    pending_of,
    result,
    run,
    send,
    suspended,
    wait,
)
from durable_core.errors import LeaseLost, RunNotFoundError
from durable_core.model.run import Phase
from durable_core.ports import (
    Cancel,
    CancelOutcome,
    Checkpoint,
    Claim,
    ClaimedRun,
    Delete,
    Heartbeat,
    Prune,
    ReapWorkers,
    Register,
    Release,
    RotateSecret,
    RunFilter,
    Store,
    StoredRequest,
    Unregister,
    Usage,
)

# Processes


@requirement("T12")
def test_a_process_is_listed_until_it_leaves(store: Store) -> None:
    """Registering, beating, and leaving in good order; its runs are due at once."""
    commit(store, Register(worker=peer("o1")))
    commit(store, created())

    assert commit(store, Heartbeat(id="o1", expires_at=200))
    assert [peer("o1", expires_at=200)] == list(store.workers())
    assert ("r1",) == commit(store, Unregister(id="o1", now=70))

    assert [] == list(store.workers())
    assert not commit(store, Heartbeat(id="o1", expires_at=300))
    [claimed] = claim(store, now=70)
    assert (0, 2) == (claimed.run.crash_count, claimed.run.epoch)


@requirement("T12")
def test_the_runs_of_a_dead_process_are_taken_from_it(store: Store) -> None:
    """They are due at once with a raised epoch and a take-over counted."""
    commit(store, Register(worker=peer("o1")))
    commit(store, created())

    assert ("r1",) == commit(store, ReapWorkers(ids=("o1",), now=70))

    assert [] == list(store.workers())
    record = store.get("app", "r1")
    assert record is not None
    assert (None, 70, 2, 1) == (
        record.owner,
        record.due_at,
        record.run.epoch,
        record.run.crash_count,
    )
    with pytest.raises(LeaseLost):
        commit(store, memo_write())


@requirement("T12")
def test_a_process_that_has_beaten_since_is_spared(store: Store) -> None:
    """A burial decided on old news does no harm."""
    commit(store, Register(worker=peer("o1", expires_at=200)))
    commit(store, created())

    assert () == commit(store, ReapWorkers(ids=("o1",), now=150, skip_if_renewed_after=199))
    assert ["o1"] == [each.id for each in store.workers()]
    assert ("r1",) == commit(store, ReapWorkers(ids=("o1",), now=201, skip_if_renewed_after=200))


@requirement("T12")
def test_runs_of_unknown_processes_are_orphans(store: Store) -> None:
    """They are freed on request; those of registered processes are not."""
    commit(store, Register(worker=peer("o1")))
    commit(store, created("r1", owner="o1"))
    commit(store, created("r2", owner="o2"))
    commit(store, created("r3", owner="o3"))

    assert () == commit(store, ReapWorkers(ids=(), now=70))
    assert {"r2", "r3"} == set(commit(store, ReapWorkers(ids=(), now=70, orphans=True)))


@requirement("T12")
def test_only_a_registered_process_claims_runs(store: Store) -> None:
    """One that was reaped, or never came, is refused: the runs stay due for others."""
    commit(store, Register(worker=peer("o1")))
    commit(store, Register(worker=peer("o2")))
    commit(store, created())
    commit(store, suspended())
    commit(store, ReapWorkers(ids=("o2",), now=70))

    for owner in ("o2", "o3"):
        with pytest.raises(LeaseLost, match=owner):
            commit(store, Claim(app="app", owner=owner, keys=("key",), now=1000, limit=1))

    [claimed] = commit(store, Claim(app="app", owner="o1", keys=("key",), now=1000, limit=1))
    assert isinstance(claimed, ClaimedRun)
    assert ("r1", 2) == (claimed.run.id, claimed.run.epoch)


# Ends


@requirement("T13")
def test_a_cancelled_run_has_ended_whoever_held_it(store: Store) -> None:
    """Its owner's next write is refused; a second cancellation says it had ended."""
    commit(store, replace(created(), pending=(pending(),)))
    message = Cancel(app="app", run_id="r1", result=result(Phase.CANCELLED))

    outcomes = [commit(store, message), commit(store, message)]

    assert [CancelOutcome.ENDED, CancelOutcome.NOTHING] == outcomes

    assert result(Phase.CANCELLED) == store.result("app", "r1")
    assert () == pending_of(store)
    with pytest.raises(LeaseLost):
        commit(store, memo_write())


def _undoable(**changes: Any) -> Checkpoint:
    """Return a checkpoint by which the run has a step that can be undone."""
    return memo_write(state=replace(run(), phase=Phase.ASYNC, undoable=True), **changes)


_CANCEL = Cancel(app="app", run_id="r1", result=result(Phase.CANCELLED), reason="stop")


@requirement("T13")
def test_a_cancelled_run_with_an_undoable_step_is_claimed_to_be_undone(store: Store) -> None:
    """Nobody holds it: it is due at once, whatever it waited for; then it can end as cancelled."""
    commit(store, created())
    commit(store, _undoable(release=Release(due_at=1000)))
    commit(store, Register(worker=peer("o1")))

    outcomes = [commit(store, _CANCEL), commit(store, _CANCEL)]
    [claimed] = commit(store, Claim(app="app", owner="o1", keys=("key",), now=50, limit=1))

    assert [CancelOutcome.UNDOING, CancelOutcome.NOTHING] == outcomes
    assert isinstance(claimed, ClaimedRun)
    assert ("stop", True) == (claimed.run.cancel_reason, claimed.run.undoable)
    assert ["r1"] == list(store.cancelled_runs("o1"))
    later = replace(ended(epoch=2), release=Release(due_at=900), result=None, state=claimed.run)
    commit(store, later)
    assert 900 == store.next_due("app", ["key"])
    [claimed] = commit(store, Claim(app="app", owner="o1", keys=("key",), now=900, limit=1))
    assert isinstance(claimed, ClaimedRun)
    end = replace(ended(epoch=3), state=claimed.run, result=result(Phase.CANCELLED))
    commit(store, end)
    assert result(Phase.CANCELLED) == store.result("app", "r1")


@requirement("T13")
@pytest.mark.parametrize("ends", [True, False], ids=["ends", "releases"])
def test_an_owner_that_does_not_know_of_a_cancellation_cannot_ignore_it(
    store: Store, ends: bool
) -> None:
    """Its checkpoints are stored; when it ends or releases the run, this is due to be undone."""
    commit(store, created())
    commit(store, _undoable(pending=(pending(),)))
    commit(store, _CANCEL)
    memos, state = (memo(3, name="nap"),), replace(run(), phase=Phase.ASYNC)
    last = memo_write(now=60, memos=memos, state=state)

    assert ["r1"] == list(store.cancelled_runs("o1"))
    assert [] == list(store.cancelled_runs("o2"))
    if ends:
        with pytest.raises(LeaseLost):
            commit(store, replace(last, result=result()))
    else:
        commit(store, replace(last, release=Release(due_at=1000)))

    record = store.get("app", "r1")
    assert record is not None
    assert (None, 60, None) == (record.owner, record.due_at, record.ended_at)
    assert [1, 2, 3] == [memo.completion_no for memo in record.memos]
    assert () == record.pending


@requirement("T13")
@pytest.mark.parametrize(("app", "id_"), [("app", "r2"), ("other", "r1")])
def test_what_is_not_there_cannot_be_cancelled(store: Store, app: str, id_: str) -> None:
    """Another app's run is not there."""
    commit(store, created())

    with pytest.raises(RunNotFoundError, match=id_):
        commit(store, Cancel(app=app, run_id=id_, result=result(Phase.CANCELLED)))


@requirement("T14")
def test_old_runs_and_events_are_pruned_in_small_batches(store: Store) -> None:
    """The oldest go first, up to the limit of each; live and younger ones stay."""
    for number in range(1, 6):
        store.commit([created(f"r{number}"), ended(f"r{number}", ended_at=number)], wait=0)
        send(store, event(str(number)), now=number)
    commit(store, created("live"))
    message = Prune(app="app", runs_before=5, events_before=4, limit=2)

    assert [4, 3, 0] == [commit(store, message) for _ in range(3)]

    left = store.list("app", limit=9)
    assert ["r5", "live"] == [record.run.id for record in left]
    assert 5 == store.event_seq("app")
    assert 0 == commit(store, Prune(app="other", runs_before=99, events_before=99, limit=9))


@requirement("T14")
def test_a_run_that_has_ended_can_be_deleted(store: Store) -> None:
    """With all that belongs to it; a live one stays, and so do those of other applications."""
    commit(store, created("r1"))
    commit(store, created("live"))
    delete = Delete(app="app", run_id="r1")
    assert not commit(store, delete)
    commit(store, ended("r1"))
    with pytest.raises(RunNotFoundError):
        commit(store, replace(delete, app="other"))

    assert commit(store, delete)

    assert store.get("app", "r1") is None
    assert store.result("app", "r1") is None
    assert ["live"] == [record.run.id for record in store.list("app", limit=9)]
    with pytest.raises(RunNotFoundError):
        commit(store, delete)


@requirement("T14")
def test_a_matched_wait_outlives_its_event(store: Store) -> None:
    """Pruning the event does not take it from the run, and its number does not come again."""
    commit(store, replace(created(), pending=(wait(),)))
    send(store, event("1"), now=1)

    assert 1 == commit(store, Prune(app="app", runs_before=0, events_before=2, limit=9))

    assert [1] == matched_seqs(store)
    send(store, event("1"))
    assert 2 == store.event_seq("app")


# Looking


@requirement("T15")
def test_ended_runs_are_told_from_others(store: Store) -> None:
    """Up to a thousand at once."""
    ids = [f"r{number:04}" for number in range(1000)]
    store.commit([created(id_) for id_ in ids], wait=0)
    store.commit([ended(id_) for id_ in ids[::2]], wait=0)

    assert set(ids[::2]) == set(store.which_ended("app", ids))
    assert [] == list(store.which_ended("other", ids))


@requirement("T15")
def test_runs_are_listed_newest_first_by_pages(store: Store) -> None:
    """With their phase as a filter, and without their ops."""
    for number in range(1, 6):
        commit(store, created(f"r{number}"))
    commit(store, ended("r4"))
    commit(store, created("r9", app="other"))

    def ids(phase: Phase | None = None, before: str | None = None, limit: int = 2) -> list[str]:
        where = RunFilter(phases=() if phase is None else (phase,), before=before)
        records = store.list("app", where=where, limit=limit)
        assert all(record.memos == () for record in records)
        return [record.run.id for record in records]

    assert ["r5", "r4"] == ids()
    assert ["r3", "r2"] == ids(before="r4")
    assert ["r4"] == ids(Phase.COMPLETED)
    assert ["r3", "r2", "r1"] == ids(Phase.SYNC, "r5", 9)
    commit(store, suspended("r2"))
    commit(store, replace(suspended("r3"), state=replace(run("r3"), phase=Phase.SUSPENDED)))
    assert ["r5", "r2", "r1"] == ids(Phase.SYNC, None, 9)
    assert ["r3"] == ids(Phase.SUSPENDED, "r5", 9)
    assert [] == ids(Phase.SUSPENDED, "r3")
    assert [] == ids(Phase.ASYNC)


@requirement("T15")
@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (RunFilter(), ["r5", "r4", "r3", "r2", "r1"]),
        (RunFilter(phases=(Phase.COMPLETED, Phase.FAILED)), ["r4", "r2"]),
        (RunFilter(phases=(Phase.SYNC, Phase.FAILED)), ["r5", "r4", "r3"]),
        (RunFilter(phases=(Phase.SUSPENDED, Phase.FAILED)), ["r4", "r1"]),
        (RunFilter(endpoint_key="key2"), ["r5", "r2"]),
        (RunFilter(endpoint_key="key2", phases=(Phase.COMPLETED,)), ["r2"]),
        (RunFilter(key="order-1"), ["r4", "r2"]),
        (RunFilter(key="order-1", phases=(Phase.FAILED,)), ["r4"]),
        (RunFilter(label=("tenant", "a")), ["r5", "r4", "r1"]),
        (RunFilter(label=("tenant", "a"), phases=(Phase.FAILED,)), ["r4"]),
        (RunFilter(label=("tenant", "a"), phases=(Phase.SYNC,)), ["r5"]),
        (RunFilter(label=("tenant", "a"), endpoint_key="key"), ["r4", "r1"]),
        (RunFilter(label=("tenant", "a"), endpoint_key="key", phases=(Phase.FAILED,)), ["r4"]),
        (RunFilter(label=("tenant", "a"), principal="ann", phases=(Phase.FAILED,)), ["r4"]),
        (RunFilter(label=("tenant", "a"), principal="bob", phases=(Phase.FAILED,)), []),
        (RunFilter(label=("tenant", "a"), phases=(Phase.COMPLETED, Phase.SUSPENDED)), ["r1"]),
        (RunFilter(principal="ann"), ["r4", "r1"]),
        (RunFilter(principal="ann", phases=(Phase.SUSPENDED,)), ["r1"]),
        (RunFilter(principal="ann", endpoint_key="key2"), []),
        (RunFilter(principal="ann", key="order-1"), ["r4"]),
        (RunFilter(principal="ann", label=("tenant", "a")), ["r4", "r1"]),
        (RunFilter(principal="ann", held=True), []),
        (RunFilter(principal="ann", cancelled=True), []),
        (RunFilter(since="r2", before="r4"), ["r3", "r2"]),
        (RunFilter(label=("tenant", "a"), since="r4"), ["r5", "r4"]),
        (RunFilter(key="nobody"), []),
        (RunFilter(held=True), ["r5", "r3"]),
        (RunFilter(held=True, phases=(Phase.SYNC,), label=("tenant", "a")), ["r5"]),
        (RunFilter(held=True, endpoint_key="key", since="r2", before="r4"), ["r3"]),
        (RunFilter(held=True, key="order-1"), []),
        (RunFilter(cancelled=True), ["r3"]),
        (RunFilter(cancelled=True, held=True), ["r3"]),
        (RunFilter(cancelled=True, endpoint_key="key2"), []),
        (RunFilter(label=("tenant", "")), []),
    ],
)
def test_runs_are_found_by_each_filter(store: Store, where: RunFilter, expected: list[str]) -> None:
    """By phase, handler, key, label, caller, time and state, and by several of them at once."""
    order, tenant = {"key": "order-1"}, {"labels": (("area", "x"), ("tenant", "a"))}
    ann = {**tenant, "principal": "ann"}
    changes: list[dict[str, Any]] = [ann, order, {}, {**order, **ann}, tenant]
    for number, change in enumerate(changes, 1):
        create = created(f"r{number}", key="key2" if number in (2, 5) else "key")
        assert create.create is not None
        commit(store, replace(create, create=replace(create.create, **change)))
    commit(store, ended("r2"))
    commit(store, replace(ended("r4"), result=result(Phase.FAILED)))
    commit(store, replace(suspended("r1"), state=replace(run("r1"), phase=Phase.SUSPENDED)))
    commit(store, replace(created("r6", app="other"), create=run("r6", app="other")))
    commit(store, memo_write("r3", state=replace(run("r3"), undoable=True)))
    commit(store, Cancel(app="app", run_id="r3", result=result(Phase.CANCELLED)))

    assert expected == [record.run.id for record in store.list("app", where=where, limit=9)]
    page = [record.run.id for record in store.list("app", where=where, limit=1)]
    assert expected[:1] == page


@requirement("T15")
def test_a_pruned_run_is_found_by_nothing(store: Store) -> None:
    """Its labels, its key and its failed attempts go with it."""
    create = replace(run(), key="k", labels=(("l", "1"),))
    commit(store, replace(created(), create=create, failed_attempts=(failed_attempt(1),)))
    commit(store, ended())
    assert 1 == commit(store, Prune(app="app", runs_before=99, events_before=0, limit=9))

    for where in (RunFilter(key="k"), RunFilter(label=("l", "1"))):
        assert [] == list(store.list("app", where=where, limit=9))
    commit(store, created())
    record = store.get("app", "r1")
    assert record is not None
    assert () == record.failed_attempts


@requirement("T15")
def test_what_is_not_there_is_none(store: Store) -> None:
    """Also in the wrong app."""
    commit(store, created())

    assert store.get("other", "r1") is None
    assert store.result("other", "r1") is None
    assert store.result("app", "r2") is None


@requirement("T15")
def test_the_secret_stays_the_same(store: Store) -> None:
    """It has 32 bytes and survives closing."""
    [secret] = store.secrets()
    store.close()
    store.open()

    assert (32, 0) == (len(secret.value), secret.created_at)
    assert [secret] == list(store.secrets())


@requirement("T15")
def test_a_new_secret_comes_first(store: Store) -> None:
    """The older ones stay until they were replaced long enough ago; the newest one stays always."""
    [first] = store.secrets()
    for number in (1, 2, 3):
        secret = bytes([number]) * 32
        write = RotateSecret(secret=secret, now=number * 100, replaced_before=0)
        for _ in range(2):  # it may be committed again
            commit(store, write)
    numbers = [each.value[0] for each in store.secrets() if each != first]
    last = list(store.secrets())[-1]

    commit(store, RotateSecret(secret=b"4" * 32, now=400, replaced_before=300))
    kept = [each.created_at for each in store.secrets()]
    commit(store, RotateSecret(secret=b"5" * 32, now=500, replaced_before=501))

    assert ([3, 2, 1], first) == (numbers, last)
    assert [400, 300, 200] == kept
    assert [(b"5" * 32, 500)] == [(each.value, each.created_at) for each in store.secrets()]


@requirement("T5")
def test_a_release_may_come_with_the_creation(store: Store) -> None:
    """A handler that failed before its first step is stored and put away at once."""
    commit(store, replace(created(), memos=(), release=Release(due_at=40)))

    [claimed] = claim(store, now=40)
    assert ((), REQUEST) == (claimed.memos, claimed.request)


@requirement("T29")
def test_live_runs_of_an_application_are_counted_up_to_a_bound(store: Store) -> None:
    """Running and suspended ones; not those that have ended, and not those of others."""
    for number in range(4):
        commit(store, created(f"r{number}"))
    commit(store, created("other", app="other"))
    commit(store, suspended("r1"))
    commit(store, ended("r0"))

    counts = [store.usage("app", most=most).live_runs for most in (1, 3, 9)]

    assert [1, 3, 3] == counts
    assert 0 == store.usage("nobody", most=9).live_runs


@requirement("T29")
def test_what_is_stored_counts(store: Store) -> None:
    """A large request makes the store larger, for its principal and for all."""
    before = store.usage("app", most=9).stored_bytes
    large = StoredRequest(head="", body=bytes(1_000_000))
    commit(store, replace(created("r1"), request=large, create=replace(run(), principal="amy")))
    of_amy = [store.usage("app", principal="amy", most=9).stored_bytes]
    body = replace(result(), body=bytes(500_000))
    commit(store, replace(ended(), result=body))
    of_amy.append(store.usage("app", principal="amy", most=9).stored_bytes)

    assert store.usage("app", most=9).stored_bytes - before >= 1_400_000
    assert of_amy[0] >= 1_000_000
    assert of_amy[1] - of_amy[0] >= 500_000
    assert of_amy[1] < 1_600_000


@requirement("T29")
def test_each_principal_is_counted_apart(store: Store) -> None:
    """In its application; what is pruned does not count any more."""
    for number, name in enumerate(["amy", "amy", "bob"]):
        id_ = f"r{number}"
        commit(store, replace(created(id_), create=replace(run(id_), principal=name)))
    commit(store, created("r9"))
    commit(store, ended("r0"))

    live = [store.usage("app", principal=name, most=9).live_runs for name in ("amy", "bob", "eve")]
    elsewhere = store.usage("other", principal="amy", most=9)
    commit(store, ended("r1"))
    commit(store, Prune(app="app", runs_before=1_000, events_before=0, limit=9))
    pruned = store.usage("app", principal="amy", most=9)

    assert [1, 1, 0] == live
    assert Usage(live_runs=0, stored_bytes=0) == elsewhere == pruned
    record = store.get("app", "r2")
    assert record is not None
    assert "bob" == record.run.principal
