"""Reading the stream of a run: what its client gets, part by part, as server-sent events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from durable_core.codec.records import load_response
from durable_core.codec.sse import KEEP_ALIVE, encode_event
from durable_core.codec.stream_events import (
    CHUNK,
    Commit,
    Final,
    Metadata,
    RedirectInfo,
    Rollback,
    StreamEvent,
    chunk_data,
    dump_stream_event,
    final_of,
)
from durable_core.flow.effects import Flow, WakeReason, await_stream, read_result, read_stream
from durable_core.flow.env import AppConfig, ResolvedOptions
from durable_core.flow.handoff import new_token, stream_redirect_url
from durable_core.flow.wait import RESPONSE_NOT_KEPT
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.machine.stream_cursor import FINISHED, Cursor, EventId, catch_up, is_stale
from durable_core.model.run import Phase
from durable_core.model.stream import LiveStream, Pushed, RolledBack, StoredStream, Streamed
from durable_core.ports import StoredResult

__all__ = ["Attached", "LogBatch", "LogPosition", "Reader", "StreamLog", "next_part"]

#: A comment is sent when there was nothing else for so long, milliseconds.
_KEEP_ALIVE_MS = 15_000
#: About how many bytes of stored chunks are read at a time.
_MOST_READ = 64 * 1024
#: About how many bytes of what a reader has missed are one part.
_MOST_SENT = 64 * 1024


@dataclass(frozen=True, slots=True)
class LogPosition:
    """A place in a log: which execution of the run it is of, and how many events it is past."""

    generation: int
    index: int


@dataclass(frozen=True, slots=True)
class LogBatch:
    """What a log has for a reader.

    Attributes:
        events: the next ones.
        index: how many events the reader is past with these.
        redirect: the first checkpoint is durable as of these events (for the attached client).
        final: the response, if these events were the last.
        over: the attached client gets no more on this connection.
    """

    events: tuple[Streamed, ...]
    index: int
    redirect: bool = False
    final: Final | None = None
    finished: bool = False


class StreamLog(Protocol):
    """What a process knows of the stream of a run that it may be executing."""

    @property
    def handed_off(self) -> bool:
        """True once the attached client has been let go, in this process."""
        ...

    @property
    def handoff(self) -> str | None:
        """Where the stream of the attached client ends, as a cursor, once that is known."""
        ...

    @property
    def handoff_place(self) -> LogPosition | None:
        """The same as a place in the log."""
        ...

    def snapshot(self) -> tuple[LogPosition, LiveStream | None]:
        """Return where the log is, and what is live."""
        ...

    def read(self, place: LogPosition) -> LogBatch | None:
        """Return the events from a place on; None if they are not there any more."""
        ...

    def read_attached(self, index: int, *, redirected: bool) -> LogBatch | None:
        """Return the events for the attached client, up to where it is let go.

        ``redirected``: it has been told of the first checkpoint.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """What is known of a client that waits on the connection of its own request."""

    options: ResolvedOptions
    request: Request


@dataclass(frozen=True, slots=True)
class _Backlog:
    """What a reader is being told that it has missed; it is made as far as it is sent.

    Attributes:
        events: what is left of it.
        place: where the reader goes on in the log after it; None if there is more in the store, or
            the log is not as far as the store.
        ended: the run has, and its response comes after it.
    """

    events: Iterator[Streamed]
    place: LogPosition | None
    ended: bool


class Reader:
    """Somebody who reads the stream of a run, and how far.

    Args:
        env: the application.
        run_id: the run.
        log: what this process knows of it.
        attached: the client whose request began the run, and that still waits; None for others.
        cursor: how far it has read on an earlier connection.
        from_handoff: it wants what comes after the handoff.

    Attributes:
        check_store: the store may have news: another process has written, or the run has ended.
            Set by whoever learns of that.
        id_prefix: what the ids of its events begin with.
    """

    __slots__ = (
        *("attached", "cursor", "env", "finished", "from_handoff", "log", "backlog"),
        *("check_store", "id_prefix", "place", "redirected", "run_id", "sent_metadata"),
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
    ) -> None:
        self.env = env
        self.run_id = run_id
        self.log = log
        self.attached = attached
        self.cursor = cursor or Cursor()
        self.from_handoff = from_handoff
        self.id_prefix = ""
        if attached is not None:
            self.id_prefix = EventId.prefix(run_id, new_token(env, run_id))
        self.check_store = attached is None
        self.sent_metadata = False
        self.redirected = False
        self.finished = False
        self.backlog: _Backlog | None = None
        self.place: LogPosition | None = LogPosition(0, 0) if attached is not None else None

    def stop(self) -> None:
        """Read no more, and keep nothing of what was read."""
        self.finished = True
        self.backlog = None


