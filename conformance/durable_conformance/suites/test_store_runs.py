"""Checkpoints and claims: what a store does with runs."""

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
    memo,
    memo_write,
    pending,
    pending_of,
    result,
    run,
    suspended,
    wait,
)
from durable_core.errors import LeaseLost, RunNotFoundError, StoreError
from durable_core.model.run import Phase
from durable_core.model.stream import ChunkBatch
from durable_core.ports import (
    Begin,
    Begun,
    Cancel,
    Checkpoint,
    Fork,
    IdempotencyKey,
    NewRun,
    Prune,
    ReapWorkers,
    Release,
    Retry,
    RunProgress,
    Store,
)

# Checkpoints


@requirement("T1")
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


@requirement("T1")
def test_how_far_a_run_is(store: Store) -> None:
    """Its record without memos and attempts, the number of its memos, and its pending ops."""
    assert store.progress("app", "r1") is None
    commit(store, created())
    commit(store, memo_write(failed_attempts=(failed_attempt(1),)))
    commit(store, suspended("r1", pending("nap")))

    record, found = store.get("app", "r1"), store.progress("app", "r1")
    assert record is not None
    bare = replace(record, memos=(), failed_attempts=())
    assert RunProgress(record=bare, steps_done=2) == found
    assert (pending("nap"),) == bare.pending
    assert store.progress("other", "r1") is None


@requirement("T1")
def test_the_request_of_a_run(store: Store) -> None:
    """It can be looked at; applications have their own runs, and are known by them."""
    assert [] == list(store.apps())
    commit(store, created())
    commit(store, created("r2", app="other"))
    commit(store, created("r3"))

    assert REQUEST == store.request("app", "r1")
    assert store.request("other", "r1") is None
    assert store.request("app", "r9") is None
    assert ["app", "other"] == list(store.apps())


@requirement("T1")
def test_all_that_is_known_of_a_run_comes_back(store: Store) -> None:
    """Also what most runs do not have: a key, a parent, a trace, labels, a version."""
    full = replace(
        run(),
        key="order-1",
        parent="r0",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        labels=(("area", "x"), ("snow", "\N{SNOWMAN}")),
        version="2026.1",
    )
    commit(store, replace(created(), create=full))
    commit(store, suspended())

    record = store.get("app", "r1")
    assert record is not None
    assert full == record.run
    assert [full] == [each.run for each in store.list("app", limit=9)]
    assert [full] == [each.run for each in store.unclaimable("app", (), 5000)]
    [claimed] = claim(store)
    assert replace(full, epoch=2) == claimed.run


@requirement("T1")
def test_times_and_arguments_of_steps_come_back(store: Store) -> None:
    """When a step began, what it was called with, when a wait was asked for."""
    memos = (
        replace(memo(1), started_at=7, arguments='{"args":[1],"kwargs":{}}'),
        replace(memo(2), started_at=8, arguments=""),
    )
    nap = replace(pending(), started_at=9)
    commit(store, replace(created(), memos=memos, pending=(nap,)))
    commit(store, suspended())

    record = store.get("app", "r1")
    assert record is not None
    assert (memos, (nap,)) == (record.memos, record.pending)
    [claimed] = claim(store)
    assert (memos, (nap,)) == (claimed.memos, claimed.pending)


@requirement("T1")
def test_each_failed_attempt_is_kept(store: Store) -> None:
    """Of steps and of the handler, in order; the last word on one attempt counts."""
    first, second, own = failed_attempt(1), failed_attempt(2), failed_attempt(1, "")
    last = replace(second, error_name="ValueError", retry_at=None)
    commit(store, replace(created(), failed_attempts=(second, first)))
    commit(store, Checkpoint(run_id="r1", owner="o1", epoch=1, now=1, failed_attempts=(own, last)))
    commit(store, ended())

    record = store.get("app", "r1")
    assert record is not None
    assert (own, first, last) == record.failed_attempts


