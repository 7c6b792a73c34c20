"""The tools see everything that is there to be seen."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import dev
from support.source_tree import ADAPTER_FOLDERS, ROOT

CODE_FOLDERS = (
    "durable_core",
    "conformance",
    "tests",
    "examples",
    "benchmarks",
    "docs/_generate",
)
MYPY = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]


def test_mypy_checks_all_code() -> None:
    """Every folder that holds Python files, every adapter and dev.py are type-checked."""
    present = {name for name in CODE_FOLDERS if any((ROOT / name).rglob("*.py"))}
    adapters = {f"adapters/{folder.name}" for folder in ADAPTER_FOLDERS}

    assert {*present, *adapters, "dev.py"} == set(MYPY["files"])


def test_mypy_finds_every_adapter() -> None:
    """Each adapter's folder is on mypy's path, so that its package goes by its import name."""
    wanted = {f"$MYPY_CONFIG_FILE_DIR/adapters/{folder.name}" for folder in ADAPTER_FOLDERS}

    assert set() == wanted - set(MYPY["mypy_path"])


def test_tox_has_an_environment_for_every_adapter() -> None:
    """Each adapter has a tox environment of its name."""
    text = (ROOT / "tox.ini").read_text()

    assert [] == [f.name for f in ADAPTER_FOLDERS if f"[testenv:{f.name}]" not in text]


def test_generated_files_are_fresh() -> None:
    """Each generated file holds what its program prints now; ``dev.py docs`` writes them."""
    stale = [
        target
        for path, target in dev.GENERATED
        if (ROOT / target).read_bytes()
        != subprocess.run(
            [sys.executable, str(ROOT / path)], cwd=ROOT, check=True, capture_output=True
        ).stdout
    ]

    assert [] == stale
