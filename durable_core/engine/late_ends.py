"""Ends of runs that are queued for the store while their threads have gone on to other runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from durable_core.flow.effects import Flow
from durable_core.runners.thread import ThreadRun
from durable_core.runners.thread_pool import DaemonThreadPool

__all__ = ["LateEnds"]


class LateEnds:
    """The runs whose ends are queued, each with the rest of its flow, which waits for the commit.

    May be used by several threads.

    Args:
        pool: its threads take the rests after the runs that wait for a thread.
        finish: takes a rest, once; it raises nothing.
    """

    def __init__(
        self, pool: DaemonThreadPool, finish: Callable[[ThreadRun, Flow[None]], object]
    ) -> None:
        self._pool = pool
        self._finish = finish
        #: In their order, and since when, by the monotonic clock, seconds.
        self._rests: dict[ThreadRun, tuple[Flow[None], float]] = {}

    def add(self, run: ThreadRun, rest: Flow[None]) -> None:
        """Leave the rest of a run's flow for later."""
        self._rests[run] = rest, time.monotonic()
        finish = partial(self._finish_once, run)
        try:
            self._pool.run_soon(finish)
        except RuntimeError:  # the process has stopped
            finish()

    def finish_waiting(self, older_than: float) -> None:
        """Take the rests that have waited for longer than so many seconds, in this thread.

        All threads of the pool may have long handlers, and a run whose end the store has refused
        must be released.
        """
        since = time.monotonic() - older_than
        for run, (_, added) in self._rests.copy().items():
            if added > since:
                return
            self._finish_once(run)

    def _finish_once(self, run: ThreadRun) -> None:
        found = self._rests.pop(run, None)
        if found is not None:
            self._finish(run, found[0])
