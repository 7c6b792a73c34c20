"""The hooks for gunicorn."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from durable_core.errors import StoreBusyError
from durable_wsgi.gunicorn import post_worker_init, worker_exit
from support.wsgi_servers import GUNICORN_CONFIG, gunicorn

CONFIG_THAT_TELLS = f"""
{GUNICORN_CONFIG}
import sys
stop = worker_exit

def worker_exit(server, worker):
    (engine,) = worker.wsgi.durables
    was = engine.worker is not None
    stop(server, worker)
    print(f"worker_exit: started {{was}}, then {{engine.worker is not None}}", file=sys.stderr)
"""


class Recorder:
    """A durable that records what is done with it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[str] = []
        self._error = error

    def start(self, *, server_threads: int | None = None) -> None:
        self.calls.append(f"start({server_threads})")

    def drain(self) -> None:
        self.calls.append("drain")

    def stop(self, timeout: float) -> None:
        self.calls.append(f"stop({timeout})")
        if self._error is not None:
            raise self._error


def test_hooks_start_and_stop_all(caplog: pytest.LogCaptureFixture) -> None:
    """Every Durable of the application is started and stopped, also when one fails to stop."""
    durables = [Recorder(ValueError("no")), Recorder()]
    config = SimpleNamespace(threads=8)
    worker = SimpleNamespace(wsgi=SimpleNamespace(durables=durables), cfg=config)

    post_worker_init(worker)
    with caplog.at_level(logging.ERROR, "durable.wsgi"):
        worker_exit(None, worker)

    assert [["start(8)", "stop(10.0)"]] * 2 == [each.calls for each in durables]
    assert ["could not stop in good order"] == caplog.messages


def test_a_worker_whose_store_is_locked_serves(caplog: pytest.LogCaptureFixture) -> None:
    """Else gunicorn would end all workers; its first request starts it."""

    class Locked(Recorder):
        def start(self, *, server_threads: int | None = None) -> None:
            raise StoreBusyError("locked")

    durables = [Locked(), Recorder()]
    config = SimpleNamespace(threads=8)
    worker = SimpleNamespace(wsgi=SimpleNamespace(durables=durables), cfg=config)

    with caplog.at_level(logging.ERROR, "durable.wsgi"):
        post_worker_init(worker)
    worker_exit(None, worker)

    assert ["this worker starts with its first request: locked"] == caplog.messages
    assert ["start(8)", "stop(10.0)"] == durables[1].calls


def test_hooks_leave_other_applications_alone() -> None:
    """An application without durables, or none at all, is nothing to be started or stopped."""
    post_worker_init(SimpleNamespace(wsgi=lambda environ, start_response: []))
    worker_exit(None, SimpleNamespace())


def test_hooks_need_no_gunicorn() -> None:
    """The module with the hooks can be imported where gunicorn is not."""
    program = "import sys; sys.modules['gunicorn'] = None; import durable_wsgi.gunicorn"

    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_gunicorn_calls_them(worker: str, tmp_path: Path) -> None:
    """A worker works from its start, without any durable request, and stops when it ends."""
    with gunicorn(worker, CONFIG_THAT_TELLS)(tmp_path) as server:
        assert server.ask("GET", "/health").json()["started"] is True

    assert "worker_exit: started True, then False\n" in server.said
