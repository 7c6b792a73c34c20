"""The client of a run's stream, as a machine without I/O.

It is told what came from the servers it had opened, and answers with what to do next. A run's
stream begins on the connection of the first request. An ``inngest.redirect_info`` names the URL
at which it goes on should it not end there; that URL is opened at once, and read when the first
connection has ended. Both may break: the machine then comes back to that URL with the id of the
last event it saw as ``Last-Event-ID``. The first request is never sent twice, for it would begin
a second run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from durable_core.codec.sse import CONTENT_TYPE, SSEDecoder
from durable_core.codec.stream_events import (
    Chunk,
    Commit,
    Final,
    Metadata,
    RedirectInfo,
    Rollback,
    StreamEvent,
    load_stream_event,
)
from durable_core.errors import (
    ConnectionLostError,
    ProtocolError,
    StreamEndedError,
    TooManyRedirectsError,
)
from durable_core.http.headers import Headers
from durable_core.wire.backoff import Backoff
from durable_core.wire.following_commands import (
    Close,
    Command,
    Commands,
    Deliver,
    Fail,
    Finish,
    Open,
    Read,
)
from durable_core.wire.following_head import Head
from durable_core.wire.http_response import check_body_size
from durable_core.wire.redirects import Journey, Stage, is_wait_url

__all__ = ["Following"]

_MAX_REDIRECTS = 20
_MAX_RECONNECTS = 10
_MAX_BODY = 64 * 1024 * 1024
#: A connection that was open for so long was not in vain, though nothing came on it. Servers that
#: serve one client at a time hold them for 2 s only.
_STEADY_MS = 1_500
#: What servers and proxies answer that cannot serve now, but may soon.
_TRY_AGAIN = frozenset({429, 502, 503, 504})
_DEFAULT_WAIT_MS = 5_000
#: More bytes of an event id would be refused by servers, as a part of a request's head.
_MAX_ID = 8 * 1024
#: Before a run that still goes on is asked for again, whatever the server says.
_LEAST_WAIT_MS = 250


class _Exchange:
    """One request, and what is known of its response."""

    __slots__ = (
        *("decoder", "has_begun", "head", "number", "opened_at", "plain", "redirects", "stage"),
    )

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.number = 0
        self.redirects = 0
        self.head: Head | None = None
        self.has_begun = False
        self.opened_at = 0
        self.decoder: SSEDecoder | None = None
        self.plain = bytearray()


class Following:
    """Follows the stream of one run to its response.

    Every method takes the time in milliseconds (of any clock that does not go back) and returns
    what to do, in order. ``Finish`` or ``Fail`` is the last command; all open responses are to be
    closed then, and whatever is told later is ignored.

    Args:
        method, url, headers: of the first request.
        repeatable: whether the body can be sent again, as a 307 or 308 asks for.
        uniform: returns a random number in [0, 1).
        max_redirects: how many redirects may follow on one another.
        max_reconnects: how often to come back to the stream without getting on.
        max_body: how many bytes a response that is no stream may have.

    Raises:
        ValueError: the URL is not one of HTTP, or a limit is negative.
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
        self._accept = ", ".join([*headers.get_all("accept"), CONTENT_TYPE])
        self._journey = Journey(method=method, url=url, headers=headers.without(["accept"]))
        self._repeatable = repeatable
        self._backoff = Backoff(limit=max_reconnects, uniform=uniform)
        self._max_redirects = max_redirects
        self._max_body = max_body
        self._numbers = 0
        self._commands: list[Command] = []
        self._current = _Exchange(self._journey.first)
        self._standby: _Exchange | None = None
        self._resume_url: str | None = None
        self._last_event_id = ""
        self._run_id: str | None = None
        self._was_answered = False
        self._is_done = False

    def start(self) -> Commands:
        """Begin."""
        self._open(self._current)
        return self._flush()

    def opened(self, number: int, status: int, headers: Headers, now: int) -> Commands:
        """The head of this response is there."""
        exchange = self._find(number)
        if exchange is not None:
            exchange.head = Head(status=status, headers=headers)
            exchange.opened_at = now
            with self._failing():
                self._go_on(exchange)
        return self._flush()

    def received(self, number: int, data: bytes) -> Commands:
        """These bytes of the body of this response have come."""
        exchange = self._find(number)
        if exchange is not None:
            with self._failing():
                self._take(exchange, data)
        return self._flush()

    def ended(self, number: int, now: int, *, is_sure: bool = True) -> Commands:
        """The body of this response has ended as it should.

        It is not sure where the body ends with its connection, which may as well have broken.
        """
        exchange = self._find(number)
        if exchange is not None and exchange.head is not None:
            if exchange.decoder is None:
                self._finish(exchange.head.status, exchange.head.headers, bytes(exchange.plain))
            else:
                self._leave(exchange, None, now, is_sure=is_sure)
        return self._flush()

    def failed(self, number: int, error: Exception, now: int) -> Commands:
        """This response could not be opened, or broke off."""
        exchange = self._find(number)
        if exchange is not None:
            if exchange is self._standby:
                self._standby = None
            elif not self._was_answered:
                self._fail(error)
            else:
                self._leave(exchange, error, now, is_sure=False)
        return self._flush()

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
        """Make an error of the protocol the end."""
        try:
            yield
        except (ProtocolError, TooManyRedirectsError) as error:
            self._fail(error)

    def _open(self, exchange: _Exchange, delay_ms: int = 0) -> None:
        self._numbers += 1
        exchange.number = self._numbers
        exchange.head = None
        stage = exchange.stage
        headers = self._journey.headers(stage).with_set("accept", self._accept)
        if "accept-encoding" not in headers:
            headers = headers.with_set("accept-encoding", "identity")
        if exchange is self._current and self._last_event_id:
            headers = _with_last_event_id(headers, self._last_event_id)
        command = Open(
            number=exchange.number,
            method=stage.method,
            url=stage.url,
            headers=headers,
            sends_body=stage.sends_body,
            delay_ms=delay_ms,
        )
        self._commands.append(command)

    def _go_on(self, exchange: _Exchange) -> None:
        """Decide what the head of a response means."""
        head = exchange.head
        assert head is not None
        if head.is_redirect:
            self._redirect(exchange, head)
        elif exchange is self._current:
            self._begin(exchange, head)
        elif not head.is_stream:
            self._drop_standby()  # it is asked for again when it is needed

    def _redirect(self, exchange: _Exchange, head: Head) -> None:
        exchange.redirects += 1
        if exchange.redirects > self._max_redirects:
            raise TooManyRedirectsError(
                f"over {self._max_redirects} redirects in a row, which is the most allowed"
            )
        stage = self._journey.after(exchange.stage, head.status, head.headers["location"])
        if stage.sends_body and not self._repeatable:
            raise ProtocolError(
                f"a redirect with {head.status} asks for the request's body again, which came "
                "from an iterator; give it as bytes"
            )
        self._commands.append(Close(exchange.number))
        exchange.stage = stage
        self._open(exchange)

    def _begin(self, exchange: _Exchange, head: Head) -> None:
        """Read the response that is now at the head of the run's stream, or ask again."""
        self._was_answered = True
        if head.is_stream:
            exchange.decoder = SSEDecoder(last_event_id=self._last_event_id)
        elif head.asks_to_wait:
            self._wait(exchange, head)
            return
        elif head.status in _TRY_AGAIN and self._run_id is not None:
            error = ConnectionLostError(f"the stream could not be resumed: status {head.status}")
            self._commands.append(Close(exchange.number))
            self._come_back(error, head.retry_after_ms or 0)
            return
        self._commands.append(Read(exchange.number))

    def _wait(self, exchange: _Exchange, head: Head) -> None:
        """Ask later where the run still goes on: a 202 with Location and Retry-After."""
        stage = self._journey.after(exchange.stage, 303, head.headers["location"])
        self._commands.append(Close(exchange.number))
        self._current = _Exchange(stage)
        wait_ms = head.retry_after_ms
        self._open(
            self._current, _DEFAULT_WAIT_MS if wait_ms is None else max(wait_ms, _LEAST_WAIT_MS)
        )

    def _take(self, exchange: _Exchange, data: bytes) -> None:
        decoder = exchange.decoder
        if decoder is None:
            exchange.plain += data
            check_body_size(len(exchange.plain), self._max_body)
            return
        if not exchange.has_begun:
            exchange.has_begun = True
            assert exchange.head is not None
            exchange.head.check_beginning(data)
        for event in decoder.feed(data):
            parsed = load_stream_event(event.event, event.data)
            if parsed is not None:
                self._take_event(parsed)
            if self._is_done:
                return
        self._last_event_id = decoder.last_event_id
        if decoder.retry_ms is not None:
            self._backoff.first_ms = decoder.retry_ms

    def _take_event(self, event: StreamEvent) -> None:
        match event:
            case Chunk() | Commit() | Rollback():
                self._backoff.succeed()
                self._commands.append(Deliver(event))
            case Metadata(run_id=run_id):
                if run_id != self._run_id:
                    self._run_id = run_id
                    self._commands.append(Deliver(event))
            case RedirectInfo(url=url):
                self._expect(url)
            case Final():
                self._finish(event.status, event.headers, event.body)

    def _expect(self, url: str) -> None:
        """Open at once where the stream will go on; only the first such event does so."""
        is_first = self._resume_url is None
        self._resume_url = url
        stage = self._journey.at(url)
        if is_first:
            self._standby = _Exchange(stage)
            self._open(self._standby)

    def _leave(
        self, exchange: _Exchange, error: Exception | None, now: int, *, is_sure: bool
    ) -> None:
        """Go on elsewhere, as the connection has ended or broken before the response.

        After a sure end the second connection has all that follows. After a break it may lack
        what was under way on the first: it is opened anew, from the last event that came through.
        """
        if exchange.head is not None and now - exchange.opened_at >= _STEADY_MS:
            self._backoff.succeed()
        standby = self._standby
        if standby is not None and (is_sure or not self._last_event_id):
            self._standby = None
            self._current = standby
            if standby.head is not None:
                with self._failing():
                    self._begin(standby, standby.head)
            return
        self._drop_standby()
        if standby is not None and error is None and self._resume_url is not None:
            with self._failing():  # at once: most such ends are no breaks
                self._current = _Exchange(self._journey.at(self._resume_url))
                self._open(self._current)
            return
        self._come_back(error, 0)

    def _drop_standby(self) -> None:
        if self._standby is not None:
            self._commands.append(Close(self._standby.number))
            self._standby = None

    def _come_back(self, error: Exception | None, at_least_ms: int) -> None:
        url = self._resume_url
        if url is None and is_wait_url(self._current.stage.url):
            url = self._current.stage.url
        if url is None:
            self._fail(error or StreamEndedError("the stream ended without the run's response"))
            return
        delay = self._backoff.fail(at_least_ms=at_least_ms)
        if delay is None:
            ended = StreamEndedError(
                "the stream ended without the run's response, and "
                f"{self._backoff.failures} attempts to come back to it did not get on"
            )
            ended.__cause__ = error
            self._fail(ended)
            return
        with self._failing():
            self._current = _Exchange(self._journey.at(url))
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
