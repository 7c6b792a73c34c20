"""The client's machine: every decision, and streams that break anywhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_client import _follow
from durable_client._follow import (
    Close,
    Command,
    Commands,
    Deliver,
    Fail,
    Finish,
    Open,
    Read,
    StreamClient,
)
from durable_client._redirects import DowngradeError
from durable_core.codec.sse import KEEP_ALIVE, encode_event
from durable_core.codec.stream_events import (
    Chunk,
    Commit,
    Final,
    Metadata,
    RedirectInfo,
    Rollback,
    StreamEvent,
    dump_stream_event,
)
from durable_core.errors import (
    ConnectFailedError,
    ConnectionLostError,
    ProtocolError,
    RequestTimeoutError,
    StreamEndedError,
    TooManyRedirectsError,
)
from durable_core.http.headers import Headers

URL = "http://app/run"
WAIT = "http://app/run?durable-run=1&durable-token=2"
SSE = Headers({"content-type": "text/event-stream"})
NONE = Headers()
ACCEPTS = {"accept": "text/event-stream", "accept-encoding": "identity"}
BROKEN = ConnectionLostError("the connection broke")
HELLO = Metadata(run_id="r")
GOES_ON = RedirectInfo(run_id="r", url=WAIT)
DONE = Final(status=202, headers=Headers({"x-a": "b"}), body=b"done")
FINISHED = Finish(status=202, headers=Headers({"x-a": "b"}), body=b"done")


def stream_client(**options: Any) -> StreamClient:
    defaults: dict[str, Any] = {
        "method": "POST",
        "url": URL,
        "headers": NONE,
        "repeatable": True,
        "uniform": lambda: 1.0,
    }
    return StreamClient(**defaults | options)


def sse(*events: StreamEvent, id: str | None = None) -> bytes:
    return b"".join(encode_event(*dump_stream_event(event), id=id) for event in events)


def opened(commands: Commands) -> Open:
    """Return the one opening among the commands."""
    (only,) = [command for command in commands if isinstance(command, Open)]
    return only


def error_of(commands: Commands) -> Exception:
    last = commands[-1]
    assert isinstance(last, Fail)
    return last.error


def attached(machine: StreamClient, *events: StreamEvent, id: str | None = None) -> Commands:
    """Start, take the head of a stream and these events; return the last commands."""
    assert [1] == [command.number for command in machine.start() if isinstance(command, Open)]
    assert (Read(1),) == machine.opened(1, 200, SSE, 0)
    return machine.received(1, sse(*events, id=id))


# The first response


def test_the_first_request() -> None:
    """It is the caller's, and accepts a stream beside what the caller accepts."""
    headers = Headers({"X-A": "1", "Accept": "a/b"})
    command = opened(stream_client(headers=headers).start())

    assert ("POST", URL, True, 0) == (
        command.method,
        command.url,
        command.sends_body,
        command.delay_ms,
    )
    accepts = {**ACCEPTS, "accept": "a/b, text/event-stream"}
    assert Headers({"X-A": "1", **accepts}) == command.headers
    assert Headers(ACCEPTS) == opened(stream_client().start()).headers


def test_the_caller_may_accept_compression() -> None:
    """Who asks for it has a transport that decodes it."""
    headers = Headers({"Accept-Encoding": "gzip"})

    assert "gzip" == opened(stream_client(headers=headers).start()).headers["accept-encoding"]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"content-type": "application/json"}),
        (404, {"content-type": "text/event-stream"}),
        (302, {}),
        (202, {"location": "/elsewhere"}),
        (202, {"retry-after": "3"}),
        (503, {"retry-after": "1"}),
    ],
)
def test_an_answer_that_is_no_stream_is_the_response(status: int, headers: dict[str, str]) -> None:
    """Status, headers and body are returned as they are."""
    machine = stream_client()
    machine.start()

    assert (Read(1),) == machine.opened(1, status, Headers(headers), 0)
    assert () == machine.received(1, b"he")
    assert () == machine.received(1, b"llo")
    assert (Finish(status=status, headers=Headers(headers), body=b"hello"),) == machine.ended(1, 0)


