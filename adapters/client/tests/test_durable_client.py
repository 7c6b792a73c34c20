"""``fetch_with_stream`` for threads and tasks, against a scripted server on real sockets."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from durable_client import (
    Abort,
    Chunk,
    ClientResponse,
    Collector,
    Commit,
    Metadata,
    Rollback,
    fetch_with_stream,
    fetch_with_stream_async,
)
from durable_core.codec.stream_events import Final, RedirectInfo
from durable_core.errors import (
    ConnectFailedError,
    ConnectionLostError,
    RequestAbortedError,
    RequestTimeoutError,
    StreamEndedError,
)
from durable_core.http.headers import Headers
from support.scripted_server import Peer, Script, ScriptedServer, chunked, plain, sse_head
from support.stream_clients import CALLS, Call, Log, fetch_in_task, sse

#: The server closes each connection after one answer. Unless it says so, a client may ask again on
#: a connection that is about to be closed.
CHUNKED = sse_head("transfer-encoding: chunked", "connection: close")
END = b"0\r\n\r\n"
HELLO = Metadata(run_id="r")
DONE = Final(status=202, headers=Headers({"x-a": "b"}), body=b'{"ok":true}')
both = pytest.mark.parametrize("call", CALLS, ids=("threads", "tasks"))


def chunk(data: object, step_id: str = "s") -> Chunk:
    return Chunk(data=data, step_id=step_id)


def streams(*events: Any) -> Script:
    """Answer with a stream of these events."""
    return lambda peer: peer.answer(CHUNKED + chunked(sse(*events)) + END)


@both
def test_a_stream_comes_to_its_response(call: Call) -> None:
    """The events are told in order, and the response is the run's own."""
    events = [HELLO, chunk("a"), Rollback(step_id="s"), chunk("b"), Commit(step_id="s")]
    log = Log()
    with ScriptedServer(streams(*events, DONE)) as server:
        response = call(
            server.origin + "/x?y=1",
            method="POST",
            headers={"X-B": "c"},
            body=b"in",
            **log.callbacks,
        )

    assert events == log.events
    assert (202, "b", {"ok": True}) == (response.status, response.headers["x-a"], response.json())
    heard = server.heard[0]
    assert ("POST", "/x?y=1", b"in") == (heard.method, heard.target, heard.body)
    assert ("c", "text/event-stream") == (heard.headers["x-b"], heard.headers["accept"])


@both
def test_a_plain_answer_is_the_response(call: Call) -> None:
    """Status, headers and body as they are; no callback is called."""
    log = Log()
    answer = plain("no", "404 Not Found", ["x-c: d"])
    with ScriptedServer(lambda peer: peer.answer(answer)) as server:
        response = call(server.origin, **log.callbacks)

    assert (404, "d", "no", []) == (
        response.status,
        response.headers["x-c"],
        response.text(),
        log.events,
    )


@both
def test_chunks_are_told_while_the_step_runs(call: Call) -> None:
    """The server sends the next one when the client has told the first."""
    told = threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(CHUNKED + chunked(sse(HELLO, chunk(1))))
        assert told.wait(10)
        peer.say(chunked(sse(DONE)), END)

    with ScriptedServer(script) as server:
        assert 202 == call(server.origin, on_data=lambda event: told.set()).status


@both
def test_it_goes_on_at_the_second_connection(call: Call) -> None:
    """That is open before the first one ends, and all is told once and in order."""
    second_is_open = threading.Event()
    log = Log()

    def first(peer: Peer) -> None:
        url = f"http://127.0.0.1:{server.port}/second"
        peer.answer(CHUNKED + chunked(sse(HELLO, RedirectInfo(run_id="r", url=url))))
        assert second_is_open.wait(10)
        peer.say(chunked(sse(chunk(1), Commit(step_id="s"))), END)

    def second(peer: Peer) -> None:
        peer.answer(CHUNKED + chunked(sse(HELLO)))
        second_is_open.set()
        peer.say(chunked(sse(chunk(2, "t"), Commit(step_id="t"), DONE)), END)

    with ScriptedServer(first, second) as server:
        response = call(server.origin, headers={"authorization": "x"}, **log.callbacks)

    assert (202, [1, 2]) == (response.status, log.data)
    assert ["metadata", "data", "commit", "data", "commit"] == log.kinds
    assert ["/", "/second"] == [heard.target for heard in server.heard]
    assert ["x", "x"] == [heard.headers.get("authorization") for heard in server.heard]


