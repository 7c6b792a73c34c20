"""That a read of several statements sees one state; what reads find is in the stores' contract."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from durable_conformance.store_values import created, memo_write
from durable_core.ports import RunWrite
from durable_core.runtime.sqlite import reads
from durable_core.runtime.sqlite.opening import connect, prepare
from durable_core.runtime.sqlite.reads import find_run
from durable_core.runtime.sqlite.runs import write_run


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
