"""The core's own stores as subjects of the conformance suite."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from durable_core.ports import Store
from durable_core.stores.encrypted import EncryptedStore
from durable_core.stores.memory import MemoryStore
from durable_core.stores.sqlite import SQLiteStore

__all__ = ["MemorySubject", "SQLiteSubject", "encrypted", "memory", "sqlite"]


class MemorySubject:
    """The memory store, whose data is in one process only."""

    name = "memory-store"
    capabilities: frozenset[str] = frozenset()

    @contextmanager
    def open(self) -> Iterator[Store]:
        """Yield an empty store."""
        yield MemoryStore()

    @contextmanager
    def open_again(self, store: Store) -> Iterator[Store]:
        """There is no other handle on its data."""
        raise NotImplementedError
        yield store

    def peek(self, store: Store) -> Mapping[str, int]:
        """Count in its dictionaries."""
        assert isinstance(store, MemoryStore)
        rows = store._runs.values()
        return {
            "runs": len(rows),
            "steps": sum(len(row.memos) for row in rows),
            "pending": sum(len(row.pending) for row in rows),
            "events": len(store._events),
        }


class EncryptedSubject(MemorySubject):
    """The store that encrypts, with the memory store behind it."""

    name = "encrypted-store"

    @contextmanager
    def open(self) -> Iterator[Store]:
        """Yield an empty store with a key of its own."""
        keys = {"k": Fernet(Fernet.generate_key())}
        yield EncryptedStore(MemoryStore(), keys=keys, match_key=b"m" * 16)

    def peek(self, store: Store) -> Mapping[str, int]:
        """Count in the store behind it."""
        assert isinstance(store, EncryptedStore)
        return super().peek(store.inner)


class SQLiteSubject:
    """The SQLite store."""

    name = "sqlite-store"
    capabilities = frozenset({"shared", "crash-points", "locks", "processes"})

    def __init__(self, make_store: Callable[[Path], SQLiteStore] = SQLiteStore) -> None:
        self._make_store = make_store
        self._files: dict[int, Path] = {}

    @contextmanager
    def open(self) -> Iterator[Store]:
        """Yield a store on a file of its own."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "store.db"
            with self._opened(file) as store:
                yield store

    @contextmanager
    def open_again(self, store: Store) -> Iterator[Store]:
        """Yield another store on the same file."""
        with self._opened(self._files[id(store)]) as other:
            yield other

    @contextmanager
    def lock(self, store: Store) -> Iterator[None]:
        """Begin a transaction that writes, by a connection of one's own."""
        with closing(sqlite3.connect(self._files[id(store)], isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

    def crash_points(
        self, store: Store, act: Callable[[], object]
    ) -> Iterator[AbstractContextManager[Store]]:
        """Copy the file and its log whenever a statement begins; yield stores on the copies."""
        assert isinstance(store, SQLiteStore)
        handles: Any = store._live()
        writer = handles._writer or handles._open_writer()
        file = self._files[id(store)]
        copies: list[Path] = []

        def copy(statement: str = "") -> None:
            folder = file.parent / f"crash-{len(copies)}"
            folder.mkdir()
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{file}{suffix}", folder / f"{file.name}{suffix}")
            copies.append(folder / file.name)

        writer.set_trace_callback(copy)
        act()
        writer.set_trace_callback(None)
        copy()
        for each in copies:
            yield self._opened(each)

    def peek(self, store: Store) -> Mapping[str, int]:
        """Count rows by a connection of one's own."""
        tables = {"runs": "run", "steps": "step", "pending": "pending", "events": "event"}
        with closing(sqlite3.connect(self._files[id(store)])) as connection:
            return {
                what: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for what, table in tables.items()
            }

    @contextmanager
    def _opened(self, file: Path) -> Iterator[Store]:
        store = self._make_store(file)
        self._files[id(store)] = file
        store.open()
        try:
            yield store
        finally:
            store.close()
            del self._files[id(store)]


encrypted = EncryptedSubject()
memory = MemorySubject()
sqlite = SQLiteSubject()
