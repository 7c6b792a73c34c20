"""Leaving on a signal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["leaving_on_signals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def leaving_on_signals(leave: Callable[[], object], wake: int = -1) -> Iterator[None]:
    """Call ``leave`` on SIGTERM and SIGINT; restore the former handlers afterwards.

    Nothing is done outside the main thread, where no handler can be set.

    Args:
        leave: called in the main thread, between two of its instructions.
        wake: a file descriptor that something is written to on each signal. Handlers run when the
            main thread gets to it: a signal that comes right before that thread begins to wait
            does not end the wait, unless it waits for this descriptor, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {each: signal.signal(each, lambda *_: leave()) for each in _SIGNALS}
    former_wake = signal.set_wakeup_fd(wake, warn_on_full_buffer=False) if wake >= 0 else None
    try:
        yield
    finally:
        if former_wake is not None:
            signal.set_wakeup_fd(former_wake)
        for each, handler in former.items():
            signal.signal(each, handler)
