"""What the soak does to its processes: kills, stops, freezes, jumps of clocks, locks on the store.

The dice of the seed choose the actions, their targets and their times. What the processes do in
between is up to the machine, so two soaks of one seed are alike and not the same.
"""

from __future__ import annotations

import heapq
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from soak.clock import ShiftedClock
from soak.journal import Journal
from support.ports import ReservedPort
from support.processes import fetch

__all__ = ["Chaos", "Counts", "Process"]

_TESTS = Path(__file__).resolve().parents[1]
#: A process that was told to stop must have ended after this, seconds: ten for its steps.
STOP_TIMEOUT = 20.0
_HOUR_MS = 3_600_000


class Process:
    """A process of the soak, and those that come after it under its name.

    Args:
        kind: see :mod:`soak.host`.
        folder: of the store, the journal and the logs.
        journal: what is done to the process goes there.
        environ: further variables.
    """

    def __init__(
        self, kind: str, folder: Path, journal: Journal, environ: dict[str, str] | None = None
    ) -> None:
        self.kind = kind
        self._folder = folder
        self._journal = journal
        self._port = ReservedPort()
        self.url = f"http://127.0.0.1:{self._port.number}"
        self._environ = {
            **os.environ,
            **(environ or {}),
            "PYTHONPATH": os.pathsep.join([str(_TESTS), os.environ.get("PYTHONPATH", "")]),
            "PYTHONUNBUFFERED": "1",
            "SOAK_FOLDER": str(folder),
        }
        self._popen: subprocess.Popen[bytes] | None = None
        self.frozen = False

    @property
    def pid(self) -> int:
        """The process id of the present process."""
        assert self._popen is not None
        return self._popen.pid

    def start(self) -> None:
        """Start a process; the one before it has ended."""
        with (self._folder / f"{self.kind}.log").open("ab") as log:
            self._popen = subprocess.Popen(
                (sys.executable, "-m", "soak.host", self.kind, str(self._port.number)),
                cwd=self._folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.write("start")

    def is_ready(self) -> bool:
        """Return whether it serves; of a worker, whether it lives."""
        if self.kind == "worker":
            return self.is_alive()
        try:
            return fetch(f"{self.url}/health", timeout=5).status == 200
        except OSError:
            return False

    def is_alive(self) -> bool:
        """Return whether the present process runs."""
        return self._popen is not None and self._popen.poll() is None

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._signal(signal.SIGKILL, "kill")
        assert self._popen is not None
        self._popen.wait()
        self.frozen = False

    def terminate(self) -> None:
        """Ask it to end with SIGTERM."""
        self._signal(signal.SIGTERM, "terminate")

    def freeze(self) -> None:
        """Stop it with SIGSTOP."""
        self.frozen = True
        self._signal(signal.SIGSTOP)
        with suppress(ChildProcessError):  # it was dead already
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self.write("freeze")  # none of its threads can do anything any more

    def thaw(self) -> None:
        """Let it go on with SIGCONT."""
        self.write("thaw")  # before it can do anything
        self.frozen = False
        self._signal(signal.SIGCONT)

    def wait(self, timeout: float) -> int | None:
        """Return its exit code; None if it has not ended in time."""
        assert self._popen is not None
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """End the process, if it still runs, and let its port go."""
        if self.is_alive():
            self.kill()
        self._port.close()

    def _signal(self, number: signal.Signals, what: str = "") -> None:
        assert self._popen is not None
        self._popen.send_signal(number)
        if what:
            self.write(what)

    def note_stuck(self) -> None:
        """Write that it does not stop; its stacks go to its log."""
        self._signal(signal.SIGUSR1)
        self.write("would-not-stop")
        time.sleep(0.5)

    def write(self, what: str, **facts: object) -> None:
        """Write what happened to it."""
        self._journal.write(what, server=self.url, target=self.pid, kind=self.kind, **facts)


@dataclass(slots=True)
class Counts:
    """How often each thing was done."""

    kills: int = 0
    stops: int = 0
    freezes: int = 0
    locks: int = 0
    jumps: int = 0


@dataclass(order=True, slots=True)
class _Task:
    due: float
    do: Callable[[], object] = field(compare=False)


class Chaos:
    """Does things to the processes, one after the other, until there were enough kills.

    Args:
        seed: of the dice.
        processes: which have been started.
        store: the path of the store.
        clock: the wall clock of all processes, as it is that of their host.
        journal: what is done goes there.
        lease: seconds after which the others may take over from a frozen process.
        actions: what may be done, and how often in relation to each other.
    """

    def __init__(
        self,
        seed: int,
        processes: list[Process],
        store: Path,
        clock: ShiftedClock,
        journal: Journal,
        *,
        lease: float,
        actions: dict[str, float] | None = None,
    ) -> None:
        self._dice = Random(f"{seed}/chaos")
        self._processes = processes
        self._store = store
        self._clock = clock
        self._journal = journal
        self._lease = lease
        self._actions = actions or {"kill": 60, "stop": 8, "freeze": 12, "lock": 7, "jump": 13}
        self._later: list[_Task] = []
        self._locked: sqlite3.Connection | None = None
        self.counts = Counts()

    def run(self, kills: int, notice: Callable[[Counts], object], limit: float) -> None:
        """Go on until so many processes were killed, or ``limit`` seconds are over.

        With no kills among the actions, only the time counts.
        """
        end = time.monotonic() + limit
        while self.counts.kills < kills and time.monotonic() < end:
            self._wait(self._dice.uniform(0.1, 2.0))
            [action] = self._dice.choices(list(self._actions), list(self._actions.values()))
            getattr(self, f"_{action}")(self._dice.choice(self._processes))
            self._restart_dead()
            notice(self.counts)

    def calm(self) -> None:
        """Undo what still goes on: thaw, unlock, start; then set the clock forward.

        Two hours later everything is due that was put off by a clock that was set back again.
        """
        while self._later:
            heapq.heappop(self._later).do()
        self._restart_dead()
        self._clock.shift(2 * _HOUR_MS)

    def _wait(self, seconds: float) -> None:
        """Wait, and undo meanwhile what is over."""
        until = time.monotonic() + seconds
        while True:
            due = self._later[0].due if self._later else until
            pause = min(due, until) - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            elif due < until or (self._later and due <= time.monotonic()):
                heapq.heappop(self._later).do()
            else:
                return

    def _do_later(self, seconds: float, do: Callable[[], object]) -> None:
        heapq.heappush(self._later, _Task(time.monotonic() + seconds, do))

    def _restart_dead(self) -> None:
        for process in self._processes:
            if not process.is_alive():
                process.write("found-dead", code=process.wait(0))
                process.start()

    # -- the actions ------------------------------------------------------------------------

    def _kill(self, process: Process) -> None:
        process.kill()
        self.counts.kills += 1
        process.start()

    def _stop(self, process: Process) -> None:
        """Ask it to stop; start it again once it has ended."""
        if process.frozen:
            return
        process.terminate()
        self.counts.stops += 1
        give_up = time.monotonic() + STOP_TIMEOUT
        while process.is_alive() and time.monotonic() < give_up:
            self._wait(0.05)
        if process.is_alive():
            process.note_stuck()
            process.kill()
        else:
            process.write("stopped", code=process.wait(0))
        process.start()

    def _freeze(self, process: Process) -> None:
        """Stop it for longer than its lease, or for a moment."""
        if process.frozen:
            return
        process.freeze()
        self.counts.freezes += 1
        pid, pause = process.pid, self._lease * self._dice.choice((0.3, 1.3, 2.0))
        self._do_later(pause, lambda: self._thaw(process, pid))

    def _thaw(self, process: Process, pid: int) -> None:
        if process.frozen and process.pid == pid:
            process.thaw()

    def _jump(self, process: Process) -> None:
        """Set the wall clock of the host, for some seconds."""
        offset = self._dice.choice((-_HOUR_MS, -20_000, 20_000, _HOUR_MS))
        self._clock.shift(offset)
        self._journal.write("jump", offset=offset)
        self.counts.jumps += 1
        self._do_later(self._dice.uniform(1, 6), lambda: self._clock.shift(0))

    def _lock(self, process: Process) -> None:
        """Hold the write lock of the store."""
        if self._locked is not None:
            return
        connection = sqlite3.connect(self._store, timeout=0.5, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:  # a frozen process holds it
            connection.close()
            return
        self._locked = connection
        self._journal.write("lock")
        self.counts.locks += 1
        self._do_later(self._dice.choice((0.3, 1.5, 5.0)), self._unlock)

    def _unlock(self) -> None:
        connection, self._locked = self._locked, None
        if connection is not None:
            with closing(connection), suppress(sqlite3.OperationalError):
                connection.execute("ROLLBACK")
            self._journal.write("unlock")
