"""The page in a real browser: Chromium, without a window."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from durable_asgi import create_endpoint_server
from durable_core import Durable, Event, RunInfo
from durable_dashboard import create_dashboard_server
from support.axe import find_violations, load_axe
from support.dashboard_sample import HARM, ROOT, Shop, harmful_run, long_run
from support.harness import until

pytestmark = pytest.mark.slow
#: Milliseconds that something may take to appear: the tests may share their processors.
expect.set_options(timeout=20_000)

WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("chromium is not installed, so no browser can be run")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Site:
    """The shop on a real server, and what is asked of it besides the browser."""

    def __init__(self, shop: Shop, url: str, store: Path) -> None:
        self.shop, self.url, self.store = shop, url, store
        self.durable = shop.durable
        self.runs = shop.durable.runs
        self.dashboard = url + ROOT

    def post(self, path: str, **options: Any) -> RunInfo:
        """Begin a run; return it once it is stored."""
        known = {run.id for run in self.runs.list()}
        httpx2.post(self.url + path, timeout=20, **options)
        [new] = [run for run in self.runs.list() if run.id not in known]
        return new

    def waiting(self, order: str = "A-1") -> RunInfo:
        """Return an order that waits for its approval."""
        run = self.post(f"/orders?order={order}", json={"cart": ["lamp"]})
        until(lambda: any(s.event == "order/approved" for s in self.runs.get(run.id).steps))
        return run

    def get(self, run_id: str) -> RunInfo:
        return self.runs.get(run_id)


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    # The paths in stack traces are those of this machine: they are no part of a picture.
    shop = Shop(tmp_path / "shop.db", debug=getattr(request, "param", True))
    with create_endpoint_server(shop.application) as server:
        yield Site(shop, server.url, tmp_path / "shop.db")


@pytest.fixture
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    context = browser.new_context(
        viewport=WIDE,  # type: ignore[arg-type] # a typed dict of the same form
        permissions=["clipboard-read", "clipboard-write"],
        reduced_motion="reduce",
    )
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, site: Site) -> Iterator[Page]:
    """A page on which nothing may go wrong."""
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    page.on(
        "request",
        lambda request: None if request.url.startswith(site.url) else wrong.append(request.url),
    )
    yield page
    expected = [line for line in wrong if "status of 4" in line]  # refused actions are logged
    assert [] == [line for line in wrong if line not in expected]


def show(page: Page, site: Site, view: str) -> None:
    """Open a view by its address, and wait until it is live."""
    page.goto("about:blank")
    page.goto(f"{site.dashboard}#/{view}")
    expect(page.locator("#live")).to_have_text("Live")


def dialog(page: Page) -> Locator:
    return page.get_by_role("dialog")


def test_cancel(page: Page, site: Site) -> None:
    """The button ends the run, for the reason that was given; then there is nothing to cancel."""
    run = site.waiting()
    show(page, site, f"run/{run.id}")

    page.get_by_role("button", name="Cancel…").click()
    dialog(page).get_by_label("Reason").fill("no longer wanted")
    dialog(page).get_by_role("button", name="Cancel the run").click()

    expect(page.locator("h1 .status")).to_have_text(re.compile("cancelled"))
    assert "no longer wanted" == site.get(run.id).cancel_reason
    expect(page.get_by_role("button", name="Cancel…")).to_have_count(0)
    expect(page.locator(".facts")).to_contain_text("no longer wanted")


def test_retry(page: Page, site: Site) -> None:
    """The button lets a failed run go on; what goes on is seen."""
    run = site.post("/refunds")
    show(page, site, f"run/{run.id}")
    expect(page.locator(".card pre.error")).to_contain_text("the card was declined")
    expect(page.get_by_text("Traceback (most recent call last)").first).to_be_visible()

    page.get_by_role("button", name="Retry").click()

    expect(page.get_by_text("The run goes on from where it failed")).to_be_visible()
    ended = run.ended
    until(lambda: site.get(run.id).ended not in (None, ended))


def test_resume_with_another_input(page: Page, site: Site) -> None:
    """A new run begins at the step, with the edited body, and is shown."""
    run = site.post("/refunds", json={"reason": "broken"})
    show(page, site, f"run/{run.id}")

    page.get_by_role("button", name=re.compile("^refund-card")).click()
    page.get_by_role("button", name="Resume from this step…").click()
    body = dialog(page).get_by_label("Body of the request")
    expect(body).to_have_value('{"reason":"broken"}')
    body.fill('{"reason": "again"}')
    dialog(page).get_by_role("button", name="Begin the new run").click()

    expect(page.locator("h1 .status")).to_have_text(re.compile("completed"))
    new = page.url.rpartition("/")[2]
    assert (b'{"reason": "again"}', "completed") == (
        site.runs.request(new).body,
        site.get(new).status,
    )
    assert "failed" == site.get(run.id).status


def test_send_the_event(page: Page, site: Site) -> None:
    """What the run waits for is filled in; sending it lets the run go on, which is seen."""
    run = site.waiting("B-2")
    show(page, site, f"run/{run.id}")
    banner = page.locator(".banner")
    expect(banner).to_contain_text('the event order/approved with data.order = "B-2"')

    page.locator(".banner").get_by_role("button", name="Send event…").click()
    data = dialog(page).get_by_label("Data, JSON")
    assert {"order": "B-2"} == json.loads(data.input_value())
    data.fill("{")
    dialog(page).get_by_role("button", name="Send").click()
    expect(dialog(page).get_by_role("alert")).to_contain_text("is no JSON")
    data.fill('{"order": "B-2", "number": 9007199254740993}')
    dialog(page).get_by_role("button", name="Send").click()

    expect(page.locator("h1 .status")).to_have_text(re.compile("completed"))
    expect(page.locator(".banner")).to_have_count(0)
    [event] = site.durable.recent_events()
    sent = {"order": "B-2", "number": 9007199254740993}  # JavaScript would round it
    assert (sent, (run.id,)) == (event.data, event.woke)


def test_send_the_signal(page: Page, site: Site) -> None:
    """As the event, with any JSON."""
    run = site.post("/starts")
    show(page, site, f"run/{run.id}")

    page.locator(".banner").get_by_role("button", name="Send signal…").click()
    dialog(page).get_by_label("Data, JSON").fill("[1, 2]")
    dialog(page).get_by_role("button", name="Send").click()

    expect(page.locator("h1 .status")).to_have_text(re.compile("completed"))
    response = site.runs.response(run.id)
    assert response is not None
    assert b"[1,2]" == response.body


def test_copy_as_curl(page: Page, site: Site, tmp_path: Path) -> None:
    """A shell that runs the command calls curl with what the request was, and nothing else."""
    run = site.post(
        "/orders?order=C-3", content=b"it's $(touch harmed) `x` \\ \n", headers={"cookie": "x"}
    )
    show(page, site, f"run/{run.id}")

    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_text("Copied the request as a curl command")).to_be_visible()
    command: str = page.evaluate("navigator.clipboard.readText()")

    words = shell_words(command, tmp_path)
    assert ["-g", "-i", "-X", "POST", f"{site.url}/orders?order=C-3"] == words[:5]
    assert "cookie: (not stored)" in words
    assert ["--data-raw", "it's $(touch harmed) `x` \\ \n"] == words[-2:]


@pytest.mark.parametrize(
    ("method", "headers", "text", "words"),
    [
        ("GET", [], "", ["http://h/"]),
        ("GET", [], "a", ["-X", "GET", "http://h/", "--data-raw", "a"]),
        ("HEAD", [], "", ["-I", "http://h/"]),
        ("GET", [["x", ""]], "", ["http://h/", "-H", "x;"]),
        ("GET", [["x", "' \x1b[201~\n\x9b"]], "", ["http://h/", "-H", "x: ' \x1b[201~\n\x9b"]),
    ],
    ids=["get", "get with a body", "head", "empty header", "controls"],
)
def test_the_curl_command(
    page: Page,
    site: Site,
    tmp_path: Path,
    method: str,
    headers: list[list[str]],
    text: str,
    words: list[str],
) -> None:
    """curl sends the same method, body and header; no control character is pasted as it is."""
    show(page, site, "runs")
    body = {"text": text, "size": len(text), "cut": False}
    request = {"method": method, "url": "http://h/", "headers": headers, "notStored": []}
    make = "request => import('./curl.js').then((module) => module.curl(request))"
    command = page.evaluate(make, {**request, "body": body})

    assert ["-g", "-i", *words] == shell_words(command, tmp_path)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", command)


def test_a_body_with_crlf_stays_as_it_is(page: Page, site: Site) -> None:
    """A text field has other line ends; a body that nobody has edited is not another one."""
    run = site.post("/refunds", content=b'{"reason":\r\n"broken"}')
    show(page, site, f"run/{run.id}")

    page.get_by_role("button", name=re.compile("^refund-card")).click()
    page.get_by_role("button", name="Resume from this step…").click()
    dialog(page).get_by_role("button", name="Begin the new run").click()

    expect(page).not_to_have_url(re.compile(run.id))
    assert b'{"reason":\r\n"broken"}' == site.runs.request(page.url.rpartition("/")[2]).body


def test_a_large_number_is_not_rounded(page: Page, site: Site) -> None:
    """The page shows digits that JavaScript's own numbers have not."""
    run = site.post("/refunds", content=b'{"reason": 9007199254740993}')
    show(page, site, f"run/{run.id}")

    expect(page.get_by_text("9007199254740993")).to_be_visible()