@both
def test_a_break_is_mended(call: Call) -> None:
    """It comes back with the last id it saw, after a delay that the server may set."""
    log = Log()
    told: queue.SimpleQueue[object] = queue.SimpleQueue()
    second_is_open = threading.Event()

    def on_data(event: Chunk) -> None:
        log.events.append(event)
        told.put(event.data)

    def first(peer: Peer) -> None:
        url = f"http://127.0.0.1:{server.port}/second"
        events = sse(HELLO, RedirectInfo(run_id="r", url=url)) + sse(chunk(1), id="41")
        peer.answer(CHUNKED + chunked(b"retry: 1\n\n", events))
        assert 1 == told.get(timeout=10)
        assert second_is_open.wait(10)
        peer.reset()

    def second(peer: Peer) -> None:
        peer.answer(CHUNKED)
        second_is_open.set()
        peer.wait_for_close()

    def third(peer: Peer) -> None:
        peer.answer(CHUNKED + chunked(sse(HELLO) + sse(chunk(2), id="42")))
        assert 2 == told.get(timeout=10)
        peer.reset()

    with ScriptedServer(first, second, third, streams(HELLO, chunk(3), DONE)) as server:
        assert 202 == call(server.origin, on_data=on_data).status

    assert [1, 2, 3] == log.data
    assert [None, None, "41", "42"] == [h.headers.get("last-event-id") for h in server.heard]


@both
@pytest.mark.parametrize("most", [0, 2])
def test_a_break_that_cannot_be_mended(call: Call, most: int) -> None:
    """It comes back as often as it was told to, and then says so."""
    log = Log()

    def first(peer: Peer) -> None:
        url = f"http://127.0.0.1:{server.port}/second"
        peer.answer(CHUNKED + chunked(b"retry: 1\n\n", sse(HELLO, chunk(1))))
        peer.say(chunked(sse(RedirectInfo(run_id="r", url=url))), END)

    with (
        ScriptedServer(first, *[streams(HELLO)] * (1 + most)) as server,
        pytest.raises(StreamEndedError, match=f"and {most} attempts to reconnect"),
    ):
        call(server.origin, max_reconnects=most, **log.callbacks)

    assert ["metadata", "data"] == log.kinds
    assert ["/", *["/second"] * (1 + most)] == [heard.target for heard in server.heard]


@both
def test_an_end_that_may_be_a_break(call: Call) -> None:
    """A body that ends with its connection: what may have been lost is asked for."""
    second_is_open = threading.Event()
    log = Log()

    def first(peer: Peer) -> None:
        info = RedirectInfo(run_id="r", url=f"http://127.0.0.1:{server.port}/second")
        peer.answer(sse_head() + sse(HELLO, info) + sse(chunk(1), id="41"))
        assert second_is_open.wait(10)

    def second(peer: Peer) -> None:
        peer.answer(CHUNKED)
        second_is_open.set()
        peer.wait_for_close()

    with ScriptedServer(first, second, streams(HELLO, chunk(2), DONE)) as server:
        assert 202 == call(server.origin, **log.callbacks).status

    assert [1, 2] == log.data
    assert [None, None, "41"] == [h.headers.get("last-event-id") for h in server.heard]


@both
def test_redirects_and_waits_are_followed(call: Call) -> None:
    """303, then 202 with Retry-After, then the response; credentials stay with their origin."""
    with ScriptedServer(lambda peer: peer.answer(plain("done"))) as other:
        hops = (
            plain("", "303 See Other", ["location: /wait"]),
            plain("", "202 Accepted", ["location: /again", "retry-after: 0"]),
            plain("", "307 Temporary Redirect", [f"location: {other.origin}/"]),
        )
        with ScriptedServer(*(partial(Peer.answer, data=hop) for hop in hops)) as server:
            response = call(
                server.origin, method="POST", body=b"in", headers={"authorization": "secret"}
            )

    assert (200, "done") == (response.status, response.text())
    asked = [(heard.method, heard.target, heard.body) for heard in server.heard]
    assert [("POST", "/", b"in"), ("GET", "/wait", b""), ("GET", "/again", b"")] == asked
    assert ["secret"] * 3 == [heard.headers.get("authorization") for heard in server.heard]
    assert "authorization" not in other.heard[0].headers


