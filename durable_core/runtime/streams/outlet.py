"""Telling other processes what an execution of this one streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from durable_core.flow.reading import Place
from durable_core.ports import Channel, ChannelName
from durable_core.runtime.streams.emitter import Emitter
from durable_core.runtime.streams.lines import dump_events, dump_head

__all__ = ["Outlet"]

#: About how many bytes are told at a time.
_MOST_AT_ONCE = 1024 * 1024


class Outlet:
    """A reader of a run's log that passes on what it reads.

    It has no queue, like every reader. When it has fallen behind what the log keeps, or has told
    too much, it begins anew with what is open. Before the run is stored nobody else can know of
    it, and so nothing is told.

    Args:
        channel: where it is told.
        emitter: of the execution.
        parts: numbers for the names of what is told; none comes twice.
        most: begin anew after so many bytes, and tell nothing more if that does not help.
        poke: called, from the thread that pushes, when there is something to tell.
    """

    def __init__(
        self,
        channel: Channel,
        emitter: Emitter,
        parts: Iterator[int],
        most: int,
        poke: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._emitter = emitter
        self._most = most
        self._poke = poke
        self._is_due = True
        self._parts = parts
        self._name: ChannelName | None = None
        self._is_too_large = False
        self._place: Place | None = None
        self._size = self._room = 0
        emitter.log.follow(self.wake)

    def wake(self) -> None:
        """There is something to tell."""
        if not self._is_due:
            self._is_due = True
            self._poke()

    def leave(self) -> None:
        """Read no more; :meth:`remove` what was told after this."""
        self._emitter.log.leave(self.wake)

    def flush(self) -> None:
        """Tell what there is to tell.

        Raises:
            StoreError: it cannot be told.
        """
        if not self._is_due:
            return
        self._is_due = False
        if not self._emitter.is_stored or self._is_too_large:
            return
        if not self._went_on():
            self._begin()

    def remove(self) -> None:
        """Have it forgotten by others.

        Raises:
            StoreError: it cannot be.
        """
        name, self._name = self._name, None
        if name is not None:
            self._channel.remove(name)

    def _went_on(self) -> bool:
        """Tell the events since the last time; False if it must begin anew."""
        name, place, parts, size = self._name, self._place, list[bytes](), 0
        if name is None or place is None:
            return False
        while size < _MOST_AT_ONCE:
            batch = self._emitter.log.read(place)
            if batch is None:
                return False
            if not batch.events:
                break
            place = Place(place.generation, batch.index)
            parts.append(dump_events(batch.events))
            size += len(parts[-1])
        else:
            self.wake()
        if not parts:
            return True
        if self._size + size > self._room or not self._channel.append(name, b"".join(parts)):
            return False
        self._place = place
        self._size += size
        return True

    def _begin(self) -> None:
        place, live = self._emitter.log.snapshot()
        if live is None or live.epoch != self._emitter.epoch:
            return  # a later execution has the log
        data = dump_head(live)
        self._is_too_large = len(data) > self._most
        before, name = self._name, None
        if not self._is_too_large:
            name = ChannelName(self._emitter.log.run_id, live.epoch, next(self._parts))
            self._channel.begin(name, data)
        self._name, self._place = name, place
        self._size, self._room = len(data), len(data) + self._most
        if before is not None:
            self._channel.remove(before)
