"""The native adapter that ``docs/howto/write-a-native-adapter.md`` builds, in Quart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx2
import pytest
import quart

from durable_asgi import EndpointServer
from durable_core import Durable, step, stream
from durable_core.errors import ConfigurationError
from durable_core.testing import AsyncHarness, harness
from support.docs_pages import run_page
from support.harness import until
from support.raw_http import ask_and_leave
from support.source_tree import ROOT


class Page:
    """The code of the page, and an application of its own."""

    def __init__(self, folder: Path) -> None:
        self.names = run_page(ROOT / "docs" / "howto" / "write-a-native-adapter.md")
        adapter = self.names["endpoint_adapter"]
        self.durable: Durable[Any] = Durable(
            id="mine", endpoint_adapter=adapter, store=folder / "db"
        )
        self.app = quart.Quart("mine")
        self.names["install"](self.app, self.durable)

    def play(self, part: Callable[[AsyncHarness, Any], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine function with a harness and a client."""

        async def main() -> None:
            async with harness(self.durable) as t, asyncio.timeout(30):
                await part(t, self.app.test_client())

        asyncio.run(main())


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    monkeypatch.chdir(tmp_path)
    return Page(tmp_path)


def test_the_page(page: Page) -> None:
    """The page's own test passes."""
    page.names["test_create_order"]()


def test_contexts_and_hooks(page: Page) -> None:
    """Hooks run once for each execution; teardown when the handler has ended or is suspended."""
    log: list[str] = []

    @page.app.before_request
    async def before() -> None:
        quart.g.user = "ann"
        log.append("before")

    @page.app.teardown_request
    async def teardown(error: BaseException | None) -> None:
        if "durable-run" not in quart.request.args:
            log.append("teardown")

    @page.app.get("/")
    @page.durable.endpoint
    async def it() -> str:
        log.append("view")
        await step.sleep("nap", "1h")
        return f"{quart.g.user} {await step.run('url', lambda: quart.url_for('it'))}"

    async def part(t: AsyncHarness, client: Any) -> None:
        handed_off = await client.get("/")
        await t.advance("1h")
        response = await client.get(f"/{handed_off.headers['location']}")
        assert "ann /" == await response.get_data(as_text=True)

    page.play(part)
    assert ["before", "view", "teardown"] * 2 == log


@pytest.mark.parametrize("own", [False, True])
def test_errors(page: Page, own: bool) -> None:
    """``abort`` and error handlers answer; another error is tried again."""
    calls: list[int] = []

    if own:

        @page.app.errorhandler(418)
        async def teapot(error: Any) -> tuple[str, int]:
            return "no coffee", 418

    @page.app.get("/teapot")
    @page.durable.endpoint
    async def abort() -> str:
        quart.abort(418)

    @page.app.get("/fails")
    @page.durable.endpoint
    async def fails() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise LookupError("not today")
        return "done"

    async def part(t: AsyncHarness, client: Any) -> None:
        response = await client.get("/teapot")
        assert 418 == response.status_code
        assert not own or "no coffee" == await response.get_data(as_text=True)
        handed_off = await client.get("/fails")
        await t.advance("1h")
        response = await client.get(f"/fails{handed_off.headers['location']}")
        assert "done" == await response.get_data(as_text=True)

    page.play(part)
    assert [1, 1] == calls


def test_a_handler_that_calls_another_one(page: Page) -> None:
    """It is a call of a function, and both are one run, at once and in a replay."""

    @page.app.get("/inner")
    @page.durable.endpoint
    async def inner() -> str:
        return await step.run("inner", lambda: "inner")

    @page.app.get("/")
    @page.durable.endpoint
    async def outer() -> str:
        first = await inner()
        await step.sleep("nap", "1h")
        return f"{first} {await inner()}"

    async def part(t: AsyncHarness, client: Any) -> None:
        handed_off = await client.get("/")
        await t.advance("1h")
        response = await client.get(f"/{handed_off.headers['location']}")
        assert "inner inner" == await response.get_data(as_text=True)
        assert 1 == len(t.runs())

    page.play(part)


def test_a_hook_that_refuses_the_replay(page: Page) -> None:
    """The run fails, and says what stood in its way."""

    @page.app.before_request
    async def check() -> None:
        if "authorization" not in quart.request.headers:
            quart.abort(401)

    @page.app.get("/")
    @page.durable.endpoint(retries=0)
    async def it() -> str:
        await step.sleep("nap", "1h")
        return "done"

    async def part(t: AsyncHarness, client: Any) -> None:
        await client.get("/", headers={"authorization": "Basic x"})
        await t.advance("1h")
        [run] = t.runs()
        assert "answered 401 before it reached the view" in str(t.run(run.id).error)

    page.play(part)


def test_what_is_refused(page: Page) -> None:
    """A ``def`` handler, another kind of application, and a process that knows none."""
    with pytest.raises(TypeError, match="must be a coroutine function"):
        page.durable.endpoint(lambda: None)
    with pytest.raises(ConfigurationError, match="works in applications of Quart"):
        page.names["endpoint_adapter"].install(object(), page.durable.engine)
    lost: Durable[Any] = Durable(id="x", endpoint_adapter=page.names["endpoint_adapter"])

    @lost.endpoint
    async def it() -> None:
        """Do nothing."""

    with pytest.raises(ConfigurationError, match=r"install\(app, durable\)"):
        lost.start()


def test_on_a_server(page: Page) -> None:
    """A client of an event stream gets what steps push; one that leaves does not end its run."""

    go_on = threading.Event()
    go_on.set()

    @page.app.get("/")
    @page.durable.endpoint
    async def it() -> str:
        await step.run("push", lambda: stream.push("hello"))
        await step.run("wait", go_on.wait, 20)
        return "done"

    application: Any = page.app
    with EndpointServer(application).listen() as server:
        headers = {"accept": "text/event-stream"}
        text = httpx2.get(server.url, headers=headers).text
        assert "hello" in text
        assert "done" in text
        go_on.clear()
        ask_and_leave(server.port, "/", lambda: len(page.durable.runs.list()) == 2)
        go_on.set()
        until(lambda: ["completed"] * 2 == [run.status for run in page.durable.runs.list()])
    page.durable.stop()