def next_part(reader: Reader) -> Flow[bytes | None]:
    """Return the next bytes of the event stream, waiting for them; None at its end."""
    if not reader.sent_metadata:
        reader.sent_metadata = True
        # So that a client that comes back before the first chunk begins no second run.
        id_ = None if reader.attached is None else f"{reader.id_prefix}{reader.cursor.dump()}"
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
        woken = yield from await_stream(_KEEP_ALIVE_MS)
        if woken is WakeReason.STOPPING and reader.attached is None:
            break
        if woken is WakeReason.TIME_OUT:
            reader.check_store = reader.attached is None
            return KEEP_ALIVE
    reader.finished = True
    return None


def _attached_part(reader: Reader, attached: Attached) -> Flow[bytes]:
    """Return what the log has: the response, too, if the run ends while the client waits."""
    assert reader.place is not None
    batch = None
    if reader.backlog is None:
        batch = reader.log.read_attached(reader.place.index, redirected=reader.redirected)
    if batch is None:
        return (yield from _catch_up(reader))
    part = _encode_new(reader, batch.events)
    reader.place = LogPosition(0, batch.index)
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


def _waiting_part(reader: Reader) -> Flow[bytes]:
    """Return what is stored, then what is live; the response when the run has ended."""
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
    """Return what the log has that is new to the reader, before anything else is looked up.

    What a failed attempt has pushed is nowhere else.
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
    """Move the cursor to where the client was handed off; False if that has not happened yet.

    Where the client was no reader of the stream, it begins at the beginning. A run that has ended
    without a handoff has only its response left.
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


#: Past all completion numbers and chunks.
_EVERYTHING = 2**62


def _catch_up(reader: Reader) -> Flow[bytes]:
    """Return what the reader has missed, a part at a time."""
    missed = reader.backlog or (yield from _look_up(reader))
    if missed is None:
        reader.finished = True  # pruned
        return b""
    part = bytearray()
    for event in missed.events:
        part += _encode(reader, event)
        if len(part) >= _MOST_SENT:
            reader.backlog = missed
            return bytes(part)
    reader.backlog = None
    if missed.place is None:
        if reader.attached is None:
            # Not on in the log from where it was: that may tell of steps that are over by now.
            reader.place, reader.check_store = None, True
        return bytes(part)
    reader.place = missed.place
    if missed.ended:
        part += yield from _response(reader)
        reader.finished = True
    return bytes(part)


def _look_up(reader: Reader) -> Flow[_Backlog | None]:
    """Look what the reader has missed, as far as it is read at a time; None for a pruned run."""
    reader.check_store = False
    place, live = reader.log.snapshot()
    stored = yield from read_stream(reader.run_id, reader.cursor, _MOST_READ)
    until = _end_of(reader)
    if until is not None and not _is_before(stored, until):
        # It is let go, perhaps just now, and what it must be told may be stored last.
        stored = yield from read_stream(reader.run_id, reader.cursor, _EVERYTHING)
    attached = reader.attached is not None
    if stored is None and not attached:
        return None
    more = stored is not None and stored.more
    ended = not attached and not more and stored is not None and stored.phase.ended
    is_old = live is not None and is_stale(live, reader.cursor, stored)
    return _Backlog(
        catch_up(reader.cursor, stored, None if is_old else live, until),
        None if more or (is_old and not ended and not attached) else place,
        ended=ended,
    )


def _end_of(reader: Reader) -> Cursor | None:
    """Return where the stream of the attached client ends, if that is known."""
    text = reader.log.handoff if reader.attached is not None else None
    return None if text is None else Cursor.load(text)


def _is_before(stored: StoredStream | None, until: Cursor) -> bool:
    """Tell whether all of this was committed before the handoff, and there is more."""
    return stored is not None and stored.more and stored.chunks[-1].number < until.done


def _response(reader: Reader) -> Flow[bytes]:
    result = yield from read_result(reader.run_id)
    if not isinstance(result, StoredResult):
        return b""  # pruned a moment ago
    return _frame(_final(result), reader.id_prefix + FINISHED)


def _final(result: StoredResult) -> Final:
    if result.body is None:
        gone = problem(410, "response-not-kept", detail=RESPONSE_NOT_KEPT)
        return final_of(gone, failed=True)
    response = load_response(result.head, result.body)
    return final_of(response, failed=result.phase is not Phase.COMPLETED)


def _encode_new(reader: Reader, events: Iterable[Streamed]) -> bytearray:
    part = bytearray()
    for event in events:
        for told in reader.cursor.advance(event):
            part += _encode(reader, told)
    return part


def _encode(reader: Reader, event: Streamed) -> bytes:
    """Encode an event; its id is where the reader is once it has it."""
    id_ = reader.id_prefix + reader.cursor.dump()
    if isinstance(event, Pushed):
        return encode_event(CHUNK, chunk_data(event.text, event.op_id), id=id_)
    if isinstance(event, RolledBack):
        return encode_event(*dump_stream_event(Rollback(step_id=event.op_id)), id=id_)
    return encode_event(*dump_stream_event(Commit(step_id=event.op_id)), id=id_)


def _frame(event: StreamEvent, id: str | None = None) -> bytes:
    return encode_event(*dump_stream_event(event), id=id)
