"""The soak catches an engine without one of its safeguards, and nothing where all are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak.programs import Own, Sequence, Work
from soak.session import Soak

#: A freeze finds most runs in code of their handler's own, between two steps.
PROGRAM = Sequence((Work(5), Own(300)) * 6)


def rules_broken(mutant: str, folder: Path) -> set[str]:
    """Freeze processes past their leases for a while, and return which rules were broken."""
    with Soak(
        folder,
        1,
        clients=16,
        mutant=mutant,
        kinds=("asyncio", "wsgi"),
        actions={"freeze": 1},
        lease=1.0,
        program=PROGRAM,
    ) as soak:
        soak.run(kills=1, limit=12, notice=print)
        violations, _ = soak.judge()
    return {violation.rule for violation in violations}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("mutant", ["unfenced", "unchecked"])
def test_a_mutant_is_caught(mutant: str, tmp_path: Path) -> None:
    """A process that goes on with a run that another one has is seen."""
    assert "two owners" in rules_broken(mutant, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_is_found_in_a_sound_engine(tmp_path: Path) -> None:
    """The same freezes break no rule."""
    assert set() == rules_broken("", tmp_path)
