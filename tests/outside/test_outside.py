"""An outsider's journey: wheels, an adapter of one's own, one command, the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import recipe
from support.source_tree import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DISTRIBUTIONS = (ROOT, ROOT / "conformance")
#: Capabilities that the recipe does not declare; and no client is named.
GAPS = {
    "A15",
    "Q8",
    "Q10",
    "Q12",
    "H9",
    "S6",
    "M1",
    "M2",
    "M3",
    *(f"C{number}" for number in range(1, 9)),
}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command away from the checkout; fail with what it said."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """The Python of a new environment that has only the built wheels, and what they need."""
    wheels = tmp_path / "wheels"
    for folder in DISTRIBUTIONS:
        build = ("-m", "pip", "wheel", "--no-deps", "--wheel-dir", wheels, folder)
        run(sys.executable, *build, cwd=tmp_path)
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", *sorted(wheels.glob("*.whl")), cwd=tmp_path)
    return python


def test_an_outsiders_journey(outside: Path, tmp_path: Path) -> None:
    """The recipe's adapter conforms, with its gaps, by what is in the wheels alone."""
    desk = tmp_path / "desk"
    desk.mkdir()
    (desk / "my_adapter.py").write_text(recipe.source(), "utf-8")

    command = ("-m", "durable_conformance", "my_adapter:subject", "--json", "report.json")
    text = run(outside, *command, cwd=desk)

    report = json.loads((desk / "report.json").read_text("utf-8"))
    statuses = {each["id"]: each["status"] for each in report["requirements"]}
    assert (True, "my-adapter") == (report["ok"], report["subject"]["name"])
    assert dict.fromkeys(GAPS, "gap") == {
        id_: status for id_, status in statuses.items() if status != "pass"
    }
    assert "my-adapter conforms" in text
    assert {"my_adapter.py", "report.json", "__pycache__"} >= {each.name for each in desk.iterdir()}
    installed = run(outside, "-m", "pip", "list", "--format=freeze", cwd=desk)
    assert {"durable-core", "durable-conformance"} == {
        line.partition("==")[0] for line in installed.split() if line.startswith("durable")
    }
