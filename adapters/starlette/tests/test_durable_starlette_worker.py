"""``durable worker`` for an application of FastAPI: replays without a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from durable_core import Durable, Event
from durable_core.ports import StoredResult
from support.harness import until
from support.ports import listening_ports

PROGRAM = """
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from durable_core import Durable, step
from durable_starlette import endpoint_adapter

durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store="shop.db")
log = []


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
    log.append("opened")
    async with durable.lifespan(app):
        yield {}
    log.append("closed")


inner, app, router = FastAPI(), FastAPI(lifespan=lifespan), APIRouter(prefix="/v1")


@router.get("/orders/{name}")
@durable.endpoint
async def order(name: str) -> list[object]:
    await step.wait_for_event("go", event="go", timeout="1h")
    return [name, os.getpid(), *log]


@inner.get("/deep")
@durable.endpoint
async def deep() -> str:
    return "deep"


app.include_router(router)
app.mount("/inner", inner)
"""


def test_a_worker(tmp_path: Path) -> None:
    """The application is found and its lifespan entered; the run is replayed, no port opened."""
    (tmp_path / "shop.py").write_text(PROGRAM, "utf-8")
    server = "import shop, fastapi.testclient as t\nwith t.TestClient(shop.app) as client:\n" + (
        "    answer = client.get('/v1/orders/ann', follow_redirects=False)\n"
        "    print(answer.headers['location'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    asked = subprocess.run(
        [sys.executable, "-c", server],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    store = Durable(id="shop", store=tmp_path / "shop.db")
    command = [sys.executable, "-m", "durable_core", "worker", "shop:durable"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline().startswith("working for shop")
            store.send(Event("go"))
            until(lambda: [each.status for each in store.runs.list()] == ["completed"])
            assert [] == listening_ports(worker.pid)
            worker.send_signal(signal.SIGTERM)
            assert 0 == worker.wait(20)
        finally:
            worker.kill()
    [shown] = store.runs.list()
    kept = store.engine.store
    assert kept is not None
    result = kept.result("shop", shown.id)
    assert isinstance(result, StoredResult)
    assert ["ann", worker.pid, "opened"] == json.loads(result.body or b"")
    assert "durable-run" in urlsplit(asked.stdout).query
    store.stop()
