"""Stored runs against new code: what is noticed, and that nothing is changed or called."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from durable_core.api.run import run
from durable_core.api.step import step, sync_step
from durable_core.cli.replay import replay
from durable_core.engine import replay as replay_module
from durable_core.engine.replay import ReplayReport
from durable_core.errors import (
    ConfigurationError,
    HTTPError,
    RunNotFoundError,
    StoreError,
    StoreVersionError,
)
from durable_core.flow.flows import EMBEDDED_FLOWS, EngineFlows
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import Event
from durable_core.stores import EncryptedStore, SQLiteStore
from support.harness import FakeClock, Lab, Ledger, lab, request, until

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async"])
#: What the old code does: steps, a sleep in which the run is stored, and a step after it.
OLD = ("a", "b", "nap", "c")


@dataclass
class Order:
    """What a newer step returns."""

    number: int


class Stored:
    """A store with runs of old code, and the copy that is replayed."""

    def __init__(self, folder: Path, store: Any = None) -> None:
        self.path = folder / "store.db"
        self.store = store or SQLiteStore(self.path)
        self.copy = folder / "copy.db"
        self.clock = FakeClock()

    def run(self, handler: Any, *, complete: bool = False, **options: Any) -> None:
        """Have old code begin a run, which sleeps; or complete it."""
        with lab(self.store, clock=self.clock, public_url="http://test") as process:
            endpoint = process.endpoint(handler, **options)
            first = endpoint.handle(request("/it?x=1"))
            until(lambda: first.status != 303 or suspended(process))
            if complete:
                self.clock.advance(3600)
                process.poke()
                process.follow(endpoint, first)
        shutil.copyfile(self.path, self.copy)

    def replay(self, handler: Any, *, store: Any = None, **options: Any) -> list[ReplayReport]:
        """Replay the copy against this handler; see that the copy stays as it was."""
        before = digest(self.copy)
        never = SQLiteStore(self.path.parent / "never.db")
        app = Lab(store or never, clock=self.clock, public_url="http://test")
        app.endpoint(handler, **options)
        reports = list(replay(app.durable, str(self.copy)))
        assert before == digest(self.copy)
        assert ["copy.db"] == [
            file.name for file in self.copy.parent.iterdir() if file.name.startswith("copy")
        ]
        assert not (self.path.parent / "never.db").exists()
        return reports


def suspended(process: Lab) -> bool:
    return any(each.owner is None for each in process.records.list())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def handler_of(asynchronous: bool, code: tuple[str, ...], ledger: Ledger | None = None) -> Any:
    """Return a handler that takes these steps; ``nap`` and ``=a`` sleep."""
    calls = ledger or Ledger()

    def sync(request: Request) -> list[str]:
        for name in code:
            if name == "nap" or name.startswith("="):
                sync_step.sleep(name.removeprefix("="), "1h")
            else:
                sync_step.run(name, calls.did, name, name)
        return list(code)

    async def async_(request: Request) -> list[str]:
        for name in code:
            if name == "nap" or name.startswith("="):
                await step.sleep(name.removeprefix("="), "1h")
            else:
                await step.run(name, calls.did, name, name)
        return list(code)

    return async_ if asynchronous else sync


def found(reports: list[ReplayReport]) -> list[tuple[str, str | None]]:
    """Return kind and step of the differences of all runs."""
    return [(each.kind, each.step) for report in reports for each in report.differences]


@both
def test_code_that_fits(asynchronous: bool, stored: Stored) -> None:
    """Nothing is found; no function of a step is called; it stops where the run is suspended."""
    ledger = Ledger()
    stored.run(handler_of(asynchronous, OLD))
    [report] = stored.replay(handler_of(asynchronous, (*OLD, "d"), ledger))

    assert ((), "nap") == (report.differences, report.stopped_at)
    assert [] == ledger.calls


@both
@pytest.mark.parametrize(
    ("new", "expected", "stopped_at"),
    [
        (("new", *OLD), ("new-step", "new"), "new"),
        (("a", "new", "b", "nap"), ("new-step", "new"), "new"),
        (("a", "nap", "c"), ("missing-step", None), "nap"),
        (("a", "b"), ("missing-step", None), None),
        ((), ("missing-step", None), None),
        (("=a", "b", "nap"), ("step-kind", "a"), "a"),
        (("b", "a", "nap", "c"), None, "nap"),
    ],
    ids=["first", "between", "gone", "short", "nothing", "kind", "reordered"],
)
def test_code_that_has_changed(
    asynchronous: bool,
    new: tuple[str, ...],
    expected: tuple[str, str | None] | None,
    stopped_at: str | None,
    stored: Stored,
) -> None:
    """Each change that a replay would notice is found, and where the replay stopped."""
    stored.run(handler_of(asynchronous, OLD))
    [report] = stored.replay(handler_of(asynchronous, new))

    assert [expected] * (expected is not None) == found([report])
    assert stopped_at == report.stopped_at


@both
def test_a_completed_run(asynchronous: bool, stored: Stored) -> None:
    """Its response is compared; the same one is no difference, another one is."""
    stored.run(handler_of(asynchronous, OLD), complete=True)

    assert [] == found(stored.replay(handler_of(asynchronous, OLD)))
    [report] = stored.replay(handler_of(asynchronous, ("b", "a", "nap", "c")))
    [difference] = report.differences
    assert ("response", None) == (difference.kind, difference.step)
    assert "the body differs" in difference.message


def test_another_status(stored: Stored) -> None:
    """The status goes before the body; an HTTPError is a response, too."""
    stored.run(handler_of(False, OLD), complete=True)

    def gone(request: Request) -> Response:
        handler_of(False, OLD)(request)
        raise HTTPError(410, "no more")

    def exception_to_response(error: Exception) -> Response | None:
        return Response(status=error.status) if isinstance(error, HTTPError) else None

    [report] = stored.replay(gone, exception_to_response=exception_to_response)
    assert ["the status is 410, and 200 is stored"] == [e.message for e in report.differences]


def test_a_streamed_body(stored: Stored) -> None:
    """It is read to its end and compared."""

    def streamed(last: bytes) -> Any:
        def handler(request: Request) -> Response:
            handler_of(False, ("a", "nap"))(request)
            return Response(body=iter([b"a", last]))

        return handler

    async def chunks() -> Any:
        yield b"a"
        yield b"b"

    async def asynchronous(request: Request) -> Response:
        await handler_of(True, ("a", "nap"))(request)
        return Response(body=chunks())

    stored.run(streamed(b"b"), complete=True)
    assert [] == found(stored.replay(streamed(b"b")))
    assert [] == found(stored.replay(asynchronous))
    assert [("response", None)] == found(stored.replay(streamed(b"c")))


def test_a_type_that_does_not_fit(stored: Stored) -> None:
    """What is stored does not fit the type that the code names now."""

    def old(request: Request) -> None:
        sync_step.run("a", str, "text")
        sync_step.sleep("nap", "1h")

    def number() -> Order:
        raise AssertionError("a stored step is not called")

    def new(request: Request) -> None:
        sync_step.run("a", number)
        sync_step.sleep("nap", "1h")

    stored.run(old)
    assert [("type", None)] == found(stored.replay(new))


@both
def test_a_handler_that_fails(asynchronous: bool, stored: Stored) -> None:
    """An error outside steps is found, unless the stored run has failed with such an error."""

    def sync(request: Request) -> None:
        sync_step.run("a", str)
        raise KeyError("x")

    async def async_(request: Request) -> None:
        await step.run("a", str)
        raise KeyError("x")

    failing = async_ if asynchronous else sync
    stored.run(handler_of(asynchronous, ("a", "nap")))
    [report] = stored.replay(failing)
    assert ("handler", "the handler fails: KeyError: 'x'") == (
        report.differences[-1].kind,
        report.differences[-1].message,
    )


def raises(request: Request) -> None:
    sync_step.run("a", str)
    raise KeyError("x")


def returns_no_response(request: Request) -> object:
    return sync_step.run("a", str), object()


@pytest.mark.parametrize("failing", [raises, returns_no_response])
def test_a_run_that_had_failed_so(failing: Any, stored: Stored) -> None:
    """A run that failed with the same error may do so again."""
    stored.run(failing, retries=0)
    assert [] == found(stored.replay(failing))


def test_a_return_value_that_cannot_be_sent(stored: Stored) -> None:
    """It is found where the stored run has not failed."""
    stored.run(handler_of(False, ("a", "nap")))
    assert ("handler", None) in found(stored.replay(returns_no_response))


def test_parallel_steps_and_patches(stored: Stored) -> None:
    """Branches are replayed side by side, and a patch tells an old run."""
    patched: list[bool] = []

    async def old(request: Request) -> None:
        await asyncio.gather(step.run("a", str), step.run("b", str))
        await step.sleep("nap", "1h")

    async def new(request: Request) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(step.run("b", str))
            group.create_task(step.run("a", str))
        patched.append(await step.patched("more"))
        await step.sleep("nap", "1h")

    stored.run(old)
    [report] = stored.replay(new)
    assert ((), "nap", [False]) == (report.differences, report.stopped_at, patched)


def test_what_a_replay_repeats_cannot_reach_the_store(stored: Stored) -> None:
    """Code outside steps that sends an event, or looks at runs, fails; nothing is sent."""
    stored.run(handler_of(False, ("a", "nap")))
    app = Lab(SQLiteStore(stored.path.parent / "never.db"), clock=stored.clock)

    def sends(request: Request) -> None:
        sync_step.run("a", str)
        app.durable.send(Event("sent"))

    app.endpoint(sends)
    reports = list(replay(app.durable, str(stored.copy)))
    assert ("handler", None) in found(reports)
    assert "a replay changes nothing" in reports[0].differences[-1].message
    assert not (stored.path.parent / "never.db").exists()


@both
def test_the_url_of_a_callback(asynchronous: bool, stored: Stored) -> None:
    """A replay makes it as the run did, though it does not open the store."""
    urls: list[str] = []

    def plain(asked: Request) -> object:
        urls.append(run.callback_url("answer"))
        sync_step.run("mail", str, urls[-1])
        answer = sync_step.wait_for_callback("answer", timeout="1h")
        return None if answer is None else answer.text()

    async def task(asked: Request) -> object:
        urls.append(run.callback_url("answer"))
        await step.run("mail", str, urls[-1])
        answer = await step.wait_for_callback("answer", timeout="1h")
        return None if answer is None else answer.text()

    handler = task if asynchronous else plain
    stored.run(handler)
    [report] = stored.replay(handler)

    assert ((), "answer") == (report.differences, report.stopped_at)
    assert 2 <= len(urls)
    assert 1 == len(set(urls))


def test_an_endpoint_that_is_gone(stored: Stored) -> None:
    """A run whose endpoint has another key now is found."""
    stored.run(handler_of(False, OLD))
    assert [("endpoint", None)] == found(stored.replay(handler_of(False, OLD), function_id="new"))


def test_which_runs(stored: Stored) -> None:
    """All of the application, those since a time, or one; one that there is not is an error."""
    stored.run(handler_of(False, OLD))
    stored.clock.advance(3600 * 24)
    stored.run(handler_of(False, OLD))
    app = Lab(SQLiteStore(stored.path), clock=stored.clock)
    app.endpoint(handler_of(False, OLD))
    path = str(stored.copy)

    reports = list(replay(app.durable, path))
    day = datetime.fromtimestamp(stored.clock.now() / 1000, UTC) - timedelta(hours=1)
    assert 2 == len(reports)
    assert [reports[0]] == list(replay(app.durable, path, since=day))
    assert [reports[1]] == list(replay(app.durable, path, run_id=reports[1].run.run.id))
    with pytest.raises(RunNotFoundError):
        list(replay(app.durable, path, run_id="nothing"))


def test_a_log_beside_the_copy(stored: Stored) -> None:
    """What is in a write-ahead log only is read, and neither file is touched."""
    stored.run(handler_of(False, OLD))
    with lab(SQLiteStore(stored.path), clock=stored.clock) as process:
        process.endpoint(handler_of(False, OLD)).handle(request())
        until(lambda: suspended(process))
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{stored.path}{suffix}", f"{stored.copy}{suffix}")
    log = Path(f"{stored.copy}-wal")
    assert log.stat().st_size > 0
    before = digest(stored.copy), digest(log)

    app = Lab(SQLiteStore(stored.path), clock=stored.clock)
    app.endpoint(handler_of(False, OLD))
    assert 2 == len(list(replay(app.durable, str(stored.copy))))
    assert before == (digest(stored.copy), digest(log))
    assert not Path(f"{stored.copy}-shm").exists()


def test_an_encrypted_store(tmp_path: Path) -> None:
    """It is read with the application's keys; without the key each run is unreadable."""

    def encrypted(path: Path, key: bytes) -> EncryptedStore:
        return EncryptedStore(SQLiteStore(path), keys={"k": Fernet(key)}, match_key=b"m" * 16)

    key, path = Fernet.generate_key(), tmp_path / "store.db"
    stored = Stored(tmp_path, encrypted(path, key))
    stored.run(handler_of(False, OLD), complete=True)
    never = tmp_path / "never.db"

    assert [] == found(stored.replay(handler_of(False, OLD), store=encrypted(never, key)))
    other = encrypted(never, Fernet.generate_key())
    assert [("unreadable", None)] == found(stored.replay(handler_of(False, OLD), store=other))


