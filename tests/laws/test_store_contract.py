"""What ``ports.Store`` promises, clause by clause, for both stores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from durable_core.errors import LeaseLost, RunNotFoundError, StoreError
from durable_core.model.events import Event, StoredEvent
from durable_core.model.ops import OpKind, Pending
from durable_core.model.run import Phase
from durable_core.ports import (
    Beat,
    Bury,
    Cancel,
    Peer,
    Prune,
    Register,
    Release,
    RunWrite,
    SendEvents,
    Store,
    Unregister,
)
from durable_core.runtime.memory_store import MemoryStore
from durable_core.runtime.sqlite import SQLiteStore
from support.stores import (
    REQUEST,
    claim,
    commit,
    created,
    ended,
    event,
    memo,
    memo_write,
    pending,
    put_away,
    result,
    run,
    wait,
)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store: Store = (
        MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "store.db")
    )
    store.open()
    yield store
    store.close()


def send(store: Store, *events: Event, now: int = 100) -> Sequence[tuple[str, str | None]]:
    """Send events to the app and return who is woken."""
    return commit(store, SendEvents(app="app", events=events, now=now)).woken


def peer(id_: str, *, expires_at: int = 100) -> Peer:
    return Peer(id=id_, host="h", pid=1, expires_at=expires_at)


def pending_of(store: Store, id_: str = "r1") -> tuple[Pending, ...]:
    record = store.get("app", id_)
    assert record is not None
    return record.pending


def matched_seqs(store: Store, id_: str = "r1") -> list[int | None]:
    return [None if op.matched is None else op.matched.seq for op in pending_of(store, id_)]


# Checkpoints


def test_a_run_comes_back_as_it_was_stored(store: Store) -> None:
    """A created run is held by its owner and has its memo."""
    commit(store, created())

    record = store.get("app", "r1")

    assert record is not None
    assert (run(), "o1", None, None) == (
        record.run,
        record.owner,
        record.due_at,
        record.ended_at,
    )
    assert (memo(1),) == record.memos
    assert Phase.SYNC == store.result("app", "r1")


@pytest.mark.parametrize(
    "write",
    [
        memo_write(owner="o2"),
        memo_write(epoch=2),
        memo_write("r2"),
        put_away(owner="o2"),
        replace(put_away(), epoch=2, pending=(pending(),)),
        ended(owner="o2"),
        RunWrite(run_id="r1", owner="o2", epoch=1, now=1),
        RunWrite(run_id="r1", owner="o2", epoch=1, now=1, sends=(event("1"),)),
        RunWrite(run_id="r1", owner="o2", epoch=1, now=1, pending=(wait(),)),
        created(owner="o1"),
    ],
)
def test_a_write_without_the_lease_is_refused_as_a_whole(store: Store, write: RunWrite) -> None:
    """Another owner, epoch or run, and a second creation, change nothing."""
    commit(store, created())
    before = store.get("app", "r1")

    with pytest.raises(LeaseLost, match=write.run_id):
        commit(store, write)

    assert before == store.get("app", "r1")
    assert store.get("app", "r2") is None
    assert 0 == store.event_mark("app")


def test_a_memo_replaces_the_pending_record_of_its_op(store: Store) -> None:
    """The op is finished or unfinished, never both."""
    commit(store, replace(created(), pending=(pending("a"), pending("b"))))

    commit(store, replace(memo_write(), memos=(memo(2, name="a"),)))

    assert (pending("b"),) == pending_of(store)


def test_a_pending_record_is_replaced_by_a_later_one(store: Store) -> None:
    """The newest state of an unfinished op counts."""
    commit(store, replace(created(), pending=(pending("a", due_at=5),)))
    commit(store, RunWrite(run_id="r1", owner="o1", epoch=1, now=1, pending=(pending("a"),)))

    assert (pending("a"),) == pending_of(store)


def test_a_second_memo_of_one_number_is_refused(store: Store) -> None:
    """Completion numbers of a run are unique."""
    commit(store, created())

    with pytest.raises(StoreError):
        commit(store, memo_write(number=1))


def test_state_changes_phase_failures_and_takeovers_only(store: Store) -> None:
    """What identifies a run never changes."""
    commit(store, created())
    state = replace(run(), phase=Phase.ASYNC, failures=2, takeovers=3, epoch=9, function_id="other")

    commit(store, RunWrite(run_id="r1", owner="o1", epoch=1, now=1, state=state))

    record = store.get("app", "r1")
    assert record is not None
    assert replace(run(), phase=Phase.ASYNC, failures=2, takeovers=3) == record.run


def test_a_result_ends_the_run(store: Store) -> None:
    """An ended run has its result, no owner and nothing pending, and takes no more writes."""
    commit(store, replace(created(), pending=(pending(),)))

    commit(store, replace(ended(), memos=(memo(2),)))

    record = store.get("app", "r1")
    assert record is not None
    assert (Phase.COMPLETED, None, None, 50, ()) == (
        record.run.phase,
        record.owner,
        record.due_at,
        record.ended_at,
        record.pending,
    )
    assert (memo(1), memo(2)) == record.memos
    assert result() == store.result("app", "r1")
    with pytest.raises(LeaseLost):
        commit(store, memo_write(number=3))


def test_a_run_may_be_created_and_ended_in_one_write(store: Store) -> None:
    """A run of one step is one transaction."""
    commit(store, replace(created(), result=result()))

    assert result() == store.result("app", "r1")


def test_a_body_that_was_too_large_stays_none(store: Store) -> None:
    """No body differs from an empty one."""
    commit(store, replace(created(), result=replace(result(), body=None)))

    assert replace(result(), body=None) == store.result("app", "r1")


def test_a_creation_needs_a_request(store: Store) -> None:
    """A run that could not be replayed is not stored."""
    with pytest.raises(ValueError, match="request"):
        commit(store, replace(created(), request=None))

    assert store.get("app", "r1") is None


def test_members_of_a_batch_do_not_touch_each_other(store: Store) -> None:
    """Each is answered on its own, and a refused one leaves nothing behind."""
    refused = replace(created("r2"), memos=(memo(1), memo(1, name="twin")))
    batch = [created(), memo_write("r9"), refused, memo_write(number=2), created("r3")]

    answers = store.commit(batch, wait=0)

    errors = [type(answer) for answer in answers if isinstance(answer, BaseException)]
    assert [LeaseLost, StoreError] == errors
    assert store.get("app", "r2") is None
    record = store.get("app", "r1")
    assert record is not None
    assert (memo(1), memo(2)) == record.memos
    assert store.get("app", "r3") is not None


# Giving up and claiming


def test_a_run_that_was_put_away_is_claimed_when_due(store: Store) -> None:
    """A claim brings all that replaying needs, in a new epoch; the old owner is powerless."""
    commit(store, created())
    state = replace(run(), phase=Phase.SUSPENDED)
    commit(store, replace(put_away("r1", pending()), state=state))

    assert 1000 == store.next_due("app", ["key"])
    assert () == claim(store, now=999)
    [claimed] = claim(store, now=1000)

    assert replace(state, epoch=2) == claimed.run
    assert (REQUEST, (memo(1),), (pending(),)) == (
        claimed.request,
        claimed.memos,
        claimed.pending,
    )
    assert store.next_due("app", ["key"]) is None
    with pytest.raises(LeaseLost):
        commit(store, memo_write())
    commit(store, memo_write(owner="o2", epoch=2))


def test_the_earliest_due_run_is_claimed_first(store: Store) -> None:
    """Due time orders claims across handlers, then the run's id."""
    for id_, key, due_at in [("r1", "a", 30), ("r2", "b", 20), ("r3", "a", 20), ("r4", "a", 10)]:
        commit(store, created(id_, key=key))
        commit(store, put_away(id_, due_at=due_at))

    claimed = claim(store, keys=("a", "b"), now=30, limit=3)

    assert ["r4", "r2", "r3"] == [each.run.id for each in claimed]


