"""The stand-alone worker, as a real process on a store that another process has filled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SHOP = """
from durable_core import Durable, Request, Response, endpoint_adapter
from durable_core.sync import step

durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store="shop.db")

def say(text):
    print(text, flush=True)
    return text

@durable.endpoint
def checkout(request: Request) -> Response:
    reserved = step.run("reserve", say, "reserved " + request.query["cart"])
    step.sleep("settle", 1)
    paid = step.run("pay", say, "paid")
    return Response.json({"steps": [reserved, paid]}, 201, {"x-cart": request.query["cart"]})
"""

#: Serves one request, as a server would, and ends before the run does.
SERVER = """
from durable_core import Request
from shop import checkout, durable

print(checkout.handle(Request(method="GET", url="http://test/checkout?cart=c7")).status)
durable.stop()
"""

#: Asks for the result of the newest run, as a client of its wait URL would.
CLIENT = """
from shop import durable

[run] = durable.runs.list()
result = durable.engine.store.result("shop", run.id)
print(run.status, result.head, result.body.decode())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the application, in which processes start."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def python(folder: Path, *arguments: str) -> str:
    """Run Python in the folder to its end and return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


@pytest.fixture
def worker(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker of the application; it is killed at the end if it still runs."""
    command = [sys.executable, "-m", "durable_core", "worker", "shop:durable"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def lines_until(process: subprocess.Popen[str], last: str) -> list[str]:
    """Return what the process prints, up to a line; all of it if that line does not come."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if lines[-1] == last:
            break
    return lines


def test_worker_finishes_what_another_process_began(
    folder: Path, worker: subprocess.Popen[str]
) -> None:
    """A run that was handed off elsewhere is carried to its end; no finished step runs again."""
    assert "working for shop" in lines_until(worker, "  shop:checkout")[0]

    assert "reserved c7\n302\n" == python(folder, "-c", SERVER)
    assert ["paid"] == lines_until(worker, "paid")

    worker.send_signal(signal.SIGTERM)
    assert ["stopping"] == lines_until(worker, "")
    assert 0 == worker.wait(timeout=30)
    phase, head, body = python(folder, "-c", CLIENT).split(" ", 2)
    assert "completed" == phase
    assert 201 == json.loads(head)["status"]
    assert ["x-cart", "c7"] in json.loads(head)["headers"]
    assert {"steps": ["reserved c7", "paid"]} == json.loads(body)


def test_runs_of_a_stopped_application(folder: Path) -> None:
    """``runs`` shows the same run as a table and as JSON, and cancels it, while nothing runs."""
    python(folder, "-c", SERVER)
    runs = ("-m", "durable_core", "runs")

    [run] = json.loads(python(folder, *runs, "shop:durable", "--json"))
    assert ("suspended", "GET /checkout") == (run["status"], run["name"])
    assert run["id"] in python(folder, *runs, "list", "--store", "shop.db", "--app", "shop")
    assert "sleeping" in python(folder, *runs, "get", run["id"], "shop:durable")
    assert f"cancelled {run['id']}\n" == python(folder, *runs, "cancel", run["id"], "shop:durable")
    assert "[]\n" == python(folder, *runs, "shop:durable", "--json", "--status", "suspended")
