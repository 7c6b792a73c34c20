"""``fetch_with_stream`` against every adapter: what the client promises, of real runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urljoin, urlsplit

import httpx2
import pytest

from durable_client import Chunk, Collector, Commit, Rollback
from support.interop_sample import IDS, READ, SERVERS, served
from support.processes import World
from support.stream_clients import CALLS, Call, Log

pytestmark = pytest.mark.slow

both = pytest.mark.parametrize("call", CALLS, ids=("threads", "tasks"))


@pytest.fixture(scope="module", params=SERVERS, ids=IDS)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The sample, served by an adapter."""
    module, face = request.param
    with served(module, face, tmp_path_factory.mktemp("follow") / "runs.db") as at:
        yield at


@both
@pytest.mark.parametrize("path", ["plain", "streaming", "napping", "napping_stream"])
def test_the_response_is_the_handlers_own(url: str, call: Call, path: str) -> None:
    """With and without chunks, on the first connection and after a handoff."""
    log = Log()
    response = call(f"{url}/{path}", timeout=30, **log.callbacks)

    assert (202, "my-value", "All done") == (
        response.status,
        response.headers["x-my-header"],
        response.json(),
    )
    expected = ["chunk a", "chunk b"] if "stream" in path else []
    assert expected == log.data
    assert 1 == log.kinds.count("metadata")
    assert (1 if path == "plain" else 2) == log.kinds.count("commit")


@both
def test_rollbacks_are_told(url: str, call: Call) -> None:
    """What a failed attempt pushed is taken back; what stays is there once."""
    collector, log = Collector(), Log()

    def on_data(event: Chunk) -> None:
        log.events.append(event)
        READ.release()

    callbacks = {**log.callbacks, "on_data": on_data}
    response = call(f"{url}/flaky_steps", timeout=30, collect=collector, **callbacks)

    assert 202 == response.status
    assert ("sync-data", "async-data") == collector.items
    first = next(event.step_id for event in log.events if isinstance(event, Chunk))
    of_first = [event for event in log.events if first == getattr(event, "step_id", None)]
    assert [Chunk, Rollback, Chunk, Commit] == [type(event) for event in of_first]


@both
@pytest.mark.parametrize("path", ["final", "caught"])
def test_failures_are_responses(url: str, call: Call, path: str) -> None:
    """Of a run that failed, and of a handler that answers 500."""
    collector = Collector()
    response = call(f"{url}/{path}", timeout=30, collect=collector)

    assert (500, "application/json", "oh no", ()) == (
        response.status,
        response.headers["content-type"],
        response.json(),
        collector.items,
    )


@both
def test_headers_reach_the_handler(url: str, call: Call) -> None:
    """Of a run without steps, which streams nothing."""
    response = call(f"{url}/echo", headers={"X-Custom": "hello"}, timeout=30)

    assert (200, "hello") == (response.status, response.json())


@both
def test_late_joiners_get_all(url: str, call: Call) -> None:
    """Whoever has the wait URL of a run can follow it from its beginning, and again."""
    handed_off = httpx2.get(f"{url}/napping_stream")
    assert 302 == handed_off.status_code
    wait_url = urljoin(f"{url}/napping_stream", handed_off.headers["location"])

    for _ in range(2):
        log = Log()
        response = call(wait_url, timeout=30, **log.callbacks)

        assert (202, "All done") == (response.status, response.json())
        assert ["metadata", "data", "commit", "data", "commit"] == log.kinds
        assert ["chunk a", "chunk b"] == log.data


@both
def test_a_server_that_dies_and_comes_back(world: World, face: str, call: Call) -> None:
    """``kill -9`` while a step streams, and a new process at the same port: the call ends well.

    What the step had pushed is taken back, and what stays is there once and in order.
    """
    world.close_gate("T", "b")
    one = world.start("one")
    address = one.url(f"/{face}/chat?trip=T")
    collector, log, told = Collector(), Log(), threading.Event()

    def on_data(chunk: Chunk) -> None:
        log.events.append(chunk)
        if chunk.data == f"b 2 {one.pid}":
            told.set()

    callbacks = log.callbacks | {"on_data": on_data}
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(call, address, timeout=60, collect=collector, **callbacks)
        assert told.wait(30)
        one.kill()
        two = world.start("two", port=urlsplit(address).port)
        world.reached("T", "b", count=2)
        world.open_gate("T", "b")
        response = calling.result(60)

    assert 201 == response.status
    by_one = [f"a {number} {one.pid}" for number in (1, 2, 3)]
    by_two = [f"b {number} {two.pid}" for number in (1, 2, 3)]
    assert (*by_one, *by_two) == collector.items
    assert 1 == log.kinds.count("rollback")
    assert 1 == log.kinds.count("metadata")
