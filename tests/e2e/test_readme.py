"""The README's first screen: its program is run, and answers as its transcript says."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.ports import ReservedPort
from support.processes import PATIENCE, fetch, until
from support.source_tree import ROOT

README = (ROOT / "README.md").read_text("utf-8")
[PROGRAM] = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
[TRANSCRIPT] = re.findall(
    r"^```console\n\$ curl -iL 'localhost:8000(\S+)'\n(.*?)^```$", README, re.DOTALL | re.MULTILINE
)

#: How the fields begin whose values differ each time.
_BEGINNINGS = {"location": "?durable-run=", "sunset": ""}


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except ConnectionError:
        return False
    return True


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Where the program serves: on a free port in place of its own."""
    assert 1 == PROGRAM.count("port=8000")
    command = [sys.executable, "-W", "error", "shop.py"]
    with ReservedPort() as port:
        text = PROGRAM.replace("port=8000", f"port={port.number}")
        (tmp_path / "shop.py").write_text(text)
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
            try:
                until("it serves", lambda: accepts(port.number))
                yield f"http://127.0.0.1:{port.number}"
            finally:
                process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=PATIENCE)
            assert (0, "reserving the stock of c7\n") == (process.returncode, out)


def test_transcript_is_real(url: str) -> None:
    """Both responses have the status, the header fields and the body that the README shows.

    They have no other fields than those that it says it leaves out.
    """
    target, shown = TRANSCRIPT
    redirect, final, body = shown.split("\n\n")

    first = fetch(url + target)
    second = fetch(first.location, follow=True)

    for text, reply in ((redirect, first), (final, second)):
        status, *fields = text.splitlines()
        assert status.split()[1] == str(reply.status)
        expected: dict[str, str] = dict(field.split(": ") for field in fields)
        assert {*expected, "date", "connection"} == {name.lower() for name, _ in reply.headers}
        for name, value in expected.items():
            prefix = _BEGINNINGS.get(name, value)
            assert [True] == [each.startswith(prefix) for each in reply.all(name)]
    assert body == f"{second.text}\n"