@pytest.mark.parametrize("content_type", ["Text/Event-Stream; charset=utf-8", "text/event-stream "])
def test_a_stream_is_known_by_its_media_type(content_type: str) -> None:
    """Parameters and case do not matter."""
    machine = stream_client()
    machine.start()
    machine.opened(1, 200, Headers({"content-type": content_type}), 0)

    assert (FINISHED,) == machine.received(1, sse(DONE))


def test_no_connection_at_first_is_the_callers_to_know() -> None:
    """The error comes out as it is, and nothing is tried again."""
    machine = stream_client()
    machine.start()
    error = ConnectFailedError("nobody listens")

    assert (Fail(error),) == machine.failed(1, error, 0)


@pytest.mark.parametrize(
    ("method", "options", "is_repeated"),
    [
        ("GET", {}, True),
        ("QUERY", {}, True),
        ("PUT", {"repeatable": False}, False),
        ("POST", {}, False),
        ("POST", {"headers": Headers({"Idempotency-Key": '"k"'})}, True),
        ("POST", {"headers": Headers({"Idempotency-Key": '"k"'}), "repeatable": False}, False),
    ],
)
def test_a_connection_that_the_server_has_closed(
    method: str, options: dict[str, Any], is_repeated: bool
) -> None:
    """A request that may be sent twice is sent once more, with all that it had; others are not."""
    machine = stream_client(method=method, **options)
    command = opened(machine.start())
    commands = machine.failed(1, BROKEN, 0, was_reused=True)
    if not is_repeated:
        assert (Fail(BROKEN),) == commands
        return
    assert (replace(command, number=2),) == commands
    assert (Fail(BROKEN),) == machine.failed(2, BROKEN, 0, was_reused=True)


def test_other_failures_of_a_connection_that_was_reused() -> None:
    """A time-out, and a break after the answer began, are for the caller to know."""
    machine = stream_client(method="GET")
    machine.start()
    late = RequestTimeoutError("late")
    assert (Fail(late),) == machine.failed(1, late, 0, was_reused=True)

    machine = stream_client(method="GET")
    machine.start()
    machine.opened(1, 200, NONE, 0)
    assert (Fail(BROKEN),) == machine.failed(1, BROKEN, 0, was_reused=True)


def test_each_request_of_a_chain_is_sent_twice_at_most() -> None:
    """That the first one was sent again leaves the second one its own repetition."""
    machine = stream_client(headers=Headers({"Idempotency-Key": '"k"'}))
    machine.start()
    machine.failed(1, BROKEN, 0, was_reused=True)
    machine.opened(2, 303, Headers({"location": WAIT}), 0)
    command = opened(machine.failed(3, BROKEN, 0, was_reused=True))

    assert (4, "GET", WAIT, False, 0) == (
        command.number,
        command.method,
        command.url,
        command.sends_body,
        command.delay_ms,
    )
    assert (Fail(BROKEN),) == machine.failed(4, BROKEN, 0, was_reused=True)


def test_a_plain_response_that_breaks_off() -> None:
    """What began is not asked for again: that would begin a second run."""
    machine = stream_client()
    machine.start()
    machine.opened(1, 200, NONE, 0)
    machine.received(1, b"he")

    assert (Fail(BROKEN),) == machine.failed(1, BROKEN, 0)


def test_a_plain_response_has_a_limit() -> None:
    """The error says which."""
    machine = stream_client(max_body=3)
    machine.start()
    machine.opened(1, 200, NONE, 0)

    assert "over 3 bytes" in str(error_of(machine.received(1, b"hello")))


# Redirects


def test_redirects_are_followed() -> None:
    """The first response is closed, and the next opened by the rules for methods."""
    machine = stream_client(headers=Headers({"x-a": "1"}))
    machine.start()
    commands = machine.opened(1, 303, Headers({"location": "?durable-run=1"}), 0)

    assert Close(1) == commands[0]
    command = opened(commands)
    assert (2, "GET", f"{URL}?durable-run=1", False) == (
        command.number,
        command.method,
        command.url,
        command.sends_body,
    )
    assert Headers({"x-a": "1", **ACCEPTS}) == command.headers
    assert (Read(2),) == machine.opened(2, 200, NONE, 0)


