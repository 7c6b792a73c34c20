"""The thread that carries streams between processes, while there is something to carry."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from durable_core.errors import StoreError
from durable_core.flow.stream_reader import LogPosition
from durable_core.model.stream import (
    Committed,
    LiveStream,
    OpenAttempt,
    Pushed,
    RolledBack,
    Streamed,
)
from durable_core.platform import logger
from durable_core.ports import Channel, ChannelFile, ChannelName, Store
from durable_core.streams.log import LiveAttempt, PrefixView, RunLog
from durable_core.streams.publisher import Publisher

__all__ = [
    "Head",
    "RemoteReader",
    "RemoteStream",
    "RemoteWriter",
    "StreamRelay",
    "dump_events",
    "dump_head",
    "load_event",
    "load_head",
]


# --- lines ----------------------------------------------------------------------------------------
#
# The lines in which one process tells another what a run streams.
#
# Each is a JSON array that begins with what it is. The first line says how many bytes of lines
# after it tell what was open when it was written; the events since then follow. A line counts once
# it is whole. What is read may be anything, so it is checked as far as a stream depends on it.

_VERSION = 1
_OP_ID = re.compile(r"[0-9a-f]{40}")
#: Positions are written with up to nine digits.
_BOUND = 10**9


@dataclass(frozen=True, slots=True)
class Head:
    """The first line: see ``LiveStream.done``, and how many bytes tell what is open."""

    done: int
    length: int


def dump_head(live: LiveStream) -> bytes:
    """Return the lines that tell all that is live now."""
    chunks = [
        Pushed(text=text, index=index, op_id=opened.op_id, attempt=attempt)
        for attempt, opened in live.attempts.items()
        for index, text in enumerate(opened.texts)
    ]
    body = dump_events([*live.handler_chunks, *chunks])
    return _line("live", _VERSION, live.done, len(body)) + body


def dump_events(events: Iterable[Streamed]) -> bytes:
    """Return a line for each event."""
    return b"".join(map(_dumped, events))


def _dumped(event: Streamed) -> bytes:
    if isinstance(event, Pushed):
        number = 0 if event.attempt is None else event.attempt[1]
        return _line("chunk", event.op_id, number, event.index, event.text)
    if isinstance(event, Committed):
        return _line("commit", event.op_id, event.number)
    return _line("rollback", event.op_id, event.attempt[1])


def _line(*values: object) -> bytes:
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8") + b"\n"


def load_head(line: bytes) -> Head:
    """Read the first line.

    Raises:
        ValueError: it is none, or of another release.
    """
    match _loaded(line):
        case ["live", 1, done, int() as length]:
            return Head(_number(done), length)
    raise ValueError("not the beginning of what a run streams")


def load_event(line: bytes, epoch: int) -> Streamed:
    """Read any other line, of an execution with this epoch.

    Raises:
        ValueError: it tells no event.
    """
    match _loaded(line):
        case ["chunk", None, 0, index, str() as text]:
            return Pushed(text=_checked(text), index=_number(index))
        case ["chunk", op_id, number, index, str() as text]:
            return Pushed(
                text=_checked(text),
                index=_number(index),
                op_id=_op_id(op_id),
                attempt=(epoch, _number(number)),
            )
        case ["commit", op_id, number]:
            return Committed(op_id=_op_id(op_id), number=_number(number))
        case ["rollback", op_id, number]:
            return RolledBack(op_id=_op_id(op_id), attempt=(epoch, _number(number)))
    raise ValueError("not an event of a stream")


def _loaded(line: bytes) -> Any:
    return _parsed(line.decode("utf-8"))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < _BOUND:
        raise ValueError(f"not a number below {_BOUND}: {value!r}")
    return value


def _op_id(value: object) -> str:
    if not isinstance(value, str) or _OP_ID.fullmatch(value) is None:
        raise ValueError("not the id of a step")
    return value


def _checked(text: str) -> str:
    """Return what can be sent as it is: one line of JSON in UTF-8."""
    text.encode("utf-8")
    if "\n" in text or "\r" in text:
        raise ValueError("a chunk of more than one line")
    _parsed(text)
    return text


# --- outlet ---------------------------------------------------------------------------------------
#
# Telling other processes what an execution of this one streams.

#: About how many bytes are told at a time.
_MOST_AT_ONCE = 1024 * 1024


class RemoteWriter:
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
        emitter: Publisher,
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
        self._place: LogPosition | None = None
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
            place = LogPosition(place.generation, batch.index)
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


# --- inlet ----------------------------------------------------------------------------------------
#
# What another process tells of a run that it executes, for those who read its stream here.

#: How many bytes are read at a time.
_MOST_READ = 256 * 1024


class RemoteStream:
    """The other process's part of a stream, as far as it has been told; feeds a log from there.

    Args:
        log: of the run.
        epoch: of the execution.
        most: how many bytes may be open.
    """

    def __init__(self, log: RunLog, epoch: int, most: int) -> None:
        self._log = log
        self.epoch = epoch
        self.is_remote, self.finished = True, False
        self._most = most
        self._head: Head | None = None
        self._rest = b""
        self._seen = 0
        self._done = 0
        self._size = 0
        self._attempts: dict[str, LiveAttempt] = {}
        self._outside: list[Pushed] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Those of a line that is not whole are kept for later.

        Raises:
            ValueError: this is not what an execution tells, or too much of it.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > 2 * self._most:
            raise ValueError("a line without an end")
        if self._head is None and lines:
            self._head = load_head(lines.pop(0))
            self._done = self._head.done
        events = [load_event(line, self.epoch) for line in lines]
        with self._log.lock:
            for event in events:
                self._take(event)
        self._seen += sum(map(len, lines)) + len(lines)

    @property
    def is_whole(self) -> bool:
        """True once all is here that was open when the other process began to tell."""
        return self._head is not None and self._seen >= self._head.length

    def live(self) -> LiveStream:
        """Return what the store may not have yet. The log's lock is held."""
        return LiveStream(
            epoch=self.epoch,
            attempts={
                each.attempt: OpenAttempt(op_id=each.op_id, texts=PrefixView(each.texts))
                for each in self._attempts.values()
            },
            handler_chunks=tuple(self._outside),
            done=self._done,
            is_remote=True,
        )

    def _take(self, event: Streamed) -> None:
        if isinstance(event, Pushed):
            size = len(event.text)
            self._size += size
            if self._size > self._most:
                raise ValueError("more is open than a run may stream")
            if event.op_id is None or event.attempt is None:
                self._take_outside(event)
            else:
                self._take_chunk(event)
            self._pass_on(event, size)
            return
        attempt = self._attempts.get(event.op_id)
        if isinstance(event, Committed):
            self._done = max(self._done, event.number)
        elif attempt is not None and attempt.attempt != event.attempt:
            attempt = None
        if attempt is not None:
            self._size -= attempt.size
            del self._attempts[event.op_id]
        self._pass_on(event, 0)

    def _take_outside(self, chunk: Pushed) -> None:
        if self._outside and chunk.index != self._outside[-1].index + 1:
            raise ValueError("a chunk is missing")
        self._outside.append(chunk)

    def _take_chunk(self, chunk: Pushed) -> None:
        assert chunk.op_id is not None
        assert chunk.attempt is not None
        attempt = self._attempts.get(chunk.op_id)
        if attempt is None or attempt.attempt < chunk.attempt:
            if attempt is not None:
                self._size -= attempt.size
            attempt = self._attempts[chunk.op_id] = LiveAttempt(chunk.op_id, chunk.attempt)
        if attempt.attempt != chunk.attempt or chunk.index != len(attempt.texts):
            raise ValueError("a chunk is missing")
        attempt.texts.append(chunk.text)
        attempt.size += len(chunk.text)

    def _pass_on(self, event: Streamed, size: int) -> None:
        if self._log.source is self:
            self._log.append(event, size)


