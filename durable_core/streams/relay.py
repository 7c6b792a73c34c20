"""Streams between processes: what runs of this one stream, and what others tell of theirs.

A thread carries both, every 10 or 20 ms, while there is something to carry. Nothing waits for it,
and nothing durable depends on it: without it, readers get each step from the store once it is
there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from durable_core.errors import StoreError
from durable_core.flow.stream_reader import LogPosition
from durable_core.model.stream import Committed, LiveStream, OpenAttempt, Pushed, Streamed
from durable_core.platform import logger
from durable_core.ports import Channel, ChannelWrite, LiveExecution
from durable_core.streams.log import LiveAttempt, PrefixView, RunLog
from durable_core.streams.publisher import Publisher

__all__ = ["RemoteReader", "RemoteStream", "RemoteWriter", "StreamRelay"]

#: About how many bytes of chunks one execution writes at a time.
_MOST_WRITTEN = 1024 * 1024
#: How many events are read at a time.
_MOST_READ = 256
#: Seconds between two batches that are written.
_PAUSE = 0.02
#: Seconds between two looks at what others write: whether there is anything new costs next to
#: nothing to ask.
_LOOK = 0.01
#: Seconds without a look after the channel has failed.
_RETRY = 1.0
#: What was written so many seconds ago is removed, as its process has died, or writes it again.
_OLD = 3600.0
#: Seconds between two times that old messages are removed.
_PRUNING = 60.0


class RemoteWriter:
    """A reader of a run's log that passes on what it reads.

    It has no queue, like every reader. When it has fallen behind what the log keeps, or has told
    a lot, it begins anew with what is open. Before the run is stored nobody else can know of it,
    and so nothing is told.

    Args:
        publisher: of the execution.
        most: begin anew after so many bytes of chunks.
        wake_relay: called, from the thread that pushes, when there is something to tell.
    """

    def __init__(self, publisher: Publisher, most: int, wake_relay: Callable[[], None]) -> None:
        self.execution = (publisher.log.run_id, publisher.epoch)
        self._publisher = publisher
        self._most = most
        self._wake_relay = wake_relay
        self._is_due = True
        self._place: LogPosition | None = None
        self._size = self._room = 0
        publisher.log.follow(self.wake)

    def wake(self) -> None:
        """There is something to tell."""
        if not self._is_due:
            self._is_due = True
            self._wake_relay()

    def leave(self) -> None:
        """Read no more."""
        self._publisher.log.leave(self.wake)

    def next_write(self) -> ChannelWrite | None:
        """Return what there is to tell; None for nothing."""
        if not self._is_due:
            return None
        self._is_due = False
        if not self._publisher.is_stored:
            return None
        events = self._new_events()
        if events is None:
            return self._beginning()
        run_id, epoch = self.execution
        return ChannelWrite(run_id=run_id, epoch=epoch, events=events) if events else None

    def begin_anew(self) -> None:
        """What it has told is gone."""
        self._place = None
        self.wake()

    def _new_events(self) -> list[Streamed] | None:
        """Return the events since the last time; None if it must begin anew."""
        events: list[Streamed] = []
        size = 0
        while self._place is not None:
            batch = self._publisher.log.read(self._place)
            if batch is None or self._size + size > self._room:
                return None
            if not batch.events:
                self._size += size
                return events
            self._place = LogPosition(self._place.generation, batch.index)
            events += batch.events
            size += _size_of(batch.events)
            if size >= _MOST_WRITTEN:
                self._size += size
                self.wake()
                return events
        return None

    def _beginning(self) -> ChannelWrite | None:
        place, live = self._publisher.log.snapshot()
        run_id, epoch = self.execution
        if live is None or live.epoch != epoch:
            return None  # a later execution has the log
        chunks = (
            Pushed(text=text, index=index, op_id=opened.op_id, attempt=attempt)
            for attempt, opened in live.attempts.items()
            for index, text in enumerate(opened.texts)
        )
        events = [*live.handler_chunks, *chunks]
        self._place, self._size = place, _size_of(events)
        self._room = self._size + self._most
        return ChannelWrite(run_id=run_id, epoch=epoch, events=events, done=live.done)


def _size_of(events: Iterable[Streamed]) -> int:
    return sum(len(event.text) for event in events if isinstance(event, Pushed))


class RemoteStream:
    """Another process's part of a stream, as far as it has been told; feeds a log from there.

    Args:
        log: of the run.
        epoch: of the execution.
        done: see ``LiveStream.done``.
    """

    def __init__(self, log: RunLog, epoch: int, done: int) -> None:
        self.epoch = epoch
        self.is_remote, self.finished = True, False
        self._log = log
        self._done = done
        self._attempts: dict[str, LiveAttempt] = {}
        self._handler_chunks: list[Pushed] = []

    def feed(self, events: Iterable[Streamed]) -> None:
        """Take the next events.

        Raises:
            ValueError: one is missing before these.
        """
        with self._log.lock:
            for event in events:
                self._take(event)
                if self._log.source is self:
                    self._log.append(event, len(event.text) if isinstance(event, Pushed) else 0)

    def live(self) -> LiveStream:
        """Return what the store may not have yet. The log's lock is held."""
        return LiveStream(
            epoch=self.epoch,
            attempts={
                each.attempt: OpenAttempt(op_id=each.op_id, texts=PrefixView(each.texts))
                for each in self._attempts.values()
            },
            handler_chunks=tuple(self._handler_chunks),
            done=self._done,
            is_remote=True,
        )

    def _take(self, event: Streamed) -> None:
        if isinstance(event, Pushed):
            self._take_chunk(event)
            return
        if isinstance(event, Committed):
            self._done = max(self._done, event.number)
            self._attempts.pop(event.op_id, None)
            return
        attempt = self._attempts.get(event.op_id)
        if attempt is not None and attempt.attempt == event.attempt:
            del self._attempts[event.op_id]

    def _take_chunk(self, chunk: Pushed) -> None:
        if chunk.op_id is None or chunk.attempt is None:
            if self._handler_chunks and chunk.index != self._handler_chunks[-1].index + 1:
                raise ValueError("a chunk is missing")
            self._handler_chunks.append(chunk)
            return
        attempt = self._attempts.get(chunk.op_id)
        if attempt is None or attempt.attempt < chunk.attempt:
            attempt = self._attempts[chunk.op_id] = LiveAttempt(chunk.op_id, chunk.attempt)
        if attempt.attempt != chunk.attempt or chunk.index != len(attempt.texts):
            raise ValueError("a chunk is missing")
        attempt.texts.append(chunk.text)