def test_headers_stay_with_their_origin() -> None:
    """Another origin gets only what says what is accepted."""
    machine = stream_client(headers=Headers({"authorization": "x", "accept": "a/b"}))
    machine.start()
    commands = machine.opened(1, 302, Headers({"location": "http://other/"}), 0)

    accepts = {**ACCEPTS, "accept": "a/b, text/event-stream"}
    assert Headers(accepts) == opened(commands).headers


def test_redirects_have_a_limit() -> None:
    """A server that goes round in a circle is left."""
    machine = stream_client(max_redirects=3)
    number = opened(machine.start()).number
    for _ in range(3):
        number = opened(machine.opened(number, 302, Headers({"location": "/x"}), 0)).number
    error = error_of(machine.opened(number, 302, Headers({"location": "/x"}), 0))

    assert isinstance(error, TooManyRedirectsError)
    assert "over 3 redirects in a row" in str(error)


def test_a_body_that_is_gone_cannot_follow() -> None:
    """A 307 asks for it again: the error names the way out."""
    machine = stream_client(repeatable=False)
    machine.start()
    error = error_of(machine.opened(1, 307, Headers({"location": "/x"}), 0))

    assert isinstance(error, ProtocolError)
    assert "give it as bytes" in str(error)


def test_a_redirect_that_leads_nowhere() -> None:
    """It is an error of the protocol."""
    machine = stream_client()
    machine.start()
    error = error_of(machine.opened(1, 302, Headers({"location": "mailto:a@b"}), 0))

    assert isinstance(error, ProtocolError)


def test_a_run_that_still_goes_on_is_asked_for_later() -> None:
    """202 with Location and Retry-After: wait, ask there, as often as it takes."""
    machine = stream_client()
    number = opened(machine.start()).number
    headers = Headers({"location": WAIT, "retry-after": "3"})
    for _ in range(50):
        commands = machine.opened(number, 202, headers, 0)
        assert Close(number) == commands[0]
        command = opened(commands)
        assert ("GET", WAIT, 3000) == (command.method, command.url, command.delay_ms)
        number = command.number
    machine.opened(number, 200, NONE, 0)

    assert (Finish(status=200, headers=NONE, body=b""),) == machine.ended(number, 0)


def test_no_server_makes_a_client_spin() -> None:
    """Zero seconds are a moment."""
    machine = stream_client()
    machine.start()
    headers = Headers({"location": "/", "retry-after": "0"})

    assert 250 == opened(machine.opened(1, 202, headers, 0)).delay_ms


def test_a_date_to_come_back_at_is_a_while() -> None:
    """What is no number of seconds counts as five."""
    machine = stream_client()
    machine.start()
    headers = Headers({"location": "/", "retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"})

    assert 5000 == opened(machine.opened(1, 202, headers, 0)).delay_ms


# The stream


def test_events_are_delivered_as_they_come() -> None:
    """Each goes to its callback; the response ends it, whatever comes behind it."""
    chunk, commit, rollback = Chunk(data=1, step_id="a"), Commit(step_id="a"), Rollback(step_id="b")
    commands = attached(stream_client(), HELLO, chunk, commit, rollback, DONE, chunk)

    expected = (Deliver(HELLO), Deliver(chunk), Deliver(commit), Deliver(rollback), FINISHED)
    assert expected == commands


def test_nothing_happens_after_the_end() -> None:
    """Whatever is told then is ignored."""
    machine = stream_client()
    attached(machine, DONE)

    assert () == machine.received(1, sse(HELLO))
    assert () == machine.ended(1, 0) + machine.failed(1, BROKEN, 0) + machine.opened(1, 200, SSE, 0)


def test_metadata_is_delivered_once() -> None:
    """Each connection begins with it; the caller knows by then."""
    machine = stream_client()

    assert (Deliver(HELLO),) == attached(machine, HELLO)
    assert () == machine.received(1, sse(HELLO))