def shell_words(command: str, folder: Path) -> list[str]:
    """Run a command in a shell in which curl prints its arguments."""
    script = f"curl() {{ printf '%s\\0' \"$@\"; }}\n{command}\n"
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, check=True)
    assert [] == list(folder.glob("harmed"))
    return done.stdout.decode().split("\0")[:-1]


def test_the_list_is_live(page: Page, site: Site) -> None:
    """A run appears, and changes, while nothing is clicked; filters apply to it, too."""
    show(page, site, "runs")
    expect(page.get_by_text("No run yet")).to_be_visible()
    run = site.waiting("D-4")
    row = page.locator(f'[data-run="{run.id}"]')
    expect(row).to_contain_text("suspended")
    expect(row).to_contain_text("D-4")
    expect(row).to_contain_text("region=eu")

    site.durable.send(Event("order/approved", {"order": "D-4"}))
    expect(row).to_contain_text("completed")
    page.get_by_label("Status").select_option("failed")
    expect(page.get_by_text("No run is like that")).to_be_visible()
    failed = site.post("/refunds")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody tr")).to_contain_text(failed.id)


def test_filters_and_search(page: Page, site: Site) -> None:
    """All conditions of the list; a key finds its runs, an id leads to the run."""
    order = site.waiting("E-5")
    httpx2.get(f"{site.url}/prices")
    rows = page.locator("tbody tr")
    show(page, site, "runs")
    expect(rows).to_have_count(2)

    for name, value, count in (
        ("Label", "region=eu", 1),
        ("Label", "region=us", 0),
        ("Endpoint", order.function_id, 1),
        ("Since", "2001-01-01T00:00:00", 2),
        ("Until", "2001-01-01T00:00:00", 0),
        ("Find", "E-5", 1),
    ):
        page.get_by_label(name, exact=True).fill(value)
        page.get_by_role("button", name="Apply").click()
        expect(page.locator("tbody tr")).to_have_count(count)
        page.get_by_role("link", name="Clear").click()
        expect(rows).to_have_count(2)
    page.get_by_label("Find", exact=True).fill(order.id)
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("order")