def test_a_claim_of_few_takes_the_earliest_of_one_handler(store: Store) -> None:
    """Neither the order of creation nor that of ids decides."""
    for id_, due_at in [("r1", 30), ("r2", 10), ("r3", 20)]:
        commit(store, created(id_))
        commit(store, put_away(id_, due_at=due_at))

    claimed = claim(store, keys=("key",), now=30, limit=2)

    assert ["r2", "r3"] == [each.run.id for each in claimed]


def test_only_known_handlers_of_the_own_app_are_claimed(store: Store) -> None:
    """Other due runs stay, and those of the app are listed as unclaimable."""
    for id_, app, key in [("r1", "app", "key"), ("r2", "app", "gone"), ("r3", "other", "key")]:
        commit(store, created(id_, app=app, key=key))
        commit(store, put_away(id_))

    assert ["r2"] == [record.run.id for record in store.unclaimable("app", ["key"], 5000)]
    assert [] == list(store.unclaimable("app", ["key"], 999))
    assert 1000 == store.next_due("app", ["gone"])
    assert store.next_due("app", ["nobody"]) is None
    assert store.next_due("app", []) is None
    assert ["r1"] == [each.run.id for each in claim(store)]


def test_at_most_a_hundred_unclaimable_runs_are_listed(store: Store) -> None:
    """The oldest due ones, over all unknown handlers."""
    for number in range(120):
        id_ = f"r{number:03}"
        batch = [created(id_, key=f"gone{number % 3}"), put_away(id_, due_at=number)]
        store.commit(batch, wait=0)

    listed = store.unclaimable("app", ["key"], 5000)

    assert [f"r{number:03}" for number in range(100)] == [record.run.id for record in listed]