@requirement("T2")
@pytest.mark.parametrize(
    "write",
    [
        memo_write(owner="o2"),
        memo_write(epoch=2),
        memo_write("r2"),
        suspended(owner="o2"),
        replace(suspended(), epoch=2, pending=(pending(),)),
        ended(owner="o2"),
        Checkpoint(run_id="r1", owner="o2", epoch=1, now=1),
        Checkpoint(run_id="r1", owner="o2", epoch=1, now=1, events=(event("1"),)),
        Checkpoint(run_id="r1", owner="o2", epoch=1, now=1, pending=(wait(),)),
        Checkpoint(run_id="r1", owner="o2", epoch=1, now=1, failed_attempts=(failed_attempt(1),)),
        created(owner="o1"),
    ],
)
def test_a_write_without_the_lease_is_refused_as_a_whole(store: Store, write: Checkpoint) -> None:
    """Another owner, epoch or run, and a second creation, change nothing."""
    commit(store, created())
    before = store.get("app", "r1")

    with pytest.raises(LeaseLost, match=write.run_id):
        commit(store, write)

    assert before == store.get("app", "r1")
    assert store.get("app", "r2") is None
    assert 0 == store.event_seq("app")


@requirement("T1")
def test_a_memo_replaces_the_pending_record_of_its_op(store: Store) -> None:
    """The op is finished or unfinished, never both."""
    commit(store, replace(created(), pending=(pending("a"), pending("b"))))

    commit(store, memo_write(memos=(memo(2, name="a"),)))

    assert (pending("b"),) == pending_of(store)


@requirement("T1")
def test_a_pending_record_is_replaced_by_a_later_one(store: Store) -> None:
    """The newest state of an unfinished op counts."""
    commit(store, replace(created(), pending=(pending("a", due_at=5),)))
    commit(store, Checkpoint(run_id="r1", owner="o1", epoch=1, now=1, pending=(pending("a"),)))

    assert (pending("a"),) == pending_of(store)


@requirement("T1")
def test_a_second_memo_of_one_number_is_refused(store: Store) -> None:
    """Completion numbers of a run are unique."""
    commit(store, created())

    with pytest.raises(StoreError):
        commit(store, memo_write(number=1))


@requirement("T1")
def test_state_changes_phase_failures_and_takeovers_only(store: Store) -> None:
    """What identifies a run never changes."""
    commit(store, created())
    state = replace(
        run(), phase=Phase.ASYNC, failures=2, crash_count=3, epoch=9, function_id="other"
    )

    commit(store, Checkpoint(run_id="r1", owner="o1", epoch=1, now=1, state=state))

    record = store.get("app", "r1")
    assert record is not None
    assert replace(run(), phase=Phase.ASYNC, failures=2, crash_count=3) == record.run


@requirement("T3")
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


@requirement("T3")
def test_a_run_may_be_created_and_ended_in_one_write(store: Store) -> None:
    """A run of one step is one transaction."""
    commit(store, replace(created(), result=result()))

    assert result() == store.result("app", "r1")


@requirement("T3")
def test_a_run_without_a_step_leaves_a_record_when_asked(store: Store) -> None:
    """A run that is created by the write that ends it needs no memo."""
    commit(store, replace(created(), memos=(), result=result()))

    record = store.get("app", "r1")
    assert record is not None
    assert (Phase.COMPLETED, 50, ()) == (record.run.phase, record.ended_at, record.memos)
    assert result() == store.result("app", "r1")


@requirement("T3")
def test_a_body_that_was_too_large_stays_none(store: Store) -> None:
    """No body differs from an empty one."""
    commit(store, replace(created(), result=replace(result(), body=None)))

    assert replace(result(), body=None) == store.result("app", "r1")


@requirement("T4")
def test_a_creation_needs_a_request(store: Store) -> None:
    """A run that could not be replayed is not stored."""
    with pytest.raises(ValueError, match="request"):
        commit(store, replace(created(), request=None))

    assert store.get("app", "r1") is None


@requirement("T4")
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


@requirement("T5")
def test_a_run_that_was_put_away_is_claimed_when_due(store: Store) -> None:
    """A claim brings all that replaying needs, in a new epoch; the old owner is powerless."""
    commit(store, created())
    state = replace(run(), phase=Phase.SUSPENDED)
    commit(store, replace(suspended("r1", pending()), state=state))

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


@requirement("T5")
def test_the_earliest_due_run_is_claimed_first(store: Store) -> None:
    """Due time orders claims across handlers, then the run's id."""
    for id_, key, due_at in [("r1", "a", 30), ("r2", "b", 20), ("r3", "a", 20), ("r4", "a", 10)]:
        commit(store, created(id_, key=key))
        commit(store, suspended(id_, due_at=due_at))

    claimed = claim(store, keys=("a", "b"), now=30, limit=3)

    assert ["r4", "r2", "r3"] == [each.run.id for each in claimed]


