"""How a process learns that its server was asked to stop, while requests are still open.

Servers wait for open requests before they call their last hook, such as the end of an ASGI
lifespan. A request that is held open on purpose cannot wait for that hook.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from durable_core.platform import logger

__all__ = ["SignalEvent", "StopNotice"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Seconds between two looks at the event by which hypercorn stops its workers. hypercorn itself
#: looks every 0.1 s.
_LOOK_EVERY = 0.05
#: Seconds between two looks at whether a signal has come.
_LOOK_FOR_SIGNAL = 0.5


class SignalEvent:
    """An event that the handler of a signal may set.

    The handler of a signal may not set a ``threading.Event``. Python runs it between two
    instructions of the main thread. If that thread waits for the event, it may hold the event's
    lock just then, and would wait for itself for ever.
    """

    def __init__(self) -> None:
        from queue import SimpleQueue  # not needed by who imports the package

        self._is_set = False
        # Its put() may be called in a signal handler.
        self._wake: SimpleQueue[None] = SimpleQueue()

    def is_set(self) -> bool:
        """Return whether it was set."""
        return self._is_set

    def set(self) -> None:
        """Let all threads that wait go on, within half a second."""
        self._is_set = True
        self._wake.put(None)

    def wait(self) -> None:
        """Wait until it is set.

        A signal that comes right before a wait of the main thread, or that another thread takes,
        does not end that wait. So it looks again from time to time.
        """
        from queue import Empty

        while not self._is_set:
            try:
                self._wake.get(timeout=_LOOK_FOR_SIGNAL)
            except Empty:
                continue


class StopNotice:
    """Calls a function when the server of this process is asked to stop.

    The server's own signal handlers go on working: this one is called first, and calls them. A
    signal without a handler keeps its default action. :meth:`close` restores what was there.

    Only the main thread can set handlers. Elsewhere signals give no notice.

    Args:
        call: called in a thread of its own, once for each signal. A signal handler runs in the
            middle of the main thread's work, which may hold a lock that ``call`` needs.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        from queue import SimpleQueue  # not needed by who imports the package

        self._call = call
        # Its put() may be called in a signal handler. True: asked to stop; False: closed.
        self._notices: SimpleQueue[bool] = SimpleQueue()
        self._handler = self._on_signal
        self._former: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._stop_event = _hypercorn_stop_event()
        if threading.current_thread() is threading.main_thread():
            self._set_handlers()
        if self._former or self._stop_event is not None:
            threading.Thread(target=self._wait, name="durable-stop-notice", daemon=True).start()

    def close(self) -> None:
        """Give no more notice, and restore the former handlers."""
        self._notices.put(False)
        if threading.current_thread() is not threading.main_thread():
            return
        for number, former in self._former.items():
            if signal.getsignal(number) == self._handler:  # else another one calls this one
                signal.signal(number, former)

    def __enter__(self) -> Self:
        """Return the notice."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _set_handlers(self) -> None:
        for number in _SIGNALS:
            former = signal.getsignal(number)
            if callable(former) and former is not signal.default_int_handler:
                self._former[number] = former
                signal.signal(number, self._handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._notices.put(True)
        self._former[number](number, frame)

    def _wait(self) -> None:
        while self._next_notice():
            try:
                self._call()
            except Exception:
                logger.exception("clients could not be handed on before the server stops")

    def _next_notice(self) -> bool:
        """Wait for a notice; return False when it is closed."""
        if self._stop_event is None:
            return self._notices.get()
        from queue import Empty

        while not self._stop_event.is_set():
            try:
                return self._notices.get(timeout=_LOOK_EVERY)
            except Empty:
                continue
        self._stop_event = None
        return True


def _hypercorn_stop_event() -> Any:
    """Return the event by which hypercorn stops this process; None where it is no such worker.

    hypercorn sends its workers no signal. The event is an argument of the worker's process, and is
    shown to applications in no other way.
    """
    if "hypercorn" not in sys.modules:
        return None
    import multiprocessing

    arguments = getattr(multiprocessing.current_process(), "_kwargs", {})
    return arguments.get("shutdown_event")