@pytest.mark.parametrize(
    "data", [b"event: inngest.stream\ndata: {\n\n", b"event: inngest.response\ndata: {}\n\n"]
)
def test_malformed_events_end_it(data: bytes) -> None:
    """They are an error of the protocol, and not passed over."""
    machine = stream_client()
    attached(machine)

    assert isinstance(error_of(machine.received(1, data)), ProtocolError)


def test_a_stream_without_response_or_a_place_to_go_on() -> None:
    """An end and a break are told apart; the first request is not sent again."""
    machine = stream_client()
    attached(machine, HELLO)
    assert "ended without the run's response" in str(error_of(machine.ended(1, 0)))

    machine = stream_client()
    attached(machine, HELLO)
    assert (Fail(BROKEN),) == machine.failed(1, BROKEN, 0)


# The second connection


def test_the_second_connection_is_opened_at_once() -> None:
    """While the first goes on; it is read when the first has ended, and once only."""
    machine = stream_client(headers=Headers({"x-a": "1"}))
    commands = attached(machine, HELLO, GOES_ON, id="7")
    command = opened(commands)
    assert ("GET", WAIT, False, 0) == (
        command.method,
        command.url,
        command.sends_body,
        command.delay_ms,
    )
    assert Headers({"x-a": "1", **ACCEPTS}) == command.headers

    assert () == machine.opened(2, 200, SSE, 0)
    assert (Deliver(Chunk(data=1)),) == machine.received(1, sse(Chunk(data=1)))
    assert () == machine.received(1, sse(GOES_ON))
    assert (Read(2),) == machine.ended(1, 0)
    assert (Deliver(Chunk(data=2)), FINISHED) == machine.received(2, sse(Chunk(data=2), DONE))


def test_a_first_connection_may_end_before_the_second_is_open() -> None:
    """Then the second is read as soon as it is."""
    machine = stream_client()
    attached(machine, HELLO, GOES_ON)

    assert () == machine.ended(1, 0)
    assert (Read(2),) == machine.opened(2, 200, SSE, 0)


def test_a_response_on_the_first_connection_leaves_the_second_alone() -> None:
    """The end closes it with all others."""
    assert FINISHED == attached(stream_client(), HELLO, GOES_ON, DONE)[-1]


def test_a_second_connection_that_fails_is_opened_again_when_needed() -> None:
    """As long as the first goes on its failure does not matter."""
    for fails in (True, False):
        machine = stream_client()
        attached(machine, HELLO, GOES_ON, id="7")
        if fails:
            assert () == machine.failed(2, BROKEN, 0)
        else:
            assert (Close(2),) == machine.opened(2, 503, NONE, 0)
        command = opened(machine.ended(1, 0))
        assert (3, WAIT, 250, "7") == (
            command.number,
            command.url,
            command.delay_ms,
            command.headers["last-event-id"],
        )


def test_a_second_connection_may_be_redirected() -> None:
    """It stays the second."""
    machine = stream_client()
    attached(machine, HELLO, GOES_ON)
    commands = machine.opened(2, 307, Headers({"location": "http://b/"}), 0)
    assert (Close(2), 3, "http://b/") == (
        commands[0],
        opened(commands).number,
        opened(commands).url,
    )
    machine.opened(3, 200, SSE, 0)

    assert (Read(3),) == machine.ended(1, 0)


def test_a_break_of_the_first_connection_needs_a_new_second_one() -> None:
    """What was under way on the first may be missing from the second, so that is not read."""
    machine = stream_client()
    attached(machine, HELLO, GOES_ON, Chunk(data=1), id="7")
    machine.opened(2, 200, SSE, 0)
    commands = machine.failed(1, BROKEN, 0)

    assert Close(2) == commands[0]
    assert ("7", 250) == (
        opened(commands).headers["last-event-id"],
        opened(commands).delay_ms,
    )


def test_an_end_that_may_be_a_break() -> None:
    """The second connection is opened anew as after a break, but at once."""
    machine = stream_client()
    attached(machine, HELLO, GOES_ON, Chunk(data=1), id="7")
    machine.opened(2, 200, SSE, 0)
    commands = machine.ended(1, 0, is_delimited=False)

    assert Close(2) == commands[0]
    assert ("7", 0) == (
        opened(commands).headers["last-event-id"],
        opened(commands).delay_ms,
    )


