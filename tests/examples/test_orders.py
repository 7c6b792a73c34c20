"""One order service in three frameworks: their clients cannot tell which one they talk to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from durable_core import Durable, Event
from support.harness import until
from support.ports import listening_ports
from support.source_tree import ROOT

pytestmark = pytest.mark.slow

_SERVE = """
import sys, importlib
module = importlib.import_module(sys.argv[1])
if sys.argv[1] == "fastapi_orders":
    from durable_asgi import create_endpoint_server
else:
    from durable_wsgi import create_endpoint_server
with create_endpoint_server(module.app, durable=module.durable).listen() as server:
    print(server.url, flush=True)
    server.serve_forever()
"""


@contextmanager
def served(name: str, store: Path) -> Iterator[str]:
    """Serve an example in a process of its own; kill it in the end."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE, name],
        cwd=ROOT / "examples" / "orders",
        env={**os.environ, "ORDERS_STORE": str(store)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["fastapi_orders", "flask_orders", "django_orders"])
def test_an_order(name: str, tmp_path: Path) -> None:
    """An order that is charged in one process is shipped by the next one, when it is packed."""
    store = tmp_path / "orders.db"
    with served(name, store) as url:
        wanted = {"item": "tea", "customer": "ann"}
        handed_off = httpx2.post(f"{url}/orders", json=wanted)
        assert 422 == httpx2.post(f"{url}/orders", json={**wanted, "item": "fog"}).status_code
    assert 303 == handed_off.status_code
    with served(name, store) as url:
        assert 204 == httpx2.post(f"{url}/packed", json={"customer": "ann"}).status_code
        wait_url = httpx2.URL(f"{url}/orders").join(handed_off.headers["location"])
        response = httpx2.get(wait_url, timeout=30)
    assert 201 == response.status_code
    shipped = response.json()
    assert {"order", "price", "parcel"} == set(shipped)
    assert (4, f"parcel-of-{shipped['order']}") == (shipped["price"], shipped["parcel"])
    [run] = Durable(id="orders", store=store).runs.list()
    assert ("POST /orders", "completed") == (run.name, run.status)


@contextmanager
def worked_on(name: str, store: Path) -> Iterator[subprocess.Popen[str]]:
    """Have ``durable worker`` work for an example; stop it in the end."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "durable_core", "worker", f"{name}:durable"],
        cwd=ROOT / "examples" / "orders",
        env={**os.environ, "ORDERS_STORE": str(store), "PYTHONPATH": "."},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("working for orders")
            yield process
            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(20)
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["fastapi_orders", "flask_orders", "django_orders"])
def test_a_worker(name: str, tmp_path: Path) -> None:
    """A process that serves nothing replays the handler, with what the framework gives it."""
    path = tmp_path / "orders.db"
    with served(name, path) as url:
        wanted = {"item": "tea", "customer": "ann"}
        assert 303 == httpx2.post(f"{url}/orders", json=wanted).status_code
    store = Durable(id="orders", store=path)
    with worked_on(name, path) as process:
        store.send(Event("order/packed", {"customer": "ann"}))
        until(lambda: [run.status for run in store.runs.list()] == ["completed"])
        assert [] == listening_ports(process.pid)
    [run] = store.runs.list()
    steps = store.runs.get(run.id).steps
    assert ["reserve", "charge", "packed", "ship"] == [step.name for step in steps]
    store.stop()
