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
from durable_core.flow.effects import Flow, Woken, await_more, read_result, read_stream
from durable_core.flow.env import Env, Options
from durable_core.flow.handoff import redirect_url
from durable_core.flow.wait import RESPONSE_NOT_KEPT
from durable_core.http.problem import problem
from durable_core.http.request import Request
from durable_core.machine.stream_cursor import Cursor, catch_up, is_behind
from durable_core.model.run import Phase
from durable_core.model.stream import LiveStream, Pushed, RolledBack, StoredStream, Streamed
from durable_core.ports import StoredResult

__all__ = ["Attached", "Batch", "Log", "Place", "Reader", "next_part"]

#: A comment is sent when there was nothing else for so long, milliseconds.
_KEEP_ALIVE_MS = 15_000
#: About how many bytes of stored chunks are read at a time.
_MOST_READ = 64 * 1024
#: About how many bytes of what a reader has missed are one part.
_MOST_SENT = 64 * 1024
#: The id of an event names so many steps under way at most; it goes into a header of a request.
_MOST_OPEN = 32


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a log: which execution of the run it is of, and how many events it is past."""

    generation: int
    index: int


@dataclass(frozen=True, slots=True)
class Batch:
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
    over: bool = False


class Log(Protocol):
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
    def handoff_place(self) -> Place | None:
        """The same as a place in the log."""
        ...

    def snapshot(self) -> tuple[Place, LiveStream | None]:
        """Return where the log is, and what is live."""
        ...

    def read(self, place: Place) -> Batch | None:
        """Return the events from a place on; None if they are not there any more."""
        ...

    def read_attached(self, index: int, *, redirected: bool) -> Batch | None:
        """Return the events for the attached client, up to where it is let go.

        ``redirected``: it has been told of the first checkpoint.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """What is known of a client that waits on the connection of its own request."""

    options: Options
    request: Request


