"""Servers that fork: children work on connections of their own, the parent's stay its own."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.ledger import assert_no_step_ran_again
from support.processes import App, World, fetch, until

pytestmark = pytest.mark.slow

_DONE = [201] * 5


def _gunicorn(world: World, worker: str, **options: object) -> App:
    """Start two prefork workers of an application that the master has imported."""
    port = world.reserve_port()
    command = [
        *(sys.executable, "-m", "gunicorn", "support.crash_app:application", "--preload"),
        *("--config", "python:durable_wsgi.gunicorn", "--bind", f"127.0.0.1:{port}"),
        *("--workers", "2", "--worker-class", worker, "--graceful-timeout", "10"),
    ]
    if worker == "gthread":
        command += ["--threads", "8"]
    return world.launch("gunicorn", command, **options).wait_serving(port)


@contextmanager
def _stopping(app: App) -> Iterator[None]:
    """Stop a master in good order, for its workers would outlive its being killed."""
    try:
        yield
    finally:
        app.terminate()
        assert app.wait() == 0


@pytest.mark.parametrize("started", [False, True], ids=["imported", "started"])
@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_gunicorn_forks_after_import(world: World, worker: str, started: bool) -> None:
    """Workers serve, hand off and finish, also if the import has started the engine by accident."""
    options = {"start_at_import": 1} if started else {}
    app = _gunicorn(world, worker, **options)
    with _stopping(app):
        until("all have registered", lambda: len(world.store.peers()) == 2 + started)
        assert started == (app.pid in world.store.peer_pids())
        for number in range(6):
            kind = ("sync/steps", "async/nap", "sync/retry")[number % 3]
            reply = fetch(app.url(f"/{kind}?trip=T{number}&seconds=0.02&failures=1"), follow=True)
            assert (201, [f"T{number}"]) == (reply.status, reply.all("x-trip"))
        assert started == (app.pid in world.store.peer_pids())
        assert 2 + started == len(world.store.peers())
        assert {"completed"} == set(world.store.runs().values())
    assert world.store.is_sound()
    assert "Traceback" not in _without_retries(app.log)


def _without_retries(log: str) -> str:
    """Return the log without the failures that the retry endpoint makes on purpose."""
    return "\n".join(part for part in log.split("WARNING:") if "attempt 1 fails" not in part)


def test_a_killed_worker_is_replaced(world: World, face: str) -> None:
    """``kill -9`` of a worker in mid-step: the other one goes on, and a new one comes."""
    app = _gunicorn(world, "gthread")
    with _stopping(app):
        until("both have registered", lambda: len(world.store.peers()) == 2)
        world.close_gate("T", "b")
        world.background(app.url(f"/{face}/steps?trip=T"))
        victim = world.reached("T", "b").pid
        os.kill(victim, signal.SIGKILL)
        again = world.reached("T", "b", count=2)
        assert victim != again.pid
        world.open_gate("T", "b")
        until("the run has ended", world.store.all_ended)
        until(
            "a new worker has registered",
            lambda: len(world.store.peers()) == 2 and victim not in world.store.peer_pids(),
        )
        assert {"a": 1, "b": 2, "c": 1} == world.ledger.begun("T")


def test_a_step_may_fork(world: World, face: str) -> None:
    """As ``multiprocessing`` does: the run goes on in the parent, and only there."""
    app = world.start()
    clients = [world.background(app.url(f"/{face}/fork?trip=T{n}")) for n in range(8)]
    for number, client in enumerate(clients):
        reply = client.result()
        assert (201, [7]) == (reply.status, json.loads(reply.body)["parts"]), app.log
        assert {"b": 1} == world.ledger.begun(f"T{number}")
    assert {app.pid} == world.store.peer_pids()
    assert world.store.is_sound()


def test_fork_in_the_middle_of_work(world: World) -> None:
    """A program forks while its threads use the store: all of parent and children is done.

    Children end abruptly or in good order; neither takes the parent's leases or connections along.
    """
    program = world.launch("forking", (sys.executable, "-m", "support.forking"))
    assert 0 == program.wait(), program.log
    report = json.loads(program.log.splitlines()[-1])
    assert (_DONE, _DONE) == (report["before"], report["after"]), program.log
    assert [_DONE] * 3 == report["threads"], program.log
    assert [_DONE] * 4 == report["children"], program.log
    assert report["registered"]
    assert {"completed"} == set(world.store.runs().values())
    assert 5 * (1 + 3 + 4 + 1) == len(world.store.runs())
    for trip in {entry.trip for entry in world.ledger.entries()}:
        assert_no_step_ran_again(world.ledger.entries(trip))
    assert world.store.is_sound()
