"""That a read of several statements sees one state; what reads find is in the stores' contract."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from durable_conformance.store_values import created, event, memo_write, wait
from durable_core.ports import RunWrite, SendEvents
from durable_core.runtime.sqlite import reads
from durable_core.runtime.sqlite.opening import connect, prepare
from durable_core.runtime.sqlite.queries import SCHEMA
from durable_core.runtime.sqlite.reads import find_run, matched
from durable_core.runtime.sqlite.runs import write_run
from durable_core.runtime.sqlite.signals import send_events


def test_a_run_is_read_in_one_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit between the statements of the read is not seen by half of them."""
    path = str(tmp_path / "store.db")
    prepare(path)
    writer, reader = connect(path, busy_seconds=1), connect(path, busy_seconds=1)
    write_run(writer, created())
    load_memos = reads.load_memos

    def commit_first(db: sqlite3.Connection, run_id: str) -> object:
        write: RunWrite = memo_write()
        write_run(writer, write)
        return load_memos(db, run_id)

    monkeypatch.setattr(reads, "load_memos", commit_first)

    record = find_run(reader, "app", "r1")

    assert record is not None
    assert [1] == [memo.number for memo in record.memos]
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

    [(run_id, op_id, stored)] = matched(db, "o1")

    assert ("r2", "id-wait", 1) == (run_id, op_id, stored.seq)
    assert "an event that run r1 waits for cannot be read" in caplog.text
    db.close()
