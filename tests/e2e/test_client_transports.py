"""The transports that the documentation shows, against real sockets."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from durable_core.client import Chunk, Commit, Metadata, Rollback, fetch_with_stream
from durable_core.codec.stream_events import Final, RedirectInfo
from durable_core.http.headers import Headers
from support.docs_pages import run_page
from support.scripted_server import Peer, ScriptedServer, chunked, plain, sse_head
from support.source_tree import ROOT
from support.stream_clients import Call, Log, afetch, sse

PAGE = ROOT / "docs" / "howto" / "stream-from-a-client.md"
TRANSPORTS: list[tuple[Call, str]] = [
    (fetch_with_stream, "fetch_by_httpx"),
    (fetch_with_stream, "fetch_by_requests"),
    (afetch, "fetch_by_aiohttp"),
]
HELLO = Metadata(run_id="r")
DONE = Final(status=202, headers=Headers({"x-a": "b"}), body=b"done")
each = pytest.mark.parametrize(("call", "name"), TRANSPORTS, ids=[t[1] for t in TRANSPORTS])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        return run_page(PAGE)


@each
def test_a_stream_is_followed(page: dict[str, Any], call: Call, name: str) -> None:
    """Redirects are left to the client, and pieces come as they are sent, without framing too."""
    told = threading.Semaphore(0)
    log = Log()

    def on_data(event: Chunk) -> None:
        log.events.append(event)
        told.release()

    def run(peer: Peer) -> None:
        url = f"{server.origin}/second"
        peer.answer(sse_head() + sse(HELLO, RedirectInfo(run_id="r", url=url)))
        for number in (1, 2):
            peer.say(sse(Chunk(data=number, step_id="s")))
            assert told.acquire(timeout=10)

    def second(peer: Peer) -> None:
        peer.answer(sse_head() + sse(HELLO, Chunk(data=3, step_id="s"), DONE))

    def redirect(peer: Peer) -> None:
        peer.answer(plain("", "307 Temporary Redirect", ["location: /run", "connection: close"]))

    with ScriptedServer(redirect, run, second) as server:
        response = call(
            server.origin,
            method="POST",
            headers={"X-A": "b"},
            body=b"in",
            fetch=page[name],
            on_data=on_data,
        )

    assert (202, "b", b"done") == (response.status, response.headers["x-a"], response.body)
    assert [1, 2, 3] == log.data
    assert [("/", b"in"), ("/run", b"in"), ("/second", b"")] == [
        (heard.target, heard.body) for heard in server.heard
    ]
    assert ["b"] * 3 == [heard.headers.get("x-a") for heard in server.heard]


@each
def test_a_break_is_mended(page: dict[str, Any], call: Call, name: str) -> None:
    """A body in chunks that breaks off is noticed, and the stream goes on where it was."""
    head = sse_head("transfer-encoding: chunked")
    told, second_is_open = threading.Event(), threading.Event()
    log = Log()

    def on_data(event: Chunk) -> None:
        log.events.append(event)
        told.set()

    def run(peer: Peer) -> None:
        info = RedirectInfo(run_id="r", url=f"{server.origin}/second")
        events = sse(HELLO, info) + sse(Chunk(data=1, step_id="s"), id="1")
        peer.answer(head + chunked(b"retry: 1\n\n", events))
        assert told.wait(10)
        assert second_is_open.wait(10)
        peer.reset()

    def second(peer: Peer) -> None:
        peer.answer(head + chunked(sse(HELLO)))
        second_is_open.set()
        peer.wait_for_close()

    def resumed(peer: Peer) -> None:
        events = sse(HELLO, Chunk(data=2, step_id="s"), DONE)
        peer.answer(head + chunked(events) + b"0\r\n\r\n")

    with ScriptedServer(run, second, resumed) as server:
        response = call(server.origin, fetch=page[name], on_data=on_data)

    assert (202, [1, 2]) == (response.status, log.data)
    assert [None, None, "1"] == [heard.headers.get("last-event-id") for heard in server.heard]


@each
def test_nobody_listens(page: dict[str, Any], call: Call, name: str) -> None:
    """The library's own error comes out."""
    with ScriptedServer() as server:
        pass
    with pytest.raises(Exception, match=r"(?i)connect") as caught:
        call(server.origin, fetch=page[name])
    assert name.removeprefix("fetch_by_") == type(caught.value).__module__.partition(".")[0]


@each
def test_a_silent_server_is_left(page: dict[str, Any], call: Call, name: str) -> None:
    """The idle time reaches the transport."""
    with (
        ScriptedServer(lambda peer: peer.wait_for_close()) as server,
        pytest.raises(Exception, match=r"(?i)time"),
    ):
        call(server.origin, fetch=page[name], idle_timeout=0.1)


def test_the_other_examples_of_the_page(
    page: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """They return what stays, and show what comes."""
    events = (
        Chunk(data="bad", step_id="s"),
        Rollback(step_id="s"),
        Chunk(data="good", step_id="s"),
        Commit(step_id="s"),
    )
    stream = sse_head() + sse(HELLO, *events, Final(status=200))

    def script(peer: Peer) -> None:
        peer.answer(stream)

    with ScriptedServer(*[script] * 4) as server:
        assert "good" == page["ask"](server.origin)
        assert ("good",) == page["replay"](server.origin)
        assert ("good",) == asyncio.run(page["collect"](server.origin))
        page["show"](server.origin)

    clear = "\r\x1b[K"
    assert f"{clear}bad{clear}{clear}good" == capsys.readouterr().out
