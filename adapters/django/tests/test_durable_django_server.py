"""Views on a real server: processes that die, and a worker without a server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from durable_core import Durable, Event

MODULE = """
import sys
from pathlib import Path
from types import ModuleType
from django.conf import settings
from django.http import HttpResponse
from django.urls import path
from durable_core import Durable, step as async_step
from durable_core.sync import step
from durable_django import endpoint_adapter, install

FOLDER = Path(__file__).parent
settings.configure(
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["durable_django.DurableMiddleware"],
    ROOT_URLCONF="shop_urls",
    SECRET_KEY="of the tests",
)
durable = Durable(id="shop", endpoint_adapter=endpoint_adapter, store=FOLDER / "db")
install(durable)

def note():
    with open(FOLDER / "log", "a") as log:
        log.write("once\\n")

@durable.endpoint
def threads(request, name):
    step.run("note", note)
    step.wait_for_event("go", event="go", timeout="1h")
    return HttpResponse(f"done {name}")

@durable.endpoint
async def tasks(request, name):
    await async_step.run("note", note)
    await async_step.wait_for_event("go", event="go", timeout="1h")
    return HttpResponse(f"done {name}")

urls = sys.modules["shop_urls"] = ModuleType("shop_urls")
urls.urlpatterns = [path("threads/<name>", threads), path("tasks/<name>", tasks)]

def serve():
    import django
    django.setup()
    from django.core.asgi import get_asgi_application
    from durable_asgi import create_endpoint_server
    with create_endpoint_server(get_asgi_application(), durable=durable).listen() as server:
        print(server.url, flush=True)
        server.serve_forever()
"""
SERVE = [sys.executable, "-c", "import shop; shop.serve()"]
WORK = [sys.executable, "-m", "durable_core", "worker", "shop:durable"]


@contextmanager
def process(folder: Path, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a program, and kill it in the end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as running:
        try:
            yield running
        finally:
            os.kill(running.pid, signal.SIGKILL)


def line_of(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def test_kill(tmp_path: Path) -> None:
    """Runs outlive their process: a worker, which serves nobody, ends them; each step ran once."""
    (tmp_path / "shop.py").write_text(MODULE)
    durable = Durable(id="shop", store=tmp_path / "db")
    waiting = []
    with process(tmp_path, SERVE) as server:
        url = line_of(server)
        for kind in ("threads", "tasks"):
            handed_off = httpx2.get(f"{url}/{kind}/ann")
            assert handed_off.is_redirect, handed_off.text
            waiting.append((kind, handed_off.headers["location"]))
    durable.send(Event("go"))
    with process(tmp_path, WORK):
        for run in durable.runs.list():
            assert "completed" == durable.runs.wait(run.id, timeout=30).status
    with process(tmp_path, SERVE) as server:
        url = line_of(server)
        for kind, location in waiting:
            assert "done ann" == httpx2.get(f"{url}/{kind}/ann{location}").text
    durable.stop()
    assert "once\nonce\n" == (tmp_path / "log").read_text()
