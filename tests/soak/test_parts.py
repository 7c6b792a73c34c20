"""The journal and the clock of the soak, between processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from soak.clock import ShiftedClock
from soak.journal import Journal, read_lines


def test_the_journal_keeps_the_lines_of_a_killed_process(tmp_path: Path) -> None:
    """A line that was written is there, whatever happens to its writer afterwards."""
    program = (
        "import os, signal, sys; from pathlib import Path; from soak.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "journal.write('begin', trip='T')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.write("start")
    tests = str(Path(__file__).resolve().parents[1])
    subprocess.run((sys.executable, "-c", program, path), env={"PYTHONPATH": tests})
    journal.write("end", code=9)
    journal.close()
    lines = [line for _, line in read_lines(path)]
    assert ["start", "begin", "end"] == [line["what"] for line in lines]
    assert sorted(line["at"] for line in lines) == [line["at"] for line in lines]


def test_the_journal_is_read_from_an_offset(tmp_path: Path) -> None:
    """What was read is not read again, and a line that is being written is left for later."""
    journal = Journal(tmp_path / "journal")
    journal.write("one")
    [(offset, one)] = read_lines(journal.path)
    journal.write("two")
    with journal.path.open("ab") as file:
        file.write(b'{"what": "thr')
    [(_, two)] = read_lines(journal.path, offset)
    journal.close()
    assert ("one", "two") == (one["what"], two["what"])


def test_the_clock_jumps_for_all(tmp_path: Path) -> None:
    """Who has the clock sees what somebody else sets; it begins with the system's time."""
    ours, theirs = ShiftedClock(tmp_path / "clock"), ShiftedClock(tmp_path / "clock")
    assert abs(theirs.now() - time.time() * 1000) < 1000
    ours.shift(3_600_000)
    assert abs(theirs.now() - 3_600_000 - time.time() * 1000) < 1000
    ours.shift(0)
    assert abs(theirs.now() - time.time() * 1000) < 1000
