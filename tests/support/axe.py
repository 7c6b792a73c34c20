"""axe, which judges how accessible a page is; npm has it."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.source_tree import ROOT

__all__ = ["find_violations", "load_axe"]

_FOLDER = ROOT / "adapters" / "dashboard" / "tests" / "axe"
_SECONDS = 60


def load_axe() -> str:
    """Return the script, as ``package-lock.json`` pins it; it is fetched once.

    The test is skipped, with the reason, where it cannot be had.
    """
    script = _FOLDER / "node_modules" / "axe-core" / "axe.min.js"
    with (_FOLDER / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not script.exists():
            _fetch(_FOLDER)
    return script.read_text("utf-8")


def _fetch(folder: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, so axe cannot be fetched")
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm has not fetched axe within {_SECONDS} seconds")
    if done.returncode:
        pytest.skip(f"npm cannot fetch axe: {done.stderr.strip()[-200:]}")


def find_violations(page: Any, axe: str) -> list[str]:
    """Return what axe finds in a page of playwright: the rule, and where."""
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{each['id']}: {node['target']} {node.get('failureSummary', '')}"
        for each in found
        for node in each["nodes"]
    ]