def test_an_end_that_may_be_a_break_where_events_have_no_ids() -> None:
    """The second connection is all there is."""
    machine = stream_client()
    attached(machine, HELLO, GOES_ON)
    machine.opened(2, 200, SSE, 0)

    assert (Read(2),) == machine.ended(1, 0, is_delimited=False)


def test_a_break_where_events_have_no_ids() -> None:
    """A server that cannot resume has nothing better than the second connection."""
    machine = stream_client()
    attached(machine, HELLO, GOES_ON)
    machine.opened(2, 200, SSE, 0)

    assert (Read(2),) == machine.failed(1, BROKEN, 0)


# Coming back


def on_the_second(machine: StreamClient, *events: StreamEvent) -> Commands:
    """Go on to the second connection, and take these events on it."""
    attached(machine, HELLO, GOES_ON, id="7")
    machine.opened(2, 200, SSE, 0)
    machine.ended(1, 0)
    return machine.received(2, sse(*events, id="8"))


@pytest.mark.parametrize("breaks", [True, False])
def test_it_comes_back_from_where_it_was(breaks: bool) -> None:
    """After a break and after an end without a response; a cut-off event does not count."""
    machine = stream_client()
    on_the_second(machine, Chunk(data=1))
    machine.received(2, b"id: 9\ndata: cut")
    command = opened(machine.failed(2, BROKEN, 0) if breaks else machine.ended(2, 0))

    assert (WAIT, "8", 250) == (command.url, command.headers["last-event-id"], command.delay_ms)
    assert (Read(3),) == machine.opened(3, 200, SSE, 0)
    assert (FINISHED,) == machine.received(3, sse(HELLO, DONE))


def test_it_gives_up_when_it_does_not_get_on() -> None:
    """The attempts are counted, take ever longer, and the last error is the cause."""
    machine = stream_client(max_reconnects=3)
    on_the_second(machine)
    delays, number = [], 2
    for _ in range(3):
        command = opened(machine.failed(number, BROKEN, 0))
        delays.append(command.delay_ms)
        number = command.number
    error = error_of(machine.failed(number, BROKEN, 0))

    assert [250, 500, 1000] == delays
    assert isinstance(error, StreamEndedError)
    assert "3 attempts to reconnect made no progress" in str(error)
    assert BROKEN is error.__cause__


@pytest.mark.parametrize(("held", "data"), [(1500, KEEP_ALIVE), (0, sse(Chunk(data=1)))])
def test_getting_on_begins_the_count_anew(held: int, data: bytes) -> None:
    """An event counts as that, and so does a connection that was held for a while."""
    machine = stream_client(max_reconnects=1)
    on_the_second(machine)
    number = 2
    for _ in range(20):
        machine.opened(number, 200, SSE, 0)
        machine.received(number, data)
        number = opened(machine.failed(number, BROKEN, held)).number


def test_metadata_alone_is_not_getting_on() -> None:
    """A server that greets and hangs up is left in the end."""
    machine = stream_client(max_reconnects=1)
    on_the_second(machine)
    number = opened(machine.ended(2, 0)).number
    machine.opened(number, 200, SSE, 0)
    machine.received(number, sse(HELLO) + KEEP_ALIVE)

    assert isinstance(error_of(machine.ended(number, 1499)), StreamEndedError)


def test_a_server_that_is_busy_is_asked_again() -> None:
    """When it says for how long, it is given that time."""
    machine = stream_client()
    on_the_second(machine)
    number = opened(machine.ended(2, 0)).number
    commands = machine.opened(number, 503, Headers({"retry-after": "4"}), 0)

    assert Close(number) == commands[0]
    assert 4000 == opened(commands).delay_ms


def test_another_answer_to_coming_back_is_the_response() -> None:
    """Such as that the run is no longer kept."""
    machine = stream_client()
    on_the_second(machine)
    number = opened(machine.ended(2, 0)).number
    machine.opened(number, 410, NONE, 0)
    machine.received(number, b"gone")

    assert (Finish(status=410, headers=NONE, body=b"gone"),) == machine.ended(number, 0)


