"""The streams of all runs in this process, by run."""

from __future__ import annotations

import threading
from collections.abc import Callable

from durable_core.flow.execution import Execution, StoredExecution
from durable_core.ports import Checkpoint, Store
from durable_core.runners.live import ActiveRuns
from durable_core.streams.log import RunLog
from durable_core.streams.publisher import Publisher
from durable_core.streams.relay import StreamRelay

__all__ = ["StreamHub"]


class StreamHub:
    """Makes the log of a run when code pushes or a client reads, and drops it afterwards.

    Args:
        live: the live runs of this process.
        relay: carries streams between processes; None if the store has no channel.

    Attributes:
        logs: what is streamed now, by run.
        lock: held while a stream is opened.
    """

    def __init__(self, live: ActiveRuns, relay: StreamRelay | None = None) -> None:
        self._live = live
        self._relay = relay
        self.lock = threading.Lock()
        self.logs: dict[str, RunLog] = {}
        self._publishers: dict[str, Publisher] = {}
        self._lookers: dict[str, list[Callable[[], None]]] = {}
        self._marks: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self.logs)

    @property
    def readers(self) -> int:
        """How many clients read a stream here."""
        with self.lock:
            return sum(len(log.wakers) for log in self.logs.values())

    # -- executions -------------------------------------------------------------------------

    def begin(self, ex: Execution) -> None:
        """Connect a new live execution to the clients that already wait for its stream."""
        ex.stream_opener = self.open
        if self.logs and ex.run.id in self.logs:
            ex.open_stream()

    def open(self, ex: Execution) -> Publisher | None:
        """Return the stream of an execution, and make it if necessary; None if it is closed."""
        with self.lock:
            return self._publisher_of(ex)

    def _publisher_of(self, ex: Execution) -> Publisher | None:
        if isinstance(ex.stream, Publisher):
            return ex.stream  # another thread was first
        if ex.closed:
            return None  # threads it left behind must not replace a later execution's publisher
        assert isinstance(ex, StoredExecution)
        run_id = ex.run.id
        log = self.logs.get(run_id)
        if log is None:
            log = self.logs[run_id] = RunLog(run_id)
        publisher = self._publishers[run_id] = Publisher(ex, log)
        log.attach_publisher(publisher)
        ex.stream = publisher
        if self._relay is not None:
            self._relay.publish(publisher)
        return publisher

    def end(self, ex: Execution) -> None:
        """End the stream of an execution; its log stays as long as a client reads."""
        with self.lock:
            ex.stream_opener = None
            publisher = ex.stream
        if not isinstance(publisher, Publisher):
            return
        publisher.end()
        if self._relay is not None:
            self._relay.withdraw(publisher)
        with self.lock:
            if self._publishers.get(ex.run.id) is publisher:
                del self._publishers[ex.run.id]
            self._drop_unused(publisher.log)
            is_stored = isinstance(ex, StoredExecution) and ex.stored
            lookers = [] if is_stored else self._lookers.get(ex.run.id, [])[:]
        for look in lookers:  # nothing else wakes those who read a run without a record
            look()

    def committed(self, write: Checkpoint) -> None:
        """Process a durable write. Called in the order of the commits, in any thread."""
        publisher = self._publishers.get(write.run_id)
        if publisher is not None:
            publisher.committed(write)
            return
        for look in self._lookers.get(write.run_id, ())[:]:  # of a run that is not live here
            look()

    # -- readers ----------------------------------------------------------------------------

    def join(self, run_id: str, wake: Callable[[], None], look: Callable[[], None]) -> RunLog:
        """Return the log of a run for one more reader, which will :meth:`leave` it.

        Args:
            run_id: the run.
            wake: called when the log has something new.
            look: called when the store has something new that is in no log here.
        """
        with self.lock:
            self._lookers.setdefault(run_id, []).append(look)
            log = self.logs.get(run_id)
            if log is None:
                log = self.logs[run_id] = RunLog(run_id)
            log.follow(wake)
            if self._relay is not None:
                self._relay.follow(log)
            live = self._live.get(run_id)
            if live is not None and live.ex.stream_opener is not None:
                self._publisher_of(live.ex)
            return log

    def watch(self, log: RunLog, look: Callable[[], None]) -> None:
        """Have a reader look that follows the log already, and now must know of other processes."""
        with self.lock:
            self._lookers.setdefault(log.run_id, []).append(look)
            if self._relay is not None:
                self._relay.follow(log)

    def leave(
        self, log: RunLog, wake: Callable[[], None], look: Callable[[], None] | None = None
    ) -> None:
        """Remove a reader."""
        log.leave(wake)
        with self.lock:
            if look is not None:
                lookers = self._lookers[log.run_id]
                lookers.remove(look)
                if not lookers:
                    del self._lookers[log.run_id]
                    self._marks.pop(log.run_id, None)
                    if self._relay is not None:
                        self._relay.unfollow(log)
            self._drop_unused(log)

    def poll_others(self, store: Store, app: str) -> None:
        """Wake the readers of runs that another process has continued. For one thread."""
        with self.lock:
            wanted = [run_id for run_id in self._lookers if run_id not in self._publishers]
        if not wanted:
            return
        marks = store.stream_versions(app, wanted)
        with self.lock:
            changed = [run_id for run_id in wanted if self._marks.get(run_id) != marks.get(run_id)]
            self._marks.update((run_id, mark) for run_id, mark in marks.items())
            lookers = [look for run_id in changed for look in self._lookers.get(run_id, ())]
        for look in lookers:
            look()

    # -- other processes --------------------------------------------------------------------

    def share(self, is_shared: bool) -> None:
        """Publish streams to other processes if there are any; otherwise stop publishing."""
        if self._relay is not None:
            with self.lock:
                self._relay.share(is_shared, self._publishers.values())

    def stop(self) -> None:
        """Stop publishing to other processes."""
        if self._relay is not None:
            self._relay.stop()

    def _drop_unused(self, log: RunLog) -> None:
        if not log.wakers and log.run_id not in self._publishers:
            self.logs.pop(log.run_id, None)
