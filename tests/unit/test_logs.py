"""Logging."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys

import pytest

from durable_core.api.step import sync_step
from durable_core.http.request import Request
from durable_core.platform import run_logger
from support.harness import FakeClock, lab


def test_run_id_in_every_record(caplog: pytest.LogCaptureFixture) -> None:
    """A run's records carry its id, in the text and as an attribute."""
    with caplog.at_level(logging.INFO, "durable"):
        run_logger("r1", "GET /x").info("it %s", "works", extra={"mine": 1})
    [record] = caplog.records
    assert "run r1: it works" == record.getMessage()
    assert ("r1", "GET /x", 1) == (
        getattr(record, "run_id", None),
        getattr(record, "function_id", None),
        getattr(record, "mine", None),
    )


#: A handler with a step that fails for good, in a process that sets no logging up.
PROGRAM = """
from durable_core import Durable, NonRetriableError, Request, endpoint_adapter
from durable_core.stores import MemoryStore
from durable_core.sync import step

durable = Durable(id="it", endpoint_adapter=endpoint_adapter, store=MemoryStore())

def charge():
    raise ConnectionError("no route to ?api_key=sk_live_x")

@durable.endpoint(retries=0)
def order(request):
    step.run("charge", charge)

print(order.handle(Request(method="GET", url="http://x/")).body.decode())
durable.stop()
"""


def test_errors_go_to_stderr_by_default() -> None:
    """Without any logging set up, a step that fails and a run that fails are told on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )

    assert "failed, attempt 1 of 1, and will not be retried: ConnectionError: no" in done.stderr
    assert "the run failed: StepError: step 'charge' failed: ConnectionError" in done.stderr
    assert "Traceback" in done.stderr
    assert "sk_live_x" not in done.stdout
    assert "urn:durable:run-failed" in done.stdout


def run_program(before: str = "", **environment: str) -> str:
    """Run the program with this code before it, and these variables; return its stderr."""
    done = subprocess.run(
        [sys.executable, "-c", before + PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    return done.stderr


def test_the_environment_sets_the_level() -> None:
    """DURABLE_LOG shows what is below warnings, too, or less than by default."""
    started = "INFO durable it started in process"
    assert started not in run_program()
    assert started in run_program(DURABLE_LOG="Info")
    assert "will not be retried" not in run_program(DURABLE_LOG="critical")


def test_the_environment_leaves_configured_logging_alone() -> None:
    """Where the application has configured logging, only the level is set."""
    lines = run_program(
        "import logging; logging.basicConfig(format='mine: %(message)s')\n", DURABLE_LOG="info"
    )
    assert ["mine: it started"] == [line[:16] for line in lines.splitlines() if " started" in line]


def test_a_level_that_there_is_not() -> None:
    """The error names the variable and the levels."""
    assert "DURABLE_LOG must be one of debug, info," in run_program(DURABLE_LOG="loud")


def test_what_happens_to_a_run_is_told_at_info(caplog: pytest.LogCaptureFixture) -> None:
    """One line each for a run that is handed off, suspended, resumed and completed."""

    def handler(request: Request) -> str:
        sync_step.sleep("nap", "1h")
        return "done"

    clock = FakeClock()
    with caplog.at_level(logging.INFO, "durable"), lab(clock=clock) as process:
        process.sleep_through(process.endpoint(handler), clock)
    told = [record.getMessage() for record in caplog.records if "run " in record.getMessage()]

    assert ["handed off: sleep", "suspended", "resumed", "completed with status 200"] == [
        re.sub(r"run \w+: (suspended(?= until)|.*?)( until .*)?$", r"\1", line) for line in told
    ]