def test_the_server_may_say_how_long_to_wait() -> None:
    """Its ``retry`` is the first delay."""
    machine = stream_client()
    on_the_second(machine)
    machine.received(2, b"retry: 40\n\n")

    assert 40 == opened(machine.failed(2, BROKEN, 0)).delay_ms


def test_a_wait_url_can_be_followed_from_the_start() -> None:
    """It reads a run and begins none, so that it may be asked again without a redirect_info."""
    machine = stream_client(method="GET", url=WAIT)
    attached(machine, HELLO, Chunk(data=1), id="3")
    command = opened(machine.failed(1, BROKEN, 0))

    assert (WAIT, "3") == (command.url, command.headers["last-event-id"])


def test_an_id_that_no_header_can_hold() -> None:
    """It is an error of the protocol; one in UTF-8 is sent as its bytes."""
    machine = stream_client(method="GET", url=WAIT)
    attached(machine, HELLO, id="é")
    assert "Ã©" == opened(machine.failed(1, BROKEN, 0)).headers["last-event-id"]

    for id in ("\x01", "x" * 8193):
        machine = stream_client(method="GET", url=WAIT)
        attached(machine, HELLO, id=id)
        assert "an event id that no header can hold" in str(error_of(machine.failed(1, BROKEN, 0)))


def test_a_compressed_stream_is_an_error_at_once() -> None:
    """It would never get on; one that the transport has decoded is read."""
    coded = Headers({"content-type": "text/event-stream", "content-encoding": "gzip"})
    machine = stream_client(url=WAIT)
    machine.start()
    machine.opened(1, 200, coded, 0)
    assert "the stream is compressed" in str(error_of(machine.received(1, b"\x1f\x8b\x08")))

    machine = stream_client(url=WAIT)
    machine.start()
    machine.opened(1, 200, coded, 0)
    assert (Deliver(HELLO),) == machine.received(1, sse(HELLO))
    assert (FINISHED,) == machine.received(1, sse(DONE) + b"\x1f")


# Breaks anywhere


#: What the first connection begins with; its position is known from the start.
FIRST = sse(HELLO, id="0") + KEEP_ALIVE + sse(GOES_ON)


class Server:
    """A run whose events have their place as id, as a server that can resume sends them."""

    def __init__(self, chunks: int, handoff: int) -> None:
        self.chunks = [Chunk(data=number) for number in range(chunks)]
        self.handoff = min(handoff, chunks)

    def answer(self, command: Open) -> bytes:
        """Return the whole stream that this request gets."""
        if command.url == URL:
            return FIRST + self._events(0, self.handoff, None)
        greeting = sse(HELLO) + KEEP_ALIVE
        seen = command.headers.get("last-event-id")
        start = self.handoff if seen is None else int(seen)
        return greeting + self._events(start, len(self.chunks), DONE)

    def _events(self, start: int, end: int, last: Final | None) -> bytes:
        chunks = [
            sse(chunk, id=str(number))
            for number, chunk in enumerate(self.chunks[start:end], start + 1)
        ]
        return b"".join(chunks) + (sse(last) if last else b"")


class Network:
    """Opens what the machine asks for, and breaks what it is told to."""

    def __init__(self, machine: StreamClient, server: Server, breaks: Iterable[int | None]) -> None:
        self.machine = machine
        self.server = server
        self.breaks = iter(breaks)
        self.streams: dict[int, bytes] = {}
        self.delivered: list[StreamEvent] = []

    def run(self) -> Command:
        """Do what the machine says until it ends, and return its last command."""
        todo = list(self.machine.start())
        while True:
            command = todo.pop(0)
            match command:
                case Open(number=number):
                    self.streams[number] = self.server.answer(command)
                    todo += self.machine.opened(number, 200, SSE, 0)
                case Read(number=number):
                    todo += self._read(number)
                case Deliver(event=event):
                    self.delivered.append(event)
                case Close(number=number):
                    del self.streams[number]
                case Finish() | Fail():
                    return command

    def _read(self, number: int) -> list[Command]:
        stream, cut = self.streams.pop(number), next(self.breaks, None)
        if cut is None:
            done = self.machine.received(number, stream)
            return [*done, *self.machine.ended(number, 0)]
        done = self.machine.received(number, stream[: cut % (1 + len(stream))])
        return [*done, *self.machine.failed(number, BROKEN, 0)]


