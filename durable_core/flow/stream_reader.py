"""Reading the stream of a run, part by part, as server-sent events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from durable_core.codec.records import load_response
from durable_core.codec.sse import KEEP_ALIVE, encode_event
from durable_core.codec.stream_events import (
    Commit,
    Final,
    Metadata,
    RedirectInfo,
    Rollback,
    StreamEvent,
    dump_stream_event,
    encode_chunk,
    final_of,
)
from durable_core.codec.ui_stream import UIMessageStream
from durable_core.flow.effects import Flow, WakeReason, await_stream, read_result, read_stream
from durable_core.flow.env import AppConfig
from durable_core.flow.handoff import new_token, stream_redirect_url
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.wait import RESPONSE_NOT_KEPT
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.machine.stream_cursor import FINISHED, Cursor, EventId, catch_up, is_stale
from durable_core.model._record import record
from durable_core.model.run import Phase
from durable_core.model.stream import LiveStream, Pushed, RolledBack, Streamed, StreamPlace
from durable_core.ports import StoredResult

__all__ = [
    "Attached",
    "LogBatch",
    "LogPosition",
    "Reader",
    "StreamLog",
    "immediate_part",
    "next_part",
]

#: A comment is sent after this time without an event, milliseconds.
_KEEP_ALIVE_MS = 15_000
#: The approximate number of bytes of stored chunks that are read at a time.
_MOST_READ = 64 * 1024
#: The approximate size of one part of a backlog, bytes.
_MOST_SENT = 64 * 1024


@record(frozen=True, slots=True)
class LogPosition:
    """A position in a log: the execution of the run, and the number of events before it."""

    generation: int
    index: int


@record(frozen=True, slots=True)
class LogBatch:
    """The next events of a log for a reader.

    Attributes:
        events: the next events.
        index: the number of events that the reader has after these.
        redirect: the first checkpoint is durable as of these events (for the attached client).
        final: the response, if these events were the last.
        finished: the attached client gets no more on this connection.
    """

    events: tuple[Streamed, ...]
    index: int
    redirect: bool = False
    final: Final | None = None
    finished: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether the reader has to wait."""
        return not (self.events or self.redirect or self.final or self.finished)


