"""The page about the states of a run."""

from __future__ import annotations

import re
import runpy

import pytest

from durable_core.machine.table import TRANSITIONS, Trigger
from durable_core.model.run import Phase
from support.source_tree import ROOT

PROGRAM = runpy.run_path(str(ROOT / "docs" / "_generate" / "run_states.py"))
meanings, mermaid, page = (PROGRAM[name] for name in ("meanings", "mermaid", "page"))


def test_mermaid_shares_arrows() -> None:
    """Cues between the same two phases share one arrow, in the order of the table."""
    diagram = mermaid(
        {
            (Phase.SYNC, Trigger.PARK): Phase.ASYNC,
            (Phase.SYNC, Trigger.FINISH): Phase.COMPLETED,
            (Phase.SYNC, Trigger.DETACH): Phase.ASYNC,
        }
    )

    assert [
        "stateDiagram-v2",
        "    [*] --> sync",
        "    sync --> async: park, detach",
        "    sync --> completed: finish",
        "    completed --> [*]",
        "    failed --> [*]",
        "    cancelled --> [*]",
    ] == diagram.splitlines()


@pytest.mark.parametrize("enum", [Phase, Trigger])
def test_every_member_has_a_meaning(enum: type[Phase] | type[Trigger]) -> None:
    """Each member is described by the comment above it: a sentence, without the marker."""
    found = meanings(enum)

    assert list(enum) == list(found)
    assert [] == [text for text in found.values() if not re.fullmatch(r"[A-Z][^#]+\.", text)]


def test_meaning_is_the_comment() -> None:
    """The meaning of a member is what its own comment says."""
    assert "The response is complete." == meanings(Trigger)[Trigger.FINISH]


def test_page_has_every_transition_once() -> None:
    """The page lists each transition of the table in one row, and holds the diagram."""
    text = page()

    for (before, cue), after in TRANSITIONS.items():
        assert 1 == text.count(f"| `{before.value}` | `{cue.value}` | `{after.value}` |")
    assert mermaid(TRANSITIONS) in text