@requirement("T5")
def test_a_claim_of_few_takes_the_earliest_of_one_handler(store: Store) -> None:
    """Neither the order of creation nor that of ids decides."""
    for id_, due_at in [("r1", 30), ("r2", 10), ("r3", 20)]:
        commit(store, created(id_))
        commit(store, suspended(id_, due_at=due_at))

    claimed = claim(store, keys=("key",), now=30, limit=2)

    assert ["r2", "r3"] == [each.run.id for each in claimed]


@requirement("T5")
def test_no_run_is_claimed_ahead_behind_one_that_has_died_with_a_process(store: Store) -> None:
    """What waits in a process behind it might die with it again and again."""
    for number in (1, 2, 3, 4):
        id_, crash_count = f"r{number}", int(number == 3)
        commit(store, created(id_))
        state = replace(run(id_), phase=Phase.SUSPENDED, crash_count=crash_count)
        commit(store, replace(suspended(id_, due_at=number), state=state))

    assert ["r1", "r2"] == [each.run.id for each in claim(store, limit=4, ahead=3)]
    assert ["r3", "r4"] == [each.run.id for each in claim(store, limit=4, ahead=3)]


@requirement("T5")
def test_a_run_that_was_claimed_ahead_has_not_crashed_with_its_process(store: Store) -> None:
    """It may not have begun. It is not claimed so again: the next crash is its own."""
    for number in (1, 2, 3):
        commit(store, created(f"r{number}"))
        commit(store, suspended(f"r{number}", due_at=number))
    assert 3 == len(claim(store, limit=3, ahead=2))
    commit(store, ReapWorkers(ids=("o2",), now=10))
    counts = {each.run.id: each.run.crash_count for each in store.list("app", limit=9)}
    assert {"r1": 1, "r2": 0, "r3": 0} == counts

    first = claim(store, limit=3, ahead=2)
    assert ["r1"] == [each.run.id for each in first]
    second = claim(store, limit=2, ahead=1)
    assert ["r2"] == [each.run.id for each in second]
    commit(store, ReapWorkers(ids=("o2",), now=20))
    assert {"r1": 2, "r2": 1, "r3": 0} == {
        each.run.id: each.run.crash_count for each in store.list("app", limit=9)
    }


@requirement("T5")
def test_a_claim_may_name_the_runs_it_wants(store: Store) -> None:
    """Of these it takes the ones that are due and whose handler is known, the earliest first."""
    for id_, key, due_at in [
        *(("r1", "key", 10), ("r2", "key", 30), ("r3", "key", 20)),
        *(("r4", "gone", 10), ("r5", "key", 99)),
    ]:
        commit(store, created(id_, key=key))
        commit(store, suspended(id_, due_at=due_at))

    assert () == claim(store, now=50, run_ids=())
    claimed = claim(store, now=50, run_ids=("r2", "r3", "r4", "r5", "r6"))

    assert ["r3", "r2"] == [each.run.id for each in claimed]
    assert ["r1"] == [each.run.id for each in claim(store, now=50)]


@requirement("T6")
def test_only_known_handlers_of_the_own_app_are_claimed(store: Store) -> None:
    """Other due runs stay, and those of the app are listed as unclaimable."""
    for id_, app, key in [("r1", "app", "key"), ("r2", "app", "gone"), ("r3", "other", "key")]:
        commit(store, created(id_, app=app, key=key))
        commit(store, suspended(id_))

    assert ["r2"] == [record.run.id for record in store.unclaimable("app", ["key"], 5000)]
    assert [] == list(store.unclaimable("app", ["key"], 999))
    assert 1000 == store.next_due("app", ["gone"])
    assert store.next_due("app", ["nobody"]) is None
    assert store.next_due("app", []) is None
    assert ["r1"] == [each.run.id for each in claim(store)]


@requirement("T6")
def test_a_run_may_be_released_to_another_handler(store: Store) -> None:
    """It is due for that one, and for no other, from then on."""
    commit(store, created())
    release = Release(due_at=1000, endpoint_key="key (version v1)")
    commit(store, replace(suspended(), release=release))

    assert store.next_due("app", ["key"]) is None
    assert () == tuple(claim(store))
    [claimed] = claim(store, keys=("key (version v1)",))
    assert "key (version v1)" == claimed.run.endpoint_key
    commit(store, replace(suspended(owner="o2"), epoch=claimed.run.epoch))
    assert 1000 == store.next_due("app", ["key (version v1)"])


