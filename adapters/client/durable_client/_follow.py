"""The client of a run's stream, as a state machine without I/O.

A driver reports what came from the servers, and does the commands that it gets back. A run's
stream begins on the connection of the first request. An ``inngest.redirect_info`` event names the
URL at which the stream continues if it does not end there. That URL is opened at once, and read
when the first connection has ended. Both connections may break: the client then resumes at that
URL, with the id of the last event in ``Last-Event-ID``. The first request is sent once, because a
second one would begin a second run. The exception is a connection that had served other requests
before, and that the server has probably closed by now: what HTTP counts as idempotent is then sent
once more (RFC 9110, section 9.2.2).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from durable_client._redirects import (
    REDIRECTS,
    DowngradeError,
    RedirectChain,
    Target,
    is_wait_url,
)
from durable_core.clients import (
    CONTENT_TYPE,
    TOKEN,
    Chunk,
    Commit,
    Final,
    Headers,
    Metadata,
    RedirectInfo,
    Rollback,
    SSEDecoder,
    StreamEvent,
    load_stream_event,
    may_begin,
)
from durable_core.errors import (
    ConnectionLostError,
    ProtocolError,
    StreamEndedError,
    TooManyRedirectsError,
)

__all__ = [
    "Backoff",
    "Close",
    "Command",
    "Commands",
    "Deliver",
    "DeliveredEvent",
    "Fail",
    "Finish",
    "Head",
    "Open",
    "Read",
    "StreamClient",
]

_MAX_REDIRECTS = 20
_MAX_RECONNECTS = 10
_MAX_BODY = 64 * 1024 * 1024
#: A connection that stayed open this long counts as progress, even without events. Servers that
#: serve one client at a time hold a connection for 2 s only.
_PROGRESS_MS = 1_500
#: Statuses of servers and proxies that cannot answer now.
_TRY_AGAIN = frozenset({429, 502, 503, 504})
#: The wait before a run that still goes on is asked for again, where the server names no seconds.
_DEFAULT_WAIT_MS = 5_000
_MIN_WAIT_MS = 250
#: Servers refuse a longer event id, as it is part of a request's head.
_MAX_ID = 8 * 1024
_SECONDS = re.compile(r"[0-9]{1,6}")
#: Methods whose requests may be sent again where nobody knows whether they arrived.
_IDEMPOTENT = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PUT", "QUERY", "TRACE"})

_FIRST_DELAY_MS = 250
_MAX_DELAY_MS = 30_000
#: The first delay is not shorter, even if the server says so: no server may make a client spin.
_MIN_DELAY_MS = 20


# --- commands -------------------------------------------------------------------------------------


#: The events that callbacks get. The others are for the client itself.
DeliveredEvent: TypeAlias = Metadata | Chunk | Commit | Rollback


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Send a request after a delay; report ``opened`` or ``failed`` with its number.

    Attributes:
        is_same_origin: whether it goes to the origin of the first request. Another origin must
            get no credentials.
    """

    number: int
    method: str
    url: str
    headers: Headers
    sends_body: bool
    is_same_origin: bool = True
    delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """Read the body of this response; report ``received``, and ``ended`` or ``failed``."""

    number: int


@dataclass(frozen=True, slots=True)
class Close:
    """Close this response, or stop opening it; report nothing about it any more."""

    number: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """Give this event to the callback for its type."""

    event: DeliveredEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Return this response. It is the last command."""

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Fail:
    """Raise this error. It is the last command."""

    error: Exception


Command: TypeAlias = Open | Read | Close | Deliver | Finish | Fail
Commands: TypeAlias = tuple[Command, ...]


# --- parts ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Status and header fields of a response, and what they ask for."""

    status: int
    headers: Headers

    @property
    def is_redirect(self) -> bool:
        """Whether it names another URL to ask instead."""
        return self.status in REDIRECTS and "location" in self.headers

    @property
    def is_stream(self) -> bool:
        """Whether a stream of events follows."""
        media_type = (self.headers.get("content-type") or "").partition(";")[0]
        return self.status == 200 and media_type.strip().lower() == CONTENT_TYPE

    @property
    def asks_to_wait(self) -> bool:
        """Whether the run still goes on, and the response says where and when to ask again."""
        return self.status == 202 and {"location", "retry-after"} <= set(self.headers)

    @property
    def retry_after_ms(self) -> int | None:
        """The seconds of ``Retry-After`` in ms; a date is not understood."""
        value = self.headers.get("retry-after") or ""
        return int(value) * 1000 if _SECONDS.fullmatch(value) else None

    def check_beginning(self, data: bytes) -> None:
        """Check that a stream with a content coding was decoded.

        HTTP clients that decode a body keep the ``Content-Encoding`` field.

        Args:
            data: the first bytes of the stream.

        Raises:
            ProtocolError: it is still compressed.
        """
        coding = (self.headers.get("content-encoding") or "identity").strip().lower()
        if coding != "identity" and not may_begin(data):
            raise ProtocolError(
                f"the stream is compressed (Content-Encoding: {coding}), and the HTTP client does "
                "not decode it; have it ask for 'identity', or decode what comes"
            )


