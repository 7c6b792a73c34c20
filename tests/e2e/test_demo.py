"""The demo, as a newcomer meets it: asked with curl, stopped, killed and started again."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urljoin
from urllib.request import urlopen

import pytest

from support.processes import Reply, fetch, until
from support.source_tree import ROOT

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Demo:
    """The demo on a store of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self) -> None:
        """Start it on a free port, or again on the port it had."""
        log = self._folder / "demo.log"
        log.write_text("")
        script = ROOT / "examples" / "trip_booking.py"
        options = ("--port", str(self.port), "--store", "trips.db")
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, script, *options], cwd=self._folder, stdout=file, stderr=file
            )
        until("the demo says what to try", lambda: "start it again" in self.log or self.ended())
        assert not self.ended(), self.log
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)/book", self.log)[1])  # type: ignore[index]

    @property
    def log(self) -> str:
        """What it has printed since it was started."""
        return (self._folder / "demo.log").read_text()

    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def stop(self, how: signal.Signals) -> int:
        """Send it a signal; return its exit code."""
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(30)

    def url(self, target: str) -> str:
        return f"http://127.0.0.1:{self.port}{target}"

    def ledger(self, trip: str) -> dict[str, int]:
        """Return how often the steps of a trip really happened."""
        steps: dict[str, int] = json.loads(fetch(self.url(f"/ledger?trip={trip}")).body)["steps"]
        return steps

    def approve(self, trip: str) -> Reply:
        """Send the event that a trip's approval waits for."""
        event = {"name": "trip/approved", "data": {"trip": trip}}
        return fetch(self.url("/events"), "POST", body=json.dumps(event).encode())


@contextmanager
def started(folder: Path) -> Iterator[Demo]:
    demo = Demo(folder)
    try:
        demo.start()
        yield demo
    finally:
        if not demo.ended():
            demo.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The demo, serving; tests have trips of their own."""
    with started(tmp_path_factory.mktemp("demo")) as demo:
        yield demo


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Demo]:
    """A demo that the test may stop."""
    with started(tmp_path) as demo:
        yield demo


def curl(*arguments: str) -> list[tuple[int, dict[str, str], bytes]]:
    """Run ``curl -i`` and return status, headers and body of every response it has shown."""
    command = ["curl", "-sS", "-i", "--max-time", "60", *arguments]
    rest = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    replies = []
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (f.split(": ", 1) for f in fields)}
        size = int(headers.get("content-length", "0"))
        replies.append((int(status.split(" ")[1]), headers, rest[:size]))
        rest = rest[size:]
    return replies


@needs_curl
def test_book_is_answered_at_once(demo: Demo) -> None:
    """``curl -i`` gets 200 with the handler's own headers; each step has happened once."""
    [(status, headers, body)] = curl(demo.url("/book?trip=T1"))

    assert (200, "T1", "application/json") == (status, headers["x-trip"], headers["content-type"])
    assert {"trip": "T1", "attempts": 1}.items() <= json.loads(body).items()
    assert {"reserve-seat": 1, "charge-payment": 1, "send-ticket": 1} == demo.ledger("T1")


@needs_curl
def test_flaky_payment_is_one_redirect(demo: Demo) -> None:
    """``curl -iL`` is sent to wait, and gets the handler's own response from there."""
    redirect, final = curl("-L", demo.url("/book?trip=T2&flaky=2"))

    status, headers, body = redirect
    assert (302, b"") == (status, body)
    assert headers["location"].startswith("?durable-run=")
    assert ("no-store", "no-referrer") == (headers["cache-control"], headers["referrer-policy"])
    status, headers, body = final
    assert (200, "T2") == (status, headers["x-trip"])
    assert 3 == json.loads(body)["attempts"]
    assert {"reserve-seat": 1, "charge-payment": 3, "send-ticket": 1} == demo.ledger("T2")


def test_payment_that_never_succeeds(demo: Demo) -> None:
    """After the last attempt the handler sees the error and answers as it likes: 402."""
    reply = fetch(demo.url("/book?trip=T9&flaky=4"), follow=True)

    assert (402, ["T9"]) == (reply.status, reply.all("x-trip"))
    assert {"reserve-seat": 1, "charge-payment": 4, "release-seat": 1} == demo.ledger("T9")


def test_nap_through_urllib(demo: Demo) -> None:
    """A client of the standard library waits through the nap without knowing about it."""
    began = time.monotonic()
    with urlopen(demo.url("/nap?seconds=1&trip=N1"), timeout=60) as reply:
        assert (200, "N1") == (reply.status, reply.headers["x-trip"])
        assert {"trip": "N1", "slept": 1.0} == json.load(reply)

    assert time.monotonic() - began >= 1
    assert {"lie-down": 1, "get-up": 1} == demo.ledger("N1")


