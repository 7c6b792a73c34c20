"""What one run has streamed of late, for those who follow it in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, overload

from durable_core.codec.stream_events import Final
from durable_core.flow.stream_reader import LogBatch, LogPosition
from durable_core.model.stream import Attempt, LiveStream, Pushed, Streamed

__all__ = ["Event", "LiveAttempt", "PrefixView", "RunLog"]

#: How many bytes of events are kept for readers; who falls behind is caught up from the store.
_MOST_KEPT = 256 * 1024
#: What an event counts besides its text, bytes.
_OVERHEAD = 128
#: A push writes to so many readers itself; more of them take their turns on the event loop.
_MOST_AT_ONCE = 4
#: How many events, and about how many bytes of them, a reader gets at a time.
_MOST_EVENTS, _MOST_BYTES = 256, 64 * 1024


class PrefixView(Sequence[str]):
    """The first elements of a list that only grows; it costs nothing, however many those are.

    Args:
        texts: the list.
    """

    __slots__ = ("_count", "_texts")

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts
        self._count = len(texts)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return tuple(self._texts[each] for each in range(self._count)[index])
        return self._texts[range(self._count)[index]]


class LiveAttempt:
    """An attempt of a step that has pushed something and is neither durable nor void."""

    __slots__ = ("attempt", "number", "op_id", "size", "texts")

    def __init__(self, op_id: str, attempt: Attempt) -> None:
        self.op_id = op_id
        self.attempt = attempt
        self.texts: list[str] = []
        self.size = 0
        self.number: int | None = None


#: An event, or a chunk as its attempt and its place in it.
Event: TypeAlias = Streamed | tuple[LiveAttempt, int]


class _Source(Protocol):
    """The execution behind a log, or what another process tells of one.

    Attributes:
        epoch: of its claim.
        finished: it has ended, and told what has come of all that it pushed.
        is_remote: it is what another process tells.
    """

    epoch: int
    finished: bool
    is_remote: bool

    def live(self) -> LiveStream:
        """Return what the store may not have yet. The log's lock is held."""
        ...