def test_a_key_may_look_like_an_id(page: Page, site: Site) -> None:
    """What is no run is looked for among the keys; what is neither, the page says."""
    key = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    site.waiting(key)
    show(page, site, "runs")

    page.get_by_label("Find", exact=True).fill(key)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"key={key}$"))
    expect(page.locator("tbody tr")).to_have_count(1)
    show(page, site, f"run/{key}")
    expect(page.locator("h1")).to_have_text("No such run")


def test_pages(page: Page, site: Site) -> None:
    """Older runs are a link away, and the way back is."""
    with httpx2.Client(base_url=site.url) as client:
        for _ in range(51):
            client.get("/prices")
    show(page, site, "runs")
    expect(page.locator("tbody tr")).to_have_count(50)

    page.get_by_role("link", name="Older →").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody tr")).to_contain_text(site.runs.list()[-1].id)
    page.get_by_role("link", name="← Newest").click()
    expect(page.locator("tbody tr")).to_have_count(50)


def test_a_run_is_live(page: Page, site: Site) -> None:
    """Streamed text comes word by word; what a lost attempt has streamed is struck out."""
    site.shop.words = asyncio.Semaphore(0)
    httpx2.post(f"{site.url}/letters", headers={"prefer": "respond-async"})
    [run] = site.runs.list()
    show(page, site, f"run/{run.id}")
    words = site.shop.words

    for text in ("Dear ", "Dear Anna, "):
        words.release()
        expect(page.locator(".streamed")).to_have_text(text)
    for _ in range(4):
        words.release()
    expect(page.locator(".streamed del").first).to_have_text("Dear ")
    expect(page.locator(".streamed del")).to_have_count(6)
    for _ in range(8):
        words.release()
    expect(page.locator("h1 .status")).to_have_text(re.compile("completed"))
    kept = page.locator(".streamed span")
    expect(kept).to_have_count(8)
    assert "Dear Anna, your lamp is on its way " == "".join(kept.all_inner_texts())
    expect(page.locator('[data-step="write"]')).to_contain_text("2 attempts")


