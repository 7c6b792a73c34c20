"""Who uses a store object in this process: it stays open until the last of them is done.

Several applications may have one store object. ``Store.open`` and ``Store.close`` do not count, so
whoever closes asks here whether somebody else still works with the object.
"""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from durable_core.platform import process_id
from durable_core.ports import Store

__all__ = ["StoreUse"]


class StoreUse:
    """The use of a store object by one of those who have it.

    Args:
        store: the store. Others may open and close it in the same way.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def open(self) -> None:
        """Open the store in this process, also for this use. Does nothing if that is so.

        Raises:
            StoreVersionError: see ``Store.open``.
            StoreError: see ``Store.open``.
        """
        here = _here()
        was_open = here.lock_of(self) is not None
        with here.add(self):
            try:
                self.store.open()
            except BaseException:
                if not was_open:
                    here.remove(self)
                raise

    def close(self) -> None:
        """End this use; close the store if it was the last one in this process.

        Does nothing if it was not opened here, such as in the child of the process that did it.
        """
        here = _here()
        lock = here.lock_of(self)
        if lock is None:
            return
        with lock:
            try:
                if here.is_last(self):
                    self.store.close()
            finally:
                here.remove(self)  # afterwards: who opens it meanwhile waits for this lock


class _Uses:
    """The uses in one process, each with the lock of its store, and the lock of that table.

    The lock of a store is held while that opens or closes: nobody may find it open that is about to
    be closed. Each store has its own, since one that is locked takes seconds to open. That of the
    table is held for moments only; a store may be around another one, which it opens and closes.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # A use that is dropped without an end does not keep the store open for ever.
        self._locks: WeakKeyDictionary[StoreUse, threading.RLock] = WeakKeyDictionary()

    def lock_of(self, use: StoreUse) -> threading.RLock | None:
        """Return the lock of the store; None if that is not open for this use."""
        with self._lock:
            return self._locks.get(use)

    def add(self, use: StoreUse) -> threading.RLock:
        """Add a use, and return the lock of its store."""
        with self._lock:
            found = (lock for each, lock in self._locks.items() if each.store is use.store)
            lock = self._locks[use] = next(found, None) or threading.RLock()
            return lock

    def remove(self, use: StoreUse) -> None:
        """Remove a use, if it is there."""
        with self._lock:
            self._locks.pop(use, None)

    def is_last(self, use: StoreUse) -> bool:
        """Tell whether there is this use of its store, and no other one."""
        with self._lock:
            return [use] == [each for each in self._locks if each.store is use.store]


#: By process: a fork may have happened while a thread of the parent held a lock.
_uses: dict[int, _Uses] = {}


def _here() -> _Uses:
    return _uses.setdefault(process_id(), _Uses())
