"""Who is let in, and what the page may do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from durable_core import Durable, HTTPError, Request, Response
from durable_core.errors import ConfigurationError
from durable_core.sync import step
from durable_dashboard import Dashboard
from durable_dashboard._page import NAMES
from support.harness import Lab, lab
from support.source_tree import ROOT

ACTION = {"x-durable-action": "1", "content-type": "application/json"}


@pytest.fixture
def process() -> Iterator[Lab]:
    """An application with a run that waits."""

    def handler(request: Request) -> None:
        step.wait_for_event("answer", event="go", timeout="1h")

    with lab() as process:
        process.endpoint(handler).handle(Request(method="GET", url="http://host/it"))
        yield process


def ask(
    dashboard: Dashboard,
    path: str = "",
    method: str = "GET",
    *,
    client: str = "127.0.0.1",
    host: str = "127.0.0.1:8000",
    body: object = None,
    **headers: str,
) -> Response:
    """Ask as a browser of this machine does, unless something else is said."""
    return dashboard.handle(
        Request(
            method=method,
            url=f"http://{host}/{path}",
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            body=b"" if body is None else json.dumps(body).encode(),
            client=client,
        )
    )


def act(dashboard: Dashboard, name: str = "cancel", **options: Any) -> Response:
    """Ask for an action as the page does, unless something else is said."""
    headers = {name.replace("-", "_"): value for name, value in ACTION.items()}
    options = {"body": {"id": "nobody"}, **headers, **options}
    return ask(dashboard, f"_api/{name}", "POST", **options)


def detail(response: Response) -> str:
    assert isinstance(response.body, bytes)
    text: str = json.loads(response.body)["detail"]
    return text


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:8000", "shop.localhost"])
def test_users_of_this_machine_are_let_in(process: Lab, client: str, host: str) -> None:
    """By whatever name of it, with IPv4 and IPv6."""
    assert 200 == ask(Dashboard(process.durable), client=client, host=host).status


@pytest.mark.parametrize("path", ["", "app.js", "_api/runs", "_api/runs-live", "_api/nothing"])
@pytest.mark.parametrize("client", ["10.0.0.7", "2001:db8::1", "::ffff:10.0.0.7", "", "unix"])
def test_others_are_refused(process: Lab, client: str, path: str) -> None:
    """Without ``authorize`` nothing is served to other addresses, nor where it is not known."""
    response = ask(Dashboard(process.durable), path, client=client)

    assert (403, True) == (response.status, "this machine only" in detail(response))


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.x.example", "10.0.0.7", "localhost.x", "[::1", "[::1]@x"],
)
def test_a_name_that_was_made_to_lead_here_is_refused(process: Lab, host: str) -> None:
    """A page elsewhere may make its own name resolve to this machine (DNS rebinding)."""
    response = ask(Dashboard(process.durable), "_api/runs", host=host)

    assert (403, True) == (response.status, "loopback address" in detail(response))


@pytest.mark.parametrize(
    "name", ["x-forwarded-for", "X-Forwarded-Port", "forwarded", "x-real-ip", "via"]
)
def test_what_a_proxy_passes_on_is_refused(process: Lab, name: str) -> None:
    """The proxy is on this machine; who is behind it may be anybody."""
    response = Dashboard(process.durable).handle(
        Request(
            method="GET", url="http://127.0.0.1/", headers={name: "10.0.0.7"}, client="127.0.0.1"
        )
    )

    assert (403, True) == (response.status, "authorize=" in detail(response))


def test_the_application_authorizes(process: Lab) -> None:
    """Then addresses do not count: its word does, for each request."""

    def authorize(request: Request) -> bool:
        return request.headers.get("authorization") == "Bearer ok"

    dashboard = Dashboard(process.durable, authorize=authorize)

    for path in ("", "app.js", "_api/runs"):
        assert 403 == ask(dashboard, path).status
        assert 200 == ask(dashboard, path, client="10.0.0.7", authorization="Bearer ok").status
    assert 403 == act(dashboard).status
    assert 404 == act(dashboard, authorization="Bearer ok").status


async def deny(request: Request) -> None:
    raise HTTPError(401, "who are you?", {"www-authenticate": "Basic"})


def broken(request: Request) -> None:
    raise RuntimeError("the directory is down")


def test_authorize_may_refuse_by_an_error(process: Lab) -> None:
    """An ``HTTPError`` is the answer, as of an endpoint, also of a coroutine function."""
    response = ask(Dashboard(process.durable, authorize=deny))

    assert (401, "Basic") == (response.status, response.headers["www-authenticate"])


def test_a_broken_authorize_lets_nobody_in(process: Lab) -> None:
    """Whatever it raises goes on to the server, which answers 500."""
    with pytest.raises(RuntimeError, match="the directory is down"):
        ask(Dashboard(process.durable, authorize=broken))


def test_authorize_is_a_function(process: Lab) -> None:
    """Anything else is refused when the dashboard is made."""
    with pytest.raises(TypeError, match="authorize must be a function"):
        Dashboard(process.durable, authorize=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("headers", "status", "why"),
    [
        ({"x_durable_action": ""}, 404, "no such run"),
        ({"sec_fetch_site": "cross-site"}, 403, "own page"),
        ({"sec_fetch_site": "same-site"}, 403, "own page"),
        ({"origin": "http://evil.example"}, 403, "header Host"),
        ({"origin": "http://127.0.0.1:9000"}, 403, "header Host"),
        ({"origin": "null"}, 403, "header Host"),
        ({"origin": "http://["}, 403, "header Host"),
        ({"content_type": "text/plain"}, 415, "JSON object"),
        ({"content_type": "application/x-www-form-urlencoded"}, 415, "JSON object"),
        ({"origin": "http://127.0.0.1:8000", "sec_fetch_site": "same-origin"}, 404, "no such run"),
        ({"origin": "https://shop.example", "sec_fetch_site": "same-origin"}, 404, "no such run"),
        ({"origin": "https://shop.example", "sec_fetch_site": "cross-site"}, 403, "own page"),
        ({"origin": "http://127.0.0.1:8000"}, 404, "no such run"),
    ],
)
def test_actions_of_other_pages_are_refused(
    process: Lab, headers: dict[str, str], status: int, why: str
) -> None:
    """An action comes from the page itself (CSRF): its origin, its header, its content type."""
    response = act(Dashboard(process.durable), **headers)

    assert (status, True) == (response.status, why in detail(response))


def test_an_action_needs_its_header(process: Lab) -> None:
    """A form of another page cannot send it."""
    response = ask(
        Dashboard(process.durable), "_api/cancel", "POST", content_type="application/json"
    )

    assert (403, True) == (response.status, "x-durable-action" in detail(response))


@pytest.mark.parametrize(
    ("principal", "who"), [(None, "a user of this machine"), ("eve\nby anna", r"'eve\nby anna'")]
)
def test_actions_are_logged(
    process: Lab, caplog: pytest.LogCaptureFixture, principal: str | None, who: str
) -> None:
    """With who has asked, in one line: what others have sent cannot make a second one."""
    authorize = None if principal is None else lambda request: principal
    dashboard = Dashboard(process.durable, authorize=authorize)

    with caplog.at_level("INFO", "durable.dashboard"):
        act(dashboard, body={"id": "a\nb"})
    assert [rf"cancel of 'a\nb' by {who}"] == [record.getMessage() for record in caplog.records]


def test_documents_are_for_the_page(process: Lab) -> None:
    """Another site's script or image gets nothing of them; the page itself may be linked to."""
    dashboard = Dashboard(process.durable)

    for path in ("_api/runs", "_api/runs-live", "_api/body?id=x&part=request"):
        assert 403 == ask(dashboard, path, sec_fetch_site="cross-site").status
    assert 200 == ask(dashboard, sec_fetch_site="cross-site").status


