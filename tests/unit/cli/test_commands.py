"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import durable_core
from durable_conformance.store_values import addressed, commit, created, ended, run, suspended, wait
from durable_core.api.adapter import HTTPHandler
from durable_core.api.durable import Durable
from durable_core.cli import main
from durable_core.engine.embedded import EmbeddedEngine
from durable_core.errors import NonRetriableError
from durable_core.http.request import Request
from durable_core.machine.addresses import signal_address
from durable_core.model.run import Phase
from durable_core.ports import StoredResult
from durable_core.stores.memory import MemoryStore
from durable_core.stores.sqlite import SQLiteStore
from durable_core.sync import step
from support.harness import lab


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A store with three runs: r1 has completed, r2 waits for an event, r3 is live."""
    store = SQLiteStore(tmp_path / "shop.db")
    store.open()
    for run_id in ("r1", "r2", "r3"):
        commit(store, created(run_id))
    commit(store, ended("r1"))
    commit(store, suspended("r2", wait("approval")))
    store.close()
    return store.path


def result_of(path: str, run_id: str) -> StoredResult | Phase | None:
    store = SQLiteStore(path)
    store.open()
    try:
        return store.result("app", run_id)
    finally:
        store.close()


def test_list_is_a_table(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``runs list`` shows the runs, the newest first."""
    assert 0 == main(["runs", "list", "--store", path, "--app", "app"])

    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.startswith("RUN")
    assert ["r3", "r2", "r1"] == [line.split()[0] for line in lines]


