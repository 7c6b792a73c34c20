"""Serve with waitress, and stop without cutting clients off.

waitress sets no signal handlers, so SIGTERM ends ``waitress-serve`` at once, in the middle of its
responses.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any
from wsgiref.types import WSGIApplication

from waitress.server import create_server

from durable_core.adapters import stop_on_signals
from durable_wsgi._app import Startable, durables_of

__all__ = ["serve"]

#: What waitress has, unless the options say otherwise.
_THREADS = 4
#: Seconds between two looks at whether responses are still being sent.
_LOOK_EVERY = 0.02


def serve(application: WSGIApplication, *, stop_timeout: float = 10.0, **options: Any) -> None:
    """Serve in this thread until SIGTERM or SIGINT, then stop in good order.

    The engines of the application are started before. On the first signal the server accepts no
    more connections and clients that wait are handed on; open responses and steps in flight can
    finish. A second signal ends the server at once.

    Args:
        application: a WSGI callable. Its ``durables`` are started and stopped; an application of
            another framework is given that attribute.
        stop_timeout: seconds for open responses and steps in flight to finish.
        options: as for ``waitress.serve``, such as ``port`` and ``threads``.

    Raises:
        StoreError: a store cannot be opened.
        OSError: the address cannot be had.
        RuntimeError: called outside the main thread, which alone gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("serve() must be called in the main thread, to be told of signals")
    sockets: dict[int, Any] = {}
    server = create_server(application, map=sockets, **options)
    durables = durables_of(application)
    for durable in durables:
        durable.start(server_threads=options.get("threads", _THREADS))
    end = _End(sockets, durables, stop_timeout)
    with stop_on_signals(end.on_signal):
        server.print_listen("Serving on http://{}:{}")
        server.run()  # which returns after a SystemExit
    for durable in durables:
        durable.stop(end.time_left())


class _End:
    """The end of a server.

    Args:
        sockets: the listening sockets and the connections of waitress, by descriptor.
        durables: what hands clients on.
        timeout: seconds that it may take.
    """

    def __init__(
        self, sockets: dict[int, Any], durables: Sequence[Startable], timeout: float
    ) -> None:
        self._sockets = sockets
        self._durables = durables
        self._timeout = timeout
        self._deadline = 0.0
        self._is_ending = False
        # Its put() may be called in a signal handler, even in the middle of another one.
        self._begin: SimpleQueue[None] = SimpleQueue()
        threading.Thread(target=self._run, name="durable-waitress-end", daemon=True).start()

    def on_signal(self) -> None:
        """Begin the end; the second time, end the server's loop."""
        if self._is_ending:
            raise SystemExit
        self._is_ending = True
        self._begin.put(None)

    def time_left(self) -> float:
        """Return the seconds that are left of the timeout."""
        return max(0.0, self._deadline - time.monotonic())

    def _run(self) -> None:
        self._begin.get()
        self._deadline = time.monotonic() + self._timeout
        for each in list(self._sockets.values()):
            if each.accepting:
                each.accepting = False
        for durable in self._durables:
            durable.drain()
        while self._is_busy() and self.time_left():
            time.sleep(_LOOK_EVERY)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _is_busy(self) -> bool:
        """Return whether a request is being answered, or its response is not yet sent."""
        return any(
            getattr(each, "requests", None) or getattr(each, "total_outbufs_len", 0)
            for each in list(self._sockets.values())
        )
