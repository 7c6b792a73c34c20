"""What running steps stream, for the other processes of a store: a SQLite file of its own.

The file lies beside the store's. Nothing in it is worth a sync: it repeats what a process has in
memory, and the store gets that with the step's checkpoint. So it may be lost, damaged or deleted
at any time; the next write makes it anew.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from durable_core.errors import StoreError
from durable_core.model.stream import Committed, Pushed, RolledBack, Streamed
from durable_core.ports import ChannelWrite, LiveExecution
from durable_core.stores.sqlite import processes as forks
from durable_core.stores.sqlite.sql import store_error, transaction

__all__ = ["LiveFile"]

_VERSION = 1
#: Ids never come twice (AUTOINCREMENT): readers remember how far they have read. The row of kind
#: 'begin' of an execution is followed by all that it has open; its `number` is the last commit.
#: `number` of a chunk or rollback is that of the attempt within the epoch, and NULL outside steps.
_SCHEMA = f"""
CREATE TABLE message (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id     TEXT NOT NULL,
    epoch      INTEGER NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('begin', 'chunk', 'commit', 'rollback')),
    written_at INTEGER NOT NULL,
    op_id      TEXT,
    number     INTEGER,
    place      INTEGER,
    text       TEXT,
    CHECK (kind IN ('begin', 'chunk') OR (op_id IS NOT NULL AND number IS NOT NULL))
) STRICT;
CREATE INDEX message_execution ON message (run_id, epoch);
CREATE INDEX message_begin ON message (run_id) WHERE kind = 'begin';
PRAGMA user_version = {_VERSION};
"""
_INSERT = """
INSERT INTO message (run_id, epoch, kind, written_at, op_id, number, place, text)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_HAS_BEGUN = "SELECT 1 FROM message WHERE run_id = ? AND kind = 'begin' AND epoch = ?"
_BEGINNINGS = "SELECT epoch, id, number FROM message WHERE run_id = ? AND kind = 'begin'"
_READ = """
SELECT id, kind, op_id, number, place, text FROM message
WHERE run_id = ? AND epoch = ? AND id > ? ORDER BY id LIMIT ?
"""
#: Seconds to wait for another process that writes.
_BUSY_SECONDS = 1.0
#: What SQLite says of a file that cannot be read, or not as ours: it is made anew.
_DAMAGED = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}
)


class LiveFile:
    """See ``ports.Channel``.

    It has one connection, opened on first use, and closed around forks as those of the store are.

    Args:
        path: of the file; a new one has mode 0600, as the rollback journal that SQLite makes
            beside it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._opened = 0

    def write(self, writes: Sequence[ChannelWrite]) -> Sequence[bool]:
        """Write in one transaction; see ``ports.Channel``."""
        now = int(time.time())
        with self._connection() as db, transaction(db):
            return [_written(db, write, now) for write in writes]

    def remove(self, executions: Sequence[tuple[str, int]]) -> None:
        """Remove what these executions have written, by run id and epoch."""
        with self._connection() as db, transaction(db):
            db.executemany("DELETE FROM message WHERE run_id = ? AND epoch = ?", executions)

    def version(self) -> tuple[int, int]:
        """Return numbers that change when another process has written, or has made a new file."""
        with self._connection() as db:
            [version] = db.execute("PRAGMA data_version").fetchone()
            return self._opened, version

    def executions(self, run_ids: Sequence[str]) -> Sequence[LiveExecution]:
        """Return the last execution of each of the runs that has written something."""
        with self._connection() as db:
            found = []
            for run_id in run_ids:
                rows = db.execute(_BEGINNINGS, (run_id,)).fetchall()
                if rows:
                    epoch, id_, done = max(rows)
                    begun = (self._opened, id_)
                    found.append(LiveExecution(run_id=run_id, epoch=epoch, begun=begun, done=done))
            return found

    def read(
        self, execution: LiveExecution, after: int, most: int
    ) -> Sequence[tuple[int, Streamed]]:
        """Return up to so many events of an execution; see ``ports.Channel``."""
        opened, begin = execution.begun
        with self._connection() as db:
            if opened != self._opened:
                return ()  # its ids are those of a file that is gone
            wanted = (execution.run_id, execution.epoch, max(begin, after), most)
            rows = db.execute(_READ, wanted).fetchall()
        return [(id_, _event(execution.epoch, *columns)) for id_, *columns in rows]

    def prune(self, age: float) -> None:
        """Remove what was written more than so many seconds ago."""
        with self._connection() as db:
            db.execute("DELETE FROM message WHERE written_at < ?", (int(time.time() - age),))

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self._lock:
            self._close()

    def before_fork(self) -> None:
        """Close the connection and keep it closed."""
        self._lock.acquire()
        self._close()

    def after_fork(self) -> None:
        """Allow use again, in the parent and in the child."""
        self._lock.release()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection to the file that is at the path now, for one thread at a time.

        Raises:
            StoreError: it cannot be used. One that is damaged is gone then.
        """
        with self._lock:
            try:
                yield self._current()
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                if code != sqlite3.SQLITE_BUSY:
                    self._close()
                if code in _DAMAGED:
                    self._discard()
                raise store_error(error, self._path) from error
            except OSError as error:
                self._close()
                text = f"the file {self._path} cannot be used: {error.strerror}"
                raise StoreError(text) from error

    def _current(self) -> sqlite3.Connection:
        if self._db is not None and self._pid != os.getpid():
            forks.abandon(self._db)  # by a fork that Python did not make
            self._db = None
        if self._db is not None and self._file != _identity(self._path):
            self._close()  # deleted: what is written there, nobody would read
        if self._db is None:
            self._db, self._file = _open(self._path)
            self._pid = os.getpid()
            self._opened += 1
        return self._db

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None and self._pid == os.getpid():
            db.close()

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        with contextlib.suppress(OSError):
            os.unlink(f"{self._path}-journal")


