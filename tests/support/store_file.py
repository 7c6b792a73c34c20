"""A store's file, looked at from outside: what is really in it, and locks on it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

__all__ = ["StoreFile"]


class StoreFile:
    """The SQLite file of a store; read with plain SQL, not with the code under test."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _query(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        with closing(self.connect()) as db:
            return db.execute(sql, args).fetchall()

    def connect(self) -> sqlite3.Connection:
        """Return a connection that commits each statement by itself."""
        return sqlite3.connect(self.path, timeout=30, isolation_level=None)

    def runs(self) -> dict[str, str]:
        """Return the phase of each run by its id."""
        return {str(id_): str(phase) for id_, phase in self._query("SELECT id, phase FROM run")}

    def only_run(self) -> str:
        """Return the id of the only run."""
        [run_id] = self.runs()
        return run_id

    def steps(self, run_id: str | None = None) -> dict[str, str]:
        """Return the stored result (JSON) of each step by its name, of one run or the only one."""
        rows = self._query(
            "SELECT name, value FROM run JOIN step ON step.key >> 24 = run.seq "
            "WHERE run.id = ? ORDER BY step.key",
            run_id or self.only_run(),
        )
        return {str(name): str(value) for name, value in rows}

    def results(self) -> dict[str, tuple[str, bytes]]:
        """Return head and body of each ended run's response."""
        rows = self._query("SELECT id, head, body FROM result JOIN run ON run.seq = result.seq")
        return {str(id_): (str(head), bytes(body)) for id_, head, body in rows}

    def events(self) -> list[str]:
        """Return the names of all stored events."""
        return [str(name) for (name,) in self._query("SELECT name FROM event ORDER BY seq")]

    def pending(self) -> list[str]:
        """Return the names of all unfinished steps."""
        return [str(name) for (name,) in self._query("SELECT name FROM pending")]

    def peers(self) -> set[str]:
        """Return the names of the registered processes."""
        return {str(id_) for (id_,) in self._query("SELECT id FROM worker")}

    def peer_pids(self) -> set[int]:
        """Return the process ids of the registered processes."""
        return {int(pid) for (pid,) in self._query("SELECT pid FROM worker")}

    def leases_are_over(self) -> bool:
        """Tell whether no registered process has a lease any more."""
        now = time.time() * 1000
        return all(at < now for (at,) in self._query("SELECT expires_at FROM worker"))

    def all_ended(self) -> bool:
        """Tell whether there are runs and none is under way."""
        phases = self.runs().values()
        return bool(phases) and set(phases) <= {"completed", "failed", "cancelled"}

    def is_sound(self) -> bool:
        """Tell whether SQLite finds nothing wrong with the file."""
        return self._query("PRAGMA integrity_check") == [("ok",)]

    def move_log(self) -> None:
        """Move the log into the database and delete it; no process may have the store open."""
        with closing(self.connect()) as db:
            moved = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert (0, 0, 0) == moved

    def is_free(self) -> bool:
        """Tell whether nobody holds the lock for writing for longer than a moment."""
        with closing(sqlite3.connect(self.path, timeout=0.5, isolation_level=None)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            db.execute("ROLLBACK")
            return True

    @contextmanager
    def locked(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """Hold a lock that keeps others from writing."""
        with closing(self.connect()) as db:
            db.execute(f"BEGIN {kind}")
            try:
                yield
            finally:
                db.execute("ROLLBACK")