def test_a_tab_in_the_background_holds_no_connection(page: Page, site: Site) -> None:
    """It reads on when it is seen again; a browser has six connections for all of its tabs."""
    site.shop.words = asyncio.Semaphore(0)
    httpx2.post(f"{site.url}/letters", headers={"prefer": "respond-async"})
    [run] = site.runs.list()
    show(page, site, f"run/{run.id}")
    site.shop.words.release()
    expect(page.locator(".streamed")).to_have_text("Dear ")
    see = """state => {
        Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""

    closed: list[str] = []
    page.on("requestfailed", lambda request: closed.append(request.url.split("_api/")[1]))
    page.evaluate(see, "hidden")
    until(lambda: page.evaluate("1") and len(closed) == 2)
    site.shop.words.release()
    page.evaluate(see, "visible")

    assert [f"run-live?id={run.id}", f"stream?id={run.id}"] == sorted(closed)
    expect(page.locator(".streamed")).to_have_text("Dear Anna, ")
    site.runs.cancel(run.id)
    expect(page.locator("h1 .status")).to_have_text(re.compile("cancelled"))


def test_a_page_outlives_a_restart_behind_a_proxy(context: BrowserContext, site: Site) -> None:
    """A browser gives up a stream for a 502; the page asks again."""
    page = context.new_page()
    page.clock.install()
    page.route("**/runs-live*", lambda route: route.fulfill(status=502))
    page.goto(f"{site.dashboard}#/runs")
    expect(page.locator("#live")).to_have_text("Not live")
    page.unroute("**/runs-live*")
    page.clock.fast_forward(6_000)

    expect(page.locator("#live")).to_have_text("Live")
    run = site.waiting()
    expect(page.locator(f'[data-run="{run.id}"]')).to_be_visible()


def test_the_waterfall(page: Page, site: Site) -> None:
    """A segment for each attempt, pauses, branches beside each other, sleeps and waits hatched."""
    run = site.waiting("F-6")
    show(page, site, f"run/{run.id}")

    def kinds(step: str) -> list[str]:
        bars = page.locator(f'[data-step="{step}"] .lane i')
        return [str(bar.get_attribute("class")).split()[-1] for bar in bars.all()]

    expect(page.locator('[data-step="approval"]')).to_contain_text("waiting")
    assert ["failed", "pause", "failed", "pause", "done"] == kinds("charge-payment")
    assert (["sleep"], ["wait"], ["done"]) == (
        kinds("cooling-off"),
        kinds("approval"),
        kinds("send-mail"),
    )
    parallel = page.locator("li.parallel").evaluate_all("all => all.map(e => e.dataset.step)")
    assert {"send-mail", "send-text", "update-ledger"} == set(parallel)
    page.get_by_role("button", name=re.compile("^charge-payment")).click()
    details = page.locator('[data-step="charge-payment"] .details')
    expect(details).to_contain_text("ConnectionError: the bank does not answer")
    expect(details).to_contain_text("4200")
    expect(details).to_contain_text(run.id)  # its argument


def test_children(page: Page, site: Site) -> None:
    """A step that has started a run leads to it, and that run back."""
    httpx2.get(f"{site.url}/offers", follow_redirects=True, timeout=20)
    [parent] = site.runs.list(endpoint="offer")
    [child] = site.runs.list(endpoint="price")
    show(page, site, f"run/{parent.id}")

    page.locator('[data-step="ask-price"]').get_by_role("link", name="its run").click()
    expect(page.locator("h1")).to_contain_text("price")
    page.get_by_role("link", name=parent.id).click()
    expect(page.locator("h1")).to_contain_text("offer")
    assert parent.id == child.parent


def test_the_overview(page: Page, site: Site) -> None:
    """It counts what begins, says why runs failed, and which runs an event woke."""
    show(page, site, "overview")
    expect(page.get_by_text("No run has failed.")).to_be_visible()
    run = site.waiting("G-7")
    site.post("/refunds")
    site.durable.send(Event("order/approved", {"order": "G-7"}))

    failed = page.get_by_role("region", name="Failed lately")
    expect(failed).to_contain_text("the card was declined")
    events = page.get_by_role("region", name="Events lately")
    expect(events.get_by_role("link")).to_have_text([f"…{run.id[-6:]}"])
    expect(page.get_by_role("region", name="Endpoints")).to_contain_text("50 at a time")
    expect(page.get_by_role("region", name="Processes")).to_contain_text(str(os.getpid()))
    expect(page.locator(".tile").first).to_contain_text("Runs a minute")


def test_a_run_that_means_harm(page: Page, site: Site, tmp_path: Path) -> None:
    """Script in every field is text; values of 4 MiB are shown in part; the page stays usable."""
    run_id = harmful_run(site.durable, int(time.time() * 1000) - 5000)
    show(page, site, "runs")
    expect(page.locator("tbody tr")).to_have_count(1)
    for size in (NARROW, WIDE):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        show(page, site, f"run/{run_id}")
        expect(page.locator(".rows > li")).to_have_count(3)
        for button in page.locator(".rows .row").all():
            button.click()
        expect(page.locator(".details").get_by_text("Save all of it").first).to_be_visible()
        assert "\u202e" not in page.evaluate("document.body.textContent")
        expect(page.locator("dd", has_text=HARM[:60]).first).to_be_visible()
        assert_fits(page)
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_text("Copied the request")).to_be_visible()
    words = shell_words(page.evaluate("navigator.clipboard.readText()"), tmp_path)
    assert HARM == words[-1]
    show(page, site, "overview")
    assert_fits(page)
    assert "\u202e" not in page.evaluate("document.body.textContent")
    assert page.evaluate("window.harmed") is None
    assert 1 == page.evaluate("document.querySelectorAll('script').length")
    assert 1 == page.evaluate("document.querySelectorAll('img').length")


def test_a_run_of_10000_steps(page: Page, site: Site) -> None:
    """It is there within seconds, a page of its steps at a time; one is found by its name."""
    run_id = long_run(site.durable, int(time.time() * 1000) - 60_000, 10_000)
    began = time.monotonic()
    show(page, site, f"run/{run_id}")
    expect(page.locator(".rows > li")).to_have_count(200)
    assert time.monotonic() - began < 30
    expect(page.get_by_text("200 of 10,000 steps")).to_be_visible()
    page.get_by_role("button", name="Later →").click()
    expect(page.locator(".rows > li").first).to_contain_text("step 201")
    page.get_by_label("Find steps").fill("step 9876")
    expect(page.locator(".rows > li")).to_have_count(1)
    assert page.evaluate("document.querySelectorAll('*').length") < 5000


def assert_fits(page: Page) -> None:
    """Nothing is wider than the window."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_by_keyboard(page: Page, site: Site) -> None:
    """The first stop skips to the content; a run, a step and a dialog need no mouse."""
    run = site.waiting("H-8")
    show(page, site, "runs")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    link = page.locator("tbody a")
    for _ in range(30):
        if link.evaluate("each => each === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("order")
    expect(page.locator("main")).to_be_focused()
    step = page.get_by_role("button", name=re.compile("^reserve-stock"))
    step.focus()
    page.keyboard.press("Enter")
    expect(step).to_have_attribute("aria-expanded", "true")
    expect(step).to_be_focused()
    page.get_by_role("button", name="Cancel…").focus()
    page.keyboard.press("Enter")
    expect(dialog(page)).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog(page)).to_have_count(0)
    assert "suspended" == site.get(run.id).status


