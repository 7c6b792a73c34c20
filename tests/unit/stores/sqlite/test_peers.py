"""That clearing up leaves nothing behind; whom it spares is in the stores' contract."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from durable_conformance.store_values import created, event, memo, pending, result
from durable_core.ports import Prune
from durable_core.stores.sqlite.cleanup import prune
from durable_core.stores.sqlite.sql import SCHEMA
from durable_core.stores.sqlite.writes import write_run


def test_pruning_a_run_removes_all_of_its_rows() -> None:
    """No table keeps anything of it, whatever tables there are."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(SCHEMA)
    write = replace(
        created(),
        memos=(memo(1), memo(2)),
        pending=(pending(),),
        events=(event("1"),),
        result=result(ended_at=5),
    )
    write_run(db, write)

    assert 2 == prune(db, Prune(app="app", runs_before=6, events_before=11, limit=9))

    tables = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    left = {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    assert {"sqlite_sequence": [("event", 1)]} == {
        table: rows for table, rows in left.items() if rows
    }
    db.close()
