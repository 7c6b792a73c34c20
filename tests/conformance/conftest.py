"""Running the suite as its users do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.source_tree import ROOT


class Judged(NamedTuple):
    """What a run of the suite came to."""

    code: int
    text: str
    report: dict[str, Any]


@pytest.fixture
def judge(tmp_path: Path) -> Callable[..., Judged]:
    """Run ``python -m durable_conformance`` in an empty folder."""

    def run(*arguments: str) -> Judged:
        report = tmp_path / "report.json"
        path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-m", "durable_conformance", *arguments, "--json", str(report)],
            env={**os.environ, "PYTHONPATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        found = json.loads(report.read_text("utf-8")) if report.exists() else {}
        return Judged(done.returncode, done.stdout + done.stderr, found)

    return run
