"""Runs a case in a process of its own, with a limit of time.

Nothing that a case leaves behind (a thread, a port, an open run) reaches the next one, and whatever
it does to its process, there is a report: a case that hangs is ended from outside, and its report
says where its threads were.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import IO, Any

import pytest

__all__ = ["can_isolate", "run_isolated"]

#: Seconds after the limit in which a process that hangs ends itself and shows its threads.
_GRACE = 5.0
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)


def can_isolate() -> bool:
    """Tell whether this system can fork processes."""
    return hasattr(os, "fork")


def run_isolated(item: pytest.Item, limit: float) -> list[pytest.TestReport]:
    """Run a case in a forked process, and return its reports.

    Args:
        item: the case.
        limit: how many seconds it may take, set-up and tear-down included.

    Returns:
        The reports of set-up, call and tear-down; if the process ended without them, one report of
        a failure, whose text says how it ended.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with tempfile.TemporaryFile("w+", errors="replace") as stacks:
        process = multiprocessing.get_context("fork").Process(
            target=_run_case, args=(item, sender, stacks, limit)
        )
        _start(process)
        sender.close()
        try:
            wait([receiver, process.sentinel], limit + _GRACE)
            found = _receive(receiver)
        finally:
            _kill_group(process)
            receiver.close()
        if isinstance(found, _Done):
            _import_all(found.modules)
            return [_load(item, data) for data in found.reports]
        stacks.seek(0)
        return [_failure(item, found or _describe_end(process, stacks.read(), limit))]


@dataclass(frozen=True)
class _Done:
    """What a process sends that has run its case.

    Attributes:
        reports: those of set-up, call and tear-down, serialized.
        modules: what it has imported.
    """

    reports: list[dict[str, Any]]
    modules: list[str]


def _import_all(modules: list[str]) -> None:
    """Import what a case has imported, so that not every process after it has to do that."""
    for name in modules:
        with suppress(Exception):
            import_module(name)


def _start(process: ForkProcess) -> None:
    with warnings.catch_warnings():
        # Python 3.12 warns where there are other threads, as in a worker of pytest-xdist.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()


def _receive(receiver: Connection) -> _Done | str | None:
    """Return what the process has sent: its reports, or a traceback; None if it sent nothing."""
    try:
        sent: _Done | str | None = receiver.recv() if receiver.poll() else None
        return sent
    except EOFError:
        return None


def _kill_group(process: ForkProcess) -> None:
    """End the process with all that it has started, and wait for it."""
    assert process.pid is not None
    process.join(0)  # so that the exit code of one that has ended is known
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


# In the forked process


def _run_case(item: pytest.Item, sender: Connection, stacks: IO[str], limit: float) -> None:
    """Run the case, send its reports, and leave at once: threads that hang do not matter."""
    with suppress(OSError):
        os.setpgid(0, 0)  # so that what it starts can be ended with it
    faulthandler.dump_traceback_later(limit, exit=True, file=stacks)
    known = set(sys.modules)
    found: _Done | str
    try:
        runner: Any = item.config.pluginmanager.get_plugin("runner")
        reports = runner.runtestprotocol(item, log=False, nextitem=None)
        hook = item.config.hook.pytest_report_to_serializable
        serialized = [hook(config=item.config, report=report) for report in reports]
        found = _Done(serialized, sorted(set(sys.modules) - known))
    except BaseException:  # also what pytest itself raises: the parent shows it
        found = f"pytest itself failed in this case:\n{traceback.format_exc()}"
    faulthandler.cancel_dump_traceback_later()
    sender.send(found)
    os._exit(0)


# Reports


def _load(item: pytest.Item, data: dict[str, Any]) -> pytest.TestReport:
    report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
    assert isinstance(report, pytest.TestReport)
    return report


def _describe_end(process: ForkProcess, stacks: str, limit: float) -> str:
    """Return how a process ended that has sent no reports; the first line says all in short."""
    if stacks:
        return f"the case took more than {limit:g} s, and was {_place(stacks)}\n\n{stacks}"
    code = process.exitcode
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return f"the case ended its process ({how})"


def _place(stacks: str) -> str:
    """Return where the main thread was: in the case, and where that waited."""
    main = stacks.rpartition("Thread 0x")[2]
    frames = [f"{Path(path).name}:{line} in {name}" for path, line, name in _FRAME.findall(main)]
    case = next((frame for frame in frames if " in test_" in frame), None)
    if not frames:
        return "in no Python code"
    return f"in {frames[0]}" if case in (None, frames[0]) else f"at {case}, in {frames[0]}"


def _failure(item: pytest.Item, text: str) -> pytest.TestReport:
    """Return the report of a case that has failed by ending its process, or was given up."""
    report = pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed",
        longrepr=text,
        when="call",
    )
    expected = item.get_closest_marker("xfail")
    if expected is not None:
        report.outcome = "skipped"
        report.wasxfail = f"reason: {expected.kwargs['reason']}"
    return report