def test_a_run_that_was_sending_its_response_is_claimed_like_any_other(store: Store) -> None:
    """The caller decides what to do with it; its phase is as it was stored."""
    commit(store, created())
    commit(store, replace(put_away(), state=replace(run(), phase=Phase.RESPONDING)))

    assert [Phase.RESPONDING] == [each.run.phase for each in claim(store)]


# Events and waits


def test_an_event_wakes_every_run_that_waits_for_it(store: Store) -> None:
    """Held runs are named with their owner; the others are due at once."""
    for id_ in ("r1", "r2", "r3"):
        commit(store, replace(created(id_), pending=(wait(event="f" if id_ == "r3" else "e"),)))
    commit(store, put_away("r2"))

    woken = send(store, event("1", x=1), now=100)

    assert {("r1", "o1"), ("r2", None)} == set(woken)
    assert 100 == store.next_due("app", ["key"])
    stored = StoredEvent(seq=1, event=event("1", x=1), received_at=100)
    assert [("r1", "id-wait", stored)] == list(store.matched("o1"))
    [claimed] = claim(store, now=100)
    assert [stored] == [op.matched for op in claimed.pending]


def test_an_event_sent_twice_is_stored_once(store: Store) -> None:
    """The second one has the id of the first and wakes nobody; another app has its own ids."""
    commit(store, replace(created(), pending=(wait(mark=1),)))

    assert ("1", "1") == commit(
        store, SendEvents(app="app", events=(event("1"), event("1")), now=100)
    ).ids
    assert [] == list(send(store, event("1")))
    assert 1 == store.event_mark("app")
    commit(store, SendEvents(app="other", events=(event("1"),), now=100))
    assert 2 == store.event_mark("app")
    assert [None] == matched_seqs(store)


def test_a_wait_sees_events_that_came_after_its_mark(store: Store) -> None:
    """Registering answers with the earliest stored event above the mark and not seen before."""
    commit(store, created())
    send(store, *(event(str(number)) for number in range(1, 6)))

    write = RunWrite(run_id="r1", owner="o1", epoch=1, now=1, pending=(wait(mark=2, seen=(3,)),))
    written = commit(store, write)

    expected = StoredEvent(seq=4, event=event("4"), received_at=100)
    assert (("id-wait", expected),) == written.matched
    assert [4] == matched_seqs(store)


