"""A browser that reads an endpoint by ``EventSource``, which asks again whenever a stream ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_asyncio import app, create_endpoint_server
from durable_core import Durable, Request, Response, endpoint_adapter, step, stream
from durable_core.api.adapter import HTTPHandler
from durable_core.routing import Target

pytestmark = pytest.mark.slow

_PAGE = """<!doctype html><title>reader</title><script>
const told = [];
const source = new EventSource("/chat?q=hello");
for (const kind of ["stream", "commit", "rollback", "response"]) {
  source.addEventListener(`inngest.${kind}`, (event) => told.push([kind, JSON.parse(event.data)]));
}
const timer = setInterval(() => {
  if (source.readyState === EventSource.CLOSED) {
    clearInterval(timer);
    fetch("/told", { method: "POST", body: JSON.stringify(told) });
  }
}, 50);
</script>"""


@pytest.fixture
def browser() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("chromium is not installed, so no browser can be run")
    return path


class Site:
    """An endpoint, and the page that reads it.

    Attributes:
        told: what the page has been sent, once it has stopped to ask.
    """

    def __init__(self, folder: Path) -> None:
        self.told: list[tuple[str, dict[str, object]]] = []
        self.has_stopped = threading.Event()
        self.durable: Durable[HTTPHandler] = Durable(
            id="browser", store=folder / "browser.db", endpoint_adapter=endpoint_adapter
        )

        @self.durable.endpoint
        async def chat(request: Request) -> str:
            await step.run("a", _push, "before")
            await step.sleep("nap", 0.2)
            await step.run("b", _push, "after")
            return "done"

        self.chat = chat

    def page(self, request: Request) -> Response:
        return Response(body=_PAGE.encode(), headers={"content-type": "text/html"})

    def take(self, request: Request) -> Response:
        self.told = [(kind, data) for kind, data in json.loads(request.body)]
        self.has_stopped.set()
        return Response(status=204)


async def _push(text: str) -> None:
    stream.push(text)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.durable.stop(5.0)


def test_a_browser_reads_one_run_and_stops(browser: str, site: Site, tmp_path: Path) -> None:
    """Its stream ends at the handoff. It asks the same URL again, where the run goes on; after the
    response it is told to stop. It began one run, and was sent each chunk once.
    """
    routes: dict[str, Target] = {
        "GET /chat": site.chat,
        "GET /": site.page,
        "POST /told": site.take,
    }
    with create_endpoint_server(app(site.durable, routes)).listen(0) as server:
        command = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"http://127.0.0.1:{server.port}/",
        ]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                assert site.has_stopped.wait(60)
            finally:
                process.kill()
        runs = site.durable.runs.list()

    assert ["stream", "commit", "stream", "commit", "response"] == [kind for kind, _ in site.told]
    assert ["before", "after"] == [data["data"] for kind, data in site.told if kind == "stream"]
    assert 1 == len(runs)