@both
def test_a_collector_keeps_what_is_committed(call: Call) -> None:
    """No callback is needed; those there are see it up to date."""
    collector = Collector()
    seen: list[tuple[str, str]] = []

    def on_data(event: Chunk) -> None:
        seen.append((collector.text, collector.pending_text))

    events = [chunk("bad"), Rollback(step_id="s"), chunk("good"), Commit(step_id="s")]
    with ScriptedServer(streams(HELLO, *events, DONE)) as server:
        call(server.origin, collect=collector, on_data=on_data)

    assert ("r", "good") == (collector.run_id, collector.text)
    assert [("", "bad"), ("", "good")] == seen


@both
def test_a_run_that_failed_has_a_response(call: Call) -> None:
    """Nothing is raised for it."""
    failed = Final(status=500, body=b'"oh no"', failed=True)
    with ScriptedServer(streams(HELLO, failed)) as server:
        response = call(server.origin)

    assert (500, "oh no") == (response.status, response.json())


def silent(peer: Peer) -> None:
    """Begin a stream, and say nothing more until the client goes."""
    peer.answer(CHUNKED + chunked(sse(HELLO)))
    peer.wait_for_close()


@both
@pytest.mark.parametrize("script", [silent, lambda peer: peer.wait_for_close()])
def test_a_timeout_closes_the_connections(call: Call, script: Script) -> None:
    """Whether a response has begun or not; the error is a TimeoutError, and names the limit."""
    with (
        ScriptedServer(script) as server,
        pytest.raises(RequestTimeoutError, match=r"no response after 0.1 s") as caught,
    ):
        call(server.origin, timeout="100ms")
    assert isinstance(caught.value, TimeoutError)


def test_slow_callbacks_hold_up_neither_a_timeout_nor_an_abort() -> None:
    """What came in one piece with the event whose callback was slow is not delivered."""
    events = sse(*(Chunk(data=number) for number in range(50)))
    abort, told = Abort(), list[object]()

    def answers(peer: Peer) -> None:
        peer.answer(CHUNKED + chunked(events))
        peer.wait_for_close()

    def slow(event: Chunk) -> None:
        told.append(event.data)
        assert not never.wait(2.2)

    def aborting(event: Chunk) -> None:
        told.append(event.data)
        abort.set()

    never = threading.Event()
    with ScriptedServer(answers, answers) as server:
        with pytest.raises(RequestTimeoutError):
            fetch_with_stream(server.origin, timeout=2.0, on_data=slow)
        with pytest.raises(RequestAbortedError):
            fetch_with_stream(server.origin, abort=abort, on_data=aborting)
    assert [0, 0] == told


@both
def test_a_timeout_ends_a_wait_between_attempts(call: Call) -> None:
    """A long Retry-After does not hold it."""
    wait = plain("", "202 Accepted", ["location: /", "retry-after: 3600"])
    with ScriptedServer(lambda peer: peer.answer(wait)) as server, pytest.raises(TimeoutError):
        call(server.origin, timeout=0.1)


@both
def test_a_silent_connection_is_left(call: Call) -> None:
    """After the idle time it counts as broken."""
    with (
        ScriptedServer(silent) as server,
        pytest.raises(RequestTimeoutError, match=r"nothing moved on the connection for 0.05 s"),
    ):
        call(server.origin, idle_timeout=timedelta(milliseconds=50))


@both
def test_a_callback_that_fails_ends_it(call: Call) -> None:
    """Its error comes out as it is, also a TimeoutError of its own; connections are closed."""

    def on_metadata(event: Metadata) -> None:
        raise TimeoutError("mine")

    with ScriptedServer(silent) as server, pytest.raises(TimeoutError, match="mine"):
        call(server.origin, on_metadata=on_metadata, timeout=60)


@both
def test_the_first_connection_may_fail(call: Call) -> None:
    """What goes wrong before there is a place to come back to is told as it is."""
    with (
        ScriptedServer(lambda peer: peer.answer(CHUNKED + chunked(sse(HELLO)))) as server,
        pytest.raises(
            ConnectionLostError, match="the connection broke before the response was whole"
        ),
    ):
        call(server.origin)
    with pytest.raises(ConnectFailedError, match="no connection to"):
        call(server.origin)