@requirement("T6")
def test_at_most_a_hundred_unclaimable_runs_are_listed(store: Store) -> None:
    """The oldest due ones, over all unknown handlers."""
    for number in range(120):
        id_ = f"r{number:03}"
        batch = [created(id_, key=f"gone{number % 3}"), suspended(id_, due_at=number)]
        store.commit(batch, wait=0)

    listed = store.unclaimable("app", ["key"], 5000)

    assert [f"r{number:03}" for number in range(100)] == [record.run.id for record in listed]


@requirement("T5")
def test_a_run_that_was_sending_its_response_is_claimed_like_any_other(store: Store) -> None:
    """The caller decides what to do with it; its phase is as it was stored."""
    commit(store, created())
    commit(store, replace(suspended(), state=replace(run(), phase=Phase.RESPONDING)))

    assert [Phase.RESPONDING] == [each.run.phase for each in claim(store)]


# Keys of repeated requests


def _key(
    key: str = "k", *, scope: str = "pay", body: str = "1", expires_at: int = 100
) -> IdempotencyKey:
    return IdempotencyKey(scope=scope, key=key, fingerprint=body, expires_at=expires_at)


def _begin(
    store: Store, id_: str, key: IdempotencyKey, *, now: int = 10, app: str = "app"
) -> Begun:
    write = replace(created(id_, app=app), now=now)
    begun = commit(store, Begin(key=key, checkpoint=write))
    assert isinstance(begun, Begun)
    return begun


@requirement("T30")
def test_a_repeated_request_finds_the_run_of_the_first(store: Store) -> None:
    """Nothing of the second one is stored; the fingerprint says whether it is the same request."""
    first = _begin(store, "r1", _key())
    again = _begin(store, "r2", _key(body="2"))

    assert Begun(run_id="r1", fingerprint="1", is_new=True) == first
    assert Begun(run_id="r1", fingerprint="1", is_new=False) == again
    assert store.get("app", "r2") is None


@requirement("T30")
def test_a_begin_whose_answer_was_lost_may_be_committed_again(store: Store) -> None:
    """It is the one that began the run, and the run stays as it is."""
    first = _begin(store, "r1", _key())
    commit(store, memo_write())

    assert first == _begin(store, "r1", _key())
    record = store.get("app", "r1")
    assert record is not None
    assert (memo(1), memo(2)) == record.memos


@requirement("T30")
def test_keys_are_apart_by_application_and_scope(store: Store) -> None:
    """The same text elsewhere is another key."""
    begun = [
        _begin(store, "r1", _key()),
        _begin(store, "r2", _key(scope="refund")),
        _begin(store, "r3", _key("l")),
        _begin(store, "r4", _key(), app="other"),
    ]

    assert [True] * 4 == [each.is_new for each in begun]


@requirement("T30")
def test_a_key_is_free_when_it_has_expired_and_its_run_has_ended(store: Store) -> None:
    """A run that goes on keeps its key however long it takes."""
    _begin(store, "r1", _key())
    live = _begin(store, "r2", _key(), now=1_000)
    commit(store, ended())
    kept = _begin(store, "r3", _key(), now=99)
    freed = _begin(store, "r4", _key(expires_at=2_000), now=100)
    after = _begin(store, "r5", _key(), now=100)

    assert ["r1", "r1", "r4", "r4"] == [each.run_id for each in (live, kept, freed, after)]


@requirement("T30")
def test_a_key_goes_with_its_run(store: Store) -> None:
    """Once the run is pruned, nobody could be answered with it."""
    _begin(store, "r1", _key(expires_at=10_000))
    commit(store, ended())
    commit(store, Prune(app="app", runs_before=1_000, events_before=0, limit=9))

    assert _begin(store, "r2", _key()).is_new


@requirement("T30")
def test_looking_for_a_key_takes_nothing(store: Store) -> None:
    """The run is found that a begin would find, and a free key stays free."""
    assert store.keyed_run("app", _key(), 10) is None
    _begin(store, "r1", _key(expires_at=100))
    found = Begun(run_id="r1", fingerprint="1", is_new=False)

    assert found == store.keyed_run("app", _key(body="2"), 1_000)
    assert store.keyed_run("other", _key(), 10) is None
    assert store.keyed_run("app", _key(scope="buy"), 10) is None
    commit(store, ended())
    assert (found, None) == tuple(store.keyed_run("app", _key(), now) for now in (99, 100))
    assert _begin(store, "r2", _key(), now=100).is_new


