"""No SQLite connection lives through a fork.

SQLite keeps a table of its locks per process. A child inherits the table but not the locks, so a
connection that it opens *itself* on the same file believes to hold locks that it does not, and
loses what it commits when the parent closes. Hence every store closes its connections before a
fork and opens them again, on next use, on both sides.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import WeakSet

__all__ = ["Forkable", "abandon", "watch"]


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