def test_read_only(process: Lab) -> None:
    """Everything can be seen, and nothing changed."""
    dashboard = Dashboard(process.durable, read_only=True)
    [run] = process.durable.runs.list()

    for name in ("cancel", "retry", "resume", "send", "signal"):
        response = act(dashboard, name, body={"id": run.id, "name": "go", "step": "answer"})
        assert (403, "this dashboard is read-only") == (response.status, detail(response))
    assert "suspended" == process.durable.runs.get(run.id).status
    config = ask(dashboard, "_api/config").body
    assert isinstance(config, bytes)
    assert json.loads(config)["readOnly"]


@pytest.mark.parametrize(
    ("path", "method", "status", "allow"),
    [
        ("", "POST", 405, "GET, HEAD"),
        ("app.css", "DELETE", 405, "GET, HEAD"),
        ("_api/runs", "POST", 405, "GET, HEAD"),
        ("_api/runs-live", "POST", 405, "GET"),
        ("_api/cancel", "GET", 405, "POST"),
        ("nothing", "GET", 404, None),
        ("_api/", "GET", 404, None),
        ("_api/nothing", "GET", 404, None),
        ("static/app.js", "GET", 404, None),
        ("../durable_dashboard/__init__.py", "GET", 404, None),
        ("__init__.py", "GET", 404, None),
        ("index.html", "HEAD", 200, None),
        ("app.js", "HEAD", 200, None),
        ("_api/config", "HEAD", 200, None),
    ],
)
def test_paths_and_methods(
    process: Lab, path: str, method: str, status: int, allow: str | None
) -> None:
    """What there is not is 404, what is asked by another method 405."""
    response = ask(Dashboard(process.durable), path, method)

    assert (status, allow) == (response.status, response.headers.get("allow"))


