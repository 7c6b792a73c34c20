"""The chat example: what its reader sees when the server is killed in a model call or a tool."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Route

from durable_core import Durable
from support.harness import until
from support.ports import ReservedPort
from support.source_tree import ROOT

pytestmark = pytest.mark.slow

SENTENCES = (
    "Let me see which teas we have today. ",
    "There is a fine Darjeeling. I would order some for you. ",
    "This is what became of it: 100 g are on their way. Enjoy your day. ",
)
#: Notes each text of the conversation that the reader sees.
WATCH = """() => {
  const conversation = document.querySelector('#conversation')
  window.seen = []
  new MutationObserver(() => window.seen.push(conversation.textContent))
    .observe(conversation, { childList: true, subtree: true, characterData: true })
}"""


class Shop:
    """The example under its supervisor."""

    def __init__(self, url: str, store: Path) -> None:
        self.url = url
        self._store = store

    @property
    def is_up(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/openapi.json").status_code == 200
        except httpx2.TransportError:
            return False

    def kill(self) -> None:
        """Kill the server, which is started again."""
        with pytest.raises(httpx2.TransportError):
            httpx2.post(f"{self.url}/kill")

    def steps(self) -> list[tuple[str, str]]:
        """Return the name and the status of each step of the newest run."""
        runs = Durable(id="agent-chat", store=self._store).runs
        [run] = runs.list(limit=1)
        found = runs.get(run.id)
        assert found is not None
        return [(each.name, each.status) for each in found.steps]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    store = tmp_path_factory.mktemp("shop") / "store.db"
    with (
        ReservedPort() as port,
        subprocess.Popen(
            [sys.executable, ROOT / "examples" / "agent_chat.py", "--port", str(port.number)],
            env={**os.environ, "AGENT_STORE": str(store), "AGENT_SLOWNESS": "0.1"},
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        ) as supervisor,
    ):
        shop = Shop(f"http://127.0.0.1:{port.number}", store)
        try:
            until(lambda: shop.is_up)
            yield shop
        finally:
            os.killpg(supervisor.pid, 9)


def test_a_kill_in_a_model_call(shop: Shop, chromium: Browser) -> None:
    """The page shows words of a sentence, then the same sentence from its beginning, each once."""
    page = chromium.new_page()
    page.goto(f"{shop.url}/pages/agent_chat.html")
    page.evaluate(WATCH)
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("Let me see").wait_for()
    shop.kill()
    page.get_by_role("button", name="No").click(timeout=60_000)
    page.get_by_text("done", exact=True).wait_for(timeout=60_000)
    seen, said = page.evaluate("seen"), page.locator("#conversation").inner_text()
    page.close()
    assert all(text.count("Let me") <= 1 for text in seen)
    assert any(text.endswith(("which ", "teas ", "we ", "have ")) for text in seen)
    assert "order: not wanted" in said
    assert said.endswith("The tool call was denied. Enjoy your day.")
    assert {"completed"} == {status for _, status in shop.steps()}


def test_a_kill_in_a_tool_call(shop: Shop, chromium: Browser, pages: Mapping[int, Path]) -> None:
    """The real hook: the sentence before stays as it is, and the tool is called once more.

    The answer of the reader lets the agent go on, and the hook has the whole message in the end.
    """
    page = chromium.new_page()
    serve_hook(page, pages[7])
    page.goto(f"{shop.url}/page?api=/api/chat&chat=c1&ended=1")
    page.wait_for_selector("#status")
    page.evaluate("void chat.sendMessage({ text: 'Some tea, please.' })")
    wait_for_tool(page, "stock", "input-available")
    shop.kill()
    wait_for_tool(page, "order", "approval-requested")
    assert [each for each in shop.steps() if "call_tool:stock" in each[0]]
    page.evaluate(
        """() => {
          const part = chat.messages.at(-1).parts.find(part => part.type === 'tool-order')
          return fetch('/api/answer', {
            method: 'POST',
            headers: { 'content-type': 'application/json' },
            body: JSON.stringify({
              token: part.approval.descriptor.token, approved: { [part.toolCallId]: true },
            }),
          })
        }"""
    )
    page.wait_for_function("chat.status === 'ready' && ends.at(-1).finishReason === 'stop'")
    shown, seen = page.evaluate("seen.at(-1)"), page.evaluate("seen")
    page.close()
    assert [
        *(SENTENCES[0], '"a fine Darjeeling"'),
        *(SENTENCES[1], '"100 g are on their way."', SENTENCES[2]),
    ] == shown
    assert all("".join(parts).count("Let me") <= 1 for parts in seen)


def serve_hook(page: Page, script: Path) -> None:
    """Serve the page with the hook from the origin of the example."""

    def document(route: Route) -> None:
        body = "<!doctype html><div id=root></div><script src=/hook.js></script>"
        route.fulfill(body=body, content_type="text/html; charset=utf-8")

    page.route(lambda url: urlsplit(url).path == "/page", document)
    page.route("**/hook.js", lambda route: route.fulfill(path=script))


def wait_for_tool(page: Page, name: str, state: str) -> None:
    page.wait_for_function(
        """([type, state]) => chat.messages.at(-1)?.parts
             .some(part => part.type === type && part.state === state)""",
        arg=[f"tool-{name}", state],
        timeout=60_000,
    )
