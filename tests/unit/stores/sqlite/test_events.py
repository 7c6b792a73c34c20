"""How an event finds its waits; what it does to them is in the stores' contract."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from durable_conformance.store_values import created, ended, event, peer, suspended, wait
from durable_core.ports import Checkpoint, Claim, ClaimedRun, CorruptRun, Register, SendEvents
from durable_core.stores.sqlite import SQLiteStore
from durable_core.stores.sqlite import events as sqlite_events
from durable_core.stores.sqlite.claims import claim, register
from durable_core.stores.sqlite.events import (
    finish_part,
    is_spreading,
    scan_part,
    send_events,
    spread_part,
)
from durable_core.stores.sqlite.reads import load_match
from durable_core.stores.sqlite.sql import SCHEMA
from durable_core.stores.sqlite.writes import write_run


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(SCHEMA)
    register(db, Register(worker=peer("o2")))
    yield db
    db.close()


def rows_looked_at(db: sqlite3.Connection, name: str, data: dict[str, object]) -> int:
    """Send an event and return how much work that was, in steps of SQLite's virtual machine."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    db.set_progress_handler(count, 1)
    send_events(db, SendEvents(app="app", events=(event(name, **data),), now=1))
    db.set_progress_handler(None, 0)
    return steps


def test_an_event_costs_the_same_however_many_wait_for_others(db: sqlite3.Connection) -> None:
    """Waits are found by the key of their value; the others are not looked at."""
    write_run(db, replace(created("r"), pending=(wait(path="data.x", key="t:r"),)))
    send_events(db, SendEvents(app="app", events=(event("0", x="r"),), now=1))
    write_run(db, replace(created("s"), pending=(wait(path="data.x", key="t:s"),)))
    few = rows_looked_at(db, "1", {"x": "s"})
    for number in range(500):
        key = f"t:{number}"
        write_run(db, replace(created(f"r{number}"), pending=(wait(path="data.x", key=key),)))

    many = rows_looked_at(db, "2", {"x": "77"})

    assert few > 0
    assert many < 2 * few


def test_a_wait_that_is_over_costs_an_event_nothing(db: sqlite3.Connection) -> None:
    """Answered waits have left the index that events look into."""
    nobody = rows_looked_at(db, "1", {})
    for number in range(100):
        write_run(db, replace(created(f"r{number}"), pending=(wait(mark=1),)))
    send_events(db, SendEvents(app="app", events=(event("2"),), now=1))

    assert rows_looked_at(db, "3", {}) < 2 * nobody


@pytest.mark.parametrize(
    "damage",
    [
        "rule = '['",
        "rule = '[]'",
        "rule = '[\"e\", 1, []]'",
        "rule = CAST(x'ff' AS TEXT)",
        "consumed_seqs = '['",
        "consumed_seqs = CAST(x'ff' AS TEXT)",
    ],
)
def test_a_wait_that_cannot_be_read_fails_alone(damage: str, db: sqlite3.Connection) -> None:
    """The event is taken and answers the other waits; the damaged run is due, to be failed."""
    for id_ in ("r1", "r2", "r3"):
        write_run(db, created(id_))
        write_run(db, suspended(id_, wait(), due_at=5000))
    db.execute(f"UPDATE pending SET {damage} WHERE run_id = 'r2'")

    sent = send_events(db, SendEvents(app="app", events=(event("1"),), now=100))

    assert (("1",), (("r1", None), ("r2", None), ("r3", None))) == (sent.ids, sent.resumed_runs)
    due = Claim(app="app", owner="o2", keys=("key",), now=100, limit=10)
    one, damaged, other = claim(db, due)
    assert isinstance(damaged, CorruptRun)
    for each in (one, other):
        assert isinstance(each, ClaimedRun)
        [answered] = each.pending
        assert answered.matched is not None
        assert "1" == answered.matched.event.id