def test_the_page_loads_nothing_from_elsewhere(process: Lab) -> None:
    """Its policy allows its own files alone, and no script or style within it."""
    dashboard = Dashboard(process.durable)
    page = ask(dashboard)
    assert isinstance(page.body, bytes)
    policy = page.headers["content-security-policy"]

    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert not re.search(rb"<script(?![^>]*src=)|<style|\son\w+=|style=|https?:", page.body)
    for name in ("cross-origin-opener-policy", "cross-origin-resource-policy"):
        assert "same-origin" == page.headers[name]
    assert {"app.css", "app.js", "icon.svg"} == {
        each.decode() for each in re.findall(rb'(?:src|href)="([^#"]+)"', page.body)
    }


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("", 200),
        ("app.js", 200),
        ("nothing", 404),
        ("_api/config", 200),
        ("_api/run?id=x", 404),
        ("_api/run", 400),
        ("_api/cancel", 405),
        ("_api/runs-live", 200),
        ("_api/stream?id=x", 404),
    ],
)
def test_every_response_has_the_policy(process: Lab, path: str, status: int) -> None:
    """Errors have it, too: what they say is never taken for a page, and not kept."""
    response = ask(Dashboard(process.durable), path)

    assert status == response.status
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "nosniff" == response.headers["x-content-type-options"]
    assert response.headers["cache-control"].startswith(("no-store", "no-cache"))
    if not isinstance(response.body, bytes):
        response.body.close()  # type: ignore[union-attr]


def test_a_refusal_has_the_policy(process: Lab) -> None:
    """Also the one that ``authorize`` makes, with its own header fields."""
    response = ask(Dashboard(process.durable, authorize=deny))

    assert "Basic" == response.headers["www-authenticate"]
    assert "DENY" == response.headers["x-frame-options"]


def test_assets_are_small_and_plain() -> None:
    """All that a browser loads has less than 150 KiB; no text becomes HTML or code; no URL."""
    folder = files("durable_dashboard") / "static"
    contents = {each.name: each.read_bytes() for each in folder.iterdir()}
    own = {name: text for name, text in contents.items() if name.endswith(".js")}

    assert {*NAMES, "index.html"} == contents.keys()
    assert sum(map(len, contents.values())) < 150 * 1024
    sinks = rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function"
    assert [] == [name for name, text in own.items() if re.search(sinks, text)]
    elsewhere = [
        (name, url)
        for name, text in contents.items()
        for url in re.findall(rb"https?://[^\s\"'`]+", text)
        if url != b"http://www.w3.org/2000/svg"
    ]
    assert [] == [each for each in elsewhere if each[0] != "client.js"]


def test_the_client_for_browsers_is_served(process: Lab) -> None:
    """It is the one of ``clients/js``; copy it from there when that changes."""
    response = ask(Dashboard(process.durable), "client.js")

    assert (200, "text/javascript; charset=utf-8") == (
        response.status,
        response.headers["content-type"],
    )
    assert (ROOT / "clients/js/durable-client.js").read_bytes() == response.body


def test_assets_are_files_of_the_package() -> None:
    """A link to a file elsewhere would be no part of a source distribution: it cannot be built."""
    folder = Path(str(files("durable_dashboard"))) / "static"

    assert [] == [each.name for each in folder.iterdir() if each.is_symlink()]


def test_a_file_that_the_browser_has_is_not_sent_again(process: Lab) -> None:
    """It asks whether the file is the same, by its tag."""
    dashboard = Dashboard(process.durable)
    tag = ask(dashboard, "app.js").headers["etag"]
    again = ask(dashboard, "app.js", if_none_match=tag)

    assert (304, b"", tag) == (again.status, again.body, again.headers["etag"])
    assert 200 == ask(dashboard, "app.js", if_none_match='"other"').status


def test_the_adapter_wraps_it(process: Lab) -> None:
    """``Durable.dashboard`` gives what the adapter makes of it, with what it was given."""
    dashboard: Any = process.durable.dashboard(authorize=deny, read_only=True)

    assert "<Dashboard of lab, read-only>" == repr(dashboard)
    assert 401 == ask(dashboard).status


def test_it_needs_an_adapter() -> None:
    """As everything that is mounted does."""
    with pytest.raises(ConfigurationError, match=r"Durable\.dashboard needs Durable"):
        Durable(id="shop").dashboard()


def test_an_engine_of_others_has_no_store(process: Lab) -> None:
    """Its runs are elsewhere, and so is its dashboard."""

    class Elsewhere:
        name, store = "the engine of somebody else", None

    class Application:
        engine = Elsewhere()

    with pytest.raises(ConfigurationError, match="somebody else has none"):
        Dashboard(Application())  # type: ignore[arg-type]


PROGRAM = """
import sys
from durable_core import Durable, endpoint_adapter
durable = Durable(id="shop", store=sys.argv[1], endpoint_adapter=endpoint_adapter)
durable.start()
durable.runs.list()
durable.stop()
assert not [name for name in sys.modules if name.startswith("durable_dashboard")]
sys.modules["durable_dashboard"] = None
try:
    durable.dashboard()
except Exception as error:
    print(type(error).__name__, error)
"""


def test_nothing_of_it_is_loaded_before_it_is_used(tmp_path: Any) -> None:
    """An application that has no dashboard loads none; where it is missing, the error says so."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "db")], capture_output=True, text=True
    )

    assert "ConfigurationError Durable.dashboard needs the distribution durable-dashboard" in (
        done.stdout
    ), done.stderr