def test_read_only_and_a_server_that_is_gone(context: BrowserContext, site: Site) -> None:
    """A page that is read only has no buttons that change; one without its server says so."""
    page, run = context.new_page(), site.waiting("I-9")
    looking: Durable[Any] = Durable(id="shop", store=site.store)
    server = create_dashboard_server(looking, read_only=True).listen()
    page.goto(f"{server.url}/#/run/{run.id}")
    expect(page.get_by_text("Read-only")).to_be_visible()
    expect(page.locator(".banner")).to_be_visible()
    assert ["Copy as curl"] == page.locator(".run-head button, .banner button").all_inner_texts()
    server.close()
    expect(page.locator("#live")).to_have_text("Reconnecting")


def test_accessibility(browser: Browser, site: Site) -> None:
    """axe finds no violation in any view, light and dark, wide and narrow, nor in a dialog.

    Nothing is wider than the window.
    """
    axe = load_axe()
    waiting, failed = site.waiting("J-10"), site.post("/refunds")
    site.durable.send(Event("other", {"order": "no"}))
    # axe itself makes HTML of text, which the page's policy forbids.
    context = browser.new_context(bypass_csp=True, reduced_motion="reduce")
    page = context.new_page()
    views = "runs", "overview", f"run/{failed.id}", f"run/{waiting.id}", "runs?status=queued"
    for size, shown in ((WIDE, views), (NARROW, views[:2] + views[3:4])):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        for view in shown:
            show(page, site, view)
            page.locator(".rows li, tbody tr, .empty").first.wait_for()
            if "run/" in view:
                page.locator(".rows .row").last.click()
                page.locator(".details .actions").first.wait_for()
            if view.endswith(waiting.id):
                page.get_by_role("button", name="Cancel…").click()
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                assert [] == find_violations(page, axe), (view, size, scheme)
            assert_fits(page)
    context.close()


