"""The highest event sequence number, without asking the store for it at every request and step."""

from __future__ import annotations

import threading

from durable_core.ports import Store

__all__ = ["EventMark"]


class EventMark:
    """Reads the highest event sequence number, and remembers it until it may have changed.

    Where events are matched from, a number that is too low errs on the safe side: the event is
    still found. May be used by several threads.
    """

    def __init__(self, store: Store, app: str) -> None:
        self._store = store
        self._app = app
        self._lock = threading.Lock()
        self._known = 0
        self._is_current = False
        self._is_shared = True  # until the keeper has looked

    def recent(self) -> int:
        """Return a number that counts every event of this process, and of those known to be there.

        Those of a process that has just come are counted once the keeper has noticed it, up to
        0.1 s later. To the run or step that asks, they seem to have come after it began.
        """
        return self._known if self._is_current else self._read()

    def _read(self) -> int:
        # Before reading, so that a change meanwhile is not missed.
        self._is_current = not self._is_shared
        try:
            mark = self._store.event_mark(self._app)
        except BaseException:
            self._is_current = False
            raise
        with self._lock:
            self._known = max(self._known, mark)
            return self._known

    def share(self, shared: bool) -> None:
        """Note whether other processes may store events, too; then every step asks the store."""
        self._is_shared = shared
        if shared:
            self._is_current = False

    def changed(self) -> None:
        """Note that there may be newer events."""
        self._is_current = False
