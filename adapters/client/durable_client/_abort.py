"""How another thread ends a call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Abort"]


class Abort:
    """Ends the calls that it was given to; ``set`` it in any thread."""

    __slots__ = ("_callbacks", "_is_set", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[object, Callable[[], None]] = {}
        self._is_set = False

    def is_set(self) -> bool:
        """Tell whether it was set. It stays set."""
        return self._is_set

    def set(self) -> None:
        """End the calls that it was given to, now and in future."""
        with self._lock:
            self._is_set = True
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            callback()

    @contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call ``callback`` once, in the thread that sets this, while the context lasts.

        It is called at once if this is set already. It must neither raise nor block.
        """
        key = object()
        with self._lock:
            is_late = self._is_set
            if not is_late:
                self._callbacks[key] = callback
        if is_late:
            callback()
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.pop(key, None)
