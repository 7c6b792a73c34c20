"""What another process tells of a run that it executes, for those who read its stream here."""

from __future__ import annotations

from durable_core.model.stream import (
    Committed,
    LiveStream,
    OpenAttempt,
    Pushed,
    Streamed,
)
from durable_core.ports import Channel, ChannelFile
from durable_core.runtime.streams.lines import Head, load_event, load_head
from durable_core.runtime.streams.log import LiveAttempt, Prefix, RunLog

__all__ = ["Copy", "Inlet"]

#: How many bytes are read at a time.
_MOST_READ = 256 * 1024


class Copy:
    """The other process's part of a stream, as far as it has been told; feeds a log from there.

    Args:
        log: of the run.
        epoch: of the execution.
        most: how many bytes may be open.
    """

    def __init__(self, log: RunLog, epoch: int, most: int) -> None:
        self._log = log
        self.epoch = epoch
        self.is_copy, self.over = True, False
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
                each.attempt: OpenAttempt(op_id=each.op_id, texts=Prefix(each.texts))
                for each in self._attempts.values()
            },
            outside=tuple(self._outside),
            done=self._done,
            is_copy=True,
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


class Inlet:
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
        self._copy = Copy(log, file.name.epoch, most)

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
            self.log.take_copy(self._copy)

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
        self.log.drop_copy(self._copy)
