"""The named statements of ``queries.sql`` and the text of ``schema.sql``."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from types import MappingProxyType

from durable_core.errors import (
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreVersionError,
)

__all__ = [
    "QUERIES",
    "SCHEMA",
    "parse_queries",
    "store_error",
    "transaction",
]


# --- faults ---------------------------------------------------------------------------------------
#
# What SQLite's error codes mean to a caller.

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


# --- transactions ---------------------------------------------------------------------------------


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Make a block one transaction that writes; it is undone if the block raises."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


# --- sql ------------------------------------------------------------------------------------------

_HEADER = re.compile(r"^-- (\{?[a-z][a-z-]*\}?) --$\n", re.MULTILINE)
_PART = re.compile(r"\{[a-z-]+\}")


def parse_queries(text: str) -> Mapping[str, str]:
    """Return the statements of a file by their names, with the parts that they have in common.

    Raises:
        ValueError: a name comes twice.
        KeyError: a statement names a part that is not there.
    """
    _, *parts = _HEADER.split(text)
    names, bodies = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"a query name comes twice among {sorted(names)}")
    found = dict(zip(names, (body.strip() for body in bodies), strict=True))
    return MappingProxyType(
        {
            name: _PART.sub(lambda part: found[part[0]], body)
            for name, body in found.items()
            if not _PART.fullmatch(name)
        }
    )


def _text_of(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


#: SQL by name. The same ``str`` object each time, so a connection finds its prepared statement.
QUERIES = parse_queries(_text_of("queries.sql"))
#: All statements that make an empty file a store.
SCHEMA = _text_of("schema.sql")