class StreamLog(Protocol):
    """The stream of a run, as this process knows it. The process may be executing the run."""

    @property
    def handed_off(self) -> bool:
        """True if the attached client was detached in this process."""
        ...

    @property
    def is_crowded(self) -> bool:
        """True if so many readers follow it that a push must not write to all of them."""
        ...

    @property
    def is_executed(self) -> bool:
        """True while an execution in this process is behind it."""
        ...

    @property
    def lease_lost(self) -> bool:
        """True once the execution of the attached client is over, and its run is not."""
        ...

    @property
    def handoff(self) -> str | None:
        """The cursor at which the stream of the attached client ends, if that is known."""
        ...

    @property
    def handoff_place(self) -> LogPosition | None:
        """The same position, in the log."""
        ...

    def snapshot(self) -> tuple[LogPosition, LiveStream | None]:
        """Return the end of the log, and the live stream."""
        ...

    def read(self, place: LogPosition) -> LogBatch | None:
        """Return the events after a position; None if the log has discarded them."""
        ...

    def read_attached(self, index: int, *, redirected: bool) -> LogBatch | None:
        """Return the events for the attached client, up to the position where it is detached.

        ``redirected``: it has received ``inngest.redirect_info``.
        """
        ...

    def read_last(self, index: int, *, redirected: bool) -> Streamed | None:
        """Return the event at this index for the attached client, if there is nothing else."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """The request of a client that waits on its own connection, and the endpoint's options.

    ``stay`` is called at the handoff, if the client has no other connection to read on: it tells
    whether the client may read on here, as one that waits.
    """

    options: ResolvedOptions
    request: Request
    stay: Callable[[], bool] | None = None


@dataclass(frozen=True, slots=True)
class _Backlog:
    """The events that a reader has missed; they are made lazily while they are sent.

    Attributes:
        events: the remaining events.
        place: the position in the log after them; None if there is more in the store, or the log
            is behind the store.
        ended: the run has ended, and its response comes next.
    """

    events: Iterator[Streamed]
    place: LogPosition | None
    ended: bool


class Reader:
    """A reader of the stream of a run, and its position.

    Args:
        env: the application.
        run_id: the run.
        log: the stream as this process knows it.
        attached: the client whose request began the run, if it still waits; None for others.
        cursor: its position after an earlier connection.
        from_handoff: it reads only events after the handoff.
        names_run: the ids of events name the run, since the URL that the client comes back to does
            not; those of ``attached`` do.
        messages: makes a UI message stream of the events; None for the events themselves.

    Attributes:
        check_store: the store may have news: another process has written, or the run has ended.
            Other code sets it.
        id_prefix: the prefix of the ids of its events.
    """

    __slots__ = (
        *("attached", "backlog", "check_store", "cursor", "encoded", "env", "finished"),
        "from_handoff",
        *("id_prefix", "log", "messages", "next", "place", "redirected", "run_id", "sent_metadata"),
    )

    def __init__(
        self,
        env: AppConfig,
        run_id: str,
        log: StreamLog,
        *,
        attached: Attached | None = None,
        cursor: Cursor | None = None,
        from_handoff: bool = False,
        names_run: bool = False,
        messages: UIMessageStream | None = None,
    ) -> None:
        self.env = env
        self.run_id = run_id
        self.log = log
        self.attached = attached
        self.cursor = cursor or Cursor()
        self.from_handoff = from_handoff
        self.messages = messages
        self.encoded = False  # an event was, for which the client may get nothing
        self.id_prefix = ""
        if attached is not None or names_run:
            self.id_prefix = EventId.prefix(run_id, new_token(env, run_id))
        self.check_store = attached is None
        self.sent_metadata = False
        self.redirected = messages is not None  # such a stream has no redirect
        self.finished = False
        self.backlog: _Backlog | None = None
        self.next: StreamPlace | None = None  # where the next part of the stored stream begins
        self.place: LogPosition | None = LogPosition(0, 0) if attached is not None else None

    def stop(self) -> None:
        """Read no more, and keep nothing of what was read."""
        self.finished = True
        self.backlog = None


def next_part(reader: Reader) -> Flow[bytes | None]:
    """Return the next bytes of the event stream, waiting for them; None at its end."""
    if not reader.sent_metadata:
        reader.sent_metadata = True
        if reader.messages is not None:
            return reader.messages.begin()
        # With this id, a client that reconnects before the first chunk begins no second run.
        id_ = f"{reader.id_prefix}{reader.cursor.dump()}" if reader.id_prefix else None
        return _frame(Metadata(run_id=reader.run_id), id_)
    while not reader.finished:
        if reader.attached is not None:
            part = yield from _attached_part(reader, reader.attached)
        else:
            part = yield from _waiting_part(reader)
        if part:
            return part
        if reader.finished:
            break
        if reader.encoded:
            reader.encoded = False
            continue  # there may be more
        woken = yield from await_stream(_KEEP_ALIVE_MS)
        if woken is WakeReason.STOPPING and reader.attached is None:
            break
        if woken is WakeReason.TIME_OUT:
            reader.check_store = reader.attached is None
            return KEEP_ALIVE
    reader.finished = True
    return None


def immediate_part(reader: Reader) -> bytes:
    """Return the next part if the log has it; nothing if there is none, or it needs more.

    For a reader that waits: ``next_part`` has nothing for it, and goes on after this part.
    """
    if reader.finished or reader.backlog is not None or reader.log.is_crowded:
        return b""
    if reader.attached is None:
        return b"" if reader.from_handoff or reader.check_store else _follow(reader)
    if reader.place is None or reader.log.lease_lost:
        return b""
    event = reader.log.read_last(reader.place.index, redirected=reader.redirected)
    if event is None:
        return b""
    reader.place = LogPosition(0, reader.place.index + 1)
    part = b""
    for new in reader.cursor.advance(event):
        part += _encode(reader, new)
    return part


def _attached_part(reader: Reader, attached: Attached) -> Flow[bytes]:
    """Return the next part of the log, with the response if the run has ended."""
    if reader.log.lease_lost:
        # Whatever comes now comes by the store: what this execution has open is void.
        return (yield from _read_on(reader))
    assert reader.place is not None
    batch = None
    if reader.backlog is None:
        batch = reader.log.read_attached(reader.place.index, redirected=reader.redirected)
    if batch is None:
        return (yield from _catch_up(reader))
    if batch.is_empty:
        return b""
    part = _encode_new(reader, batch.events)
    reader.place = LogPosition(0, batch.index)
    if reader.messages is not None:
        return (yield from _messages_part(reader, reader.messages, attached, batch, part))
    if batch.redirect:
        reader.redirected = True
        url = yield from stream_redirect_url(
            reader.env, attached.options, attached.request, reader.run_id
        )
        part += _frame(RedirectInfo(run_id=reader.run_id, url=url))
    if batch.final is not None:
        part += _frame(batch.final, reader.id_prefix + FINISHED)
    reader.finished = batch.finished or batch.final is not None
    return bytes(part)


def _messages_part(
    reader: Reader, messages: UIMessageStream, attached: Attached, batch: LogBatch, part: bytearray
) -> Flow[bytes]:
    """Return the next part of a UI message stream, which goes on after the handoff."""
    if batch.final is not None:
        part += messages.end(batch.final)
        reader.finished = True
    elif batch.finished:
        if attached.stay is None or not attached.stay():
            reader.finished = True
        elif part:
            _begin_to_wait(reader)
        else:
            return (yield from _read_on(reader))
    return bytes(part)


def _read_on(reader: Reader) -> Flow[bytes]:
    """Let the attached client read on as one that waits; return the next part."""
    _begin_to_wait(reader)
    return (yield from _waiting_part(reader))


def _begin_to_wait(reader: Reader) -> None:
    reader.attached, reader.backlog, reader.place, reader.next = None, None, None, None
    reader.check_store = True


def _waiting_part(reader: Reader) -> Flow[bytes]:
    """Return stored events, then live events, and the response when the run has ended."""
    if reader.from_handoff:
        if not (reader.check_store or reader.log.handed_off):
            return b""
        if not (yield from _found_handoff(reader)):
            return b""
    if reader.backlog is None:
        part = _follow(reader)
        if part:
            return part
    if reader.backlog is not None or reader.place is None or reader.check_store:
        return (yield from _catch_up(reader))
    return b""


def _follow(reader: Reader) -> bytes:
    """Return the events of the log that are new to the reader, before the store is read.

    Chunks of failed attempts are only in the log.
    """
    part = bytearray()
    while reader.place is not None and not part:
        batch = reader.log.read(reader.place)
        if batch is None:
            reader.place = None
        elif batch.events:
            reader.place = LogPosition(reader.place.generation, batch.index)
            part = _encode_new(reader, batch.events)
        else:
            break
    return bytes(part)


def _found_handoff(reader: Reader) -> Flow[bool]:
    """Move the cursor to the position of the handoff; False if there was no handoff yet.

    If the client did not read the stream, the cursor stays at the beginning. After a run that ended
    without a handoff, only its response is left.
    """
    log = reader.log
    if log.handed_off and log.handoff is not None:
        reader.cursor, reader.place = Cursor.load(log.handoff), log.handoff_place
        reader.from_handoff = False
        return True
    reader.check_store = False
    stored = yield from read_stream(reader.run_id, reader.cursor, 1)
    if stored is None:
        reader.finished = True
        return False
    if stored.handoff is not None:
        reader.cursor = Cursor.load(stored.handoff)
    elif stored.phase.ended:
        reader.cursor = Cursor(done=_EVERYTHING, outside=_EVERYTHING)
    elif stored.phase in (Phase.SYNC, Phase.RESPONDING):
        return False
    reader.from_handoff = False
    reader.check_store = True
    return True


#: Higher than all completion numbers and chunk indexes.
_EVERYTHING = 2**62


def _catch_up(reader: Reader) -> Flow[bytes]:
    """Return the next part of the events that the reader has missed."""
    part = bytearray()
    while True:
        missed = reader.backlog or (yield from _look_up(reader))
        if missed is None:
            reader.finished = True  # pruned
            return b""
        for event in missed.events:
            part += _encode(reader, event)
            if len(part) >= _MOST_SENT:
                reader.backlog = missed
                return bytes(part)
        reader.backlog = None
        if part or reader.next is None:
            break  # else all of it came after the handoff of the attached client
    if missed.place is None:
        if reader.attached is None:
            # Do not continue in the log: it may have chunks of attempts that are over by now.
            reader.place, reader.check_store = None, True
        return bytes(part)
    reader.place = missed.place
    if missed.ended:
        part += yield from _response(reader)
        reader.finished = True
    return bytes(part)


def _look_up(reader: Reader) -> Flow[_Backlog | None]:
    """Read the next part of the reader's backlog; None for a run without a record."""
    reader.check_store = False
    is_executed = (
        reader.log.is_executed
    )  # before the store is read, which it may get into meanwhile
    place, live = reader.log.snapshot()
    stored = yield from read_stream(reader.run_id, reader.cursor, _MOST_READ, reader.next)
    reader.next = None if stored is None else stored.next
    until = _end_of(reader)
    attached = reader.attached is not None
    if stored is None and not (attached or is_executed):
        return None
    more = stored is not None and stored.more
    ended = not attached and not more and stored is not None and stored.phase.ended
    if ended:
        live = None  # the run has ended since the snapshot: what is not stored is void
    is_old = live is not None and is_stale(live, reader.cursor, stored)
    return _Backlog(
        catch_up(reader.cursor, stored, None if is_old else live, until),
        None if more or (is_old and not attached) else place,
        ended=ended,
    )