@requirement("T30")
def test_a_refused_begin_leaves_the_key_free(store: Store) -> None:
    """The run and its key are stored together or not at all."""
    commit(store, created("r1"))
    with pytest.raises(LeaseLost):
        _begin(store, "r1", _key())
    with pytest.raises(ValueError, match="create"):
        commit(store, Begin(key=_key(), checkpoint=memo_write()))

    assert _begin(store, "r2", _key()).is_new


# Runs that go on again


_ERROR = '{"name": "E", "message": ""}'


def _failed(store: Store) -> None:
    """Store a run of three steps, of which the second and third have failed, and so the run."""
    commit(store, created())
    wrong = [replace(memo(number), ok=False, value=_ERROR, event_seq=7) for number in (2, 3)]
    result_of_failed = result(Phase.FAILED)
    write = replace(ended(), memos=tuple(wrong), result=result_of_failed)
    commit(store, replace(write, failed_attempts=(failed_attempt(1, "id-step2"),)))


@requirement("T32")
def test_a_failed_run_goes_on_from_its_failed_step(store: Store) -> None:
    """With all other steps as they are, in a higher epoch, and with fresh attempts."""
    _failed(store)

    again = Retry(app="app", run_id="r1", now=70, steps=("id-step3", "id-step9"))
    assert commit(store, again) is True

    assert Phase.SUSPENDED == store.result("app", "r1")
    assert 70 == store.next_due("app", ["key"])
    [claimed] = claim(store, now=70)
    done, wrong = memo(1), replace(memo(2), ok=False, value=_ERROR, event_seq=7)
    assert ((done, wrong), (), 0, 0) == (
        tuple(sorted(claimed.memos, key=lambda each: each.completion_no)),
        claimed.pending,
        claimed.run.failures,
        claimed.run.crash_count,
    )
    assert claimed.run.epoch >= 3
    assert 1 == claimed.run.retry_count
    commit(store, replace(ended(owner="o2", epoch=claimed.run.epoch), memos=(memo(3),)))
    assert result() == store.result("app", "r1")


@requirement("T32")
def test_a_retry_forgets_whatever_step_it_names(store: Store) -> None:
    """Also one that has succeeded, with what was streamed there."""
    commit(store, created())
    memos = replace(memo(2), ok=False, value=_ERROR), memo(3), memo(4)
    of_steps = tuple(
        ChunkBatch(number=n, texts=(str(n),), op_id=f"id-step{n}", attempt=(1, n)) for n in (3, 4)
    )
    outside = (ChunkBatch(number=1, texts=("1",)), ChunkBatch(number=2, texts=("2",), start=1))
    write = replace(ended(), memos=memos, result=result(Phase.FAILED))
    commit(store, replace(write, chunks=(*of_steps, *outside)))

    assert commit(store, Retry(app="app", run_id="r1", now=70, steps=("id-step3", "id-step2")))

    [claimed] = claim(store, now=70)
    assert {"step1", "step4"} == {each.op.name for each in claimed.memos}
    stream = store.read_stream("app", "r1", done=0, outside=0, most=1_000)
    assert stream is not None
    assert ["1", "4"] == [text for each in stream.chunks for text in each.texts]
    assert 1 == claimed.handler_chunks


@requirement("T32")
def test_a_retried_run_may_take_as_long_as_before(store: Store) -> None:
    """Its deadline moves; that of a run without a limit stays away."""
    for id_, timeout in (("r1", 100), ("r2", None)):
        limited = replace(run(id_), timeout=timeout, deadline=None if timeout is None else 101)
        commit(store, replace(created(id_), create=limited))
        commit(store, replace(ended(id_), result=result(Phase.FAILED)))
        commit(store, Retry(app="app", run_id=id_, now=500))

    deadlines = [record.run.deadline for record in store.list("app", limit=9)]

    assert [None, 600] == deadlines


@requirement("T32")
def test_only_a_failed_run_is_retried(store: Store) -> None:
    """A live or completed one is left as it is, and what is not there is not found."""
    commit(store, created())
    live = store.get("app", "r1")

    assert commit(store, Retry(app="app", run_id="r1", now=70)) is False
    assert live == store.get("app", "r1")
    commit(store, ended())
    assert commit(store, Retry(app="app", run_id="r1", now=70)) is False
    assert result() == store.result("app", "r1")
    for app, run_id in (("app", "r2"), ("other", "r1")):
        with pytest.raises(RunNotFoundError, match=run_id):
            commit(store, Retry(app=app, run_id=run_id, now=70))