class RemoteReader:
    """Reads what another process tells of a run, as it comes.

    Args:
        channel: of the store.
        log: who gets it.
        execution: as it was found in the channel.

    Attributes:
        broken: it cannot be used, and is read no more.
    """

    def __init__(self, channel: Channel, log: RunLog, execution: LiveExecution) -> None:
        self.execution = execution
        self.broken = False
        self.log = log
        self._channel = channel
        self._position = 0
        self._stream = RemoteStream(log, execution.epoch, execution.done)

    def advance(self) -> None:
        """Pass on what is new.

        Raises:
            ValueError, StoreError: it cannot be read; the reader is ``broken``.
        """
        if self.broken:
            return
        try:
            is_new = self._read_all()
        except BaseException:
            self.drop()
            self.broken = True
            raise
        if self.log.source is not self._stream:
            self.log.attach_remote(self._stream)
        elif is_new:
            self.log.wake()

    def _read_all(self) -> bool:
        """Read to the end: the beginning, of what was open, counts once it is whole."""
        before = self._position
        while True:
            rows = self._channel.read(self.execution, self._position, _MOST_READ)
            if rows:
                self._stream.feed(event for _, event in rows)
                self._position = rows[-1][0]
            if len(rows) < _MOST_READ:
                return self._position > before

    def drop(self) -> None:
        """Let readers of the run have what is stored, and no more."""
        self.log.detach_remote(self._stream)


