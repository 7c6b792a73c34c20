"""Crowds of clients that wait, or that do not read, under real servers with threads.

Each holds a thread of the server. However many there are, others are still answered.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.harness import until
from support.server_processes import GUNICORN, OWN, Server, serving

pytestmark = pytest.mark.slow

#: Seconds in which somebody else is answered, on a busy machine.
SOON = 5.0
SERVERS: dict[str, tuple[str, ...]] = {
    "waitress": (*OWN, "waitress", "PORT", "4"),
    "gunicorn": (
        *(*GUNICORN, "--config=FOLDER/gunicorn.conf.py", "--graceful-timeout=1"),
        *("--worker-class=gthread", "--threads=8", "support.stopping_app:wsgi()"),
    ),
}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server that is told to stop in the end, whoever is still connected."""
    with serving(tmp_path, SERVERS[request.param]) as running:
        yield running
        running.terminate()


def connect(server: Server, target: str, *fields: str) -> socket.socket:
    """Send a request on a connection that takes in little, and read nothing of the answer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    head = "".join(f"{line}\r\n" for line in (f"GET {target} HTTP/1.1", "Host: x", *fields, ""))
    connection.sendall(head.encode())
    return connection


def assert_others_are_answered(server: Server, other: str) -> None:
    """Judge a plain request, a new run, and the wait URL of a run that ends soon."""
    assert 200 == server.get("/health", timeout=SOON).status
    assert 302 == server.get("/nap", timeout=SOON).status
    answer = server.get(other, timeout=SOON)
    assert (200, "awake") == (answer.status, answer.body)


@pytest.mark.parametrize("readers", [4, 16])
@pytest.mark.parametrize("path", ["/nap", "/flood"])
def test_streams_that_nobody_reads(server: Server, path: str, readers: int) -> None:
    """Event streams with little and with megabytes to send, whose clients never read."""
    url, other = server.wait_url(path), server.wait_url("/soon")
    with ExitStack() as clients:
        for _ in range(readers):
            clients.enter_context(connect(server, url, "Accept: text/event-stream"))
        assert_others_are_answered(server, other)


@pytest.mark.parametrize("waiting", [4, 16])
def test_clients_that_wait(server: Server, waiting: int) -> None:
    """They get some of the threads, and half of these where they wait for the same run."""
    url, other = server.wait_url("/nap"), server.wait_url("/soon")
    with ExitStack() as clients:
        for _ in range(waiting):
            clients.enter_context(connect(server, url))
        assert_others_are_answered(server, other)
        assert json.loads(server.get("/health").body)["waiting_clients"] in (2, 3)


def test_a_thousand_clients_that_wait(server: Server) -> None:
    """Those for whom there is no thread are told at once to come again."""
    urls = [server.wait_url("/nap") for _ in range(10)]
    other = server.wait_url("/soon")

    def wait(number: int) -> int:
        try:
            return server.get(urls[number % 10], {"connection": "close"}, timeout=3.0).status
        except TimeoutError:  # it is held
            return 0

    with ThreadPoolExecutor(50) as clients:
        statuses = Counter(clients.map(wait, range(1000)))
        assert_others_are_answered(server, other)

    assert {0, 503} == statuses.keys()
    assert statuses[503] > 900


def test_clients_that_read_nothing_of_their_own_runs(tmp_path: Path) -> None:
    """Those that begin a run and do not read its stream lose their threads after a while."""
    config = "import durable_wsgi._exchange\ndurable_wsgi._exchange.SEND_TIMEOUT = 1.0\n"
    with serving(tmp_path, SERVERS["gunicorn"], config) as server, ExitStack() as clients:
        for _ in range(8):
            clients.enter_context(connect(server, "/flood", "Accept: text/event-stream"))
        until(lambda: server.get("/health").status == 200)
        server.terminate()


@pytest.mark.parametrize("name", ["asgi", "asyncio"])
def test_plain_routes_beside_busy_handlers(name: str, tmp_path: Path) -> None:
    """A ``def`` route without durability does not wait for ``def`` handlers."""
    with serving(tmp_path, (*OWN, name, "PORT")) as server, ExitStack() as clients:
        for number in range(41):  # one more than there are threads for handlers
            gate = tmp_path / f"gate-{number}"
            clients.enter_context(connect(server, f"/sync-gated?gate={gate}"))
        until(lambda: len(list(tmp_path.glob("gate-*.reached"))) == 40)
        assert 200 == server.get("/health", timeout=SOON).status
        for number in range(41):
            (tmp_path / f"gate-{number}").touch()
        server.terminate()