class Backoff:
    """Delays that double with each failure, with random jitter, and a limit of failures in a row.

    Args:
        limit: how many failures in a row are allowed; 0 or more.
        uniform: returns a random number in [0, 1).
    """

    __slots__ = ("_limit", "_uniform", "failures", "first_ms")

    def __init__(self, *, limit: int, uniform: Callable[[], float]) -> None:
        if limit < 0:
            raise ValueError(f"the limit of reconnections must be 0 or more, not {limit!r}")
        self._limit = limit
        self._uniform = uniform
        #: How many failures there were in a row.
        self.failures = 0
        #: The first delay before jitter; a server sets it with ``retry``.
        self.first_ms = _FIRST_DELAY_MS

    def succeed(self) -> None:
        """Start counting again."""
        self.failures = 0

    def fail(self, *, at_least_ms: int = 0) -> int | None:
        """Count a failure, and return how many ms to wait; None when that was one too many.

        The delay is the doubled one times a random factor from 0.5 to 1, and never under
        ``at_least_ms``, which the server asks for.
        """
        if self.failures >= self._limit:
            return None
        delay = min(max(self.first_ms, _MIN_DELAY_MS) << self.failures, _MAX_DELAY_MS)
        self.failures += 1
        return max(at_least_ms, round(delay * (0.5 + self._uniform() / 2)))


class _Exchange:
    """One request, and what is known of its response."""

    __slots__ = (
        *("decoder", "has_begun", "head", "is_sent_again", "number", "opened_at", "plain"),
        *("redirects", "target"),
    )

    def __init__(self, target: Target) -> None:
        self.target = target
        self.number = 0
        self.is_sent_again = False
        self.redirects = 0
        self.head: Head | None = None
        self.has_begun = False
        self.opened_at = 0
        self.decoder: SSEDecoder | None = None
        self.plain = bytearray()


# --- the machine ----------------------------------------------------------------------------------