def make_other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (x)")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: None, StoreError),
        (lambda path: path.write_bytes(b"no database at all" * 100), StoreError),
        (make_other_database, StoreVersionError),
        (lambda path: path.write_bytes(b""), StoreVersionError),
    ],
    ids=["missing", "garbage", "another database", "empty"],
)
def test_what_is_no_store(
    make: Callable[[Path], object], error: type[Exception], tmp_path: Path
) -> None:
    """It is refused with the file's name."""
    path = tmp_path / "copy.db"
    make(path)
    app = Lab(SQLiteStore(tmp_path / "never.db"))
    with pytest.raises(error, match=r"copy\.db"):
        list(replay(app.durable, str(path)))


def test_an_application_that_works_is_refused(stored: Stored) -> None:
    """A replay takes its store away meanwhile."""
    stored.run(handler_of(False, OLD))
    with lab(SQLiteStore(stored.path)) as process:
        process.durable.start()
        with pytest.raises(ConfigurationError, match="works already"):
            list(replay(process.durable, str(stored.copy)))


def test_each_kind_of_step_stops() -> None:
    """No flow of a step is the engine's own: a step that is not stored is never executed."""
    own = {
        each.name for each in fields(EngineFlows) if callable(getattr(EMBEDDED_FLOWS, each.name))
    }
    flows = replay_module._FLOWS
    assert not [name for name in own if getattr(flows, name) is getattr(EMBEDDED_FLOWS, name)]
    assert flows.plain_steps is None
