"""Who uses a store object in this process: it stays open until the last of them is done.

Several applications may have one store object. ``Store.open`` and ``Store.close`` do not count, so
whoever closes asks here whether somebody else still works with the object.
"""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from durable_core.platform import process_id
from durable_core.ports import Store

__all__ = ["close_unused", "open_for"]


class _Users:
    """The users of one process, each with its store, and the lock of that table."""

    def __init__(self) -> None:
        # A store is opened and closed under it: nobody may find it open that is about to be closed.
        # A store may be around another one, which it opens and closes, too.
        self.lock = threading.RLock()
        # A user that is dropped without an end does not keep the store open for ever.
        self.stores: WeakKeyDictionary[object, Store] = WeakKeyDictionary()


#: By process: a fork may have happened while a thread of the parent held the lock.
_users: dict[int, _Users] = {}


def _here() -> _Users:
    return _users.setdefault(process_id(), _Users())


def open_for(user: object, store: Store) -> None:
    """Open a store in this process, for this user, too. Does nothing if that is so.

    Raises:
        StoreVersionError: see ``Store.open``.
        StoreError: see ``Store.open``.
    """
    here = _here()
    with here.lock:
        store.open()
        here.stores[user] = store


def close_unused(user: object, store: Store) -> None:
    """End the use of a store by this user; close it if it was the last one of this process."""
    here = _here()
    with here.lock:
        here.stores.pop(user, None)
        if not any(each is store for each in here.stores.values()):
            store.close()