@pytest.mark.parametrize("first", ["wait", "event"])
@pytest.mark.parametrize(
    ("op", "data", "expected"),
    [
        (wait(path="data.x", key="t:1"), {"x": 1}, True),
        (wait(path="data.x", key="t:1"), {"x": "1"}, True),
        (wait(path="data.x", key="j:1"), {"x": 1.0}, True),
        (wait(path="data.x", key="j:1"), {"x": "1"}, False),
        (wait(path="data.x", key="j:1"), {"x": True}, False),
        (wait(path="data.x.y", key='j:"z"'), {"x": {"y": "z"}}, True),
        (wait(path="data.x", key="t:1"), {"x": None}, False),
        (wait(path="data.x", key="t:1"), {}, False),
        (wait(conditions=((("data", "x"), "1"),)), {"x": 1}, True),
        (wait(conditions=((("data", "x"), "1"),)), {"x": 2}, False),
        (wait(path="data.x", key="t:1", conditions=((("data", "y"), "2"),)), {"x": 1}, False),
    ],
)
def test_match_and_conditions_decide_in_whichever_order_they_come(
    store: Store, first: str, op: Pending, data: dict[str, object], expected: bool
) -> None:
    """A wait that finds a stored event and an event that finds a wait decide the same."""
    commit(store, created())
    register = RunWrite(run_id="r1", owner="o1", epoch=1, now=1, pending=(op,))
    sent = event("1", **data)

    if first == "wait":
        commit(store, register)
        assert ([("r1", "o1")] if expected else []) == list(send(store, sent))
    else:
        send(store, sent)
        assert expected == bool(commit(store, register).matched)

    assert [1 if expected else None] == matched_seqs(store)


def test_several_paths_of_one_event_name_are_all_looked_at(store: Store) -> None:
    """Waits with different paths, or none, on one event name each get their due."""
    ops = [wait(path=path, key="t:1") for path in ("data.a", "data.b", "data.c")]
    for number, op in enumerate([wait(), *ops]):
        commit(store, replace(created(f"r{number}"), pending=(op,)))

    woken = send(store, event("1", a=1, c=1))

    assert {"r0", "r1", "r3"} == {run_id for run_id, _ in woken}


def test_an_answered_wait_is_not_answered_again(store: Store) -> None:
    """The first event stays."""
    commit(store, replace(created(), pending=(wait(),)))
    send(store, event("1"))

    assert [] == list(send(store, event("2")))
    assert [1] == matched_seqs(store)


def test_a_run_with_an_answered_wait_is_due_at_once_when_it_is_given_up(store: Store) -> None:
    """An event that came between the wait and the release is not slept through."""
    commit(store, replace(created(), pending=(wait(),)))
    send(store, event("1"))

    commit(store, put_away(due_at=1000))

    assert 20 == store.next_due("app", ["key"])


@pytest.mark.parametrize(
    ("awaited", "expected"), [(None, 20), (("id-wait",), 20), (("id-other",), 1000), ((), 1000)]
)
def test_only_waits_that_the_handler_still_asks_for_make_a_run_due(
    store: Store, awaited: tuple[str, ...] | None, expected: int
) -> None:
    """An answered wait that the code has dropped does not wake the run for ever."""
    commit(store, replace(created(), pending=(wait(),)))
    send(store, event("1"))

    commit(store, replace(put_away(), release=Release(due_at=1000, awaited=awaited)))

    assert expected == store.next_due("app", ["key"])


def test_an_event_does_not_put_off_a_run_that_is_due_already(store: Store) -> None:
    """Waking only ever makes a run due earlier."""
    commit(store, created())
    commit(store, put_away("r1", wait(), due_at=30))

    send(store, event("1"), now=100)

    assert 30 == store.next_due("app", ["key"])


def test_a_step_sends_events_with_its_checkpoint(store: Store) -> None:
    """They are numbered, wake others, and answer waits of the same write."""
    commit(store, replace(created("r2"), pending=(wait(),)))
    commit(store, created())
    write = replace(memo_write(), sends=(event("1"), event("2", "f")), pending=(wait(event="f"),))

    written = commit(store, write)

    assert (("1", 1), ("2", 2)) == written.sent
    assert (("r2", "o1"),) == written.woken
    stored = StoredEvent(seq=2, event=event("2", "f"), received_at=20)
    assert (("id-wait", stored),) == written.matched