class RemoteReader:
    """Reads a file of the channel as it grows.

    Args:
        channel: of the store.
        log: who gets it.
        file: the file, as it was found.
        most: how many bytes of chunks may be open, as JSON.

    Attributes:
        name: of the file.
        broken: it cannot be used, and is read no more.
    """

    def __init__(self, channel: Channel, log: RunLog, file: ChannelFile, most: int) -> None:
        self.name = file.name
        self.broken = False
        self.log = log
        self._channel = channel
        self._offset = 0
        self._copy = RemoteStream(log, file.name.epoch, most)

    def advance(self, size: int) -> None:
        """Pass on what is new in the file, now of that size.

        Raises:
            ValueError, StoreError: the file cannot be read; it is ``broken``.
        """
        if self.broken:
            return
        try:
            is_new = self._read_to(size)
        except BaseException:
            self.drop()
            self.broken = True
            raise
        if self.log.source is self._copy:
            if is_new:
                self.log.wake()
        elif self._copy.is_whole:
            self.log.attach_remote(self._copy)

    def _read_to(self, size: int) -> bool:
        before = self._offset
        if size < before:
            raise ValueError("the file has become shorter")
        while self._offset < size:
            most = min(_MOST_READ, size - self._offset)
            data = self._channel.read(self.name, self._offset, most)
            if not data:
                break  # removed just now: the next look at the channel will tell
            self._copy.feed(data)
            self._offset += len(data)
        return self._offset > before

    def drop(self) -> None:
        """Let readers of the run have what is stored, and no more."""
        self.log.detach_remote(self._copy)


