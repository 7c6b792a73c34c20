"""That a read of several statements sees one state; what reads find is in the stores' contract."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from durable_conformance.store_values import created, event, memo_write, wait
from durable_core.errors import StoreError
from durable_core.ports import ANY_RUN, Checkpoint, SendEvents
from durable_core.stores.sqlite import reads
from durable_core.stores.sqlite.connections import Connections
from durable_core.stores.sqlite.events import send_events
from durable_core.stores.sqlite.opening import connect, prepare
from durable_core.stores.sqlite.reads import find_run, find_runs, matched_waits
from durable_core.stores.sqlite.sql import SCHEMA
from durable_core.stores.sqlite.writes import write_run


def test_a_run_is_read_in_one_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit between the statements of the read is not seen by half of them."""
    path = str(tmp_path / "store.db")
    prepare(path)
    writer, reader = connect(path, busy_seconds=1), connect(path, busy_seconds=1)
    write_run(writer, created())
    load_memos = reads.load_memos

    def commit_first(db: sqlite3.Connection, run_id: str) -> object:
        write: Checkpoint = memo_write()
        write_run(writer, write)
        return load_memos(db, run_id)

    monkeypatch.setattr(reads, "load_memos", commit_first)

    record = find_run(reader, "app", "r1")

    assert record is not None
    assert [1] == [memo.completion_no for memo in record.memos]
    assert not reader.in_transaction
    assert find_run(reader, "app", "nobody") is None
    assert not reader.in_transaction
    writer.close()
    reader.close()


@pytest.mark.parametrize("damage", ["'['", "'[]'", "CAST(x'ff' AS TEXT)"])
def test_an_event_that_cannot_be_read_keeps_no_other_from_its_run(
    damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was matched for the other runs of the owner is told; the damage is logged."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(SCHEMA)
    for id_ in ("r1", "r2"):
        write_run(db, replace(created(id_), pending=(wait(),)))
    send_events(db, SendEvents(app="app", events=(event("1"),), now=100))
    db.execute(f"UPDATE pending SET matched = {damage} WHERE run_id = 'r1'")

    [(run_id, op_id, stored)] = matched_waits(db, "o1")

    assert ("r2", "id-wait", 1) == (run_id, op_id, stored.seq)
    assert "an event that run r1 waits for cannot be read" in caplog.text
    db.close()


def test_a_run_that_cannot_be_read_keeps_no_other_from_being_listed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Text that is no UTF-8 shows what can be shown; the rest is left out, and logged."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(SCHEMA)
    for id_ in ("r1", "r2", "r3"):
        write_run(db, created(id_))
    db.execute("UPDATE run SET labels = '[' WHERE id = 'r1'")
    db.execute("UPDATE run SET function_id = CAST(x'41ff42' AS TEXT) WHERE id = 'r2'")

    records = find_runs(db, "app", ANY_RUN, 9)

    shown = [(record.run.id, record.run.function_id) for record in records]
    assert [("r3", "GET /x"), ("r2", "A\N{REPLACEMENT CHARACTER}B")] == shown
    assert "run r1 is not listed, it cannot be read" in caplog.text
    assert ("r3",) == db.execute("SELECT id FROM run WHERE id = 'r3'").fetchone()
    db.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE run SET phase = 'no phase'",
        "UPDATE run SET function_id = CAST(x'ff' AS TEXT)",
        "UPDATE step SET kind = 'no kind'",
    ],
)
def test_looking_at_a_run_that_cannot_be_read_says_so(tmp_path: Path, damage: str) -> None:
    """It is a fault of the store, and no transaction stays open."""
    path = str(tmp_path / "store.db")
    prepare(path)
    handles = Connections(path)
    handles.commit([created("r1")], 1.0)
    with closing(connect(path, busy_seconds=1)) as db:
        db.execute(damage)

    with pytest.raises(StoreError, match=r"run r1 cannot be read|UTF-8"):
        handles.read(find_run, "app", "r1")

    handles.close()