@pytest.mark.parametrize(
    "damage",
    [
        "data = '{'",
        "data = '[1]'",
        "data = CAST(x'ff' AS TEXT)",
        "id = CAST(x'ff' AS TEXT)",
        "id = ''",
        "ts = -1",
    ],
)
@pytest.mark.parametrize("path", ["", "data.x"])
def test_an_event_that_cannot_be_read_is_left_out(
    damage: str, path: str, db: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """A wait is registered all the same, and finds the next event that answers it."""
    write_run(db, created("r1"))
    events = (event("1", x="A"), event("2", x="A"))
    send_events(db, SendEvents(app="app", events=events, now=100))
    db.execute(f"UPDATE event SET {damage} WHERE id = '1'")

    write_run(db, suspended("r1", wait(path=path, key="t:A" if path else "")))

    [[matched]] = db.execute("SELECT matched FROM pending WHERE run_id = 'r1'").fetchall()
    assert 2 == load_match(matched).seq
    logged = [record.getMessage() for record in caplog.records]
    assert all("event 1 of 'e' is left out" in text for text in logged)
    assert path or logged, "without a match, every event is read"


def test_a_wait_that_cannot_be_read_does_not_keep_its_owner_from_others(
    db: sqlite3.Connection,
) -> None:
    """A run that is held is left to its owner: only once it is put away it can be claimed."""
    write_run(db, replace(created("r1"), pending=(wait(),)))
    db.execute("UPDATE pending SET rule = '['")

    sent = send_events(db, SendEvents(app="app", events=(event("1"),), now=100))

    assert (("r1", "o1"),) == sent.resumed_runs
    assert [("o1", None)] == db.execute("SELECT owner, due_at FROM run").fetchall()


def _send_many(db: sqlite3.Connection, count: int) -> None:
    """Store events that have the text that a wait is for, but elsewhere."""
    events = tuple(event(f"n{index}", x="2", y={"x": "1"}) for index in range(count))
    send_events(db, SendEvents(app="app", events=events, now=1))


WAITS = Checkpoint(
    run_id="r1", owner="o1", epoch=1, now=1, pending=(wait(path="data.x", key="t:1"),)
)


@pytest.mark.parametrize("size", [1, 20_000])
def test_registering_a_wait_costs_the_same_however_many_events_there_are(
    db: sqlite3.Connection, size: int
) -> None:
    """200 of them at most, or a megabyte; and so does each part of the rest."""
    write_run(db, created())
    events = tuple(event(f"n{index}", x="2", y={"x": "1"}, z="z" * size) for index in range(500))
    send_events(db, SendEvents(app="app", events=events, now=1))

    write_run(db, WAITS)

    [scanned] = db.execute("SELECT scanned FROM pending").fetchone()
    assert scanned == (200 if size == 1 else 53)
    part = scan_part(db)
    assert part is not None
    assert (scanned, part.found) == (part.scanned, None)
    assert part.reached == (200 if size == 1 else 53 + 210)


def test_a_wait_that_has_ended_meanwhile_is_left_alone(db: sqlite3.Connection) -> None:
    """Its run may have ended between the look at the events and the write."""
    write_run(db, created())
    _send_many(db, 300)
    write_run(db, WAITS)
    part = scan_part(db)
    assert part is not None
    write_run(db, ended())

    finish_part(db, part)

    assert (0,) == db.execute("SELECT count(*) FROM pending").fetchone()
    assert scan_part(db) is None


def test_an_event_that_comes_during_a_part_is_found(db: sqlite3.Connection) -> None:
    """The last look is made in the transaction that opens the wait to new events."""
    write_run(db, created())
    _send_many(db, 300)
    write_run(db, WAITS)
    part = scan_part(db)
    assert part is not None
    send_events(db, SendEvents(app="app", events=(event("yes", x="1"),), now=1))

    finish_part(db, part)

    [matched, scanned] = db.execute("SELECT matched, scanned FROM pending").fetchone()
    assert ("yes", None) == (load_match(matched).event.id, scanned)


@pytest.mark.parametrize("damage", ["CAST(x'ff' AS TEXT)", "'['", "'{}'"])
def test_a_run_whose_unfinished_wait_is_damaged_is_woken(
    db: sqlite3.Connection, damage: str
) -> None:
    """Whoever claims it finds that out; no other wait is kept from being looked at."""
    write_run(db, created())
    _send_many(db, 300)
    write_run(db, WAITS)
    write_run(db, suspended(due_at=1_000_000))
    db.execute(f"UPDATE pending SET rule = {damage}")
    part = scan_part(db)
    assert part is not None

    finish_part(db, part)

    assert (0,) == db.execute("SELECT due_at FROM run").fetchone()
    assert scan_part(db) is None


# Events that very many runs wait for


@pytest.fixture
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event reaches two waits in one transaction."""
    monkeypatch.setattr(sqlite_events, "_WAITS", 2)


def _send(db: sqlite3.Connection, name: str, **data: object) -> tuple[str, ...]:
    """Send an event; return the runs that this wakes at once."""
    sent = send_events(db, SendEvents(app="app", events=(event(name, **data),), now=100))
    return tuple(run_id for run_id, _ in sent.resumed_runs)


def _suspend(db: sqlite3.Connection, *ids: str, **of_wait: object) -> None:
    for id_ in ids:
        write_run(db, created(id_))
        write_run(db, suspended(id_, wait(**of_wait), due_at=5000))  # type: ignore[arg-type]


def _spread_all(db: sqlite3.Connection) -> int:
    """Let events reach all waits; return in how many parts they did."""
    parts = 0
    while is_spreading(db):
        spread_part(db)
        parts += 1
    return parts


def _ended_by(db: sqlite3.Connection) -> dict[str, str | None]:
    """Return the id of the event that ended the wait of each run."""
    rows = db.execute("SELECT run_id, matched FROM pending ORDER BY run_id")
    return {run: None if text is None else load_match(text).event.id for run, text in rows}


def _due(db: sqlite3.Connection) -> list[str]:
    rows = db.execute("SELECT id FROM run WHERE due_at = 100 ORDER BY id")
    return [id_ for (id_,) in rows]


@pytest.mark.usefixtures("few_at_a_time")
def test_an_event_reaches_many_waits_in_parts(db: sqlite3.Connection) -> None:
    """None is left out, and each run is due once its wait has ended."""
    ids = [f"r{number}" for number in range(5)]
    _suspend(db, *ids)

    assert ("r0", "r1") == _send(db, "1")
    assert ["r0", "r1"] == _due(db)
    assert 2 == _spread_all(db)
    assert ids == _due(db)
    assert dict.fromkeys(ids, "1") == _ended_by(db)


@pytest.mark.usefixtures("few_at_a_time")
def test_an_event_does_not_overtake_another(db: sqlite3.Connection) -> None:
    """The first one ends all waits; the next one begins after it, and ends those that are left."""
    _suspend(db, "r0", "r1", "r2", "r3", path="data.x", key="t:1")
    _suspend(db, "s0", "s1", "s2", path="data.x", key="t:2")

    assert ("r0", "r1") == _send(db, "1", x="1")
    assert () == _send(db, "2", x="1")
    assert () == _send(db, "3", x="2")
    assert () == _send(db, "1", x="1"), "it is known"
    _spread_all(db)

    ended = dict.fromkeys(("r0", "r1", "r2", "r3"), "1") | dict.fromkeys(("s0", "s1", "s2"), "3")
    assert ended == _ended_by(db)


@pytest.mark.usefixtures("few_at_a_time")
def test_a_wait_that_begins_meanwhile(db: sqlite3.Connection) -> None:
    """It looks at the stored events itself, and a later one is no answer to it."""
    _suspend(db, "r0", "r1", "r2")
    _send(db, "1")
    _suspend(db, "a", mark=0)
    _suspend(db, "b", mark=1)
    assert {"a": "1", "b": None} == {run: by for run, by in _ended_by(db).items() if run in "ab"}
    _spread_all(db)

    assert {"a": "1", "b": None, "r0": "1", "r1": "1", "r2": "1"} == _ended_by(db)


@pytest.mark.usefixtures("few_at_a_time")
@pytest.mark.parametrize("damage", ["DELETE FROM event", "UPDATE event SET data = '['"])
def test_an_event_that_is_gone_reaches_no_further_wait(db: sqlite3.Connection, damage: str) -> None:
    """It does not keep those behind it from their turn."""
    _suspend(db, "r0", "r1", "r2")
    _send(db, "1")
    db.execute(damage)
    _send(db, "2")
    _spread_all(db)

    assert {"r0": "1", "r1": "1", "r2": "2"} == _ended_by(db)


@pytest.mark.usefixtures("few_at_a_time")
def test_waits_that_no_event_ends_are_passed(db: sqlite3.Connection) -> None:
    """A part ends with the waits that it has looked at, whether they have ended or not."""
    _suspend(db, "r0", "r1", "r2", "r3", mark=10)
    _suspend(db, "z")

    assert () == _send(db, "1")
    assert 2 == _spread_all(db)
    assert "1" == _ended_by(db)["z"]


@pytest.mark.usefixtures("few_at_a_time")
def test_another_process_goes_on_with_an_event(tmp_path: Path) -> None:
    """What an event has not reached is stored with it: its sender may die after the commit."""
    path = str(tmp_path / "shop.db")
    first = SQLiteStore(path)
    first.open()
    first.commit([Register(worker=peer("o1"))], wait=1.0)
    runs = [f"r{number}" for number in range(5)]
    first.commit([created(id_) for id_ in runs], wait=1.0)
    first.commit([suspended(id_, wait(), due_at=5000) for id_ in runs], wait=1.0)
    first.commit([SendEvents(app="app", events=(event("1"),), now=100)], wait=1.0)
    first.close()

    second = SQLiteStore(path)
    second.open()
    for _ in range(3):
        second.run_maintenance()
    second.commit([Register(worker=peer("o2"))], wait=1.0)
    due = Claim(app="app", owner="o2", keys=("key",), now=100, limit=10)
    [claimed] = second.commit([due], wait=1.0)
    second.close()

    assert isinstance(claimed, tuple | list)
    assert 5 == len(claimed)
