"""Events and waits: what a store does with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from durable_conformance.plugin import requirement
from durable_conformance.store_values import (
    claim,
    commit,
    created,
    event,
    matched_seqs,
    memo,
    memo_write,
    pending,
    pending_of,
    send,
    suspended,
    wait,
)
from durable_core.model.event import Event, StoredEvent
from durable_core.model.step import Memo, Op, OpKind, Pending
from durable_core.ports import Checkpoint, EndedWait, Release, SendEvents, Store


@requirement("T7")
def test_an_event_wakes_every_run_that_waits_for_it(store: Store) -> None:
    """Held runs are named with their owner; the others are due at once."""
    for id_ in ("r1", "r2", "r3"):
        commit(store, replace(created(id_), pending=(wait(event="f" if id_ == "r3" else "e"),)))
    commit(store, suspended("r2"))

    woken = send(store, event("1", x=1), now=100)

    assert {("r1", "o1"), ("r2", None)} == set(woken)
    assert 100 == store.next_due("app", ["key"])
    stored = StoredEvent(seq=1, event=event("1", x=1), received_at=100)
    assert [("r1", "id-wait", stored)] == list(store.matched_waits("o1"))
    [claimed] = claim(store, now=100)
    assert [stored] == [op.matched for op in claimed.pending]


@requirement("T7")
def test_the_last_events_and_what_they_woke(store: Store) -> None:
    """The newest first, each with the waits that have ended with it; a time-out is told apart."""
    for number, app in ((1, "app"), (2, "app"), (3, "other"), (4, "app")):
        sent = SendEvents(app=app, events=(event(str(number), x=number),), now=100 + number)
        commit(store, sent)
    seq = {each.stored.event.id: each.stored.seq for each in store.recent_events("app", 9)}
    waits = (("r1", '{"id":"2"}', "2"), ("r2", "null", "2"), ("r3", "7" * 513, "4"))
    for id_, value, seen in waits:
        ended = Memo(
            op=Op(id="id-wait", name="wait", kind=OpKind.WAIT),
            completion_no=2,
            ok=True,
            value=value,
            event_seq=seq[seen],
            attempts=0,
            ended_at=200,
        )
        commit(store, replace(created(id_), memos=(memo(1), ended)))

    newest, second = store.recent_events("app", 2)
    assert [event("4", x=4), event("2", x=2)] == [newest.stored.event, second.stored.event]
    assert [104, 102] == [newest.stored.received_at, second.stored.received_at]
    assert (EndedWait("r3", None),) == newest.waits
    assert {EndedWait("r1", '{"id":"2"}'), EndedWait("r2", "null")} == set(second.waits)
    assert [] == list(store.recent_events("nobody", 9))


@requirement("T7")
def test_an_event_sent_twice_is_stored_once(store: Store) -> None:
    """The second one has the id of the first and wakes nobody; another app has its own ids."""
    commit(store, replace(created(), pending=(wait(mark=1),)))

    assert ("1", "1") == commit(
        store, SendEvents(app="app", events=(event("1"), event("1")), now=100)
    ).ids
    assert [] == list(send(store, event("1")))
    assert 1 == store.event_seq("app")
    commit(store, SendEvents(app="other", events=(event("1"),), now=100))
    assert 2 == store.event_seq("app")
    assert [None] == matched_seqs(store)


@requirement("T7")
def test_no_sender_takes_the_ids_of_another(store: Store) -> None:
    """An id is known for each source apart; within one it is taken once."""
    for source in ("hook", "hook", "other", ""):
        commit(store, SendEvents(app="app", events=(event("1"),), now=100, source=source))
    commit(store, created())
    written = commit(store, memo_write(events=(event("1"),)))

    assert (("1", 3),) == written.sent
    assert 3 == store.event_seq("app")


@requirement("T8")
def test_a_wait_sees_events_that_came_after_its_mark(store: Store) -> None:
    """Registering answers with the earliest stored event above the mark and not seen before."""
    commit(store, created())
    send(store, *(event(str(number)) for number in range(1, 6)))

    write = Checkpoint(run_id="r1", owner="o1", epoch=1, now=1, pending=(wait(mark=2, seen=(3,)),))
    written = commit(store, write)

    expected = StoredEvent(seq=4, event=event("4"), received_at=100)
    assert (("id-wait", expected),) == written.matched
    assert [4] == matched_seqs(store)


@requirement("T9")
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
    register = Checkpoint(run_id="r1", owner="o1", epoch=1, now=1, pending=(op,))
    sent = event("1", **data)

    if first == "wait":
        commit(store, register)
        assert ([("r1", "o1")] if expected else []) == list(send(store, sent))
    else:
        send(store, sent)
        assert expected == bool(commit(store, register).matched)

    assert [1 if expected else None] == matched_seqs(store)


@requirement("T7")
def test_several_paths_of_one_event_name_are_all_looked_at(store: Store) -> None:
    """Waits with different paths, or none, on one event name each get their due."""
    ops = [wait(path=path, key="t:1") for path in ("data.a", "data.b", "data.c")]
    for number, op in enumerate([wait(), *ops]):
        commit(store, replace(created(f"r{number}"), pending=(op,)))

    woken = send(store, event("1", a=1, c=1))

    assert {"r0", "r1", "r3"} == {run_id for run_id, _ in woken}


@requirement("T7")
def test_an_answered_wait_is_not_answered_again(store: Store) -> None:
    """The first event stays."""
    commit(store, replace(created(), pending=(wait(),)))
    send(store, event("1"))

    assert [] == list(send(store, event("2")))
    assert [1] == matched_seqs(store)


@requirement("T8")
def test_a_run_with_an_answered_wait_is_due_at_once_when_it_is_given_up(store: Store) -> None:
    """An event that came between the wait and the release is not slept through."""
    commit(store, replace(created(), pending=(wait(),)))
    send(store, event("1"))

    commit(store, suspended(due_at=1000))

    assert 20 == store.next_due("app", ["key"])


@requirement("T8")
@pytest.mark.parametrize(
    ("awaited", "expected"), [(None, 20), (("id-wait",), 20), (("id-other",), 1000), ((), 1000)]
)
def test_only_waits_that_the_handler_still_asks_for_make_a_run_due(
    store: Store, awaited: tuple[str, ...] | None, expected: int
) -> None:
    """An answered wait that the code has dropped does not wake the run for ever."""
    commit(store, replace(created(), pending=(wait(),)))
    send(store, event("1"))

    commit(store, replace(suspended(), release=Release(due_at=1000, awaited=awaited)))

    assert expected == store.next_due("app", ["key"])


@requirement("T8")
def test_an_event_does_not_put_off_a_run_that_is_due_already(store: Store) -> None:
    """Waking only ever makes a run due earlier."""
    commit(store, created())
    commit(store, suspended("r1", wait(), due_at=30))

    send(store, event("1"), now=100)

    assert 30 == store.next_due("app", ["key"])


@requirement("T10")
def test_a_step_sends_events_with_its_checkpoint(store: Store) -> None:
    """They are numbered, wake others, and answer waits of the same write."""
    commit(store, replace(created("r2"), pending=(wait(),)))
    commit(store, created())
    write = memo_write(events=(event("1"), event("2", "f")), pending=(wait(event="f"),))

    written = commit(store, write)

    assert (("1", 1), ("2", 2)) == written.sent
    assert (("r2", "o1"),) == written.resumed_runs
    stored = StoredEvent(seq=2, event=event("2", "f"), received_at=20)
    assert (("id-wait", stored),) == written.matched


@requirement("T10")
def test_the_memo_of_a_sending_step_is_marked_past_its_events(store: Store) -> None:
    """A wait after it is for what comes later; other memos keep their mark."""
    send(store, event("0"))
    commit(store, created())
    memos = (memo(2, kind=OpKind.SEND), memo(3))

    commit(store, memo_write(memos=memos, events=(event("1"), event("2"))))

    record = store.get("app", "r1")
    assert record is not None
    assert [0, 3, 0] == [each.event_seq for each in record.memos]


@requirement("T10")
def test_an_op_that_is_finished_in_the_same_write_is_finished(store: Store) -> None:
    """Of a memo and a pending record of one op the memo counts."""
    commit(store, replace(created(), pending=(pending("step1"), pending("step2"))))

    assert (pending("step2"),) == pending_of(store)


@requirement("T11")
def test_an_event_without_an_id_is_refused(store: Store) -> None:
    """Whoever sends gives it one; nothing of the message is done."""
    with pytest.raises(ValueError, match="id"):
        send(store, event("1"), Event(name="e", ts=1))

    assert 0 == store.event_seq("app")


@requirement("T11")
def test_what_a_reader_does_to_an_event_stays_with_the_reader(store: Store) -> None:
    """Data handed in or out is a copy."""
    data: dict[str, object] = {"items": [1]}
    commit(store, replace(created(), pending=(wait(),)))
    send(store, Event(name="e", data=data, id="1", ts=1))
    data["items"] = []
    [(_, _, stored)] = store.matched_waits("o1")
    items = stored.event.data["items"]
    assert isinstance(items, list)
    items.append(2)

    [(_, _, again)] = store.matched_waits("o1")

    assert {"items": [1]} == again.event.data


#: More than a store compares a wait with in one commit, if it bounds that.
_MANY = 3_000


def _many_others() -> SendEvents:
    """Return events that have what the wait is for, but not where it is looked for."""
    events = tuple(event(f"no{index}", x="2", y={"x": "1"}) for index in range(_MANY))
    return SendEvents(app="app", events=events, now=100)


def _maintained(store: Store) -> None:
    """Do all that is left of the waits that were registered."""
    for _ in range(_MANY):
        store.run_maintenance()
        if matched_seqs(store) != [None]:
            return


@requirement("T28")
def test_a_wait_finds_its_event_behind_many_others(store: Store) -> None:
    """At once or later: the owner of the run is given it."""
    commit(store, _many_others())
    send(store, event("yes", x="1"))
    commit(store, replace(created(), pending=(wait(path="data.x", key="t:1"),)))

    _maintained(store)

    assert [_MANY + 1] == matched_seqs(store)
    [(run_id, op_id, stored)] = store.matched_waits("o1")
    assert ("r1", "id-wait", "yes") == (run_id, op_id, stored.event.id)


@requirement("T28")
def test_a_later_event_does_not_overtake_an_earlier_one(store: Store) -> None:
    """Of two events that match, the first one ends the wait, whenever it is found."""
    commit(store, _many_others())
    send(store, event("first", x="1"))
    commit(store, replace(created(), pending=(wait(path="data.x", key="t:1"),)))
    send(store, event("second", x="1"))

    _maintained(store)

    assert [_MANY + 1] == matched_seqs(store)


@requirement("T28")
def test_a_released_run_is_due_when_its_event_is_found(store: Store) -> None:
    """Also if the event has come after the wait, while the store still compared it."""
    commit(store, _many_others())
    commit(store, replace(created(), pending=(wait(path="data.x", key="t:1"),)))
    commit(store, suspended(due_at=1_000_000))
    send(store, event("yes", x="1"), now=200)

    _maintained(store)

    due_at = store.next_due("app", ["key"])
    assert due_at is not None
    assert due_at <= 200
    assert [_MANY + 1] == matched_seqs(store)
