"""The JavaScript client: its own tests, and the suite's cases of clients, in Node and Chromium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.js_client_in_chromium import browser_path
from support.node import install
from support.source_tree import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def node() -> None:
    """Skip where there is no Node that is new enough."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed, so the JavaScript client cannot be run")
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(told.removeprefix("v").partition(".")[0]) < 20:
        pytest.skip(f"the JavaScript client needs Node 20 or newer; this is {told.strip()}")


def test_its_own_tests() -> None:
    """They pass."""
    done = subprocess.run(
        ["node", "--test", str(ROOT / "clients" / "js")], capture_output=True, text=True
    )
    assert 0 == done.returncode, done.stdout


def test_its_types() -> None:
    """A program that uses them compiles, and each of its mistakes is found."""
    options = ["--noEmit", "--strict", "--target", "esnext", "--module", "nodenext"]
    done = subprocess.run(
        ["node_modules/.bin/tsc", *options, "--lib", "esnext,dom", "types.ts"],
        cwd=install(),
        capture_output=True,
        text=True,
    )
    assert (0, "") == (done.returncode, done.stdout)


@pytest.mark.parametrize("adapter", ["asgi", "asyncio", "wsgi"])
def test_cases_of_clients(adapter: str, tmp_path: Path) -> None:
    """It passes what the clients in Python pass, against each of our servers."""
    judge(adapter, "support.js_client:clients", "test_clients", tmp_path)


def test_cases_of_clients_in_a_browser(tmp_path: Path) -> None:
    """So it does in a page of Chromium, whose ``fetch`` and streams are others."""
    if browser_path() is None:
        pytest.skip("chromium is not installed, so no browser can be run")
    cases = "test_clients and async"  # the handlers are the server's affair
    judge("asgi", "support.js_client_in_chromium:clients", cases, tmp_path)


def judge(adapter: str, clients: str, cases: str, folder: Path) -> None:
    report = folder / "report.json"
    subject = f"durable_{adapter}.conformance:subject"
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            *(sys.executable, "-m", "durable_conformance", subject, "-k", cases),
            *("--client", clients, "--json", str(report)),
        ],
        env={**os.environ, "PYTHONPATH": path, "DURABLE_CONFORMANCE_PATIENCE": "30"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    found = json.loads(report.read_text("utf-8"))["requirements"]
    statuses = {each["id"]: each["status"] for each in found if each["id"].startswith("C")}
    assert {f"C{number}": "pass" for number in range(1, 9)} == statuses, done.stdout
