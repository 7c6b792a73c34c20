"""What the reader of a chat page sees: the real hook in Chromium, and a server that is killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import httpx2
import pytest
from playwright.sync_api import Browser, Page

from durable_core import Durable
from support.harness import until
from support.ports import ReservedPort
from support.source_tree import ROOT

pytestmark = pytest.mark.slow

SENTENCE = "Boil fresh water and warm the pot . "
VOID = "Boil fresh water "


class Server:
    """The application in a process that is killed and started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self.start()

    def start(self) -> None:
        """Start a process; a later one has the port and the store of the one before."""
        path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "support.use_chat_app:app"),
                *(f"--port={self._port}", "--log-level=warning"),
            ],
            env={**os.environ, "PYTHONPATH": path, "CHAT_FOLDER": str(self.folder)},
        )
        until(self._is_up)

    def _is_up(self) -> bool:
        assert self._process.poll() is None
        try:
            return httpx2.get(f"{self.url}/openapi.json").status_code == 200
        except httpx2.TransportError:
            return False

    def kill(self) -> None:
        """End the process at once."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


class Chat:
    """One conversation: pages of it, and what becomes of its runs."""

    def __init__(self, server: Server, browser: Browser, name: str) -> None:
        self.server = server
        self._browser = browser
        self._id = name

    def wait_reached(self) -> None:
        """Wait until the first attempt is in the middle of its sentence, where it waits."""
        until(lambda: (self.server.folder / f"{self._id}.reached").exists())

    def go_on(self) -> None:
        """Let the attempt in the middle of its sentence go on, and fail."""
        (self.server.folder / f"{self._id}.go").touch()

    @contextmanager
    def page(self, version: int, api: str, **query: str) -> Iterator[Page]:
        """Open a page."""
        page = self._browser.new_page()
        options = urlencode({"api": api, "chat": self._id, **query})
        page.goto(f"{self.server.url}/page-{version}?{options}")
        page.wait_for_selector("#status")
        yield page
        page.close()

    def resumed(self, api: str) -> int:
        """Return the status with which a page would come back."""
        return httpx2.get(f"{self.server.url}{api}/{self._id}/stream").status_code

    def statuses(self) -> list[str]:
        """Return the status of each run."""
        runs = Durable(id="chat", store=self.server.folder / "chat.db").runs
        return [run.status for run in runs.list(label=("chat", self._id))]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, pages: Mapping[int, Path]) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("chat")
    for bundled in pages.values():
        shutil.copy(bundled, folder)
    with ReservedPort() as port:
        server = Server(folder, port.number)
        yield server
        server.kill()


@pytest.fixture
def chat(server: Server, chromium: Browser, request: pytest.FixtureRequest) -> Chat:
    return Chat(server, chromium, re.sub("[^a-z0-9]", "-", request.node.name))


def ask(page: Page) -> None:
    page.evaluate("void chat.sendMessage({ text: 'How do I make tea?' })")


def seen(page: Page) -> list[list[str]]:
    """Return what the reader has seen, each change once."""
    found: list[list[str]] = page.evaluate("seen")
    return found


def only_grows(shown: list[list[str]]) -> bool:
    """Tell whether the sentence was never shown to be shorter than before."""
    texts = [parts[1] for parts in shown if len(parts) > 1]
    return all(SENTENCE.startswith(text) for text in texts) and texts == sorted(texts, key=len)


def wait_for(page: Page, *parts: str) -> None:
    page.wait_for_function(
        "parts => JSON.stringify(seen.at(-1)) === JSON.stringify(parts)", arg=list(parts)
    )


def wait_ready(page: Page) -> None:
    page.wait_for_function("chat.status === 'ready' && ends.length > 0")


def test_a_failed_attempt_is_taken_back(chat: Chat) -> None:
    """AI SDK 7, live: word by word; when the attempt fails its words go, and come once more."""
    with chat.page(7, "/live") as page:
        ask(page)
        wait_for(page, "hm", VOID)
        chat.go_on()
        wait_for(page, "hm", SENTENCE, "Enjoy.")
        wait_ready(page)
        shown, ends = seen(page), page.evaluate("ends")
    assert [
        {"isAbort": False, "isDisconnect": False, "isError": False, "finishReason": "stop"}
    ] == ends
    failed = shown.index(["hm", VOID])
    assert ["hm"] == shown[failed + 1] or shown[failed + 1][1] in SENTENCE
    assert all(len(parts) <= 3 and "".join(parts[1:2]) in SENTENCE for parts in shown)


@pytest.mark.parametrize("version", [6, 5])
def test_nothing_of_a_failed_attempt_is_sent(chat: Chat, version: int) -> None:
    """AI SDK 6 and 5, committed: the sentence comes whole, after its step has succeeded."""
    with chat.page(version, "/committed") as page:
        ask(page)
        chat.wait_reached()
        wait_for(page, "hm")
        chat.go_on()
        wait_for(page, "hm", SENTENCE, "Enjoy.")
        wait_ready(page)
        shown = seen(page)
    assert only_grows(shown)


@pytest.mark.parametrize("version", [6, 5])
def test_an_old_page_cannot_read_live_messages(chat: Chat, version: int) -> None:
    """AI SDK 6 and 5, live: the page ends with an error where the first attempt fails."""
    with chat.page(version, "/live") as page:
        ask(page)
        wait_for(page, "hm", VOID)
        chat.go_on()
        page.wait_for_function("chat.status === 'error'")
        assert '"reset-step"' in page.evaluate("String(chat.error)")


def test_a_kill_in_mid_sentence(server: Server, chromium: Browser) -> None:
    """Pages see what they have until the kill, ask again, and begin their message again.

    AI SDK 7, live, and 6, committed: the latter with a ``Chat`` of its own. The answers may be
    complete when the pages ask.
    """
    live, committed = (Chat(server, chromium, name) for name in ("killed-7", "killed-6"))
    asked = {"ended": "1"}
    with (
        live.page(7, "/live", **asked) as page,
        committed.page(6, "/committed", object="1", **asked) as other,
    ):
        for each in (page, other):
            ask(each)
        for chat in (live, committed):
            chat.wait_reached()
        wait_for(page, "hm", VOID)
        wait_for(other, "hm")
        server.kill()
        for each in (page, other):
            each.wait_for_function("ends.length > 0")
        server.start()
        for each in (page, other):
            wait_for(each, "hm", SENTENCE, "Enjoy.")
            each.wait_for_function("chat.status === 'ready'")
            ends, messages = each.evaluate("ends"), each.evaluate("chat.messages.length")
            assert (True, True) == (ends[0]["isDisconnect"], ends[0]["isError"])
            assert ("stop", 2) == (ends[-1]["finishReason"], messages)
        shown = seen(other)
    assert only_grows(shown[shown.index(["hm"]) :])
    assert [["completed"]] * 2 == [chat.statuses() for chat in (live, committed)]


def test_a_page_that_is_loaded_again(chat: Chat) -> None:
    """It reads the answer in progress; of a complete one it gets 204, unless it asks for that."""
    with chat.page(7, "/live") as page:
        ask(page)
        wait_for(page, "hm", VOID)
    with chat.page(7, "/live", resume="1") as page:
        wait_for(page, "hm", VOID)
        chat.go_on()
        wait_for(page, "hm", SENTENCE, "Enjoy.")
    with chat.page(7, "/live", resume="1") as page:
        page.wait_for_load_state("networkidle")
        assert ([[]], "ready") == (seen(page), page.inner_text("#status"))
    with chat.page(7, "/live", resume="1", ended="1") as page:
        wait_for(page, "hm", SENTENCE, "Enjoy.")
    assert ["completed"] == chat.statuses()


def test_a_page_of_the_ai_sdk_5_is_loaded_again(server: Server, chromium: Browser) -> None:
    """After a kill it shows the answer once, if it does not ask again by itself.

    This version calls ``onFinish`` when nothing is left to read, so a page that asks again there
    would never stop.
    """
    chat = Chat(server, chromium, "killed-5")
    loaded = {"resume": "1", "ended": "1", "reload": "1"}
    with chat.page(5, "/committed", **loaded) as page:
        page.wait_for_load_state("networkidle")
        ask(page)
        chat.wait_reached()
        wait_for(page, "hm")
        server.kill()
        page.wait_for_function("chat.status === 'error'")
        assert page.evaluate("ends.at(-1).isDisconnect")
        server.start()
        page.reload()
        wait_for(page, "hm", SENTENCE, "Enjoy.")
        wait_ready(page)
        assert only_grows(seen(page))
    assert ["completed"] == chat.statuses()


def test_the_reader_stops_the_answer(chat: Chat) -> None:
    """What was shown stays on the page; the run is cancelled, and nothing is left to read."""
    with chat.page(7, "/live") as page:
        ask(page)
        wait_for(page, "hm", VOID)
        page.evaluate("chat.stop()")
        page.evaluate("fetch(`/live/${chat.id}/stream`, { method: 'DELETE' })")
        until(lambda: chat.statuses() == ["cancelled"])
        chat.go_on()
        wait_ready(page)
        assert ["hm", VOID] == seen(page)[-1]
    assert 204 == chat.resumed("/live")