def test_the_memo_of_a_sending_step_is_marked_past_its_events(store: Store) -> None:
    """A wait after it is for what comes later; other memos keep their mark."""
    send(store, event("0"))
    commit(store, created())
    memos = (memo(2, kind=OpKind.SEND), memo(3))

    commit(store, replace(memo_write(), memos=memos, sends=(event("1"), event("2"))))

    record = store.get("app", "r1")
    assert record is not None
    assert [0, 3, 0] == [each.mark for each in record.memos]


def test_an_op_that_is_finished_in_the_same_write_is_finished(store: Store) -> None:
    """Of a memo and a pending record of one op the memo counts."""
    commit(store, replace(created(), pending=(pending("step1"), pending("step2"))))

    assert (pending("step2"),) == pending_of(store)


def test_an_event_without_an_id_is_refused(store: Store) -> None:
    """Whoever sends gives it one; nothing of the message is done."""
    with pytest.raises(ValueError, match="id"):
        send(store, event("1"), Event(name="e", ts=1))

    assert 0 == store.event_mark("app")


def test_what_a_reader_does_to_an_event_stays_with_the_reader(store: Store) -> None:
    """Data handed in or out is a copy."""
    data: dict[str, object] = {"items": [1]}
    commit(store, replace(created(), pending=(wait(),)))
    send(store, Event(name="e", data=data, id="1", ts=1))
    data["items"] = []
    [(_, _, stored)] = store.matched("o1")
    items = stored.event.data["items"]
    assert isinstance(items, list)
    items.append(2)

    [(_, _, again)] = store.matched("o1")

    assert {"items": [1]} == again.event.data


# Processes


def test_a_process_is_listed_until_it_leaves(store: Store) -> None:
    """Registering, beating, and leaving in good order; its runs are due at once."""
    commit(store, Register(peer=peer("o1")))
    commit(store, created())

    assert commit(store, Beat(id="o1", expires_at=200))
    assert [peer("o1", expires_at=200)] == list(store.peers())
    assert ("r1",) == commit(store, Unregister(id="o1", now=70))

    assert [] == list(store.peers())
    assert not commit(store, Beat(id="o1", expires_at=300))
    [claimed] = claim(store, now=70)
    assert (0, 2) == (claimed.run.takeovers, claimed.run.epoch)


def test_the_runs_of_a_dead_process_are_taken_from_it(store: Store) -> None:
    """They are due at once with a raised epoch and a take-over counted."""
    commit(store, Register(peer=peer("o1")))
    commit(store, created())

    assert ("r1",) == commit(store, Bury(ids=("o1",), now=70))

    assert [] == list(store.peers())
    record = store.get("app", "r1")
    assert record is not None
    assert (None, 70, 2, 1) == (
        record.owner,
        record.due_at,
        record.run.epoch,
        record.run.takeovers,
    )
    with pytest.raises(LeaseLost):
        commit(store, memo_write())


def test_a_process_that_has_beaten_since_is_spared(store: Store) -> None:
    """A burial decided on old news does no harm."""
    commit(store, Register(peer=peer("o1", expires_at=200)))
    commit(store, created())

    assert () == commit(store, Bury(ids=("o1",), now=150, unless_beat_after=199))
    assert ["o1"] == [each.id for each in store.peers()]
    assert ("r1",) == commit(store, Bury(ids=("o1",), now=201, unless_beat_after=200))


def test_runs_of_unknown_processes_are_orphans(store: Store) -> None:
    """They are freed on request; those of registered processes are not."""
    commit(store, Register(peer=peer("o1")))
    commit(store, created("r1", owner="o1"))
    commit(store, created("r2", owner="o2"))
    commit(store, created("r3", owner="o3"))

    assert () == commit(store, Bury(ids=(), now=70))
    assert {"r2", "r3"} == set(commit(store, Bury(ids=(), now=70, orphans=True)))


# Ends