def _end_of(reader: Reader) -> Cursor | None:
    """Return the cursor at which the stream of the attached client ends, if that is known."""
    text = reader.log.handoff if reader.attached is not None else None
    return None if text is None else Cursor.load(text)


def _response(reader: Reader) -> Flow[bytes]:
    result = yield from read_result(reader.run_id)
    if not isinstance(result, StoredResult):
        return b""  # pruned a moment ago
    if reader.messages is not None:
        return _end_of_message(reader.messages, result)
    return _frame(_final(result), reader.id_prefix + FINISHED)


def _end_of_message(messages: UIMessageStream, result: StoredResult) -> bytes:
    """Return the end of a message, which does not show the response of a run that went well."""
    if result.body is None and result.phase is Phase.COMPLETED:
        return messages.end(Final(status=200))
    return messages.end(_final(result), cancelled=result.phase is Phase.CANCELLED)


def _final(result: StoredResult) -> Final:
    if result.body is None:
        gone = problem(410, "response-not-kept", detail=RESPONSE_NOT_KEPT)
        return final_of(gone, failed=True)
    response = load_response(result.head, result.body)
    return final_of(response, failed=result.phase is not Phase.COMPLETED)


def _encode_new(reader: Reader, events: Iterable[Streamed]) -> bytearray:
    part = bytearray()
    for event in events:
        for new in reader.cursor.advance(event):
            part += _encode(reader, new)
    return part


def _encode(reader: Reader, event: Streamed) -> bytes:
    """Encode an event; its id is the position of the reader after it."""
    if reader.messages is not None:
        reader.encoded = True
        return _encode_for_messages(reader.messages, event)
    id_ = reader.id_prefix + reader.cursor.dump()
    if isinstance(event, Pushed):
        return encode_chunk(event.text, event.op_id, id_)
    if isinstance(event, RolledBack):
        return encode_event(*dump_stream_event(Rollback(step_id=event.op_id)), id=id_)
    return encode_event(*dump_stream_event(Commit(step_id=event.op_id)), id=id_)


def _encode_for_messages(messages: UIMessageStream, event: Streamed) -> bytes:
    if isinstance(event, Pushed):
        return messages.pushed(event.text, event.op_id)
    if isinstance(event, RolledBack):
        return messages.rolled_back(event.op_id)
    return messages.committed(event.op_id)


def _frame(event: StreamEvent, id: str | None = None) -> bytes:
    return encode_event(*dump_stream_event(event), id=id)
