"""Lock files, by which processes of one host see at once that another has died.

Each registered process holds a POSIX record lock on ``<store>.locks/<id>``; the kernel lets go of
it when the process ends, however it ends. Two properties of these locks shape this module. They
never exclude within one process, so what this process holds is kept in a table. And closing *any*
descriptor of a file drops the process's lock on it, so a file of ours is never opened twice.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Set
from typing import Protocol
from urllib.parse import quote, unquote
from weakref import WeakSet

__all__ = [
    "Forkable",
    "LockFiles",
    "abandon",
    "watch",
]


# --- forks ----------------------------------------------------------------------------------------
#
# No SQLite connection lives through a fork.
#
# SQLite keeps a table of its locks per process. A child inherits the table but not the locks, so a
# connection that it opens *itself* on the same file believes to hold locks that it does not, and
# loses what it commits when the parent closes. Hence every store closes its connections before a
# fork and opens them again, on next use, on both sides.


class Forkable(Protocol):
    """What is told about forks."""

    def before_fork(self) -> None:
        """Close everything and keep it closed."""
        ...

    def after_fork(self) -> None:
        """Allow use again; in the parent and in the child."""
        ...


_watched: WeakSet[Forkable] = WeakSet()
_watched_lock = threading.Lock()
_paused: list[Forkable] = []
_abandoned: list[object] = []


def watch(store: Forkable) -> None:
    """Tell the store about forks for as long as it lives."""
    with _watched_lock:
        _watched.add(store)


def abandon(inherited: object) -> None:
    """Keep what must not be closed by this process, so that it is never collected."""
    _abandoned.append(inherited)


def _before() -> None:
    _watched_lock.acquire()
    _paused[:] = _watched
    for store in _paused:
        store.before_fork()


def _after() -> None:
    while _paused:
        _paused.pop().after_fork()
    _watched_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)


# --- processes ------------------------------------------------------------------------------------

if sys.platform == "win32":

    def _lock(fd: int, *, shared: bool) -> bool:
        return False  # Nothing is held, so nothing is ever proven.

else:
    import fcntl

    def _lock(fd: int, *, shared: bool) -> bool:
        """Try to lock the file; False if another process has it or the system cannot."""
        try:
            fcntl.lockf(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


#: A lock file is left alone for so many seconds after it was made.
_YOUNG = 60.0
#: The descriptors this process holds locked, by process id (for a fork copies the table) and path.
_held: dict[tuple[int, str], int] = {}
_held_lock = threading.Lock()


def _forget_lock() -> None:
    """In a child, no thread would let go of a lock that one of its parent held."""
    global _held_lock
    _held_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


class LockFiles:
    """The lock files of one store, as one ``SQLiteStore`` sees them.

    Args:
        directory: where they are; made with mode 0700 when it is needed.
    """

    def __init__(self, directory: str) -> None:
        self.pid = os.getpid()
        self._directory = directory
        self._mine: set[str] = set()

    def acquire(self, id_: str) -> None:
        """Lock the file of a process of ours, making it. Without locks this does nothing.

        To be called before others can learn of the process: a file that is not locked is a proof
        of death.
        """
        path = self._path(id_)
        with _held_lock, contextlib.suppress(OSError):
            key = (self.pid, path)
            if key in _held and not _is_same_file(_held[key], path):
                os.close(_held.pop(key))  # Somebody reaped us; the file is gone.
            if key not in _held:
                os.makedirs(self._directory, mode=0o700, exist_ok=True)
                fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                if not _lock(fd, shared=False):
                    os.close(fd)
                    return
                _held[key] = fd
            self._mine.add(id_)

    def release(self, id_: str) -> None:
        """Remove the file of a process of ours and unlock it."""
        if id_ in self._mine:
            self.remove(id_)
            self._unlock(id_)

    def close(self) -> None:
        """Unlock all our files and leave them: whoever finds one knows that its process is gone."""
        for id_ in tuple(self._mine):
            self._unlock(id_)

    def remove(self, id_: str) -> None:
        """Remove the file of a process that is gone."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(id_))

    def remove_orphans(self, known: Set[str]) -> None:
        """Remove the files of processes that are gone and were never, or are not, known.

        A young file may be of a process that is about to lock it.
        """
        try:
            entries = [(each.name, each.stat().st_mtime) for each in os.scandir(self._directory)]
        except OSError:
            return
        oldest = time.time() - _YOUNG
        for name, made_at in entries:
            id_ = unquote(name)
            if made_at < oldest and id_ not in known and self.owner_is_dead(id_):
                self.remove(id_)

    def owner_is_dead(self, id_: str) -> bool:
        """Tell whether the file is there and no process holds it."""
        path = self._path(id_)
        with _held_lock:
            if (os.getpid(), path) in _held:
                return False
            try:
                fd = os.open(path, os.O_RDWR)
            except OSError:
                return False
            try:
                return _lock(fd, shared=True)
            finally:
                os.close(fd)

    def _path(self, id_: str) -> str:
        return os.path.join(self._directory, quote(id_, safe=""))

    def _unlock(self, id_: str) -> None:
        self._mine.discard(id_)
        with _held_lock:
            fd = _held.pop((self.pid, self._path(id_)), None)
            if fd is not None:
                os.close(fd)


def _is_same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
