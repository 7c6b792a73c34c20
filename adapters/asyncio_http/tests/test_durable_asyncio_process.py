"""The server as a process that is told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.asyncio_sample import Sample
from support.processes import until
from support.raw_http import ask, connect, exchange, read_reply

TESTS = Path(sys.modules[Sample.__module__].__file__ or "").parents[1]


class Process:
    """The sample in a process of its own, on a store in a folder."""

    def __init__(self, folder: Path) -> None:
        ready = folder / "ready"
        ready.unlink(missing_ok=True)
        self.running = subprocess.Popen(
            (
                *(sys.executable, "-W", "error", "-m", "support.asyncio_sample"),
                *(str(folder / "db"), str(ready)),
            ),
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            stderr=subprocess.PIPE,
            text=True,
        )
        until("it serves", lambda: ready.exists() or self.running.poll() is not None)
        self.port = int(ready.read_text())

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit code, and what it has logged."""
        _, log = self.running.communicate(timeout=20)
        return self.running.returncode, log


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[Process]]:
    """What is gone after the test."""
    started: list[Process] = []
    yield started
    for each in started:
        if each.running.poll() is None:
            each.running.kill()
            each.end()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/gated", "/sync-gated"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(
    tmp_path: Path, processes: list[Process], path: str, number: signal.Signals
) -> None:
    """Clients are handed off, steps in flight finish, the next process goes on from there."""
    first, gate = Process(tmp_path), tmp_path / "gate"
    processes.append(first)
    with connect(first.port) as client:
        client.sendall(f"GET {path}?gate={gate} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        until("the step has begun", gate.with_suffix(".reached").exists)

        first.running.send_signal(number)

        reply = read_reply(client)
    assert (302, "close") == (reply.status, reply.get("connection"))
    assert first.running.poll() is None  # the step is in flight
    gate.touch()
    code, log = first.end()
    assert (0, False) == (code, "ERROR" in log), log

    second = Process(tmp_path)
    processes.append(second)
    gate.with_suffix(".reached").unlink()
    assert b"through" == ask(second.port, "GET", f"{path}{reply.get('location')}").body
    assert not gate.with_suffix(".reached").exists()  # the step did not run again


@pytest.mark.slow
def test_a_second_signal_does_not_wait(tmp_path: Path, processes: list[Process]) -> None:
    """Whoever is in a hurry sends it again."""
    process, gate = Process(tmp_path), tmp_path / "gate"
    processes.append(process)
    with connect(process.port) as client:
        client.sendall(f"GET /gated?gate={gate} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        until("the step has begun", gate.with_suffix(".reached").exists)
        process.running.terminate()
        assert 302 == read_reply(client).status

        process.running.terminate()

        assert -signal.SIGTERM == process.end()[0]


@pytest.mark.slow
def test_a_handler_that_exits_ends_only_its_request(
    tmp_path: Path, processes: list[Process]
) -> None:
    """The server goes on; nothing that was sent is in its log."""
    process = Process(tmp_path)
    processes.append(process)
    with pytest.raises(ConnectionResetError):
        exchange(process.port, b"GET /exit?durable-token=secret HTTP/1.1\r\nHost: x\r\n\r\n")

    assert 201 == ask(process.port, "GET", "/steps?n=1").status
    process.running.terminate()
    code, log = process.end()
    assert (0, False) == (code, "secret" in log)
