"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import durable_core
from durable_conformance.store_values import commit, created, ended, suspended, wait
from durable_core.api.adapter import HTTPHandler
from durable_core.api.durable import Durable
from durable_core.cli import main
from durable_core.engine.embedded import EmbeddedEngine
from durable_core.model.run import Phase
from durable_core.ports import StoredResult
from durable_core.stores.memory import MemoryStore
from durable_core.stores.sqlite import SQLiteStore


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
        (["--before", "r3"], ["r2", "r1"]),
        (["--status", "completed"], ["r1"]),
        (["--status", "running"], ["r3"]),
    ],
)
def test_list_selects(
    path: str, options: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """``--limit``, ``--before`` and ``--status`` narrow the list."""
    assert 0 == main(["runs", "list", "--store", path, "--app", "app", "--json", *options])

    assert expected == [run["id"] for run in json.loads(capsys.readouterr().out)]


def test_get_as_text(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``runs get`` shows a run with its steps and what it waits for."""
    assert 0 == main(["runs", "get", "r2", "--store", path, "--app", "app"])

    out = capsys.readouterr().out
    assert "waiting for e" in out
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

    assert "run r1 had ended already" in capsys.readouterr().err
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
    assert capsys.readouterr().err.startswith("python -m durable_core: ")


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
    monkeypatch.setattr("durable_core.cli.load_durable", lambda target: durable)

    assert 2 == main(["secrets", "rotate", "shop:durable"])
    assert "put a new key in front of them" in capsys.readouterr().err
    assert 2 == main(["secrets", "rotate"])
    assert "name either MODULE:DURABLE, or --store PATH\n" in capsys.readouterr().err