class RunLog:
    """The events of one run, as far as they are kept, in the order in which readers see them.

    It outlives the executions of the run for as long as somebody reads. A reader has no queue: it
    asks for what comes after its place. Who asks for what is not kept any more, or comes from
    before an execution that is not in here, must catch up first (``machine/stream_cursor.py``).

    All methods may be called from any thread. Those that say so need :attr:`lock` to be held.

    Attributes:
        lock: guards it, and its source.
        source: the current execution.
        lease_lost: see ``flow.stream_reader.StreamLog``; so is ``is_crowded``.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.lock = threading.Lock()
        self.source: _Source | None = None
        self._generation = 0
        self._events: list[tuple[Event, int]] = []
        self._base = 0
        self._size = 0
        self._wakers: tuple[Callable[[], None], ...] = ()
        self._checkpoint: int | None = None
        self._boundary: int | None = None
        self._handoff: str | None = None
        self._handoff_place: LogPosition | None = None
        self._has_client = False
        self._detached = False
        self.lease_lost = self.is_crowded = False
        self._final: Final | None = None

    # -- readers ----------------------------------------------------------------------------

    @property
    def wakers(self) -> tuple[Callable[[], None], ...]:
        """What to call, without the lock, when there is something new."""
        return self._wakers

    def follow(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called when there is something new, in whatever thread."""
        with self.lock:
            self._wakers = (*self._wakers, wake)
            self.is_crowded = len(self._wakers) > _MOST_AT_ONCE

    def leave(self, wake: Callable[[], None]) -> None:
        """Undo :meth:`follow`."""
        with self.lock:
            left = list(self._wakers)
            left.remove(wake)
            self._wakers = tuple(left)
            self.is_crowded = len(left) > _MOST_AT_ONCE
            if not left:
                self._forget(len(self._events))

    def wake(self) -> None:
        """Have all readers look."""
        for wake in self._wakers:
            wake()

    @property
    def handed_off(self) -> bool:
        """True once the attached client has been let go, in this process."""
        return self._detached

    @property
    def handoff(self) -> str | None:
        """Where the stream of the attached client ends, as a cursor, once that is known."""
        return self._handoff

    @property
    def handoff_place(self) -> LogPosition | None:
        """The same as a place in here."""
        return self._handoff_place

    def snapshot(self) -> tuple[LogPosition, LiveStream | None]:
        """Return where the log is, and what is live."""
        with self.lock:
            live = None if self.source is None else self.source.live()
            return LogPosition(self._generation, self._end), live

    def read(self, place: LogPosition) -> LogBatch | None:
        """Return the events from a place on; None if they are not there any more."""
        with self.lock:
            if place.generation != self._generation or place.index < self._base:
                return None
            events = self._slice(place.index, self._end)
            return LogBatch(events, place.index + len(events))

    def read_attached(self, index: int, *, redirected: bool) -> LogBatch | None:
        """Return the events for the attached client, up to where it is let go."""
        with self.lock:
            if index < self._base and index < self._end:
                return None
            end = self._end if self._boundary is None else self._boundary
            stop, due = end, not redirected and self._checkpoint is not None
            if due and self._checkpoint is not None:
                stop = min(end, max(index, self._checkpoint))
            events = self._slice(index, stop)
            index += len(events)
            redirect = due and index >= stop
            at_end = index >= end and (redirect or not due)
            return LogBatch(
                events,
                index,
                redirect=redirect,
                final=self._final if at_end else None,
                finished=at_end and self._detached,
            )

    def read_last(self, index: int, *, redirected: bool) -> Streamed | None:
        """Return the event at this index for the attached client, if nothing comes with it.

        None if it is not the last event, or :meth:`read_attached` might return more than events.
        """
        with self.lock:
            is_last = index == self._base + len(self._events) - 1
            is_due = not redirected and self._checkpoint is not None
            if not is_last or is_due or self._boundary is not None or index < self._base:
                return None
            return _as_event(self._events[-1][0])

    def _slice(self, start: int, stop: int) -> tuple[Streamed, ...]:
        found: list[Streamed] = []
        size = 0
        for event, bytes_ in self._events[start - self._base : stop - self._base]:
            found.append(_as_event(event))
            size += bytes_
            if len(found) >= _MOST_EVENTS or size >= _MOST_BYTES:
                break
        return tuple(found)

    # -- the execution ----------------------------------------------------------------------

    @property
    def _end(self) -> int:
        return self._base + len(self._events)

    def attach_publisher(self, source: _Source) -> None:
        """Take events from this execution.

        Readers go on where the one before it has ended. They catch up first if another process
        may have had the run in between, or if it is not known what has come of the one before.
        """
        with self.lock:
            before = self.source
            if before is None or not before.finished or source.epoch != before.epoch + 1:
                self._generation += 1
            self.source = source
        self.wake()

    @property
    def is_executed(self) -> bool:
        """True while an execution in this process is behind it."""
        source = self.source
        return source is not None and not (source.finished or source.is_remote)

    def attach_remote(self, copy: _Source) -> bool:
        """Take events from what another process tells; False if something of this one is there."""
        with self.lock:
            if self.is_executed or (self._has_client and not self._detached):
                return False
            self._generation += 1
            self.source = copy
        self.wake()
        return True

    def detach_remote(self, copy: _Source) -> None:
        """Undo :meth:`attach_remote`, unless something else has its place already."""
        with self.lock:
            if self.source is not copy:
                return
            self._generation += 1
            self.source = None
        self.wake()

    def append(self, event: Event, size: int = 0) -> None:
        """Add an event with so many bytes of text. The lock is held; wake the readers after."""
        if not self._wakers:
            self._base += 1
            return
        size += _OVERHEAD
        self._events.append((event, size))
        self._size += size
        if self._size > _MOST_KEPT:
            self._forget(self._oldest(self._size - _MOST_KEPT // 2))

    def _oldest(self, size: int) -> int:
        """Return how many of the oldest events have so many bytes."""
        for count, (_, bytes_) in enumerate(self._events, 1):
            size -= bytes_
            if size <= 0:
                return count
        return len(self._events)

    def _forget(self, count: int) -> None:
        self._size -= sum(size for _, size in self._events[:count])
        del self._events[:count]
        self._base += count

    def checkpointed(self) -> None:
        """Note that the run has a durable checkpoint. The lock is held."""
        if self._checkpoint is None:
            self._checkpoint = self._end

    def attach(self) -> None:
        """Note that a client gets what its own request has begun, until it is detached."""
        self._has_client = True

    def begin_handoff(self, cursor: str) -> None:
        """Let what the attached client gets end here. The lock is held."""
        self._boundary, self._handoff = self._end, cursor
        self._handoff_place = LogPosition(self._generation, self._end)

    def detach(self) -> None:
        """Let the attached client go when it has got all."""
        with self.lock:
            if self._boundary is None:
                self._boundary = self._end
            self._detached = True
        self.wake()

    def lose_lease(self) -> None:
        """The execution is over here, and another process goes on: the client may read on, too."""
        with self.lock:
            self.lease_lost, self._has_client = True, False
        self.wake()

    def set_final(self, final: Final) -> None:
        """Give the attached client the response when it has got all."""
        with self.lock:
            self._final = self._final or final
        self.wake()


def _as_event(event: Event) -> Streamed:
    if not isinstance(event, tuple):
        return event
    attempt, index = event
    return Pushed(
        text=attempt.texts[index],
        index=index,
        op_id=attempt.op_id,
        attempt=attempt.attempt,
        number=attempt.number,
    )