def _fork(op_id: str, id_: str = "r2", **fields: Any) -> Fork:
    return Fork(app="app", run_id="r1", op_id=op_id, run=run(id_), now=70, **fields)


@requirement("T33")
def test_a_run_goes_on_from_a_step_of_another_one(store: Store) -> None:
    """It has the request, the steps before that step and their chunks; the old run stays."""
    chunks = tuple(
        ChunkBatch(number=n, texts=("1",), op_id=f"id-step{n}", attempt=(1, n)) for n in (1, 2)
    )
    outside = (ChunkBatch(number=1, texts=("2",)), ChunkBatch(number=2, texts=("3",), start=1))
    memos = (memo(1), memo(2), memo(3))
    commit(store, replace(created(), memos=memos, chunks=(*chunks, *outside), result=result()))
    before = store.get("app", "r1")

    assert commit(store, _fork("id-step2")) is True

    assert before == store.get("app", "r1")
    stream = store.read_stream("app", "r2", done=0, outside=0, most=1_000)
    assert stream is not None
    assert (chunks[0], outside[0]) == stream.chunks
    [claimed] = claim(store, now=70)
    assert ("r2", (memo(1),), REQUEST) == (claimed.run.id, claimed.memos, claimed.request)


@requirement("T33")
def test_a_copy_may_have_a_request_of_its_own(store: Store) -> None:
    """And all finished steps, if the step has not finished."""
    commit(store, replace(created(), pending=(pending("nap"),)))
    other = replace(REQUEST, body=b"other")

    assert commit(store, _fork("id-nap", request=other)) is True

    [claimed] = claim(store, now=70)
    assert ((memo(1),), (), other) == (claimed.memos, claimed.pending, claimed.request)


@requirement("T33")
def test_what_cannot_be_copied(store: Store) -> None:
    """A step or run that is not there, and a run that is; nothing is stored."""
    commit(store, created())
    commit(store, created("r3"))

    assert commit(store, _fork("id-nothing")) is False
    with pytest.raises(LeaseLost):
        commit(store, _fork("id-step1", "r3"))
    with pytest.raises(RunNotFoundError):
        commit(store, replace(_fork("id-step1"), run_id="r9"))

    assert store.get("app", "r2") is None


# Runs that begin when another one ends


def _follow_up(id_: str) -> NewRun:
    return NewRun(run=replace(run(id_, key="told"), parent="r1"), request=REQUEST)


@requirement("T3")
@pytest.mark.parametrize("is_stored", [True, False])
def test_a_run_begins_with_the_end_of_another_one(store: Store, is_stored: bool) -> None:
    """It is suspended, and due at once, also if the first one is stored when it has ended."""
    end = replace(ended(), result=replace(result(), follow_up=_follow_up("r2")))
    if is_stored:
        commit(store, created())
        commit(store, end)
    else:
        commit(store, replace(created(), result=end.result))

    record = store.get("app", "r2")
    assert record is not None
    assert (Phase.SUSPENDED, 50, "r1") == (record.run.phase, record.due_at, record.run.parent)
    assert result() == store.result("app", "r1")
    [claimed] = claim(store, keys=["told"])
    assert REQUEST == claimed.request


@requirement("T3")
def test_a_run_begins_only_with_an_end(store: Store) -> None:
    """Not if the end is refused, or the run had ended, or is to be undone."""
    follow_up = _follow_up("r2")
    commit(store, created())
    refused = replace(ended(owner="o2"), result=replace(result(), follow_up=follow_up))
    with pytest.raises(LeaseLost):
        commit(store, refused)
    undoable = replace(run("r3"), undoable=True)
    commit(store, replace(created("r3"), create=undoable))
    cancelled = replace(result(Phase.CANCELLED), follow_up=follow_up)
    commit(store, Cancel(app="app", run_id="r3", result=cancelled))
    assert store.get("app", "r2") is None
    commit(store, Cancel(app="app", run_id="r1", result=cancelled))
    other = replace(cancelled, follow_up=_follow_up("r4"))
    commit(store, Cancel(app="app", run_id="r1", result=other))
    assert store.get("app", "r2") is not None
    assert store.get("app", "r4") is None
