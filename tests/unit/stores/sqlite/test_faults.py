"""What SQLite's error codes mean to a caller."""

from __future__ import annotations

import sqlite3

import pytest

from durable_core.errors import (
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreVersionError,
)
from durable_core.stores.sqlite.sql import store_error


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_BUSY, StoreBusyError),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreBusyError),
        (sqlite3.SQLITE_LOCKED, StoreBusyError),
        (sqlite3.SQLITE_FULL, StoreFullError),
        (sqlite3.SQLITE_READONLY, StoreReadOnlyError),
        (sqlite3.SQLITE_READONLY_CANTINIT, StoreReadOnlyError),
        (sqlite3.SQLITE_PERM, StoreReadOnlyError),
        (sqlite3.SQLITE_NOTADB, StoreVersionError),
        (sqlite3.SQLITE_IOERR_WRITE, StoreError),
        (sqlite3.SQLITE_CORRUPT, StoreError),
        (sqlite3.SQLITE_CANTOPEN, StoreError),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, StoreError),
        (None, StoreError),
    ],
)
def test_the_primary_code_decides(code: int | None, expected: type[StoreError]) -> None:
    """Extended codes mean what their primary code means; what is unknown is a StoreError."""
    error = sqlite3.OperationalError("what SQLite says")
    if code is not None:
        error.sqlite_errorcode = code

    fault = store_error(error, "/x/store.db")

    assert expected is type(fault)
    assert "/x/store.db" in str(fault)
    assert "what SQLite says" in str(fault)
