"""What SQLite's error codes mean to a caller."""

from __future__ import annotations

import sqlite3

from durable_core.errors import (
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreVersionError,
)

__all__ = ["store_error"]

_MEANING: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreBusyError, "is locked by another process"),
    sqlite3.SQLITE_LOCKED: (StoreBusyError, "is locked by another connection of this process"),
    sqlite3.SQLITE_FULL: (StoreFullError, "cannot grow: no space is left"),
    sqlite3.SQLITE_READONLY: (StoreReadOnlyError, "cannot be written to"),
    sqlite3.SQLITE_PERM: (StoreReadOnlyError, "cannot be written to"),
    sqlite3.SQLITE_CANTOPEN: (StoreError, "cannot be opened; does its directory allow it?"),
    sqlite3.SQLITE_IOERR: (StoreError, "met an I/O error"),
    sqlite3.SQLITE_CORRUPT: (StoreError, "is damaged"),
    sqlite3.SQLITE_NOTADB: (StoreVersionError, "is not a SQLite database"),
}
_OTHER = (StoreError, "could not do it")


def store_error(error: sqlite3.Error, path: str) -> StoreError:
    """Return the error of ours that tells what happened to the database at ``path``."""
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte is the primary code; what is above it only refines that.
    cls, meaning = _OTHER if code is None else _MEANING.get(code & 0xFF, _OTHER)
    return cls(f"the store {path} {meaning} ({error})")