@dataclass(frozen=True, slots=True)
class _Missed:
    """What a reader is being told that it has missed; it is made as far as it is sent.

    Attributes:
        events: what is left of it.
        place: where the reader goes on in the log after it; None if there is more in the store, or
            the log is not as far as the store.
        ended: the run has, and its response comes after it.
    """

    events: Iterator[Streamed]
    place: Place | None
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
        look: the store may have news: another process has written, or the run has ended. Set by
            whoever learns of that.
    """

    __slots__ = (
        *("attached", "cursor", "env", "from_handoff", "greeted", "log", "look", "missed", "over"),
        *("place", "redirected", "run_id"),
    )

    def __init__(
        self,
        env: Env,
        run_id: str,
        log: Log,
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
        self.look = attached is None
        self.greeted = False
        self.redirected = False
        self.over = False
        self.missed: _Missed | None = None
        self.place: Place | None = Place(0, 0) if attached is not None else None


def next_part(reader: Reader) -> Flow[bytes | None]:
    """Return the next bytes of the event stream, waiting for them; None at its end."""
    if not reader.greeted:
        reader.greeted = True
        return _frame(Metadata(run_id=reader.run_id))
    while not reader.over:
        if reader.attached is not None:
            part = yield from _attached_part(reader, reader.attached)
        else:
            part = yield from _waiting_part(reader)
        if part:
            return part
        if reader.over:
            break
        woken = yield from await_more(_KEEP_ALIVE_MS)
        if woken is Woken.STOPPING and reader.attached is None:
            break
        if woken is Woken.TIME_OUT:
            reader.look = reader.attached is None
            return KEEP_ALIVE
    reader.over = True
    return None


def _attached_part(reader: Reader, attached: Attached) -> Flow[bytes]:
    """Return what the log has: the response, too, if the run ends while the client waits."""
    assert reader.place is not None
    batch = None
    if reader.missed is None:
        batch = reader.log.read_attached(reader.place.index, redirected=reader.redirected)
    if batch is None:
        return (yield from _catch_up(reader))
    part = _told(reader, batch.events)
    reader.place = Place(0, batch.index)
    if batch.redirect:
        reader.redirected = True
        url = yield from redirect_url(reader.env, attached.options, attached.request, reader.run_id)
        part += _frame(RedirectInfo(run_id=reader.run_id, url=url))
    if batch.final is not None:
        part += _frame(batch.final)
    reader.over = batch.over or batch.final is not None
    return bytes(part)


def _waiting_part(reader: Reader) -> Flow[bytes]:
    """Return what is stored, then what is live; the response when the run has ended."""
    if reader.from_handoff:
        if not (reader.look or reader.log.handed_off):
            return b""
        if not (yield from _found_handoff(reader)):
            return b""
    if reader.missed is None:
        part = _follow(reader)
        if part:
            return part
    if reader.missed is not None or reader.place is None or reader.look:
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
            reader.place = Place(reader.place.generation, batch.index)
            part = _told(reader, batch.events)
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
    reader.look = False
    stored = yield from read_stream(reader.run_id, reader.cursor, 1)
    if stored is None:
        reader.over = True
        return False
    if stored.handoff is not None:
        reader.cursor = Cursor.load(stored.handoff)
    elif stored.phase.ended:
        reader.cursor = Cursor(done=_EVERYTHING, outside=_EVERYTHING)
    elif stored.phase in (Phase.SYNC, Phase.RESPONDING):
        return False
    reader.from_handoff = False
    reader.look = True
    return True


#: Past all completion numbers and chunks.
_EVERYTHING = 2**62


def _catch_up(reader: Reader) -> Flow[bytes]:
    """Return what the reader has missed, a part at a time."""
    missed = reader.missed or (yield from _look_up(reader))
    if missed is None:
        reader.over = True  # pruned
        return b""
    part = bytearray()
    for event in missed.events:
        part += _told_frame(reader, event)
        if len(part) >= _MOST_SENT:
            reader.missed = missed
            return bytes(part)
    reader.missed = None
    if missed.place is None:
        if reader.attached is None:
            # Not on in the log from where it was: that may tell of steps that are over by now.
            reader.place, reader.look = None, True
        return bytes(part)
    reader.place = missed.place
    if missed.ended:
        part += yield from _response(reader)
        reader.over = True
    return bytes(part)


def _look_up(reader: Reader) -> Flow[_Missed | None]:
    """Look what the reader has missed, as far as it is read at a time; None for a pruned run."""
    reader.look = False
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
    is_old = live is not None and is_behind(live, reader.cursor, stored)
    return _Missed(
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
    return stored is not None and stored.more and stored.pieces[-1].number < until.done


def _response(reader: Reader) -> Flow[bytes]:
    result = yield from read_result(reader.run_id)
    if not isinstance(result, StoredResult):
        return b""  # pruned a moment ago
    return _frame(_final(result))


def _final(result: StoredResult) -> Final:
    if result.body is None:
        gone = problem(410, "response-not-kept", detail=RESPONSE_NOT_KEPT)
        return final_of(gone, failed=True)
    response = load_response(result.head, result.body)
    return final_of(response, failed=result.phase is not Phase.COMPLETED)


def _told(reader: Reader, events: Iterable[Streamed]) -> bytearray:
    part = bytearray()
    for event in events:
        for told in reader.cursor.see(event):
            part += _told_frame(reader, told)
    return part


def _told_frame(reader: Reader, event: Streamed) -> bytes:
    """Encode an event; its id is where the reader is once it has it."""
    id_ = reader.cursor.dump(_MOST_OPEN)
    if isinstance(event, Pushed):
        return encode_event(CHUNK, chunk_data(event.text, event.op_id), id=id_)
    if isinstance(event, RolledBack):
        return encode_event(*dump_stream_event(Rollback(step_id=event.op_id)), id=id_)
    return encode_event(*dump_stream_event(Commit(step_id=event.op_id)), id=id_)


def _frame(event: StreamEvent) -> bytes:
    return encode_event(*dump_stream_event(event))
