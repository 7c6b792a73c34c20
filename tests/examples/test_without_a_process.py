"""The example for hosts without a process between requests: each call is a process of its own."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from durable_core import Request
from support.docs_pages import run_page
from support.source_tree import ROOT

#: Calls one function of the example with an event, and prints what it returns.
_INVOKE = """
import json, sys, without_a_process as example

class Context:
    def get_remaining_time_in_millis(self):
        return 12_000

name, event = sys.argv[1], json.loads(sys.argv[2])
print(json.dumps(getattr(example, name)(event, Context())))
"""


class Host:
    """Runs each invocation in a process of its own, which ends with it."""

    def __init__(self, folder: Path) -> None:
        self._environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "examples"),
            "ORDERS_STORE": str(folder / "orders.db"),
        }

    def invoke(self, function: str, event: object) -> Any:
        """Return what the function returns."""
        done = subprocess.run(
            (sys.executable, "-c", _INVOKE, function, json.dumps(event)),
            env=self._environ,
            check=True,
            stdout=subprocess.PIPE,
        )
        return json.loads(done.stdout)

    def ask(self, query: str) -> tuple[int, dict[str, str], bytes]:
        """Return the answer to a request for an order."""
        event = {
            "rawPath": "/order",
            "rawQueryString": query,
            "headers": {"accept": "*/*"},
            "requestContext": {"domainName": "shop.example", "http": {"method": "GET"}},
        }
        got = self.invoke("on_request", event)
        return got["statusCode"], got["headers"], base64.b64decode(got["body"])


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


DONE = {"charged": "TEA", "shipped": "Tea"}


def test_a_timer_executes_what_is_due(host: Host) -> None:
    """The timer is told when to call again; the client gets the result afterwards."""
    status, headers, _ = host.ask("item=tea&pause=1.5s")
    assert 302 == status
    begun, due = 0, "now"
    while due:
        told = host.invoke("on_timer", {})
        begun, due = begun + told["begun"], told["next_due"]
        if due:
            pause = datetime.fromisoformat(due) - datetime.now(UTC)
            time.sleep(max(0.0, pause.total_seconds()))
    assert 1 == begun
    status, _, body = host.ask(headers["location"].removeprefix("?"))
    assert (200, DONE) == (status, json.loads(body))


def test_the_page_does_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions hand a request off, and say that there is nothing to do for a day."""
    monkeypatch.setenv("ORDERS_STORE", str(tmp_path / "orders.db"))
    page = run_page(ROOT / "docs" / "howto" / "run-without-a-process.md")
    asked = Request(method="GET", url="https://shop.example/order?item=tea")
    assert (302, b"") == page["answer"](asked, 12.0)
    due = datetime.fromisoformat(page["on_timer"](12.0)) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=59) < due <= timedelta(days=1)


def test_a_client_that_waits_is_enough(host: Host) -> None:
    """Its own run is executed while it is held; one that nobody waits for stays."""
    _, headers, _ = host.ask("item=tea&pause=0.5s")
    host.ask("item=rum&pause=0.1s")
    status, _, body = host.ask(headers["location"].removeprefix("?"))
    assert (200, DONE) == (status, json.loads(body))
    assert 1 == host.invoke("on_timer", {})["begun"]