@given(
    chunks=st.integers(0, 6),
    handoff=st.integers(0, 6),
    breaks=st.lists(st.integers(0, 2000) | st.none(), max_size=9),
)
def test_nothing_is_lost_or_doubled_wherever_it_breaks(
    chunks: int, handoff: int, breaks: list[int | None]
) -> None:
    """Once the first connection has named the second, every chunk comes once and in order."""
    server = Server(chunks, handoff)
    if breaks and breaks[0] is not None:
        first = len(server.answer(opened(stream_client().start())))
        breaks[0] = len(FIRST) + breaks[0] % (1 + first - len(FIRST))
    network = Network(stream_client(max_reconnects=10), server, breaks)

    assert FINISHED == network.run()
    assert [HELLO, *server.chunks] == network.delivered


def test_every_command_is_in_the_union() -> None:
    """So that a type checker shows a driver that leaves one out."""
    machine = {"Backoff", "Head", "StreamClient"}
    types = {"Command", "Commands", "DeliveredEvent"}

    assert {kind.__name__ for kind in get_args(Command)} == set(_follow.__all__) - machine - types


# From https to http

SECURE = "https://app/run"
INSECURE = RedirectInfo(run_id="r", url=WAIT)


def test_a_redirect_from_https_to_http_is_refused() -> None:
    """The token in the URL would go out in clear text; the error names the server's option."""
    machine = stream_client(url=SECURE)
    machine.start()
    error = error_of(machine.opened(1, 303, Headers({"location": WAIT}), 0))

    assert isinstance(error, ProtocolError)
    assert "Durable(public_url=)" in str(error)


def test_a_wait_at_http_is_refused() -> None:
    """A 202 with such a Location is not asked again."""
    machine = stream_client(url=SECURE)
    machine.start()
    error = error_of(machine.opened(1, 202, Headers({"location": WAIT, "retry-after": "1"}), 0))

    assert isinstance(error, DowngradeError)


def test_a_stream_that_would_continue_at_http() -> None:
    """It is read on its own connection; only if that does not suffice, the call fails."""
    machine = stream_client(url=SECURE)
    assert (Deliver(HELLO),) == attached(machine, HELLO, INSECURE, id="7")
    assert (Deliver(Chunk(data=1)), FINISHED) == machine.received(1, sse(Chunk(data=1), DONE))

    for ends in (True, False):
        machine = stream_client(url=SECURE)
        attached(machine, HELLO, INSECURE, id="7")
        commands = machine.ended(1, 0) if ends else machine.failed(1, BROKEN, 0)
        assert isinstance(error_of(commands), DowngradeError)


def test_a_redirect_from_http_to_https_is_followed() -> None:
    """And there is no way back."""
    machine = stream_client()
    machine.start()
    command = opened(machine.opened(1, 307, Headers({"location": SECURE}), 0))
    assert SECURE == command.url
    assert not command.is_same_origin

    error = error_of(machine.opened(2, 307, Headers({"location": URL}), 0))
    assert isinstance(error, DowngradeError)


def test_a_stream_may_continue_at_a_relative_url() -> None:
    """It is resolved against the URL of the stream that names it."""
    machine = stream_client(url=SECURE)
    info = RedirectInfo(run_id="r", url="?durable-run=1&durable-token=2")

    assert (
        "https://app/run?durable-run=1&durable-token=2"
        == opened(attached(machine, HELLO, info)).url
    )


@pytest.mark.parametrize("method", ["CONNECT", "BAD METHOD", ""])
def test_methods_are_tokens(method: str) -> None:
    """``CONNECT`` is none that a client of endpoints can use."""
    with pytest.raises(ValueError, match="a method must be a token other than CONNECT"):
        stream_client(method=method)
