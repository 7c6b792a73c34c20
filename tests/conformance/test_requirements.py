"""Requirements and cases name each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from durable_conformance.contract import Kind
from durable_conformance.requirements import load_requirements, parse_requirements
from support.source_tree import ROOT

SUITES = ROOT / "conformance" / "durable_conformance" / "suites"


def cases() -> Iterator[tuple[str, str | None, bool]]:
    """Yield each case's id, the requirement it is marked with, and whether it has a docstring."""
    for path in sorted(SUITES.glob("test_*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = [ast.unparse(each) for each in node.decorator_list]
                named = [mark for mark in marks if mark.startswith("requirement(")]
                id_ = named[0].split("'")[1] if len(named) == 1 else None
                yield f"{path.stem}::{node.name}", id_, bool(ast.get_docstring(node))


def test_both_ways() -> None:
    """Each case is marked with the one requirement that names it, and the other way round."""
    by_requirement = {case: each.id for each in load_requirements() for case in each.cases}

    assert by_requirement == {case: id_ for case, id_, _ in cases()}


def test_each_case_belongs_to_one_requirement() -> None:
    """No case is named twice."""
    named = [case for each in load_requirements() for case in each.cases]

    assert sorted(set(named)) == sorted(named)


def test_each_case_states_a_claim() -> None:
    """Every case has a docstring."""
    assert [] == [case for case, _, has_docstring in cases() if not has_docstring]


def test_store_cases_are_for_stores() -> None:
    """The kind of a requirement goes with the file of its cases."""
    kinds = {
        (Kind.STORE in each.kinds, case.startswith("test_store_"))
        for each in load_requirements()
        for case in each.cases
    }

    assert {(True, True), (False, False)} == kinds


def test_ids_count() -> None:
    """In each group the numbers go from 1 without holes."""
    ids = [each.id for each in load_requirements()]
    letters = dict.fromkeys(id_.rstrip("0123456789") for id_ in ids)

    assert ids == [
        f"{letter}{number}"
        for letter in letters
        for number in range(1, 1 + sum(id_.rstrip("0123456789") == letter for id_ in ids))
    ]


@pytest.mark.parametrize(
    "text",
    [
        "### A1 No group\n\nCases: `test_a::test_b`\n",
        "## G (server)\n\n### A1 No cases\n",
        "## G (server)\n\n" + 2 * "### A1 T\n\nCases: `test_a::test_b`\n\n",
    ],
)
def test_malformed_requirements(text: str) -> None:
    """A requirement is in a group, has cases, and its id is its own."""
    with pytest.raises(ValueError, match="A1"):
        parse_requirements(text)