def _open(path: str) -> tuple[sqlite3.Connection, tuple[int, int] | None]:
    """Return a connection to the file, which is made if it is missing, and which file it is."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    _refuse_foreign(path)
    uri = f"{Path(path).as_uri()}?mode=rw"
    db = sqlite3.connect(
        uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA journal_mode = TRUNCATE").fetchone()
        with transaction(db):
            [version] = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    db.execute(statement)
        if version not in (0, _VERSION):
            raise StoreError(f"the file {path} is of another release (version {version})")
    except BaseException:
        db.close()
        raise
    return db, _identity(path)


def _refuse_foreign(path: str) -> None:
    """Refuse what somebody else has put there: neither a link nor another user's file is read."""
    status = os.lstat(path)
    is_own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    if not (stat.S_ISREG(status.st_mode) and is_own):
        raise StoreError(f"{path} is not a plain file of this user; remove it, nothing needs it")


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells a file from all others, None if there is none at the path."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _written(db: sqlite3.Connection, write: ChannelWrite, now: int) -> bool:
    """Apply one write; False if what it goes on from is not there."""
    execution = (write.run_id, write.epoch)
    if write.done is not None:
        db.execute("DELETE FROM message WHERE run_id = ? AND epoch <= ?", execution)
        db.execute(_INSERT, (*execution, "begin", now, None, write.done, None, None))
    elif db.execute(_HAS_BEGUN, execution).fetchone() is None:
        return False
    db.executemany(_INSERT, ((*execution, *_row(event, now)) for event in write.events))
    return True


def _row(event: Streamed, now: int) -> tuple[object, ...]:
    """Return the columns from ``kind`` on."""
    if isinstance(event, Pushed):
        number = None if event.attempt is None else event.attempt[1]
        return "chunk", now, event.op_id, number, event.index, event.text
    if isinstance(event, Committed):
        return "commit", now, event.op_id, event.number, None, None
    return "rollback", now, event.op_id, event.attempt[1], None, None


def _event(
    epoch: int, kind: str, op_id: str | None, number: int | None, place: int, text: str
) -> Streamed:
    if kind == "chunk":
        attempt = None if number is None else (epoch, number)
        return Pushed(text=text, index=place, op_id=op_id, attempt=attempt)
    assert op_id is not None  # as the table has checked
    assert number is not None
    if kind == "commit":
        return Committed(op_id=op_id, number=number)
    return RolledBack(op_id=op_id, attempt=(epoch, number))