@pytest.mark.parametrize("site", [False], ids=["no-traces"], indirect=True)
def test_pictures(browser: Browser, site: Site, tmp_path: Path) -> None:
    """The pictures of the documentation; ``dev.py screenshots`` puts them there."""
    site.shop.pace = 0.03
    with httpx2.Client(base_url=site.url) as client:
        for number in range(9):
            client.get("/prices")
            if number % 4 == 1:
                client.post("/refunds", json={"order": f"R-{number}"})
    done = site.waiting("A-1041")
    site.durable.send(Event("order/approved", {"order": "A-1041"}))
    until(lambda: site.get(done.id).ended)
    failed = site.post("/refunds", json={"order": "R-17"})
    waiting = site.waiting("A-1042")
    folder = Path(os.environ.get("DURABLE_SCREENSHOTS") or tmp_path)
    page = browser.new_page()
    for name, view, size, scheme in (
        ("runs", "runs", {"width": 1280, "height": 720}, "light"),
        ("run", f"run/{waiting.id}", {"width": 1280, "height": 860}, "light"),
        ("failed-run", f"run/{failed.id}", {"width": 1280, "height": 860}, "dark"),
        ("overview", "overview", {"width": 1280, "height": 860}, "dark"),
        ("narrow", f"run/{waiting.id}", {"width": 360, "height": 740}, "light"),
    ):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        show(page, site, view)
        page.locator(".rows li, tbody tr").first.wait_for()
        image = recompressed(page.screenshot())
        assert struct.unpack(">II", image[16:24]) == (size["width"], size["height"])
        assert len(image) < 150_000
        (folder / f"dashboard-{name}.png").write_bytes(image)
    page.close()


def recompressed(png: bytes) -> bytes:
    """Return the same picture in fewer bytes: browsers compress for speed."""
    parts, data, at = [png[:8]], b"", 8
    while at < len(png):
        [length] = struct.unpack(">I", png[at : at + 4])
        kind, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length
        if kind == b"IDAT":
            data += content
            continue
        if kind == b"IEND":
            parts.append(_chunk(b"IDAT", zlib.compress(zlib.decompress(data), 9)))
        parts.append(_chunk(kind, content))
    return b"".join(parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
