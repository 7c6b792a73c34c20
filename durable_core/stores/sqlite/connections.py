"""The open connections of one process to one store."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Concatenate, NoReturn, ParamSpec, TypeVar

from durable_core.errors import StoreBusyError, StoreError
from durable_core.ports import Write
from durable_core.stores.sqlite.events import finish_part, is_spreading, scan_part, spread_part
from durable_core.stores.sqlite.opening import connect
from durable_core.stores.sqlite.sql import store_error
from durable_core.stores.sqlite.writes import Answer, apply_batch

__all__ = ["Connections", "ConnectionsClosedError"]

P = ParamSpec("P")
T = TypeVar("T")

_READ_SECONDS = 5.0
#: For so long a look for the commits of others waits for a commit of this process, seconds.
_COUNTER_PATIENCE = 0.02
#: How often a commit looks whether another process still writes, seconds.
_BUSY_PAUSE = 0.001
#: New rows go to the right-hand edge of every tree, so a run needs some 50 pages at any size of the
#: store. What is read besides is in the system's cache. A cache of 16 MiB takes 30 once it is full.
_WRITER_CACHE_KIB = 4_096
#: More reading connections than this are kept only while they are in use.
_MOST_FREE = 16
#: Below this size of the log (1,000 frames of a page and its header) it is left alone.
_WAL_BYTES = 1_000 * (4096 + 24)
#: A log that has become longer, while somebody read for long, is cut when it is begun anew.
_MOST_WAL_BYTES = 4 * _WAL_BYTES
#: As many commits of a step each fill as many pages; the log keeps its size when written anew.
_COMMITS_BETWEEN_CHECKPOINTS = 1_000
#: While no wait is left to scan, one round of maintenance in so many looks for one.
_ROUNDS_BETWEEN_SCANS = 10


class ConnectionsClosedError(Exception):
    """The handles were closed between finding and using them; find the new ones."""


class Connections:
    """A connection that writes, some that read, and one for housekeeping.

    All are opened on first use. None may be used, or closed, in another process than this one.
    """

    def __init__(self, path: str) -> None:
        self.pid = os.getpid()
        self._path = path
        self._log_path = os.path.realpath(path) + "-wal"  # SQLite follows symbolic links
        self._closed = False
        self._file: tuple[int, int] | None = None  # until the first connection
        self._log_file: tuple[int, int] | None = None  # until the first look at its commits
        self._moved = False
        self._write_lock = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._commits = 0
        self._free: deque[sqlite3.Connection] = deque()
        self._readers = 0
        self._count_lock = threading.Lock()
        self._checkpointer: sqlite3.Connection | None = None
        self._keep_lock = threading.Lock()
        self._checkpointed = (0, 0)
        self._scan_pause = 0
        self._opened_at = time.monotonic_ns()  # tells the counter of a fork from its parent's
        self._watch_lock = threading.Lock()
        self._seen_commits = 0
        self._asks_version = False  # the next commit is to ask SQLite for it
        self._version = 0
        self._changes = 0  # those that SQLite's data_version does not count here

    def commit(self, writes: Sequence[Write[object]], wait: float) -> Sequence[Answer]:
        """Apply the writes on the writing connection."""
        with self._write_lock:
            if self._moved:
                self._refuse_moved()
            db = self._writer or self._open_writer()
            if self._asks_version:
                self._note_version(db)
            try:
                try:
                    return apply_batch(db, writes, self._path)
                except StoreBusyError:
                    if wait <= 0:
                        raise
                return self._commit_when_free(db, writes, wait)
            finally:
                self._commits += 1  # not before: whoever sees the number is to see the commit

    def _commit_when_free(
        self, db: sqlite3.Connection, writes: Sequence[Write[object]], wait: float
    ) -> Sequence[Answer]:
        """Apply the writes once the process that writes now has done so.

        SQLite's own way to wait looks ten times a second after a while. A process that commits one
        batch after the other would have the lock at nearly every look, if a commit takes long.
        """
        give_up = time.monotonic() + wait
        while True:
            time.sleep(_BUSY_PAUSE)
            try:
                return apply_batch(db, writes, self._path)
            except StoreBusyError:
                if time.monotonic() >= give_up:
                    raise

    def _open_writer(self) -> sqlite3.Connection:
        self._writer = self._connect(
            f"cache_size = -{_WRITER_CACHE_KIB}",
            f"journal_size_limit = {_MOST_WAL_BYTES}",
            "busy_timeout = 0",
        )
        return self._writer

    def _connect(self, *pragmas: str) -> sqlite3.Connection:
        if self._closed:
            raise ConnectionsClosedError
        self._check_file()
        try:
            return connect(self._path, *pragmas, busy_seconds=_READ_SECONDS)
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error

    def _check_file(self) -> None:
        """Refuse to go on once the file is not where it was: what it takes would be lost.

        The same holds for its log, where the last commits are. A file that cannot be looked at now
        may be where it was.
        """
        log_file = self._log_file  # another thread may find it meanwhile
        try:
            file = _identity(self._path)
            log = None if log_file is None else _identity(self._log_path)
        except OSError:
            return
        if self._file is None:
            self._file = file
        self._moved = self._moved or file != self._file or log != log_file
        if self._moved:
            self._refuse_moved()

    def _refuse_moved(self) -> NoReturn:
        raise StoreError(
            f"the store {self._path}, or its log beside it, was removed or replaced while it "
            "was in use: nothing more is written to what is left of it; put the files in "
            "place and start again"
        )

    def read(
        self,
        query: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run the query on a reading connection that nobody else uses meanwhile."""
        db = self._take_reader()
        try:
            answer = query(db, *args, **kwargs)
        except BaseException as error:
            # What it has half read lives as long as the error, and keeps showing the old state.
            self._close_reader(db)
            if isinstance(error, sqlite3.Error):
                raise store_error(error, self._path) from error
            raise
        self._give_back(db)
        return answer

    def _take_reader(self) -> sqlite3.Connection:
        if self._moved:
            self._refuse_moved()
        with contextlib.suppress(IndexError):
            return self._free.pop()
        with self._count_lock:
            db = self._connect("query_only = ON")
            self._readers += 1
            return db

    def _give_back(self, db: sqlite3.Connection) -> None:
        if self._closed or len(self._free) >= _MOST_FREE:
            self._close_reader(db)
            return
        self._free.append(db)
        if self._closed:  # Meanwhile, and whoever closed may not have seen this one.
            self._close_free()

    def _close_free(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._close_reader(self._free.pop())

    def _close_reader(self, db: sqlite3.Connection) -> None:
        db.close()
        with self._count_lock:
            self._readers -= 1

    def change_counter(self, *, with_own: bool = False) -> tuple[int, ...]:
        """Return a value that changes with each commit but those of :meth:`commit`.

        SQLite counts for each connection what the others have committed. While this process
        commits, the next commit asks for that number, and a later call returns it: whoever asks
        here would hold the commits up for as long as it waits for the interpreter, several times.

        If the file is not where it was, nothing more is read from or written to it.

        Args:
            with_own: it is to change with those of :meth:`commit`, too.
        """
        with self._watch_lock:
            is_committing = self._commits != self._seen_commits and self._version > 0
            self._seen_commits = self._commits
            if self._writer is not None:
                self._check_file()
            if is_committing:
                self._asks_version = True
            elif self._write_lock.acquire(timeout=_COUNTER_PATIENCE):
                try:
                    self._note_version(self._writer or self._open_writer())
                finally:
                    self._write_lock.release()
            else:
                self._changes += 1  # there may be some
            own = self._commits if with_own else 0
            return self._opened_at, self._version, self._changes, own

    def _note_version(self, writer: sqlite3.Connection) -> None:
        self._asks_version = False
        try:
            [self._version] = writer.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            self._changes += 1  # it cannot be told now; whoever looks for them meets the fault
        if self._log_file is None:
            self._log_file = self._find_log()

    def _find_log(self) -> tuple[int, int] | None:
        """Return which file the log is. It stays while a connection of ours is open."""
        try:
            return _identity(self._log_path)
        except OSError:
            return None

    def checkpoint(self) -> None:
        """Move the log into the database if it has grown, so that it can be written anew.

        A commit that makes the log longer costs up to twice one that writes over it, which one
        does after all of the log has been moved. The bulk is moved while commits go on. What they
        have added by then, of which SQLite does not tell, is moved while nobody can commit: up to
        version 3.51.2 a commit of another process that begins the log anew, while a checkpoint
        runs that follows on a complete one, may damage the database (its "WAL-reset bug").
        """
        with self._keep_lock:
            size, commits = self._wal_bytes(), self._commits
            last_size, last_commits = self._checkpointed
            idle = size == last_size and commits - last_commits < _COMMITS_BETWEEN_CHECKPOINTS
            if size < _WAL_BYTES or idle:
                return
            if self._checkpointer is None:
                self._checkpointer = self._connect()
            try:
                _move_log(self._checkpointer)
                with self._write_lock:
                    commits = self._commits
                    if not self._move_rest(self._checkpointer):
                        return
            except sqlite3.Error as error:
                raise store_error(error, self._path) from error
            self._checkpointed = (size, commits)

    def match_part(self) -> None:
        """Go on with what was too much for the commit of an event, or of a wait.

        An event reaches its next waits; a wait is compared with the next part of the events before
        it. These are read while others commit. Only the result takes the write lock.
        """
        if self._scan_pause > 0:
            self._scan_pause -= 1
            return
        part, spreading = self.read(scan_part), self.read(is_spreading)
        if part is None and not spreading:
            self._scan_pause = _ROUNDS_BETWEEN_SCANS
            return
        with self._write_lock:
            writer = self._writer or self._open_writer()
            if not self._begin_at_once(writer):
                return  # the next round tries again
            try:
                if part is not None:
                    finish_part(writer, part)
                if spreading:
                    spread_part(writer)
                writer.execute("COMMIT")
                self._changes += 1
            except BaseException as error:
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise store_error(error, self._path) from error
                raise

    def _begin_at_once(self, writer: sqlite3.Connection) -> bool:
        """Begin a transaction that writes; False if another process is in one."""
        try:
            writer.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                return False
            raise
        return True

    def _move_rest(self, checkpointer: sqlite3.Connection) -> bool:
        """Move what is left of the log while no process can commit; False if one does now."""
        writer = self._writer or self._open_writer()
        if not self._begin_at_once(writer):
            return False  # the next round tries again
        try:
            _move_log(checkpointer)
        finally:
            writer.execute("ROLLBACK")
        return True

    def _wal_bytes(self) -> int:
        try:
            return os.stat(self._log_path).st_size
        except FileNotFoundError:
            return 0

    def close(self, patience: float = 0.0) -> bool:
        """Close all connections; readers in use are closed when they are given back.

        Args:
            patience: seconds to wait for those readers.

        Returns:
            True if all are closed.
        """
        give_up = time.monotonic() + patience
        # In the order of checkpoint() and change_counter(), which take the third, too.
        with self._keep_lock, self._watch_lock, self._write_lock, self._count_lock:
            self._closed = True
            for db in (self._writer, self._checkpointer):
                if db is not None:
                    db.close()
            self._writer = self._checkpointer = None
        self._close_free()
        while self._readers and time.monotonic() < give_up:
            time.sleep(0.001)
        return not self._readers


def _identity(path: str) -> tuple[int, int] | None:
    """Return what tells a file from all others, None if there is none at the path.

    Raises:
        OSError: it cannot be told now.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _move_log(db: sqlite3.Connection) -> None:
    """Move what can be moved of the log without waiting for anybody."""
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
