"""The example of embedding works as it says, and is short."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from support.source_tree import ROOT

EXAMPLE = ROOT / "examples" / "embed_custom_server.py"


def test_it_serves_and_stops(tmp_path: Path) -> None:
    """A client that follows redirects is greeted after the nap; Ctrl-C ends it."""
    with subprocess.Popen(
        [sys.executable, EXAMPLE, "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            with urllib.request.urlopen(f"{url}/greet?name=ada&nap=0.05s", timeout=30) as answer:
                body = answer.read()
        finally:
            server.send_signal(signal.SIGINT)

    assert b"Hello Ada\n" == body
    assert 0 == server.returncode
    assert (tmp_path / ".durable" / "embedded.db").is_file()


def test_it_is_short() -> None:
    """Under 60 lines."""
    assert len(EXAMPLE.read_text("utf-8").splitlines()) < 60
