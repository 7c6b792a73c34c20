"""What the report says of a requirement."""

from __future__ import annotations

import pytest

from durable_conformance.contract import Kind
from durable_conformance.report import Case, Report, Status
from durable_conformance.requirements import parse_requirements

REQUIREMENTS = parse_requirements(
    "## G (engine)\n\n### L1 It works\n\nCases: `test_a::test_b`, `test_a::test_c`\n"
)


def lines(*cases: tuple[str, Status, str]) -> list[str]:
    """Return the lines about the requirement."""
    report = Report(
        subject="x",
        spec="x:y",
        kind=Kind.ENGINE,
        declared=frozenset(),
        requirements=REQUIREMENTS,
        collected=tuple(
            Case(id=id_, requirement="L1", status=status, reason=reason)
            for id_, status, reason in cases
        ),
    )
    return [" ".join(line.split()) for line in report.lines() if line.startswith("  ")]


B, C = "test_a::test_b[sync]", "test_a::test_c[sync]"


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ((C, Status.PASS, ""), ["PASS L1 It works"]),
        (
            (C, Status.GAP, "not declared: runs"),
            ["PASS L1 It works", "gap: test_a::test_c not declared: runs"],
        ),
        ((C, Status.GAP, "not declared: sync-handlers"), ["PASS L1 It works"]),
        ((C, Status.FAIL, "no"), ["FAIL L1 It works", f"fail: {C} no"]),
    ],
)
def test_remarks(second: tuple[str, Status, str], expected: list[str]) -> None:
    """A gap shows beside cases that passed, unless it is for a whole kind of handlers."""
    assert expected == lines((B, Status.PASS, ""), second)


def test_a_case_that_was_not_run_is_missing() -> None:
    """And so is its requirement."""
    assert ["MISSING L1 It works", "missing: test_a::test_c was not run"] == lines(
        (B, Status.PASS, "")
    )