class StreamRelay:
    """Tells other processes what runs of this one stream, and readers here what others tell.

    Only while other processes share the store. What goes wrong is logged once, is tried again a
    second later, and costs readers elsewhere what is not stored yet, and nothing else.

    Args:
        channel: of the store.
        most: how many bytes a run may stream, as JSON.
    """

    def __init__(self, channel: Channel, most: int) -> None:
        self._channel = channel
        self._most = most
        self._lock = threading.Lock()
        self._is_shared = False
        self._writers: dict[Publisher, RemoteWriter] = {}
        self._ended: list[tuple[str, int]] = []
        self._followed: dict[str, RunLog] = {}
        self._readers: dict[str, RemoteReader] = {}
        self._seen: tuple[tuple[int, int], tuple[str, ...]] | None = None
        self._thread: threading.Thread | None = None
        self._due = threading.Event()
        self._stopped = threading.Event()
        self._retry_at = self._prune_at = 0.0
        self._has_warned = False

    # -- what the process does --------------------------------------------------------------

    def share(self, is_shared: bool, publishers: Iterable[Publisher]) -> None:
        """Begin, or cease, because other processes are there, or are not."""
        if is_shared == self._is_shared:
            return
        with self._lock:
            self._is_shared = is_shared
            if is_shared:
                for publisher in publishers:
                    self._add(publisher)
            else:
                for publisher in list(self._writers):
                    self._withdraw(publisher)
        self._wake_thread()

    def publish(self, publisher: Publisher) -> None:
        """Tell what an execution streams from now on."""
        with self._lock:
            if self._is_shared:
                self._add(publisher)
        self._wake_thread()

    def withdraw(self, publisher: Publisher) -> None:
        """An execution is over."""
        with self._lock:
            if publisher in self._writers:
                self._withdraw(publisher)
        self._wake_thread()

    def follow(self, log: RunLog) -> None:
        """Somebody reads the stream of a run, wherever it is executed."""
        with self._lock:
            self._followed[log.run_id] = log
        self._wake_thread()

    def unfollow(self, log: RunLog) -> None:
        """Nobody does any more."""
        with self._lock:
            self._followed.pop(log.run_id, None)
        self._wake_thread()

    def stop(self) -> None:
        """Forget what was told, and end the thread."""
        self.share(False, ())
        with self._lock:
            self._followed.clear()
        self._stopped.set()
        self._wake_thread()
        thread = self._thread
        if thread is not None:
            thread.join()

    def _add(self, publisher: Publisher) -> None:
        if publisher not in self._writers:
            self._writers[publisher] = RemoteWriter(publisher, self._most, self._due.set)

    def _withdraw(self, publisher: Publisher) -> None:
        writer = self._writers.pop(publisher)
        writer.leave()
        self._ended.append(writer.execution)

    # -- the thread -------------------------------------------------------------------------

    def _wake_thread(self) -> None:
        with self._lock:
            if self._thread is None and self._has_work():
                self._thread = threading.Thread(
                    target=self._run, name="durable-channel", daemon=True
                )
                self._thread.start()
        self._due.set()

    def _has_work(self) -> bool:
        follows = self._is_shared and bool(self._followed)
        return bool(follows or self._writers or self._ended or self._readers)

    def _run(self) -> None:
        watches = False
        while True:
            if not watches:
                self._due.wait()
            self._due.clear()
            watches = self.run_once()
            with self._lock:
                if not self._has_work():
                    self._thread = None
                    return
            self._stopped.wait(_LOOK if watches else _PAUSE)

    def run_once(self) -> bool:
        """Carry what there is now; return whether there may be more. For one thread."""
        with self._lock:
            writers = list(self._writers.values())
            ended, self._ended = self._ended, []
            followed = dict(self._followed) if self._is_shared else {}
        elsewhere = {run_id: log for run_id, log in followed.items() if not log.is_executed}
        self._drop_readers(elsewhere)
        if time.monotonic() < self._retry_at:
            return True
        try:
            if ended:
                self._channel.remove(ended)  # first, as one may be shared again by now
            self._write(writers)
            if elsewhere:
                self._read(elsewhere)
            if writers or elsewhere:
                self._prune()
        except StoreError as error:
            self._warn_once(error)
            self._retry_at = time.monotonic() + _RETRY
            for writer in writers:
                writer.begin_anew()
        return bool(elsewhere) or self._retry_at > time.monotonic()

    def _write(self, writers: Sequence[RemoteWriter]) -> None:
        due = [(writer, write) for writer in writers if (write := writer.next_write()) is not None]
        if not due:
            return
        answers = self._channel.write([write for _, write in due])
        for (writer, _), is_written in zip(due, answers, strict=True):
            if not is_written:
                writer.begin_anew()

    def _read(self, elsewhere: dict[str, RunLog]) -> None:
        seen = self._channel.version(), tuple(elsewhere)
        if seen == self._seen:
            return
        found = {each.run_id: each for each in self._channel.executions(tuple(elsewhere))}
        for run_id, reader in list(self._readers.items()):
            if found.get(run_id) != reader.execution:
                self._drop(run_id)
        for run_id, execution in found.items():
            if run_id not in self._readers:
                made = RemoteReader(self._channel, elsewhere[run_id], execution)
                self._readers[run_id] = made
            try:
                self._readers[run_id].advance()
            except ValueError as error:
                self._warn_once(error)
        self._seen = seen

    def _drop_readers(self, elsewhere: dict[str, RunLog]) -> None:
        """Drop those of runs that nobody here follows any more, or that are executed here now."""
        for run_id, reader in list(self._readers.items()):
            if elsewhere.get(run_id) is not reader.log:
                self._drop(run_id)

    def _drop(self, run_id: str) -> None:
        self._readers.pop(run_id).drop()

    def _prune(self) -> None:
        now = time.monotonic()
        if now >= self._prune_at:
            self._prune_at = now + _PRUNING
            self._channel.prune(_OLD)

    def _warn_once(self, error: Exception) -> None:
        level = logger.debug if self._has_warned else logger.warning
        self._has_warned = True
        level("streams of running steps are not seen in other processes: %s", error)