def test_runs_alone_lists(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``runs`` without an action is ``runs list``."""
    assert 0 == main(["runs", "--store", path, "--app", "app", "--json"])

    assert ["r3", "r2", "r1"] == [run["id"] for run in json.loads(capsys.readouterr().out)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--limit", "1"], ["r3"]),
        (["--cursor", "r3"], ["r2", "r1"]),
        (["--status", "completed"], ["r1"]),
        (["--status", "running"], ["r3"]),
    ],
)
def test_list_selects(
    path: str, options: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """``--limit``, ``--cursor`` and ``--status`` narrow the list."""
    assert 0 == main(["runs", "list", "--store", path, "--app", "app", "--json", *options])

    assert expected == [run["id"] for run in json.loads(capsys.readouterr().out)]


def test_get_as_text(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``runs get`` shows a run with its steps and what it waits for."""
    assert 0 == main(["runs", "get", "r2", "--store", path, "--app", "app"])

    out = capsys.readouterr().out
    assert "approval (for e)" in out
    assert "step1" in out


def test_get_as_json(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``runs get --json`` prints one object."""
    assert 0 == main(["runs", "get", "r2", "--store", path, "--app", "app", "--json"])

    run = json.loads(capsys.readouterr().out)
    assert ("r2", [("step1", "completed"), ("approval", "waiting")]) == (
        run["id"],
        [(step["name"], step["status"]) for step in run["steps"]],
    )


def test_cancel_ends_the_run(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``runs cancel`` ends a run; its clients get 410 with a problem document."""
    assert 0 == main(["runs", "cancel", "r2", "--store", path, "--app", "app"])

    assert "cancelled r2\n" == capsys.readouterr().out
    result = result_of(path, "r2")
    assert isinstance(result, StoredResult)
    assert Phase.CANCELLED is result.phase
    assert 410 == json.loads(result.head)["status"]
    assert result.body is not None
    assert "urn:durable:run-cancelled" == json.loads(result.body)["type"]


def test_cancel_of_an_ended_run_fails(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that has ended is not changed, and the exit code is 1."""
    before = result_of(path, "r1")

    assert 1 == main(["runs", "cancel", "r1", "--store", path, "--app", "app"])

    assert "run r1 had ended, or was cancelled already" in capsys.readouterr().err
    assert before == result_of(path, "r1")


@pytest.mark.parametrize("action", ["get", "cancel"])
def test_unknown_run(path: str, action: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that is not there is reported on stderr, with exit code 1."""
    assert 1 == main(["runs", action, "r9", "--store", path, "--app", "app"])

    captured = capsys.readouterr()
    assert "" == captured.out
    assert "r9" in captured.err


def test_missing_store_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Looking at a store that is not there says so, and makes none."""
    path = tmp_path / "typo.db"

    assert 1 == main(["runs", "--store", str(path), "--app", "app"])

    assert f"there is no store {path}" in capsys.readouterr().err
    assert not path.exists()


def test_file_that_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of something else is refused with exit code 1."""
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 100)

    assert 1 == main(["runs", "--store", str(path), "--app", "app"])

    assert "not a SQLite database" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["runs"],
        ["runs", "--store", "x.db"],
        ["runs", "--app", "x"],
        ["runs", "shop:durable", "--store", "x.db", "--app", "x"],
        ["runs", "list", "shop"],
        ["runs", "list", "no_such_module:durable"],
        ["runs", "list", "json:durable"],
        ["worker", "no_such_module:durable"],
    ],
)
def test_what_makes_no_sense_is_code_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A command line that names no store or no application has exit code 2 and says why."""
    assert 2 == main(words)
    assert capsys.readouterr().err.startswith("durable: ")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["dance"],
        ["worker"],
        ["runs", "get"],
        ["runs", "--limit", "0"],
        ["runs", "--limit", "many"],
        ["runs", "--status", "happy"],
    ],
)
def test_what_cannot_be_parsed_is_code_2(words: list[str]) -> None:
    """The parser refuses the rest with exit code 2."""
    with pytest.raises(SystemExit, match=r"\A2\Z"):
        main(words)


def test_application_of_a_module(
    path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``module:durable`` names store and app at once, and starts nothing."""
    source = f"from durable_core import Durable\ndurable = Durable(id='app', store={path!r})\n"
    (tmp_path / "cli_shop.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)

    assert 0 == main(["runs", "cli_shop:durable", "--json"])

    assert 3 == len(json.loads(capsys.readouterr().out))
    assert not sys.modules["cli_shop"].durable.health()["started"]


def test_version_of_the_module() -> None:
    """``python -m durable_core --version`` prints the version."""
    command = [sys.executable, "-m", "durable_core", "--version"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert (0, f"durable-core {durable_core.__version__}\n") == (done.returncode, done.stdout)


def test_reader_that_has_seen_enough(path: str) -> None:
    """A closed pipe behind the command is no error."""
    command = f"{sys.executable} -m durable_core runs --store {path} --app app; echo $? >&2"

    done = subprocess.run(
        ["bash", "-c", f"({command}) | true"], capture_output=True, text=True, timeout=60
    )

    assert "0\n" == done.stderr


def test_secrets_are_rotated_and_revoked(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The values are never shown."""
    for action in ("list", "rotate", "list", "revoke", "list"):
        assert 0 == main(["secrets", action, "--store", path])

    shown = capsys.readouterr().out.splitlines()
    store = SQLiteStore(path)
    store.open()
    secrets = store.secrets()
    store.close()
    assert "made with the store (newest)" == shown[0]
    assert "made a new secret; it signs in a few seconds; 2 verify" == shown[1]
    assert [True, False] == ["(newest)" in line for line in shown[2:4]]
    assert "made a new secret; it signs alone" == shown[4]
    assert (6, 1) == (len(shown), len(secrets))
    assert secrets[0].value.hex() not in "".join(shown)


def test_given_secrets_are_not_rotated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user has them elsewhere; without a store there is nothing to be done either."""
    engine = EmbeddedEngine(MemoryStore(), secrets=["s" * 16])
    durable: Durable[HTTPHandler] = Durable(id="it", engine=engine)
    monkeypatch.setattr("durable_core.cli.commands.load_durable", lambda target: durable)

    assert 2 == main(["secrets", "rotate", "shop:durable"])
    assert "put a new key in front of them" in capsys.readouterr().err
    assert 2 == main(["secrets", "rotate"])
    assert "name either MODULE:DURABLE, or --store PATH\n" in capsys.readouterr().err


def at(path: str, *words: str) -> list[str]:
    return [*words, "--store", path, "--app", "app"]


def test_history_shows_attempts(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``runs history`` has a line for each attempt; as JSON an array."""
    assert 0 == main(at(path, "runs", "history", "r2"))
    heading, line = capsys.readouterr().out.splitlines()
    assert ["ENDED", "(UTC)", "TOOK", "STATUS", "TRY", "STEP"] == heading.split()
    assert ["completed", "1", "step1"] == line.split()[-3:]

    assert 0 == main(at(path, "runs", "history", "r2", "--json"))
    assert ["step1"] == [each["step"] for each in json.loads(capsys.readouterr().out)]


def test_wait_shows_a_run_that_has_ended(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``runs wait`` prints it; past its time-out the exit code is 1."""
    assert 0 == main(at(path, "runs", "wait", "r1", "--json"))
    assert "completed" == json.loads(capsys.readouterr().out)["status"]

    assert 1 == main(at(path, "runs", "wait", "r2", "--timeout", "10ms"))
    assert "durable: run r2 has not ended after 10ms\n" == capsys.readouterr().err


def test_retry_and_resume(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``runs retry`` takes failed runs only; ``runs resume-from`` begins a new one."""
    assert 1 == main(at(path, "runs", "retry", "r1"))
    assert "durable: run r1 has not failed\n" == capsys.readouterr().err

    assert 0 == main(at(path, "runs", "resume-from", "r2", "--step", "step1", "--json"))
    new = json.loads(capsys.readouterr().out)["id"]
    assert 0 == main(at(path, "runs", "get", new, "--json"))
    assert "suspended" == json.loads(capsys.readouterr().out)["status"]

    assert 1 == main(at(path, "runs", "resume-from", "r2", "--step", "dance"))
    assert "durable: run r2 has no step 'dance'\n" == capsys.readouterr().err


def test_retry_of_a_run_that_was_undone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is done; the message says from which step a new run may begin, and it may."""

    def handler(request: Request) -> None:
        step.options(undo=lambda reservation: None).run("reserve", int)
        raise NonRetriableError("no")

    store = SQLiteStore(tmp_path / "shop.db")
    with lab(store) as process:
        process.call(process.endpoint(handler))
        [failed] = process.durable.runs.list()
    words = [failed.id, "--store", store.path, "--app", "lab"]

    assert 1 == main(["runs", "retry", *words])
    assert f"resume_from('{failed.id}', 'reserve')" in capsys.readouterr().err
    assert 1 == main(["runs", "resume-from", *words, "--step", "(failed)"])
    assert "resume from 'reserve', or from a step before it" in capsys.readouterr().err
    assert 0 == main(["runs", "resume-from", *words, "--step", "reserve"])


def test_delete(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``runs delete`` deletes a run that has ended; of others the exit code is 1."""
    assert 0 == main(at(path, "runs", "delete", "r1"))
    assert "deleted r1\n" == capsys.readouterr().out

    assert 1 == main(at(path, "runs", "delete", "r2"))
    assert "durable: run r2 has not ended; cancel it first\n" == capsys.readouterr().err
    assert 1 == main(at(path, "runs", "get", "r1"))


def test_send_ends_a_wait(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``send`` stores an event for the runs that wait for it; each id counts once."""
    words = at(path, "send", "e", "--data", '{"by": "Ada"}', "--id", "e1")
    assert 0 == main(words)
    assert 0 == main([*words, "--json"])

    first, second = capsys.readouterr().out.splitlines()
    assert ("sent e1", {"ids": ["e1"]}) == (first, json.loads(second))
    store = SQLiteStore(path)
    store.open()
    record = store.get("app", "r2")
    store.close()
    assert record is not None
    [pending] = record.pending
    assert pending.matched is not None
    assert {"by": "Ada"} == pending.matched.event.data


def test_send_of_no_event(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that no event can have is exit code 1."""
    assert 1 == main(at(path, "send", ""))
    assert "event name must have 1 to 255 characters" in capsys.readouterr().err


def test_signal_goes_to_the_run_that_waits(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``signal`` names the run that got it; where none waits the exit code is 1."""
    store = SQLiteStore(path)
    store.open()
    commit(store, replace(created("r9"), pending=(addressed(address=signal_address("go")),)))

    assert 0 == main(at(path, "signal", "go", "--data", "[1]", "--id", "s1"))
    assert 0 == main(at(path, "signal", "go", "--data", "[2]", "--id", "s1", "--json"))
    assert 1 == main(at(path, "signal", "go"))
    assert 1 == main(at(path, "signal", ""))

    shown = capsys.readouterr()
    assert 'sent to r9\n{"run_id": "r9"}\n' == shown.out
    assert "durable: no run waits for the signal 'go'\n" in shown.err
    assert "signal name must have 1 to 255 characters" in shown.err
    record = store.get("app", "r9")
    store.close()
    assert record is not None
    [pending] = record.pending
    assert pending.matched is not None
    assert {"data": [1]} == pending.matched.event.data


def test_prune_deletes_what_is_old(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``prune`` deletes runs that ended before, and leaves those that go on."""
    assert 0 == main(at(path, "prune", "--older-than", "1 day"))
    assert "deleted 1\n" == capsys.readouterr().out

    assert 0 == main(at(path, "runs", "--json"))
    assert ["r3", "r2"] == [run["id"] for run in json.loads(capsys.readouterr().out)]


@pytest.fixture
def application(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module with an application on the store, which has the endpoint of its runs."""
    (tmp_path / "cli_checked.py").write_text(
        "from durable_core import Durable, endpoint_adapter\n"
        f"durable = Durable(id='app', store={path!r}, endpoint_adapter=endpoint_adapter)\n"
        "@durable.endpoint(function_id='key')\n"
        "def it(request): ...\n"
        "bare = Durable(id='app', store=durable.engine.store)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "cli_checked"
    sys.modules.pop("cli_checked", None)


def test_check_says_what_is_wrong(
    application: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """``check`` prints a line for each problem, with exit code 1; it starts nothing."""
    assert 1 == main(["check", f"{application}:bare"])
    lines = capsys.readouterr().out.splitlines()
    assert f"{application}:bare has no endpoints; name the modules that define" in lines[0]
    assert lines[1:] == ["runs are due for the endpoint 'key', which no code here defines"]
    assert not sys.modules[application].durable.health()["started"]


def test_check_of_runs_without_a_worker(
    application: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs that nobody works on are a problem, too."""
    assert 1 == main(["check", f"{application}:durable"])
    assert "runs are due, and no process works on them\n" == capsys.readouterr().out


def test_check_of_an_application_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is wrong with a store that is not there yet, and none is made."""
    (tmp_path / "cli_sound.py").write_text(
        "from durable_core import Durable, endpoint_adapter\n"
        "durable = Durable(id='app', store='new.db', endpoint_adapter=endpoint_adapter)\n"
        "@durable.endpoint\n"
        "def it(request): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    assert 0 == main(["check", "cli_sound:durable"])
    assert "nothing is wrong\n" == capsys.readouterr().out
    assert not (tmp_path / "new.db").exists()


def test_tables_fit_80_columns(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the names are."""
    store = SQLiteStore(path)
    store.open()
    commit(store, replace(created("r4"), create=replace(run("r4"), function_id="GET /" * 40)))
    store.close()
    for words in (["list"], ["get", "r4"], ["history", "r2"]):
        assert 0 == main(at(path, "runs", *words))
    lines = capsys.readouterr().out.splitlines()

    table = [line for line in lines if not line.startswith(("name ", "function "))]
    assert 80 == max(map(len, table))


def test_modules_are_found_in_the_current_folder(tmp_path: Path) -> None:
    """The console script ``durable`` looks where ``python -m`` does."""
    (tmp_path / "shop.py").write_text(
        "from durable_core import Durable\ndurable = Durable(id='s')\n"
    )
    script = "import sys; from durable_core.cli import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", script, "check", "shop:durable"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)

    assert "shop:durable has no endpoints" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        (["runs", "get", "shop:durable"], "; 'shop:durable' was taken for RUN_ID\n"),
        (["send", "shop:durable"], "; 'shop:durable' was taken for NAME\n"),
        (["runs", "get", "01", "--app", "shop"], "; '01' was taken for RUN_ID\n"),
    ],
)
def test_a_forgotten_argument_is_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], taken: str
) -> None:
    """One name alone stands for the last argument, so the message says what it was taken for."""
    assert 2 == main(arguments)
    text = f"name either MODULE:DURABLE, or --store PATH and --app ID{taken}"
    assert text in capsys.readouterr().err
