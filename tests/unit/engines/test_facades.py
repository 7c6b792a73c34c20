"""The public faces of engines: what users need, and what makers of engines need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from durable_core import engines
from durable_core.engines import remote


@pytest.mark.parametrize("face", [engines, remote], ids=lambda face: face.__name__)
def test_each_name_is_there(face: object) -> None:
    """Each name of ``__all__`` is there, under no other name."""
    names: list[str] = vars(face)["__all__"]
    assert all(name in vars(face) for name in names)


def test_users_do_not_load_what_makers_need() -> None:
    """Who only chooses the embedded engine loads nothing of a remote one."""
    program = (
        "import sys, durable_core.engines\n"
        "print([name for name in sys.modules if name.startswith('durable_core.engine.remote')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert ("[]\n", "") == (done.stdout, done.stderr)
