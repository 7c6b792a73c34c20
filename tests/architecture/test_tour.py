"""The guided tour of the architecture page leads to files and names that there are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.source_tree import ROOT

PAGE = ROOT / "docs" / "explanation" / "architecture.md"
_SECTION = re.compile(r"^## A guided tour\n(.*?)^## ", re.DOTALL | re.MULTILINE)
_STOP = re.compile(
    r"^ *\d+\. \[`([^`]+)`\]\(([^)]+)\): (.*?)(?=^ *\d+\. |^\S)", re.DOTALL | re.MULTILINE
)


def stops() -> list[tuple[str, str, list[str]]]:
    """Return path, link and names of each stop of the tour."""
    [section] = _SECTION.findall(PAGE.read_text("utf-8"))
    # A name in code style, but for keywords such as `def`.
    names = re.compile(r"`([A-Za-z_][\w.]*)`")
    return [(path, link, names.findall(text)) for path, link, text in _STOP.findall(section)]


def defined_in(file: Path) -> Iterator[str]:
    """Yield the functions and classes of a module, and the methods as ``Class.method``."""
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        if isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield f"{node.name}.{each.name}"


def test_the_tour_has_ten_stops() -> None:
    """Each of the ten names something to look at."""
    assert 10 == len(stops())
    assert all(names for _, _, names in stops())


@pytest.mark.parametrize(("path", "link", "names"), stops(), ids=lambda value: str(value)[:40])
def test_a_stop_is_there(path: str, link: str, names: list[str]) -> None:
    """The link leads to the file, and the file defines what the sentence names."""
    assert ROOT / path == (PAGE.parent / link).resolve()
    assert set() == {*names} - {*defined_in(ROOT / path), "def"}