@both
@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("/x", {}, "must be absolute"),
        ("http://a", {"method": "BAD METHOD"}, "a method must be a token"),
        ("http://a", {"timeout": 0}, "timeout must be longer than 0, or None"),
        ("http://a", {"timeout": "soon"}, "timeout cannot be"),
        ("http://a", {"timeout": True}, "timeout cannot be"),
        ("http://a", {"idle_timeout": -1}, "idle_timeout cannot be"),
        ("http://a", {"idle_timeout": float("nan")}, "idle_timeout cannot be"),
        ("http://a", {"max_reconnects": -1}, "reconnections must be 0 or more"),
        ("http://a", {"headers": {"a": "b\nc"}}, "may hold only tabs"),
        ("http://a", {"headers": {"Content-Length": "1"}}, "must be left to the HTTP client"),
    ],
)
def test_arguments_are_checked_first(
    call: Call, url: str, options: dict[str, Any], message: str
) -> None:
    """What cannot be sent is a ValueError that says why."""
    with pytest.raises(ValueError, match=r"must|may|cannot") as caught:
        call(url, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("script", [silent, lambda peer: peer.wait_for_close()])
def test_an_abort_ends_it(script: Script) -> None:
    """Set in another thread, it ends the call at once, and closes the connections."""
    abort = Abort()
    heard = threading.Event()

    def then(peer: Peer) -> None:
        heard.set()
        script(peer)

    def set_abort() -> None:
        assert heard.wait(10)
        abort.set()

    thread = threading.Thread(target=set_abort)
    thread.start()
    with ScriptedServer(then) as server, pytest.raises(RequestAbortedError, match="was aborted"):
        fetch_with_stream(server.origin, abort=abort)
    thread.join()
    assert [] == [t.name for t in threading.enumerate() if t.name == "durable-stream"]


def test_a_cancelled_task_closes_the_connections() -> None:
    """The server sees it at once, and no task is left."""

    async def main(origin: str) -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(
            fetch_with_stream_async(origin, on_metadata=lambda event: begun.set())
        )
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert {asyncio.current_task()} == asyncio.all_tasks()

    with ScriptedServer(silent) as server:
        asyncio.run(main(server.origin))


def test_async_callbacks_are_awaited() -> None:
    """Each is done before the next event is told."""
    order: list[object] = []

    async def on_data(event: Chunk) -> None:
        order.append(event.data)
        await asyncio.sleep(0)
        order.append("done")

    with ScriptedServer(streams(HELLO, chunk(1), chunk(2), DONE)) as server:
        fetch_in_task(server.origin, on_data=on_data)

    assert [1, "done", 2, "done"] == order


def test_an_async_body_is_sent() -> None:
    """In chunks, as it comes."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    with ScriptedServer(streams(HELLO, DONE)) as server:
        fetch_in_task(server.origin, method="POST", body=pieces())

    assert b"onetwo" == server.heard[0].body


def test_a_slow_callback_holds_the_reading() -> None:
    """What the server sends meanwhile is not piled up in the client: its sending stalls."""
    stalled = threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(CHUNKED)
        peer._socket.settimeout(0.5)
        piece = chunked(sse(chunk("x" * 60_000)))
        try:
            for _ in range(2000):
                peer.say(piece)
        except TimeoutError:
            stalled.set()

    def on_data(event: Chunk) -> None:
        assert stalled.wait(10)
        raise LookupError("seen enough")

    for call in CALLS:
        stalled.clear()
        with ScriptedServer(script) as server, pytest.raises(LookupError):
            call(server.origin, on_data=on_data)


# The response


def test_text_has_the_charset_it_names() -> None:
    """UTF-8 where it names none."""
    latin = Headers({"content-type": "text/plain; charset=ISO-8859-1"})

    assert "é" == ClientResponse(200, latin, b"\xe9").text()
    assert "é" == ClientResponse(200, Headers(), "é".encode()).text()


def test_json_of_what_is_none() -> None:
    """It is a ValueError."""
    with pytest.raises(ValueError, match="Expecting value"):
        ClientResponse(200, Headers(), b"<html>").json()
