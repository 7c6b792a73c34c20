"""The how-to page on Django: its project, made as the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "use-django.md"
_FILE = re.compile(r"^```python\n# (\S+\.py)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def make_project(folder: Path) -> None:
    """Write the files that the page shows."""
    for name, text in _FILE.findall(PAGE.read_text("utf-8")):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(text, "utf-8")


def test_the_worker_of_the_page(tmp_path: Path) -> None:
    """The command line finds the views by ROOT_URLCONF: the module of ``durable`` has none."""
    make_project(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "durable_core", "check", "mysite.endpoints:durable"],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "mysite.settings"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (0, "") == (done.returncode, done.stderr), done.stdout


def test_the_page(tmp_path: Path) -> None:
    """The project's own tests pass."""
    make_project(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "test", "--pythonpath", str(tmp_path)],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "mysite.settings"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert 0 == done.returncode, done.stderr
    assert "Ran 2 tests" in done.stderr
