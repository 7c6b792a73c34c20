"""The FastAPI examples: as a client sees them, after a kill, and in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import sync_playwright

from durable_core import Durable
from support.harness import until
from support.ports import ReservedPort
from support.source_tree import ROOT

EXAMPLES = {"trip_booker": "TRIPS", "deep_research": "RESEARCH"}


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Any:
    """The module of an example whose stand-ins are quick."""
    name = request.param
    monkeypatch.setenv(f"{EXAMPLES[name]}_STORE", str(tmp_path / "store.db"))
    monkeypatch.setenv(f"{EXAMPLES[name]}_SLOWNESS", "0.01")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    spec = spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("example", ["trip_booker"], indirect=True)
def test_a_trip(example: Any) -> None:
    """The car company fails at first, so the client is redirected; in the end all is booked."""
    with TestClient(example.app) as client:
        response = client.post("/trips", json={"destination": "Lisbon"})
    assert (201, "Lisbon") == (response.status_code, response.json()["destination"])
    assert {"destination", "flight", "hotel", "car"} == set(response.json())


@pytest.mark.parametrize("example", ["trip_booker"], indirect=True)
def test_a_trip_that_cannot_be_had(example: Any) -> None:
    """What was booked is cancelled, the last booking first, and the response says so."""
    with TestClient(example.app) as client:
        response = client.post("/trips", json={"destination": "Atlantis"})
    assert 500 == response.status_code
    assert "flight" == response.json()["undone"][-1]


@pytest.mark.parametrize("example", ["deep_research"], indirect=True)
def test_research(example: Any) -> None:
    """Each level has the follow-ups of the one before; the busy search engine is asked again."""
    with TestClient(example.app) as client:
        response = client.post("/research", json={"topic": "tea", "breadth": 2, "depth": 2})
    found = response.json()
    queries = ["history of tea", "cost of tea"]
    queries += [f"causes of the {query}" for query in queries]
    assert queries == [each["query"] for each in found["findings"]]
    assert found["report"].startswith("On tea. Much is known about the history of tea.")


@contextmanager
def served(name: str, folder: Path, slowness: float) -> Iterator[str]:
    """Run an example under its supervisor; yield its URL."""
    environ = {
        **os.environ,
        f"{EXAMPLES[name]}_STORE": str(folder / "store.db"),
        f"{EXAMPLES[name]}_SLOWNESS": str(slowness),
    }
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), "--port"]
    with (
        ReservedPort() as port,
        subprocess.Popen(
            [*command, str(port.number)],
            env=environ,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        ) as supervisor,
    ):
        try:
            url = f"http://127.0.0.1:{port.number}"
            until(lambda: is_up(url))
            yield url
        finally:
            os.killpg(supervisor.pid, 9)


def is_up(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/openapi.json").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.slow
def test_a_kill(tmp_path: Path) -> None:
    """The same request with the same key comes back to its run, which does no step twice."""
    headers = {"accept": "text/event-stream", "idempotency-key": '"k1"'}
    body = {"topic": "tea", "breadth": 3, "depth": 2}
    with served("deep_research", tmp_path, 0.2) as url:
        with httpx2.stream(
            "POST", f"{url}/research", json=body, headers=headers, timeout=60
        ) as response:
            text = ""
            for data in response.iter_text():
                text += data
                if "causes of the" in text:
                    break
        with pytest.raises(httpx2.TransportError):
            httpx2.post(f"{url}/kill")
        until(lambda: is_up(url))
        streamed = httpx2.post(f"{url}/research", json=body, headers=headers, timeout=60).text
    [run] = Durable(id="deep-research", store=tmp_path / "store.db").runs.list()
    assert "completed" == run.status
    searches = re.findall(r"searching: ([^\"]+)", streamed)
    assert "On tea. " in "".join(re.findall(r'"data":"([^"]*)"', streamed))
    assert {"history of tea", "cost of tea", "use of tea"} < set(searches)


@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """The page books a trip although its own button kills the server in the middle."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed, so no browser can be run")
    with served("trip_booker", tmp_path, 0.3) as url, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page()
        page.goto(f"{url}/pages/trip_booker.html")
        page.get_by_role("button", name="Book", exact=True).click()
        page.get_by_text("booked flight").wait_for()
        page.get_by_role("button", name="kill").click()
        page.get_by_text("booked", exact=True).wait_for(timeout=60_000)
        result = json.loads(page.locator("#result").inner_text())
        steps = page.locator("li:not(.void)").all_inner_texts()
        chromium.close()
    assert "Lisbon" == result["destination"]
    assert 1 == sum(step.startswith("sent the ticket") for step in steps)
    [run] = Durable(id="trip-booker", store=tmp_path / "store.db").runs.list()
    assert "completed" == run.status