def test_a_cancelled_run_has_ended_whoever_held_it(store: Store) -> None:
    """Its owner's next write is refused; a second cancellation says it had ended."""
    commit(store, replace(created(), pending=(pending(),)))
    message = Cancel(app="app", run_id="r1", result=result(Phase.CANCELLED))

    assert commit(store, message)
    assert not commit(store, message)

    assert result(Phase.CANCELLED) == store.result("app", "r1")
    assert () == pending_of(store)
    with pytest.raises(LeaseLost):
        commit(store, memo_write())


@pytest.mark.parametrize(("app", "id_"), [("app", "r2"), ("other", "r1")])
def test_what_is_not_there_cannot_be_cancelled(store: Store, app: str, id_: str) -> None:
    """Another app's run is not there."""
    commit(store, created())

    with pytest.raises(RunNotFoundError, match=id_):
        commit(store, Cancel(app=app, run_id=id_, result=result(Phase.CANCELLED)))


def test_old_runs_and_events_are_pruned_in_small_batches(store: Store) -> None:
    """The oldest go first, up to the limit of each; live and younger ones stay."""
    for number in range(1, 6):
        store.commit([created(f"r{number}"), ended(f"r{number}", ended_at=number)], wait=0)
        send(store, event(str(number)), now=number)
    commit(store, created("live"))
    message = Prune(app="app", runs_before=5, events_before=4, limit=2)

    assert [4, 3, 0] == [commit(store, message) for _ in range(3)]

    left = store.list("app", phase=None, before=None, limit=9)
    assert ["r5", "live"] == [record.run.id for record in left]
    assert 5 == store.event_mark("app")
    assert 0 == commit(store, Prune(app="other", runs_before=99, events_before=99, limit=9))


def test_a_matched_wait_outlives_its_event(store: Store) -> None:
    """Pruning the event does not take it from the run, and its number does not come again."""
    commit(store, replace(created(), pending=(wait(),)))
    send(store, event("1"), now=1)

    assert 1 == commit(store, Prune(app="app", runs_before=0, events_before=2, limit=9))

    assert [1] == matched_seqs(store)
    send(store, event("1"))
    assert 2 == store.event_mark("app")


# Looking


def test_ended_runs_are_told_from_others(store: Store) -> None:
    """Up to a thousand at once."""
    ids = [f"r{number:04}" for number in range(1000)]
    store.commit([created(id_) for id_ in ids], wait=0)
    store.commit([ended(id_) for id_ in ids[::2]], wait=0)

    assert set(ids[::2]) == set(store.ended("app", ids))
    assert [] == list(store.ended("other", ids))


def test_runs_are_listed_newest_first_by_pages(store: Store) -> None:
    """With their phase as a filter, and without their ops."""
    for number in range(1, 6):
        commit(store, created(f"r{number}"))
    commit(store, ended("r4"))
    commit(store, created("r9", app="other"))

    def ids(phase: Phase | None = None, before: str | None = None, limit: int = 2) -> list[str]:
        records = store.list("app", phase=phase, before=before, limit=limit)
        assert all(record.memos == () for record in records)
        return [record.run.id for record in records]

    assert ["r5", "r4"] == ids()
    assert ["r3", "r2"] == ids(before="r4")
    assert ["r4"] == ids(Phase.COMPLETED)
    assert ["r3", "r2", "r1"] == ids(Phase.SYNC, "r5", 9)


def test_what_is_not_there_is_none(store: Store) -> None:
    """Also in the wrong app."""
    commit(store, created())

    assert store.get("other", "r1") is None
    assert store.result("other", "r1") is None
    assert store.result("app", "r2") is None


def test_the_secret_stays_the_same(store: Store) -> None:
    """It has 32 bytes and survives closing."""
    secret = store.secret()
    store.close()
    store.open()

    assert 32 == len(secret)
    assert secret == store.secret()


def test_a_release_may_come_with_the_creation(store: Store) -> None:
    """A handler that failed before its first step is stored and put away at once."""
    commit(store, replace(created(), memos=(), release=Release(due_at=40)))

    [claimed] = claim(store, now=40)
    assert ((), REQUEST) == (claimed.memos, claimed.request)
