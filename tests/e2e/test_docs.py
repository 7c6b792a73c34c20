"""The documentation is true: its code runs, page by page, and its links lead somewhere."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from durable_core import Durable, Request, Response
from durable_core.testing import harness
from support.docs_pages import name_of, run_page
from support.source_tree import ROOT

DOCS = sorted(ROOT.glob("docs/**/*.md"))
#: Pages that show the files of a project; the tests of their adapters make it.
PROJECTS = {ROOT / "docs" / "howto" / "use-django.md"}
PAGES = [ROOT / "README.md", *DOCS, ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md"]

READMES = sorted(ROOT.glob("adapters/*/README.md"))

_FIRST_PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = _HEADING.findall(_FENCED.sub("", page.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> Iterator[str]:
    for link in _LINK.findall(_FENCED.sub("", page.read_text("utf-8"))):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            yield link


@pytest.mark.parametrize("page", [page for page in PAGES if page not in PROJECTS], ids=name_of)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All Python blocks of a page run, one after the other, and open or start nothing."""
    monkeypatch.chdir(tmp_path)

    names = run_page(page)

    started = [each for each in names.values() if isinstance(each, Durable)]
    assert not any(durable.health()["started"] for durable in started)
    assert [] == list(tmp_path.iterdir())


def first_programs() -> Iterator[tuple[str, str]]:
    """Yield distribution and program of each adapter's README that shows an endpoint.

    That of Django needs a project.
    """
    for readme in READMES:
        [program, *_] = _FIRST_PROGRAM.findall(readme.read_text("utf-8"))
        if "@durable.endpoint" in program and readme.parent.name != "django":
            yield readme.parent.name, program


@pytest.mark.parametrize(
    ("name", "program"), list(first_programs()), ids=lambda value: value.partition("\n")[0]
)
def test_first_program_of_an_adapter(name: str, program: str) -> None:
    """The first program of an adapter's README is whole: its endpoint calls what is there."""
    names: dict[str, Any] = {"__name__": f"readme_of_{name}"}
    exec(compile(program, f"{name}/README.md", "exec"), names)

    called = set(re.findall(r"step\.run\(\s*\"[^\"]+\", (\w+)", program))
    assert set() == called - {*names, *dir(builtins)}


@pytest.mark.parametrize("page", [*PAGES, *READMES], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Each link within the repository names a file, and a heading in it."""
    assert [] == list(dead_links(page))


def test_every_page_is_listed() -> None:
    """The index links to every page."""
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in _LINK.findall(index.read_text("utf-8"))}

    assert set() == {*DOCS} - linked - {index}


def answer(application: Any, target: str) -> Response:
    """Ask an endpoint of a page, and wait where it says."""
    url = f"http://docs{target}"
    while True:
        response: Response = application.endpoint.handle(Request(method="GET", url=url))
        if response.status not in (302, 303):
            return response
        url = f"http://docs/{response.headers['location']}"


@pytest.fixture
def page(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """The names of a page, whose application is stopped afterwards."""
    monkeypatch.chdir(tmp_path)
    names = run_page(ROOT / "docs" / request.param)
    yield names
    names["durable"].stop()


@pytest.mark.parametrize("page", ["explanation/events-and-waits.md"], indirect=True)
def test_early_answer_is_not_lost(page: dict[str, Any]) -> None:
    """An event that comes while the step that asks for it is running ends the wait."""
    assert b'{"approved":true}' == answer(page["approve"], "/?order=o1").body


@pytest.mark.parametrize("page", ["explanation/replay-and-determinism.md"], indirect=True)
def test_what_replay_is(page: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Code between steps runs in each replay, steps once; ``finally`` at each suspension."""
    assert 200 == answer(page["right"], "/").status
    assert 1 == capsys.readouterr().out.count("number")

    answer(page["three_times"], "/")
    assert 3 == capsys.readouterr().out.count("printed three times")

    assert b'["A","B","C"]' == answer(page["gathered"], "/?item=a&item=b&item=c").body
    assert b"[1,2]" == answer(page["all_items"], "/?item=a&item=bb").body


@pytest.mark.parametrize("page", ["howto/embed.md"], indirect=True)
def test_embedding(page: dict[str, Any]) -> None:
    """The page's ways to ask an embedded endpoint work."""
    assert b"Hello Ada\n" == page["ask"]().body
    assert b'"pong"' == page["ask_site"]().body


@pytest.mark.parametrize("page", ["howto/test-your-endpoints.md"], indirect=True)
def test_tests_of_a_page(page: dict[str, Any]) -> None:
    """The tests that the page shows pass."""
    tests = [value for name, value in page.items() if name.startswith("test_")]
    assert 9 == len(tests)
    for test in tests:
        if inspect.signature(test).parameters:  # the fixture that the page describes
            with harness(page["durable"]) as durable_harness:
                test(durable_harness)
            continue
        outcome = test()
        if inspect.iscoroutine(outcome):
            asyncio.run(outcome)


@pytest.mark.parametrize("page", ["howto/use-tokens-and-proxy.md"], indirect=True)
def test_a_url_of_ones_own_is_answered(page: dict[str, Any]) -> None:
    """The route of the page passes requests on to the wait route, and so do its redirects."""
    first = page["order"].endpoint.handle(Request(method="POST", url="http://docs/orders"))
    url = first.headers["location"].replace("https://www.example.org", "http://docs")
    path, _, key = url.partition("?key=")
    run_id = path.rpartition("/")[2]
    for asked in (url, f"{path}?runId={run_id}&token={key}"):
        answer = page["site_routes"].endpoint.handle(Request(method="GET", url=asked))
        assert (200, b'{"ok":true}') == (answer.status, answer.body)


@pytest.mark.parametrize("page", ["howto/use-with-web-frameworks.md"], indirect=True)
def test_dependencies_of_fastapi(page: dict[str, Any]) -> None:
    """The function that passes requests on is protected, a route added by ``add_route`` is not."""
    from fastapi.testclient import TestClient

    router, api = page["router"], page["api"]
    router.add_route("/unprotected", page["pay"])
    api.include_router(router, prefix="/more")
    with TestClient(api) as client:
        answers = [
            client.get("/payments"),
            client.get("/payments", headers={"api-key": "wrong"}),
            client.get("/payments", headers={"api-key": "sesame"}),
            client.get("/more/unprotected"),
        ]

    assert [422, 401, 200, 200] == [each.status_code for each in answers]
    assert {"paid": True} == answers[2].json()
