"""What durability costs: n sequential steps take at most n + 1 syncs of the store."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.harness import until
from support.processes import World, fetch

_SYNC = re.compile(r"\b(fsync|fdatasync)\(\d+<[^>]*/crash\.db[^>]*>\)\s+= 0")


def _require_strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace(1)")
    tried = subprocess.run(
        ("strace", "-D", "-o", "/dev/null", "true"), capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"may not trace a process: {tried.stderr.strip()}")


def test_n_steps_take_n_and_one_syncs(world: World, face: str, tmp_path: Path) -> None:
    """Counted from outside, for 0, 1, 3 and 10 steps. Without steps nothing is written at all."""
    _require_strace()
    trace = tmp_path / "trace"
    # -D: the application is the child, strace looks on.
    command = ("strace", "-D", "-f", "-y", "-e", "trace=fsync,fdatasync", "-o", str(trace))
    host = (sys.executable, "-m", "support.wsgi_host")
    # A long heartbeat, for the renewal of the lease is a commit of its own.
    app = world.launch("traced", (*command, *host), heartbeat=300, lease=900).wait_ready()

    def count() -> int:
        return len(_SYNC.findall(trace.read_text("utf-8", "replace")))

    def syncs(steps: int) -> int:
        before = count()
        assert 201 == fetch(app.url(f"/{face}/many?trip=T&n={steps}")).status
        # strace writes about a call when it has returned, which may be after the response.
        until(lambda: count() >= before + steps)
        return count() - before

    syncs(1)
    counted = {steps: syncs(steps) for steps in (0, 1, 3, 10)}
    print(f"syncs by steps, {face}: {counted}")
    assert 0 == counted[0]
    for steps in (1, 3, 10):
        # Each before the next step begins, the last before the response: fewer would be a lie.
        assert counted[steps] in (steps, steps + 1)
