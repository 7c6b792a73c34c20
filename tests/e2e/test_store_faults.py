"""A store that cannot be written to: clients are told, nothing is half done, all recovers."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.processes import App, Reply, World, fetch, until

#: Whole processes in every test: not for the daily loop.
pytestmark = pytest.mark.slow

_EVENT = json.dumps({"name": "go", "data": {"trip": "T"}}).encode()
#: So long may a refusal take, seconds: the busy timeout of these tests and a busy machine's own.
_SOON = 5.0


@contextmanager
def _locked(world: World, app: App) -> Iterator[None]:
    """Another process holds the lock for writing for longer than ours waits for it."""
    with world.store.locked("EXCLUSIVE"):
        yield


@contextmanager
def _no_room(world: World, app: App) -> Iterator[None]:
    """No file of the process may grow beyond the size that the log of the store has."""
    log = Path(f"{world.store_path}-wal")
    limits = resource.prlimit(app.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(app.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(app.pid, resource.RLIMIT_FSIZE, limits)


@contextmanager
def _full_disk(world: World, app: App) -> Iterator[None]:
    """The file system of the store is full to the last byte."""
    ballast = world.store_path.parent / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                pass
    try:
        yield
    finally:
        ballast.unlink()


_FAULTS = {"locked": _locked, "no-room": _no_room, "full-disk": _full_disk}


@contextmanager
def _mounted(folder: Path) -> Iterator[None]:
    """A small file system of its own in the folder; skips the test where that is not allowed."""
    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("needs Linux and mount(8) for a small tmpfs")
    folder.mkdir(mode=0o700)
    command = ("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"may not mount a small tmpfs: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(("umount", "--lazy", str(folder)), check=True)


def _remount(folder: Path, mode: str) -> None:
    subprocess.run(("mount", "-o", f"remount,{mode}", str(folder)), check=True)


@pytest.fixture(params=list(_FAULTS))
def fault(request: pytest.FixtureRequest, world: World) -> Iterator[str]:
    """Each fault that can befall a store in use."""
    with ExitStack() as stack:
        if request.param == "full-disk":
            stack.enter_context(_mounted(world.store_path.parent))
            stack.callback(world.destroy)
        yield request.param


def assert_unavailable(reply: Reply) -> None:
    """The client is told that it may try again."""
    assert (503, ["application/problem+json"]) == (reply.status, reply.all("content-type"))
    assert reply.all("retry-after")[0].isdigit()
    problem = json.loads(reply.body)
    assert 503 == problem["status"]
    assert problem["type"].endswith("store-unavailable")
    assert ".db" not in problem["detail"], "where the store is, is nothing for clients"


def test_a_request_is_refused_and_leaves_nothing(world: World, face: str, fault: str) -> None:
    """503 and one log line; no run is stored; afterwards the same request is served."""
    app = world.start(busy=0.3)
    assert 201 == fetch(app.url(f"/{face}/steps?trip=S")).status
    before = world.store.runs()
    began = time.monotonic()
    with _FAULTS[fault](world, app):
        reply = fetch(app.url(f"/{face}/steps?trip=T"))
        assert_unavailable(reply)
        assert reply.at - began < _SOON
        assert {"a": 1} == world.ledger.begun("T")
        [line] = app.errors()
        assert str(world.store_path) in line
    assert before == world.store.runs()
    assert 201 == fetch(app.url(f"/{face}/steps?trip=U")).status
    assert world.store.is_sound()
    assert {"a": 1} == world.ledger.begun("T")


def test_a_run_with_checkpoints_continues(world: World, face: str, fault: str) -> None:
    """The step whose checkpoint failed is told as an error, and runs again when it can be kept."""
    world.close_gate("T", "b")
    app = world.start(busy=0.3)
    client = world.background(app.url(f"/{face}/steps?trip=T"))
    world.reached("T", "b")
    with _FAULTS[fault](world, app):
        world.open_gate("T", "b")
        assert_unavailable(client.result())
        assert {"a": 1, "b": 1} == world.ledger.begun("T")
        assert ["a"] == list(world.store.steps())
    until("the run has ended", world.store.all_ended)
    assert {"a": 1, "b": 2, "c": 1} == world.ledger.begun("T")
    assert ["completed"] == list(world.store.runs().values())


def test_the_last_checkpoint_fails(world: World, face: str, fault: str) -> None:
    """The handler has returned its response, but the client does not get it for a success."""
    world.close_gate("T", "c")
    app = world.start(busy=0.3)
    client = world.background(app.url(f"/{face}/steps?trip=T"))
    world.reached("T", "c")
    with _FAULTS[fault](world, app):
        world.open_gate("T", "c")
        assert_unavailable(client.result())
        assert ["a", "b"] == list(world.store.steps())
    until("the run has ended", world.store.all_ended)
    assert {"a": 1, "b": 1, "c": 2} == world.ledger.begun("T")
    assert ["completed"] == list(world.store.runs().values())


def test_a_run_that_comes_due_meanwhile_goes_on_later(world: World, face: str, fault: str) -> None:
    """The engine keeps trying; the waiting client gets the result in the end."""
    app = world.start(busy=0.3)
    handoff = fetch(app.url(f"/{face}/nap?trip=T&seconds=1"))
    assert 302 == handoff.status
    with _FAULTS[fault](world, app):
        until("the engine has noticed", lambda: "scheduler" in "".join(app.errors()))
        client = world.background(handoff.location, follow=True)
    assert 201 == client.result().status
    assert 1 == world.ledger.begun("T")["a"]


def test_an_event_is_refused(world: World, fault: str) -> None:
    """What cannot be stored is not acknowledged but logged, and wakes nobody."""
    app = world.start(busy=0.3)
    handoff = fetch(app.url("/async/wait?trip=T"))
    with _FAULTS[fault](world, app):
        assert_unavailable(fetch(app.url("/events"), "POST", body=_EVENT))
        assert {True} == {str(world.store_path) in line for line in app.errors()}
    assert {"a": 1} == world.ledger.begun("T")
    assert 200 == fetch(app.url("/events"), "POST", body=_EVENT).status
    assert 201 == fetch(handoff.location, follow=True).status


def test_results_can_be_read_while_it_is_locked(world: World, face: str) -> None:
    """The wait URL only reads."""
    app = world.start(busy=0.3)
    handoff = fetch(app.url(f"/{face}/exact?kind=T"))
    assert 201 == fetch(handoff.location, follow=True).status
    with world.store.locked("EXCLUSIVE"):
        assert 201 == fetch(handoff.location).status


def test_many_clients_meet_a_lock(world: World, face: str) -> None:
    """All are told within about the busy timeout, not one after the other."""
    app = world.start(busy=0.5)
    fetch(app.url(f"/{face}/steps?trip=S"))
    with world.store.locked():
        began = time.monotonic()
        clients = [world.background(app.url(f"/{face}/steps?trip=T{n}")) for n in range(20)]
        for client in clients:
            assert_unavailable(client.result())
            assert client.result().at - began < _SOON
    assert 1 == len(world.store.runs())


def test_a_read_only_file_system(world: World, face: str) -> None:
    """A run was under way when the file system became read-only: it continues when it is not."""
    folder = world.store_path.parent
    with _mounted(folder):
        try:
            world.close_gate("T", "b")
            app = world.start("before")
            world.background(app.url(f"/{face}/steps?trip=T"))
            world.reached("T", "b")
            app.kill()
            world.open_gate("T", "b")
            _remount(folder, "ro")
            app = world.start("after", lazy=1)
            assert_unavailable(fetch(app.url(f"/{face}/steps?trip=U")))
            [line] = app.errors()
            assert str(world.store_path) in line
            assert {} == world.ledger.begun("U")
            _remount(folder, "rw")
            assert 201 == fetch(app.url(f"/{face}/steps?trip=U")).status
            until("the run has ended", world.store.all_ended)
            assert {"a": 1, "b": 2, "c": 1} == world.ledger.begun("T")
        finally:
            world.destroy()


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "full-disk"])
def test_a_start_in_bad_times(world: World, face: str, locked: bool) -> None:
    """Requests are refused until the engine can start; then a run of before goes on."""
    with _mounted(world.store_path.parent):
        try:
            world.close_gate("T", "b")
            app = world.start("before")
            world.background(app.url(f"/{face}/steps?trip=T"))
            world.reached("T", "b")
            app.kill()
            world.open_gate("T", "b")
            # The first process to open the store moves the log into the database and deletes it.
            # On a full disk the room of that log would let the engine start: it would
            # claim the run, and the checkpoint of the step would be what does not fit any more.
            world.store.move_log()
            app = world.start("after", lazy=1, busy=0.3)
            with (_locked if locked else _full_disk)(world, app):
                began = time.monotonic()
                clients = [world.background(app.url(f"/{face}/steps?trip=U")) for _ in range(5)]
                for client in clients:
                    assert_unavailable(client.result())
                    assert client.result().at - began < _SOON
            assert 201 == fetch(app.url(f"/{face}/steps?trip=U")).status
            until("the run has ended", world.store.all_ended)
            assert {"a": 1, "b": 2, "c": 1} == world.ledger.begun("T")
        finally:
            world.destroy()


def test_a_file_that_is_no_store(world: World, face: str) -> None:
    """It is refused with its name, and not touched."""
    world.store_path.parent.mkdir()
    world.store_path.write_bytes(b"something of yours, longer than a header of SQLite" * 99)
    before = world.store_path.read_bytes()
    app = world.start(lazy=1)
    assert_unavailable(fetch(app.url(f"/{face}/steps?trip=T")))
    [line] = app.errors()
    assert str(world.store_path) in line
    assert before == world.store_path.read_bytes()
    assert not os.path.exists(f"{world.store_path}-wal")