# --- relay ----------------------------------------------------------------------------------------

#: Seconds between two batches, and between two looks at the channel.
_PAUSE = 0.02
#: A file of a run that this application does not know is old after so many seconds.
_OLD = 3600.0


class StreamRelay:
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
        self._outlets: dict[Publisher, RemoteWriter] = {}
        self._left: list[RemoteWriter] = []
        self._followed: dict[str, RunLog] = {}
        self._inlets: dict[str, RemoteReader] = {}
        self._thread: threading.Thread | None = None
        self._due = threading.Event()
        self._stopped = threading.Event()
        self._parts = itertools.count(1)
        self._has_complained = False

    # -- what the process does --------------------------------------------------------------

    def share(self, is_shared: bool, emitters: Iterable[Publisher]) -> None:
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
        self._wake_thread()

    def publish(self, emitter: Publisher) -> None:
        """Tell what an execution streams from now on."""
        with self._lock:
            if self._is_shared:
                self._add(emitter)
        self._wake_thread()

    def withdraw(self, emitter: Publisher) -> None:
        """An execution is over."""
        with self._lock:
            if emitter in self._outlets:
                self._give_up(emitter)
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

    def _add(self, emitter: Publisher) -> None:
        if emitter not in self._outlets:
            self._outlets[emitter] = RemoteWriter(
                self._channel, emitter, self._parts, self._most, self._due.set
            )

    def _give_up(self, emitter: Publisher) -> None:
        outlet = self._outlets.pop(emitter)
        outlet.leave()
        self._left.append(outlet)

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
        return bool(follows or self._outlets or self._left or self._inlets)

    def _run(self) -> None:
        watches = False
        while True:
            if not watches:
                self._due.wait()
            self._due.clear()
            try:
                watches = self.run_once()
            except Exception:
                logger.exception("the channel between processes failed once, it goes on")
            with self._lock:
                if not self._has_work():
                    self._thread = None
                    return
            self._stopped.wait(_PAUSE)

    def run_once(self) -> bool:
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

    def _flush(self, emitter: Publisher, outlet: RemoteWriter) -> None:
        try:
            outlet.flush()
        except StoreError as error:
            self._warn_once(error)
            self.withdraw(emitter)

    def _remove(self, outlet: RemoteWriter) -> None:
        try:
            outlet.remove()
        except StoreError as error:
            self._warn_once(error)

    def _look(self, followed: dict[str, RunLog]) -> None:
        files = self._found(followed) if followed else {}
        for run_id, inlet in list(self._inlets.items()):
            file = files.get(run_id)
            if file is None or file.name != inlet.name or followed[run_id] is not inlet.log:
                inlet.drop()
                del self._inlets[run_id]
        for run_id, file in files.items():
            if run_id not in self._inlets:
                made = RemoteReader(self._channel, followed[run_id], file, self._most)
                self._inlets[run_id] = made
            try:
                self._inlets[run_id].advance(file.size)
            except (StoreError, ValueError) as error:
                self._warn_once(error)

    def _found(self, followed: dict[str, RunLog]) -> dict[str, ChannelFile]:
        """Return the last file of each run that is followed."""
        found: dict[str, ChannelFile] = {}
        try:
            files = self._channel.listed()
        except StoreError as error:
            self._warn_once(error)
            return found
        for file in files:
            run_id, known = file.name.run_id, found.get(file.name.run_id)
            if run_id in followed and (known is None or _is_later(file, known)):
                found[run_id] = file
        return found

    def _warn_once(self, error: Exception) -> None:
        level = logger.debug if self._has_complained else logger.warning
        self._has_complained = True
        level("streams of running steps are not seen in other processes: %s", error)

    # -- what dead processes have left ------------------------------------------------------

    def sweep(self, store: Store, app: str) -> None:
        """Remove files of executions that are over."""
        try:
            files = self._channel.listed()
            if files:
                marks = store.stream_versions(app, [file.name.run_id for file in files])
                for file in files:
                    if _is_left_behind(file, marks.get(file.name.run_id)):
                        self._channel.remove(file.name)
        except StoreError as error:
            self._warn_once(error)


def _is_later(one: ChannelFile, other: ChannelFile) -> bool:
    return (one.name.epoch, one.name.part) > (other.name.epoch, other.name.part)


def _is_left_behind(file: ChannelFile, mark: tuple[int, ...] | None) -> bool:
    if mark is None:
        return file.age > _OLD  # it may be of another application, or of a run that was pruned
    return mark[:2] != (file.name.epoch, 1)
