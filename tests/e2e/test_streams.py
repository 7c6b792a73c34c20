"""Event streams of real processes: kill -9 in the middle, and who executes the run."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest

from durable_core.codec.sse import SSEDecoder
from durable_core.codec.stream_events import RedirectInfo, load_stream_event
from support.processes import App, World, until
from support.streams import described, kept

pytestmark = pytest.mark.slow


class Stream:
    """One connection on which an event stream is read, until it ends or breaks."""

    def __init__(self, url: str, last_event_id: str = "") -> None:
        parts = urlsplit(url)
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        headers = {"accept": "text/event-stream"}
        if last_event_id:
            headers["last-event-id"] = last_event_id
        self._connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        self._response = self._connection.getresponse()
        assert 200 == self._response.status
        self._decoder = SSEDecoder(last_event_id=last_event_id)
        self.redirect = ""
        self._events = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def last_event_id(self) -> str:
        """Where this stream broke off."""
        return self._decoder.last_event_id

    def _read(self) -> Iterator[str]:
        with closing(self._response):
            while data := self._piece():
                for event in self._decoder.feed(data):
                    loaded = load_stream_event(event.event, event.data)
                    if isinstance(loaded, RedirectInfo):
                        self.redirect = loaded.url
                    yield described(event)

    def _piece(self) -> bytes:
        try:
            return self._response.read1()
        except (ConnectionResetError, IncompleteRead):
            return b""

    def take(self, count: int) -> list[str]:
        """Return the next events, waiting for them."""
        return [next(self._events) for _ in range(count)]

    def rest(self) -> list[str]:
        """Return all further events."""
        return list(self._events)


def at(app: App, url: str) -> str:
    """Return the same target at another process, from the beginning of the stream."""
    parts = urlsplit(url)
    query = parts.query.replace("&durable-from=handoff", "")
    return app.url(f"{parts.path}?{query}")


def words(point: str, pid: int) -> list[str]:
    return [f"{point} {n} {pid}" for n in (1, 2, 3)]


def test_kill_in_mid_stream(world: World, face: str) -> None:
    """The process dies while a step streams: the client comes again, and in the end has what the
    steps that were checkpointed have pushed, once and in order.
    """
    world.close_gate("T", "b")
    one = world.start("one")
    with Stream(one.url(f"/{face}/chat?trip=T")) as first:
        told = first.take(8)
        assert "redirect" in told
        one.kill()
        told += first.rest()
        two = world.start("two")
        world.reached("T", "b", count=2)
        with Stream(at(two, first.redirect), first.last_event_id) as second:
            again = second.take(4)
            world.open_gate("T", "b")
            again += second.rest()

    assert [*words("a", one.pid), *words("b", two.pid)] == kept([*told, *again])
    assert [f"b: b 1 {one.pid}", f"b: b 2 {one.pid}"] == told[-2:]
    assert ["meta", "rollback b"] == again[:2]
    assert again[-1].startswith("201: ")


def test_another_process_tells_what_a_running_step_pushes(world: World, face: str) -> None:
    """A reader there has the chunks of a step while that goes on, and then the rest, once."""
    world.close_gate("T", "b")
    one = world.start("one")
    two = world.start("two")
    with Stream(one.url(f"/{face}/chat?trip=T")) as first:
        first.take(8)
        with Stream(at(two, first.redirect)) as second:
            told = second.take(7)
            world.open_gate("T", "b")
            told += second.rest()
        first.rest()

    assert [f"b: b 1 {one.pid}", f"b: b 2 {one.pid}"] == told[5:7]
    assert [*words("a", one.pid), "commit a"] == [each.removeprefix("a: ") for each in told[1:5]]
    assert [f"b: b 3 {one.pid}", "commit b"] == told[7:9]
    assert told[9].startswith("201: ")
    assert 10 == len(told)
    until("nothing is left of it", lambda: not live_executions(world))


def test_a_reader_elsewhere_outlives_the_process_that_executes(world: World, face: str) -> None:
    """That one is killed in mid-step. What was told of the attempt is rolled back, and the next
    attempt, in the process where the client reads, is told once.
    """
    world.close_gate("T", "b")
    one = world.start("one")
    two = world.start("two")
    with Stream(one.url(f"/{face}/chat?trip=T")) as first:
        first.take(8)
        with Stream(at(two, first.redirect)) as second:
            told = second.take(7)
            one.kill()
            first.rest()
            told += second.take(3)
            world.open_gate("T", "b")
            told += second.rest()

    assert [f"b: b 1 {one.pid}", f"b: b 2 {one.pid}"] == told[5:7]
    assert ["rollback b", f"b: b 1 {two.pid}", f"b: b 2 {two.pid}"] == told[7:10]
    assert [f"b: b 3 {two.pid}", "commit b"] == told[10:12]
    assert told[12].startswith("201: ")
    assert 13 == len(told)


def test_readers_in_two_other_processes(world: World, face: str) -> None:
    """When one of these takes the run over, the other goes on with what that one tells."""
    world.close_gate("T", "b")
    one = world.start("one")
    two, three = world.start("two"), world.start("three")
    with Stream(one.url(f"/{face}/chat?trip=T")) as first:
        first.take(8)
        url = first.redirect
        with Stream(at(two, url)) as second, Stream(at(three, url)) as third:
            told = [second.take(7), third.take(7)]
            one.kill()
            first.rest()
            again = [second.take(3), third.take(3)]
            world.open_gate("T", "b")
            rest = [second.rest(), third.rest()]
    pid = world.reached("T", "b", count=2).pid

    assert told[0] == told[1]
    assert [["rollback b", f"b: b 1 {pid}", f"b: b 2 {pid}"]] * 2 == again
    assert [[f"b: b 3 {pid}", "commit b"]] * 2 == [each[:2] for each in rest]
    assert [3, 3] == [len(each) for each in rest]


def live_file(world: World) -> Path:
    """Return where executions tell other processes what they stream."""
    return world.store_path.with_name(world.store_path.name + "-live")


def live_executions(world: World) -> list[tuple[str, int]]:
    """Return the executions that have told other processes something, and have not ended."""
    with closing(sqlite3.connect(live_file(world))) as db:
        if not db.execute("SELECT 1 FROM sqlite_schema").fetchone():
            return []  # made just now
        return db.execute("SELECT DISTINCT run_id, epoch FROM message").fetchall()


_MISSED = "streams of running steps are not seen"


def is_tried(world: World, log: str) -> bool:
    """Tell whether a process has told others, or has found that it cannot."""
    return _MISSED in log or (live_file(world).is_file() and bool(live_executions(world)))


def test_a_process_that_is_alone_tells_nobody(world: World, face: str) -> None:
    """Not even the file is made."""
    one = world.start("one")
    with Stream(one.url(f"/{face}/chat?trip=T")) as first:
        first.rest()
    assert not live_file(world).exists()


@pytest.mark.parametrize("channel", ["works", "is broken"])
def test_another_process_tells_what_is_stored(world: World, face: str, channel: str) -> None:
    """A reader at a process that does not execute the run gets each step when it is stored, and
    the response; also where what is not stored cannot be told.
    """
    if channel == "is broken":
        world.store_path.parent.mkdir()
        live_file(world).mkdir()
    world.close_gate("T", "a")
    world.close_gate("T", "b")
    one = world.start("one")
    two = world.start("two")
    with Stream(one.url(f"/{face}/chat?trip=T")) as first:
        first.take(3)
        world.open_gate("T", "a")
        first.take(3)
        assert first.redirect
        with Stream(at(two, first.redirect)) as second:
            told = second.take(5)
            until("the first process has tried", lambda: is_tried(world, one.log))
            world.open_gate("T", "b")
            told += second.rest()
        first.rest()

    assert [*words("a", one.pid), *words("b", one.pid)] == kept(told)
    assert 1 == sum(event.startswith("201: ") for event in told)
    assert (_MISSED in one.log) == (channel == "is broken")
    assert [] == one.errors() + two.errors()