def test_approval_takes_the_matching_event(demo: Demo) -> None:
    """An event for another trip changes nothing; the right one answers all who wait."""
    wait = fetch(demo.url("/approval?trip=A1")).location
    with ThreadPoolExecutor(3) as clients:
        waiting = [clients.submit(fetch, wait, follow=True) for _ in range(3)]
        assert 200 == demo.approve("A2").status
        assert not any(each.done() for each in waiting)
        assert 200 == demo.approve("A1").status
        bodies = {each.result().body for each in waiting}

    assert {b'{"trip":"A1","approved":true}'} == bodies
    assert bodies == {fetch(wait).body}
    assert {"ask": 1} == demo.ledger("A1")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stop_and_start_again(mortal: Demo, how: signal.Signals) -> None:
    """A signal stops it in good order; started again it goes on, and old wait URLs are good."""
    wait = fetch(mortal.url("/approval?trip=T5")).location

    assert 0 == mortal.stop(how)
    assert "Traceback" not in mortal.log
    mortal.start()

    assert 200 == mortal.approve("T5").status
    reply = fetch(wait, follow=True)
    assert (200, b'{"trip":"T5","approved":true}') == (reply.status, reply.body)
    assert {"ask": 1} == mortal.ledger("T5")


def test_kill_and_start_again(mortal: Demo) -> None:
    """``kill -9`` during a nap and during a wait: both runs finish, no step happens twice."""
    nap = fetch(mortal.url("/nap?trip=T6&seconds=1")).location
    approval = fetch(mortal.url("/approval?trip=T7")).location

    mortal.stop(signal.SIGKILL)
    mortal.start()

    assert b'{"trip":"T6","slept":1.0}' == fetch(nap, follow=True).body
    mortal.approve("T7")
    assert b'{"trip":"T7","approved":true}' == fetch(approval, follow=True).body
    assert {"lie-down": 1, "get-up": 1} == mortal.ledger("T6")
    assert {"ask": 1} == mortal.ledger("T7")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/book", 400),
        ("/book?trip=%0A", 400),
        ("/book?trip=T1&flaky=many", 400),
        ("/nap?seconds=nan", 400),
        ("/nap?seconds=-1", 400),
        ("/ledger", 400),
        ("/nowhere", 404),
        ("/book?durable-run=01ARZ3NDEKTSV4RRFFQ69G5FAV", 400),
        ("/book?durable-run=01ARZ3NDEKTSV4RRFFQ69G5FAV&durable-token=d1.1.x", 403),
    ],
)
def test_bad_requests(demo: Demo, target: str, status: int) -> None:
    """What makes no sense is refused with a problem document."""
    with pytest.raises(HTTPError) as refused:
        urlopen(demo.url(target), timeout=60)

    with refused.value as reply:
        assert (status, "application/problem+json") == (reply.code, reply.headers["content-type"])
        assert status == json.load(reply)["status"]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[]", 400), (b'{"data": {}}', 400), (b"x" * (1024 * 1024 + 1), 413)],
)
def test_bad_events(demo: Demo, body: bytes, status: int) -> None:
    """The events route refuses what is no event, and what is too large."""
    assert status == fetch(demo.url("/events"), "POST", body=body).status


@needs_curl
def test_commands_it_prints_work(mortal: Demo) -> None:
    """Every curl line of the help can be pasted into a shell."""
    lines = [line.strip() for line in mortal.log.splitlines() if line.startswith("  curl")]
    commands = [shlex.split(re.split(r" {3,}", line)[0]) for line in lines]
    assert 6 == len(commands)

    running = []
    for command in commands:
        if "-d" in command:
            # Whoever pastes both lines sends the event after the run has asked for it.
            until("the approval is asked for", lambda: mortal.ledger("T3"))
        command[1:1] = ["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "60"]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    assert ["200"] * 6 == [process.communicate()[0] for process in running]


@needs_curl
def test_location_is_relative(demo: Demo) -> None:
    """The redirect leads back to the path that was asked, whatever host name a proxy has."""
    [(_, headers, _)] = curl("-H", "Host: example.org", demo.url("/nap?seconds=1"))

    assert "/nap?durable-run=" in urljoin("http://example.org/nap?seconds=1", headers["location"])
    assert "example.org" not in headers["location"]


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """The demo says so in one line, and how another one is chosen."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        script = ROOT / "examples" / "trip_booking.py"
        done = subprocess.run(
            [sys.executable, script, "--port", str(port), "--store", tmp_path / "trips.db"],
            capture_output=True,
            text=True,
        )

    assert 2 == done.returncode
    assert f"port {port} cannot be had" in done.stderr
    assert "--port" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