class StreamClient:
    """Follows the stream of one run to its response.

    Each method returns what to do, in order. ``Finish`` or ``Fail`` is the last command; the
    driver then closes all open responses, and later reports are ignored. Times are milliseconds
    of any clock that does not go back.

    Args:
        method, url, headers: of the first request.
        repeatable: whether the body can be sent again, as a 307 or 308 asks for.
        uniform: returns a random number in [0, 1).
        max_redirects: how many redirects may follow each other.
        max_reconnects: how often in a row to reconnect without progress.
        max_body: how many bytes a response that is no stream may have.

    Raises:
        ValueError: the method is no token, the URL no HTTP URL, or a limit is negative.
    """

    def __init__(
        self,
        *,
        method: str,
        url: str,
        headers: Headers,
        repeatable: bool,
        uniform: Callable[[], float],
        max_redirects: int = _MAX_REDIRECTS,
        max_reconnects: int = _MAX_RECONNECTS,
        max_body: int = _MAX_BODY,
    ) -> None:
        if TOKEN.fullmatch(method) is None or method == "CONNECT":
            raise ValueError(f"a method must be a token other than CONNECT, not {method!r}")
        self._accept = ", ".join([*headers.get_all("accept"), CONTENT_TYPE])
        self._chain = RedirectChain(method=method, url=url, headers=headers.without(["accept"]))
        self._repeatable = repeatable
        self._backoff = Backoff(limit=max_reconnects, uniform=uniform)
        self._max_redirects = max_redirects
        self._max_body = max_body
        self._numbers = 0
        self._commands: list[Command] = []
        self._current = _Exchange(self._chain.first)
        self._standby: _Exchange | None = None
        self._resume_at: Target | None = None
        self._downgrade: DowngradeError | None = None
        self._last_event_id = ""
        self._run_id: str | None = None
        self._was_answered = False
        self._is_done = False

    def start(self) -> Commands:
        """Begin."""
        self._open(self._current)
        return self._flush()

    def opened(self, number: int, status: int, headers: Headers, now: int) -> Commands:
        """Report the head of a response."""
        exchange = self._find(number)
        if exchange is not None:
            exchange.head = Head(status=status, headers=headers)
            exchange.opened_at = now
            with self._failing():
                self._handle_head(exchange, exchange.head)
        return self._flush()

    def received(self, number: int, data: bytes) -> Commands:
        """Report bytes of the body of a response."""
        exchange = self._find(number)
        if exchange is not None:
            with self._failing():
                self._handle_data(exchange, data)
        return self._flush()

    def ended(self, number: int, now: int, *, is_delimited: bool = True) -> Commands:
        """Report the end of the body of a response.

        A body without a length or chunks is not delimited: it ends with its connection, which may
        have broken as well.
        """
        exchange = self._find(number)
        if exchange is not None and exchange.head is not None:
            if exchange.decoder is None:
                self._finish(exchange.head.status, exchange.head.headers, bytes(exchange.plain))
            else:
                self._leave(exchange, None, now, is_complete=is_delimited)
        return self._flush()

    def failed(
        self, number: int, error: Exception, now: int, *, was_reused: bool = False
    ) -> Commands:
        """Report that a response could not be opened, or broke off.

        ``was_reused``: the connection had served other requests before.
        """
        exchange = self._find(number)
        if exchange is not None:
            if was_reused and isinstance(error, ConnectionLostError) and self._may_repeat(exchange):
                exchange.is_sent_again = True
                self._open(exchange)
            elif exchange is self._standby:
                self._standby = None
            elif not self._was_answered:
                self._fail(error)
            else:
                self._leave(exchange, error, now, is_complete=False)
        return self._flush()

    def _may_repeat(self, exchange: _Exchange) -> bool:
        """Tell whether a request may be sent once more, of which nobody knows if it arrived."""
        target = exchange.target
        is_answered = exchange.head is not None
        if is_answered or exchange.is_sent_again or (target.sends_body and not self._repeatable):
            return False
        has_key = "idempotency-key" in self._chain.headers(target)
        return has_key or target.method in _IDEMPOTENT

    def _find(self, number: int) -> _Exchange | None:
        if self._is_done:
            return None
        for exchange in (self._current, self._standby):
            if exchange is not None and exchange.number == number:
                return exchange
        return None

    def _flush(self) -> Commands:
        commands = tuple(self._commands)
        self._commands.clear()
        return commands

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Turn an error of the protocol into the end."""
        try:
            yield
        except (ProtocolError, TooManyRedirectsError) as error:
            self._fail(error)

    def _open(self, exchange: _Exchange, delay_ms: int = 0) -> None:
        self._numbers += 1
        exchange.number = self._numbers
        exchange.head = None
        target = exchange.target
        headers = self._chain.headers(target).with_set("accept", self._accept)
        if "accept-encoding" not in headers:
            headers = headers.with_set("accept-encoding", "identity")
        if exchange is self._current and self._last_event_id:
            headers = _with_last_event_id(headers, self._last_event_id)
        command = Open(
            number=exchange.number,
            method=target.method,
            url=target.url,
            headers=headers,
            sends_body=target.sends_body,
            is_same_origin=self._chain.is_same_origin(target),
            delay_ms=delay_ms,
        )
        self._commands.append(command)

    def _handle_head(self, exchange: _Exchange, head: Head) -> None:
        if head.is_redirect:
            self._redirect(exchange, head)
        elif exchange is self._current:
            self._begin(exchange, head)
        elif not head.is_stream:
            self._drop_standby()  # it is opened again when it is needed

    def _redirect(self, exchange: _Exchange, head: Head) -> None:
        exchange.redirects += 1
        if exchange.redirects > self._max_redirects:
            raise TooManyRedirectsError(
                f"over {self._max_redirects} redirects in a row, which is the most allowed"
            )
        target = self._chain.after(exchange.target, head.status, head.headers["location"])
        if target.sends_body and not self._repeatable:
            raise ProtocolError(
                f"a redirect with {head.status} asks for the request's body again, which came "
                "from an iterator; give it as bytes"
            )
        self._commands.append(Close(exchange.number))
        exchange.target = target
        exchange.is_sent_again = False
        self._open(exchange)

    def _begin(self, exchange: _Exchange, head: Head) -> None:
        """Read the current response, or ask again later."""
        self._was_answered = True
        if head.is_stream:
            exchange.decoder = SSEDecoder(last_event_id=self._last_event_id)
        elif head.asks_to_wait:
            self._wait(exchange, head)
            return
        elif head.status in _TRY_AGAIN and self._run_id is not None:
            error = ConnectionLostError(f"the stream could not be resumed: status {head.status}")
            self._commands.append(Close(exchange.number))
            self._resume(error, head.retry_after_ms or 0)
            return
        self._commands.append(Read(exchange.number))

    def _wait(self, exchange: _Exchange, head: Head) -> None:
        """Ask later for a run that still goes on: a 202 with Location and Retry-After."""
        target = self._chain.after(exchange.target, 303, head.headers["location"])
        self._commands.append(Close(exchange.number))
        self._current = _Exchange(target)
        wait_ms = head.retry_after_ms
        self._open(
            self._current, _DEFAULT_WAIT_MS if wait_ms is None else max(wait_ms, _MIN_WAIT_MS)
        )

    def _handle_data(self, exchange: _Exchange, data: bytes) -> None:
        decoder = exchange.decoder
        if decoder is None:
            exchange.plain += data
            if len(exchange.plain) > self._max_body:
                raise ProtocolError(
                    f"the body of the response has over {self._max_body} bytes, which is the most "
                    "allowed"
                )
            return
        if not exchange.has_begun:
            exchange.has_begun = True
            assert exchange.head is not None
            exchange.head.check_beginning(data)
        for event in decoder.feed(data):
            parsed = load_stream_event(event.event, event.data)
            if parsed is not None:
                self._handle_event(exchange, parsed)
            if self._is_done:
                return
        self._last_event_id = decoder.last_event_id
        if decoder.retry_ms is not None:
            self._backoff.first_ms = decoder.retry_ms

    def _handle_event(self, exchange: _Exchange, event: StreamEvent) -> None:
        match event:
            case Chunk() | Commit() | Rollback():
                self._backoff.succeed()
                self._commands.append(Deliver(event))
            case Metadata(run_id=run_id):
                if run_id != self._run_id:
                    self._run_id = run_id
                    self._commands.append(Deliver(event))
            case RedirectInfo(url=url):
                self._prepare(exchange, url)
            case Final():
                self._finish(event.status, event.headers, event.body)

    def _prepare(self, exchange: _Exchange, url: str) -> None:
        """Open where the stream will continue. Only the first such event does so."""
        is_first = self._resume_at is None
        try:
            self._resume_at = self._chain.read(url, named_by=exchange.target)
        except DowngradeError as error:
            self._downgrade = error  # the run may yet end on this connection
            return
        if is_first:
            self._standby = _Exchange(self._resume_at)
            self._open(self._standby)

    def _leave(
        self, exchange: _Exchange, error: Exception | None, now: int, *, is_complete: bool
    ) -> None:
        """Continue elsewhere: the connection has ended or broken before the run's response.

        After a complete stream the second connection has all that follows. After a break it may
        lack what was on its way on the first: it is opened again, from the last event received.
        """
        if exchange.head is not None and now - exchange.opened_at >= _PROGRESS_MS:
            self._backoff.succeed()
        standby = self._standby
        if standby is not None and (is_complete or not self._last_event_id):
            self._standby = None
            self._current = standby
            if standby.head is not None:
                with self._failing():
                    self._begin(standby, standby.head)
            return
        self._drop_standby()
        if standby is not None and error is None and self._resume_at is not None:
            with self._failing():  # at once: most such ends are no breaks
                self._current = _Exchange(self._resume_at)
                self._open(self._current)
            return
        self._resume(error, 0)

    def _drop_standby(self) -> None:
        if self._standby is not None:
            self._commands.append(Close(self._standby.number))
            self._standby = None

    def _resume(self, error: Exception | None, at_least_ms: int) -> None:
        """Reconnect after a delay, or fail where that is not possible any more."""
        target = self._resume_at
        if target is None and is_wait_url(self._current.target.url):
            target = self._current.target
        if target is None:
            ended = StreamEndedError("the stream ended without the run's response")
            self._fail(self._downgrade or error or ended)
            return
        delay = self._backoff.fail(at_least_ms=at_least_ms)
        if delay is None:
            ended = StreamEndedError(
                "the stream ended without the run's response, and "
                f"{self._backoff.failures} attempts to reconnect made no progress"
            )
            ended.__cause__ = error
            self._fail(ended)
            return
        with self._failing():
            self._current = _Exchange(Target(method="GET", url=target.url, sends_body=False))
            self._open(self._current, delay)

    def _finish(self, status: int, headers: Headers, body: bytes) -> None:
        self._is_done = True
        self._commands.append(Finish(status=status, headers=headers, body=body))

    def _fail(self, error: Exception) -> None:
        self._is_done = True
        self._commands.append(Fail(error))


def _with_last_event_id(headers: Headers, event_id: str) -> Headers:
    """Return the headers with the id in UTF-8, as the HTML standard says."""
    value = event_id.encode("utf-8").decode("latin-1")
    try:
        if len(value) <= _MAX_ID:
            return headers.with_set("last-event-id", value)
    except ValueError:
        pass
    raise ProtocolError("the stream has an event id that no header can hold")
