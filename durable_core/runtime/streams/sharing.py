"""The thread that carries streams between processes, while there is something to carry."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable

from durable_core.errors import StoreError
from durable_core.ports import Channel, ChannelFile, Store
from durable_core.runtime.logs import logger
from durable_core.runtime.streams.emitter import Emitter
from durable_core.runtime.streams.inlet import Inlet
from durable_core.runtime.streams.log import RunLog
from durable_core.runtime.streams.outlet import Outlet

__all__ = ["Sharing"]

#: Seconds between two batches, and between two looks at the channel.
_PAUSE = 0.02
#: A file of a run that this application does not know is old after so many seconds.
_OLD = 3600.0


class Sharing:
    """Tells others what runs of this process stream, and readers here what others tell.

    Only while other processes share the store; the thread runs only while something of this
    process is streamed, or something of others is read. Nothing waits for it. What goes wrong is
    logged once, and costs readers elsewhere what is not stored yet, and nothing else.

    Args:
        channel: of the store.
        most: how many bytes a run may stream, as JSON.
    """

    def __init__(self, channel: Channel, most: int) -> None:
        self._channel = channel
        self._most = most
        self._lock = threading.Lock()
        self._is_shared = False
        self._outlets: dict[Emitter, Outlet] = {}
        self._left: list[Outlet] = []
        self._followed: dict[str, RunLog] = {}
        self._inlets: dict[str, Inlet] = {}
        self._thread: threading.Thread | None = None
        self._due = threading.Event()
        self._stopped = threading.Event()
        self._parts = itertools.count(1)
        self._has_complained = False

    # -- what the process does --------------------------------------------------------------

    def share(self, is_shared: bool, emitters: Iterable[Emitter]) -> None:
        """Begin, or cease, because other processes are there, or are not."""
        if is_shared == self._is_shared:
            return
        with self._lock:
            self._is_shared = is_shared
            if is_shared:
                for emitter in emitters:
                    self._add(emitter)
            else:
                for emitter in list(self._outlets):
                    self._give_up(emitter)
        self._poke()

    def publish(self, emitter: Emitter) -> None:
        """Tell what an execution streams from now on."""
        with self._lock:
            if self._is_shared:
                self._add(emitter)
        self._poke()

    def withdraw(self, emitter: Emitter) -> None:
        """An execution is over."""
        with self._lock:
            if emitter in self._outlets:
                self._give_up(emitter)
        self._poke()

    def follow(self, log: RunLog) -> None:
        """Somebody reads the stream of a run, wherever it is executed."""
        with self._lock:
            self._followed[log.run_id] = log
        self._poke()

    def unfollow(self, log: RunLog) -> None:
        """Nobody does any more."""
        with self._lock:
            self._followed.pop(log.run_id, None)
        self._poke()

    def stop(self) -> None:
        """Forget what was told, and end the thread."""
        self.share(False, ())
        with self._lock:
            self._followed.clear()
        self._stopped.set()
        self._poke()
        thread = self._thread
        if thread is not None:
            thread.join()

    def _add(self, emitter: Emitter) -> None:
        if emitter not in self._outlets:
            self._outlets[emitter] = Outlet(
                self._channel, emitter, self._parts, self._most, self._due.set
            )

    def _give_up(self, emitter: Emitter) -> None:
        outlet = self._outlets.pop(emitter)
        outlet.leave()
        self._left.append(outlet)

    # -- the thread -------------------------------------------------------------------------

    def _poke(self) -> None:
        with self._lock:
            if self._thread is None and self._has_work():
                self._thread = threading.Thread(
                    target=self._run, name="durable-channel", daemon=True
                )
                self._thread.start()
        self._due.set()

    def _has_work(self) -> bool:
        follows = self._is_shared and bool(self._followed)
        return bool(follows or self._outlets or self._left or self._inlets)

    def _run(self) -> None:
        watches = False
        while True:
            if not watches:
                self._due.wait()
            self._due.clear()
            try:
                watches = self.carry()
            except Exception:
                logger.exception("the channel between processes failed once, it goes on")
            with self._lock:
                if not self._has_work():
                    self._thread = None
                    return
            self._stopped.wait(_PAUSE)

    def carry(self) -> bool:
        """Carry what there is now; return whether others may tell more. For one thread."""
        with self._lock:
            outlets, left = list(self._outlets.items()), self._left
            self._left = []
            followed = dict(self._followed) if self._is_shared else {}
        for outlet in left:
            self._remove(outlet)
        for emitter, outlet in outlets:
            self._flush(emitter, outlet)
        elsewhere = {run_id: log for run_id, log in followed.items() if not log.is_executed}
        self._look(elsewhere)
        return bool(elsewhere)

    def _flush(self, emitter: Emitter, outlet: Outlet) -> None:
        try:
            outlet.flush()
        except StoreError as error:
            self._complain(error)
            self.withdraw(emitter)

    def _remove(self, outlet: Outlet) -> None:
        try:
            outlet.remove()
        except StoreError as error:
            self._complain(error)

    def _look(self, followed: dict[str, RunLog]) -> None:
        files = self._found(followed) if followed else {}
        for run_id, inlet in list(self._inlets.items()):
            file = files.get(run_id)
            if file is None or file.name != inlet.name or followed[run_id] is not inlet.log:
                inlet.drop()
                del self._inlets[run_id]
        for run_id, file in files.items():
            if run_id not in self._inlets:
                made = Inlet(self._channel, followed[run_id], file, self._most)
                self._inlets[run_id] = made
            try:
                self._inlets[run_id].advance(file.size)
            except (StoreError, ValueError) as error:
                self._complain(error)

    def _found(self, followed: dict[str, RunLog]) -> dict[str, ChannelFile]:
        """Return the last file of each run that is followed."""
        found: dict[str, ChannelFile] = {}
        try:
            files = self._channel.listed()
        except StoreError as error:
            self._complain(error)
            return found
        for file in files:
            run_id, known = file.name.run_id, found.get(file.name.run_id)
            if run_id in followed and (known is None or _is_later(file, known)):
                found[run_id] = file
        return found

    def _complain(self, error: Exception) -> None:
        level = logger.debug if self._has_complained else logger.warning
        self._has_complained = True
        level("streams of running steps are not seen in other processes: %s", error)

    # -- what dead processes have left ------------------------------------------------------

    def sweep(self, store: Store, app: str) -> None:
        """Remove files of executions that are over."""
        try:
            files = self._channel.listed()
            if files:
                marks = store.streamed(app, [file.name.run_id for file in files])
                for file in files:
                    if _is_left_behind(file, marks.get(file.name.run_id)):
                        self._channel.remove(file.name)
        except StoreError as error:
            self._complain(error)


def _is_later(one: ChannelFile, other: ChannelFile) -> bool:
    return (one.name.epoch, one.name.part) > (other.name.epoch, other.name.part)


def _is_left_behind(file: ChannelFile, mark: tuple[int, ...] | None) -> bool:
    if mark is None:
        return file.age > _OLD  # it may be of another application, or of a run that was pruned
    return mark[:2] != (file.name.epoch, 1)
