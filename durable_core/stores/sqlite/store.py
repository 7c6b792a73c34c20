"""The SQLite store: the face of this package."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar
from weakref import WeakSet

from durable_core.errors import StoreError, StoreFullError, StoreReadOnlyError
from durable_core.model.event import StoredEvent
from durable_core.model.run import Phase
from durable_core.model.stream import StoredStream, StreamPlace
from durable_core.platform import process_id, store_path
from durable_core.ports import (
    ANY_RUN,
    Begun,
    IdempotencyKey,
    ReapWorkers,
    RecentEvent,
    Register,
    RunFilter,
    RunProgress,
    RunRecord,
    Slots,
    Store,
    StoredRequest,
    StoredResult,
    StoredSecret,
    Unregister,
    Usage,
    Wakeups,
    WorkerRecord,
    Write,
)
from durable_core.stores.sqlite import processes as forks
from durable_core.stores.sqlite import reads
from durable_core.stores.sqlite.connections import Connections, ConnectionsClosedError
from durable_core.stores.sqlite.live_file import LiveFile
from durable_core.stores.sqlite.opening import (
    create_private,
    prepare,
    refuse_foreign_file,
    refuse_network_filesystem,
)
from durable_core.stores.sqlite.processes import LockFiles
from durable_core.stores.wakeups import PolledWakeups

__all__ = ["SQLiteStore"]

P = ParamSpec("P")
T = TypeVar("T")

_FORK_PATIENCE = 10.0
_TOUCH_LOCK_FILES = frozenset({Register, Unregister, ReapWorkers})


class SQLiteStore(Store):
    """Keeps everything in one SQLite file; see ``durable_core.ports.Store`` for the contract.

    Nothing is opened before :meth:`open`. Processes of one host may share the file. In a process
    made by ``os.fork`` an open store stays usable, with connections of its own.

    Args:
        path: the file; made absolute now. A new file gets mode 0600, a new directory 0700. Beside
            it lie ``-wal`` and ``-shm`` files and a ``.locks`` directory, and a ``-live`` file once
            something was streamed while several processes shared the store.
        unsafe_filesystem: allow a file system that may be on a network, and a file that belongs to
            another user.

    Raises:
        ConfigurationError: ``path`` is empty, a URL or ``":memory:"``.

    Attributes:
        channel: see ``durable_core.ports.Channel``.
    """

    reads_are_fast = True

    def __init__(self, path: str | os.PathLike[str], *, unsafe_filesystem: bool = False) -> None:
        self.path = store_path(path)
        self._unsafe_filesystem = unsafe_filesystem
        self._open_lock = threading.Lock()
        self._is_open = False
        self._handles: Connections | None = None
        self._inherited = False
        # SQLite follows links, too: each way to the file leads to one set of these.
        self._real_path = os.path.realpath(self.path)
        self._locks = LockFiles(self._real_path + ".locks")
        self.channel = LiveFile(self._real_path + "-live")
        self._hosts: set[str] = set()
        self._watchers: WeakSet[PolledWakeups] = WeakSet()
        forks.watch(self)

    def __repr__(self) -> str:
        return f"SQLiteStore({self.path!r})"

    def open(self) -> None:
        with self._open_lock:
            if self._is_open:
                return
            self._refuse_inherited()
            if not self._unsafe_filesystem:
                refuse_network_filesystem(self.path)
            try:
                create_private(self.path)
                if not self._unsafe_filesystem:
                    refuse_foreign_file(self.path)
            except OSError as error:
                raise _file_error(error, self.path) from error
            prepare(self.path)
            self._is_open = True

    def close(self) -> None:
        with self._open_lock:
            self._is_open = False
            if self._locks.pid == os.getpid():
                self._locks.close()
            self._disown_inherited()
            handles, self._handles = self._handles, None
            if handles is not None:
                handles.close()
        self.channel.close()

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        for write in writes:
            if type(write) in _TOUCH_LOCK_FILES:
                return self._commit_with_lock_files(writes, wait)
        while True:
            try:
                return self._live().commit(writes, wait)
            except ConnectionsClosedError:
                continue

    def _commit_with_lock_files(
        self, writes: Sequence[Write[object]], wait: float
    ) -> Sequence[object | BaseException]:
        locks = self._own_locks()
        registered = [write.worker for write in writes if isinstance(write, Register)]
        for worker in registered:
            locks.acquire(worker.id)
            self._hosts.add(worker.host)
        try:
            answers = self._on_connections(lambda handles: handles.commit(writes, wait))
        except BaseException:
            for worker in registered:
                locks.release(worker.id)
            raise
        self._remove_lock_files(writes)
        if registered:
            with contextlib.suppress(StoreError):  # files that are left over do no harm
                locks.remove_orphans({worker.id for worker in self.workers()})
        return answers

    def _remove_lock_files(self, writes: Sequence[Write[object]]) -> None:
        """Remove the files of those who left in this batch; a spared process keeps its own."""
        gone = {write.id for write in writes if isinstance(write, Unregister)}
        reaped = {id_ for write in writes if isinstance(write, ReapWorkers) for id_ in write.ids}
        if reaped:
            with contextlib.suppress(StoreError):  # the batch is durable; a file left does no harm
                gone |= reaped - {worker.id for worker in self.workers()}
        for id_ in gone:
            self._locks.release(id_)
            self._locks.remove(id_)

    def run_maintenance(self) -> None:
        self._on_connections(Connections.checkpoint)
        self._on_connections(Connections.match_part)

    def change_counter(self) -> tuple[int, ...]:
        """Return a value that changes when another process, or maintenance, has committed.

        If several applications of this process share the store object, it changes with each commit:
        none of them knows of those of the others.
        """
        with_own = len(self._watchers) > 1
        return self._on_connections(partial(Connections.change_counter, with_own=with_own))

    def now(self, local: int) -> int:
        return local

    def wakeups(self) -> Wakeups:
        wakeups = PolledWakeups(self.change_counter)
        self._watchers.add(wakeups)
        return wakeups

    def event_seq(self, app: str) -> int:
        return self._read(reads.event_seq)

    def result(self, app: str, run_id: str) -> StoredResult | Phase | None:
        return self._read(reads.result, app, run_id)

    def keyed_run(self, app: str, key: IdempotencyKey, now: int) -> Begun | None:
        return self._read(reads.keyed_run, app, key, now)

    def read_stream(
        self,
        app: str,
        run_id: str,
        *,
        done: int,
        outside: int,
        most: int,
        begin: StreamPlace | None = None,
    ) -> StoredStream | None:
        return self._read(reads.read_stream, app, run_id, done, outside, most, begin)

    def stream_versions(self, app: str, run_ids: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
        return self._read(reads.stream_versions, app, run_ids)

    def which_ended(self, app: str, run_ids: Sequence[str]) -> Sequence[str]:
        return self._read(reads.which_ended, app, run_ids)

    def next_due(self, app: str, keys: Sequence[str], *, slots: Sequence[Slots] = ()) -> int | None:
        return self._read(reads.next_due, app, keys, slots)

    def unclaimable(self, app: str, keys: Sequence[str], now: int) -> Sequence[RunRecord]:
        return self._read(reads.unclaimable, app, keys, now)

    def abandoned_children(
        self, app: str, parents: Sequence[str] | None = None
    ) -> Sequence[RunRecord]:
        return self._read(reads.abandoned_children, app, parents)

    def cancelled_runs(self, owner: str) -> Sequence[str]:
        return self._read(reads.cancelled_runs, owner)

    def matched_waits(self, owner: str) -> Sequence[tuple[str, str, StoredEvent]]:
        return self._read(reads.matched_waits, owner)

    def held(self, owner: str) -> Mapping[str, int]:
        return self._read(reads.held, owner)

    def workers(self) -> Sequence[WorkerRecord]:
        return self._read(reads.workers)

    def dead_workers(self, workers: Sequence[WorkerRecord]) -> Sequence[str]:
        locks = self._own_locks()
        return [
            each.id for each in workers if each.host in self._hosts and locks.owner_is_dead(each.id)
        ]

    def get(self, app: str, run_id: str) -> RunRecord | None:
        return self._read(reads.find_run, app, run_id)

    def progress(self, app: str, run_id: str) -> RunProgress | None:
        return self._read(reads.progress, app, run_id)

    def list(self, app: str, *, where: RunFilter = ANY_RUN, limit: int) -> Sequence[RunRecord]:
        return self._read(reads.find_runs, app, where, limit)

    def request(self, app: str, run_id: str) -> StoredRequest | None:
        return self._read(reads.find_request, app, run_id)

    def recent_events(self, app: str, limit: int) -> Sequence[RecentEvent]:
        return self._read(reads.recent_events, app, limit)

    def apps(self) -> Sequence[str]:
        return self._read(reads.apps)

    def usage(self, app: str, *, principal: str | None = None, most: int) -> Usage:
        return self._read(reads.usage, app, principal, most)

    def secrets(self) -> Sequence[StoredSecret]:
        return self._read(reads.secrets)

    def before_fork(self) -> None:
        """Close the connections and keep them closed; for ``forks``."""
        self._open_lock.acquire()
        self.channel.before_fork()
        handles, self._handles = self._handles, None
        if handles is not None and not handles.close(_FORK_PATIENCE):
            self._handles = handles

    def after_fork(self) -> None:
        """Allow connections again, in the parent and in the child; for ``forks``."""
        self._disown_inherited()
        # Whoever uses a connection of the parent still will close it.
        self._handles = None
        self.channel.after_fork()
        self._open_lock.release()

    def _read(
        self,
        query: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        while True:
            try:
                return self._live().read(query, *args, **kwargs)
            except ConnectionsClosedError:
                continue

    def _on_connections(self, action: Callable[[Connections], T]) -> T:
        while True:
            try:
                return action(self._live())
            except ConnectionsClosedError:
                continue

    def _live(self) -> Connections:
        """Return the connections of this process."""
        handles = self._handles
        if handles is not None and handles.pid == process_id():
            return handles
        with self._open_lock:
            return self._renew()

    def _renew(self) -> Connections:
        if not self._is_open:
            raise StoreError(f"the store {self.path} is not open")
        self._refuse_inherited()
        if self._handles is None:
            self._handles = Connections(self.path)
        return self._handles

    def _refuse_inherited(self) -> None:
        self._disown_inherited()
        if self._inherited:
            raise StoreError(
                f"the store {self.path} was in use while this process was forked, "
                "and cannot be used here; open stores after forking"
            )

    def _disown_inherited(self) -> None:
        """Put away connections that came through a fork: never used again, and never closed."""
        if self._handles is not None and self._handles.pid != os.getpid():
            forks.abandon(self._handles)
            self._handles = None
            self._inherited = True

    def _own_locks(self) -> LockFiles:
        if self._locks.pid != os.getpid():
            self._locks = LockFiles(self._real_path + ".locks")
        return self._locks


def _file_error(error: OSError, path: str) -> StoreError:
    text = f"the store {path} cannot be made: {error.strerror}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreReadOnlyError(text)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFullError(text)
    return StoreError(text)
