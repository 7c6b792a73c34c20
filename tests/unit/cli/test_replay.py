"""``durable replay``: what it prints, and with which exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from durable_core.cli import main
from durable_core.cli.application import load_durable
from support.harness import request

#: An application; ``@`` stands for what its handler does.
APPLICATION = """
from durable_core import Durable, endpoint_adapter
from durable_core.stores import SQLiteStore
from durable_core.sync import step

durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=SQLiteStore({path!r}))

@durable.endpoint(function_id="order")
def order(request):
    {steps}
"""
OLD = 'step.run("a", str); step.sleep("nap", "1h")'
NEW = 'step.run("new", print, "called"); step.run("a", str); step.sleep("nap", "1h")'


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the modules ``old_shop`` and ``new_shop``, and a copy of a store."""
    path = tmp_path / "store.db"
    for name, steps in (("old_shop", OLD), ("new_shop", NEW)):
        text = APPLICATION.format(path=str(path), steps=steps)
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("old_shop", "new_shop"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    app: Any = load_durable("old_shop:durable")
    try:
        module = sys.modules["old_shop"]
        module.order.handle(request())
    finally:
        app.stop()
    shutil.copyfile(path, tmp_path / "copy.db")
    path.unlink()
    return tmp_path


def test_nothing_differs(modules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, and how many runs were replayed."""
    assert 0 == main(["replay", "--store", "copy.db", "old_shop:durable"])
    assert "replayed 1 runs\n" == capsys.readouterr().out


def test_what_differs(modules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, and what differs; no step is called, and no store is made."""
    assert 1 == main(["replay", "--store", "copy.db", "new_shop:durable"])

    printed = capsys.readouterr()
    assert " order\n  new-step: the code asks for the new step 'new' before" in printed.out
    assert "durable: 1 of 1 runs would differ\n" == printed.err
    assert "called" not in printed.out
    assert not (modules / "store.db").exists()


def test_json(modules: Path) -> None:
    """As a module, in a process of its own: the report of each run, for programs."""
    command = [sys.executable, "-m", "durable_core", "replay", "--store", "copy.db", "--json"]
    done = subprocess.run(
        [*command, "new_shop:durable"], capture_output=True, text=True, timeout=60, cwd=modules
    )
    [report] = json.loads(done.stdout)
    run_id = report.pop("id")
    [difference] = report.pop("differences")
    message = difference.pop("message")

    assert 1 == done.returncode
    assert 26 == len(run_id)
    assert {
        "function_id": "order",
        "version": None,
        "status": "suspended",
        "stopped_at": "new",
    } == report
    assert {"kind": "new-step", "step": "new"} == difference
    assert "before step 'a', 'nap', which the run has stored" in message


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--store", "none.db", "old_shop:durable"], 1, "there is no store none.db"),
        (["--store", "copy.db", "old_shop:durable", "--run", "x"], 1, "there is no run 'x'"),
        (["--store", "copy.db", "no_shop:durable"], 2, "no module"),
        (["old_shop:durable"], 2, "--store"),
        (
            ["--store", "copy.db", "old_shop:durable", "--run", "x", "--since", "2026-01-01"],
            2,
            "not allowed with",
        ),
        (["--store", "copy.db", "old_shop:durable", "--since", "soon"], 2, "ISO 8601"),
    ],
)
def test_bad_command_lines(
    modules: Path,
    arguments: list[str],
    code: int,
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each is refused with a line that says why."""
    try:
        returned = main(["replay", *arguments])
    except SystemExit as refused:
        returned = int(refused.code or 0)
    assert code == returned
    assert complaint in capsys.readouterr().err


def test_since(modules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs that began before are left out."""
    since = ["--since", "2100-01-01"]
    assert 0 == main(["replay", "--store", "copy.db", "new_shop:durable", *since])
    assert "replayed 0 runs\n" == capsys.readouterr().out


def test_handlers_of_a_framework_are_refused(modules: Path) -> None:
    """The framework makes their arguments, in the running application."""
    (modules / "web_shop.py").write_text(
        "from durable_core import Durable\n"
        "from durable_starlette import endpoint_adapter\n"
        'durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store="web.db")\n'
    )
    assert 2 == main(["replay", "--store", "copy.db", "web_shop:durable"])
