"""The life of a run, as one table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from durable_conformance.store_values import run
from durable_core.machine.table import TRANSITIONS, IllegalTransition, Trigger, next_phase
from durable_core.model.run import Phase


@pytest.mark.parametrize("cue", Trigger, ids=lambda cue: cue.value)
@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
def test_every_pair_is_decided(phase: Phase, cue: Trigger) -> None:
    """Each cue in each phase either leads to one phase, or is refused by name."""
    it = replace(run("r1"), phase=phase)
    if (phase, cue) in TRANSITIONS:
        assert TRANSITIONS[phase, cue] is next_phase(it, cue)
    else:
        with pytest.raises(IllegalTransition, match=f"{cue.value}.* r1 .*{phase.value}"):
            next_phase(it, cue)


def test_ended_is_final() -> None:
    """Nothing leads out of a phase that has ended, and every other phase can end."""
    assert [] == [phase for phase, _ in TRANSITIONS if phase.ended]
    for phase in Phase:
        if not phase.ended:
            assert any(end.ended for (start, _), end in TRANSITIONS.items() if start is phase)


def test_every_phase_can_be_reached_and_cancelled() -> None:
    """From SYNC every phase can be reached; every live one can be cancelled."""
    reached, before = {Phase.SYNC}, set[Phase]()
    while reached != before:
        before = set(reached)
        reached |= {end for (start, _), end in TRANSITIONS.items() if start in before}
    assert set(Phase) == reached
    assert {phase for phase, cue in TRANSITIONS if cue is Trigger.CANCEL} == {
        phase for phase in Phase if not phase.ended
    }


def test_nothing_leads_back_to_sync() -> None:
    """A client that was handed off does not come back to its connection."""
    assert {Phase.SYNC} == {start for (start, _), end in TRANSITIONS.items() if end is Phase.SYNC}
