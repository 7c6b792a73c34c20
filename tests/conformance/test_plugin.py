"""The command: usage errors, gaps, known gaps, reports and exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Judge = Callable[..., Any]
MEMORY = "support.store_subjects:memory"
CASE = "test_store_upkeep::test_the_secret_stays_the_same"
OTHER = "test_store_upkeep::test_runs_are_listed_newest_first_by_pages"
NO_SUBJECT = """
class Named:
    name = "x"
    capabilities = frozenset()
    def open(self): ...

class Server(Named):
    open = None
    def serve(self, routes, *, durable): ...

named = Named()
declares = Named()
declares.capabilities = frozenset({"telepathy"})
nameless = Named()
nameless.name = None
idle = Server()
store = Server()
store.serve, store.open, store.capabilities = None, print, frozenset({"keep-alive"})
engine = Server()
engine.application, engine.capabilities = print, frozenset({"sync-handlers", "keep-alive"})
nothing = object()
"""


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("no_such_module:subject", "cannot be imported"),
        ("broken:subject", "ZeroDivisionError"),
        ("support.store_subjects:nobody", "nobody"),
        ("support.store_subjects", "MODULE:NAME"),
        ("odd:nothing", "is no subject"),
        ("odd:declares", "telepathy"),
        ("odd:nameless", "must have a str `name`"),
        ("odd:idle", "must declare one of"),
        ("odd:store", "of the kind store may declare: shared, crash-points, locks, processes"),
        ("odd:engine", "of the kind engine may declare: sync-handlers"),
    ],
)
def test_usage_errors(judge: Judge, tmp_path: Path, spec: str, said: str) -> None:
    """What is no subject is a usage error, exit code 4, that says what is wrong."""
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "odd.py").write_text(NO_SUBJECT)
    code, text, _ = judge(spec)

    assert 4 == code
    assert said in text
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text


def test_an_incomplete_run_is_no_success(judge: Judge) -> None:
    """What was left out is missing, and the exit code says so."""
    code, text, report = judge(MEMORY, "-k", "the_secret_stays")

    assert (1, False) == (code, report["ok"])
    assert (1, 0) == (report["counts"]["missing"] and 1, report["counts"]["fail"])
    assert "is not judged" in text
    assert "was not run" in text


def test_gaps_are_printed(judge: Judge) -> None:
    """An undeclared capability is a gap in the text and in the JSON, never a silent skip."""
    _, text, report = judge(MEMORY, "-k", "handle or stale or claimed_once")

    statuses = {each["id"]: each["status"] for each in report["requirements"]}
    assert ("gap", "gap") == (statuses["T18"], statuses["T19"])
    assert {"shared": False, "crash-points": False, "locks": False, "processes": False} == report[
        "capabilities"
    ]
    assert "not declared: shared" in text
    assert "3 gap" in text


def test_known_gaps_must_fail(judge: Judge, tmp_path: Path) -> None:
    """One that passes fails the run; one that fails is known."""
    gaps = tmp_path / "gaps"
    gaps.write_text(f"# ours\n\n{CASE}  it is made anew\n")
    passes = judge(MEMORY, "--known-gaps", str(gaps), "-k", "the_secret_stays")
    fails = judge(
        "support.mutants.stores:makes_new_secrets",
        "--known-gaps",
        str(gaps),
        "-k",
        "the_secret_stays",
    )

    assert {"T15": "fail"}.items() <= _statuses(passes.report).items()
    assert "known-gap: test_store_upkeep::test_the_secret_stays_the_same" in fails.text
    assert "it is made anew" in fails.text


def _statuses(report: dict[str, Any]) -> dict[str, str]:
    return {each["id"]: each["status"] for each in report["requirements"]}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("test_x::test_y  no such case", "test_x::test_y"),
        (CASE, "a reason"),
        (f"{CASE} a\n{CASE} b", "named twice"),
    ],
)
def test_malformed_known_gaps(judge: Judge, tmp_path: Path, line: str, said: str) -> None:
    """An unknown case, or one without a reason, is a usage error."""
    gaps = tmp_path / "gaps"
    gaps.write_text(f"{line}\n")
    code, text, _ = judge(MEMORY, "--known-gaps", str(gaps))

    assert 4 == code
    assert said in text


def test_the_suite_needs_a_subject(tmp_path: Path) -> None:
    """In an author's own pytest, without the option, that is a usage error, too."""
    command = [sys.executable, "-m", "pytest", "--pyargs", "durable_conformance.suites"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert 4 == done.returncode
    assert "--durable-subject" in done.stdout + done.stderr


def test_in_an_authors_own_pytest(tmp_path: Path) -> None:
    """The option is all it takes, beside tests of the author's own."""
    (tmp_path / "test_own.py").write_text("def test_own(): ...\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_own.py"]
    command += ["--pyargs", "durable_conformance.suites", "--durable-subject", "own:subject"]
    (tmp_path / "own.py").write_text(
        "from durable_core.stores.memory import MemoryStore\n"
        "from contextlib import contextmanager\n"
        "class Subject:\n"
        "    name, capabilities = 'own', frozenset()\n"
        "    @contextmanager\n"
        "    def open(self): yield MemoryStore()\n"
        "    def peek(self, store): return {}\n"
        "subject = Subject()\n"
    )
    done = subprocess.run(
        [*command, "-k", "test_own or the_secret_stays"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert "own is not judged" in done.stdout


UNRULY = """
import os
import threading
import time
from contextlib import contextmanager

from durable_core.stores.memory import MemoryStore


class Leaving(MemoryStore):
    def secrets(self):
        os._exit(3)


class Hanging(MemoryStore):
    def secrets(self):
        threading.Thread(target=time.sleep, args=(3600,)).start()
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()


class Subject:
    name, capabilities = "unruly", frozenset()

    def __init__(self, make, most=1000):
        self.make, self.left = make, most

    @contextmanager
    def open(self):
        self.left -= 1
        assert self.left >= 0, "an earlier case was in this process"
        yield self.make()

    def peek(self, store):
        return {}


leaving, hanging, leaking = Subject(Leaving), Subject(Hanging), Subject(MemoryStore, 1)
"""


def judge_secret(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> tuple[int, str, dict[str, Any]]:
    """Judge an unruly subject by two cases; return the exit code, the text, and the cases."""
    monkeypatch.setenv("DURABLE_CONFORMANCE_PATIENCE", "0.5")
    (tmp_path / "unruly.py").write_text(UNRULY)
    code, text, report = judge(f"unruly:{name}", "-k", "the_secret_stays or newest_first_by_pages")
    cases = {case["id"]: case for each in report["requirements"] for case in each["cases"]}
    return code, text, cases


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("leaving", "the case ended its process (exit code 3)"),
        ("hanging", "the case took more than 2 s, and was at test_store_upkeep.py:"),
    ],
)
def test_the_report_always_comes(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    """A case that ends its process, or hangs beside threads that nobody ends, fails with a reason
    that says where; the other case passes.
    """
    code, text, cases = judge_secret(judge, tmp_path, monkeypatch, name)

    assert (1, "fail") == (code, cases[CASE]["status"])
    assert said in cases[CASE]["reason"]
    assert cases[CASE]["reason"] in text
    assert "pass" == cases[OTHER]["status"]


def test_each_case_has_its_own_process(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one case leaves in its process does not reach the next."""
    _, text, cases = judge_secret(judge, tmp_path, monkeypatch, "leaking")

    assert ["pass", "pass"] == [cases[id_]["status"] for id_ in (CASE, OTHER)], text


def test_a_known_gap_may_hang(judge: Judge, tmp_path: Path) -> None:
    """A case that is known to fail may do so by ending its process."""
    (tmp_path / "unruly.py").write_text(UNRULY)
    gaps = tmp_path / "gaps"
    gaps.write_text(f"{CASE}  it leaves\n")
    _, text, _ = judge("unruly:leaving", "--known-gaps", str(gaps), "-k", "the_secret_stays")

    assert f"known-gap: {CASE}  known gap: it leaves" in text
