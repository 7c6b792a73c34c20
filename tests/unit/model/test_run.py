"""A run and its phases."""

from __future__ import annotations

import pytest

from durable_core.machine.table import TRANSITIONS
from durable_core.model.run import Phase, Run


@pytest.mark.parametrize("phase", Phase)
def test_ended(phase: Phase) -> None:
    """A phase is an end if the table knows no way out of it."""
    assert (phase not in {before for before, _ in TRANSITIONS}) is phase.ended


def test_phases_as_they_are_stored() -> None:
    """The words for phases stand in every store there is; they do not change."""
    assert [
        "sync",
        "async",
        "suspended",
        "queued",
        "responding",
        "completed",
        "failed",
        "cancelled",
    ] == [phase.value for phase in Phase]


def test_new_run() -> None:
    """A run begins in its first epoch, without failures or crashes."""
    run = Run(
        id="r1",
        app="app",
        endpoint_key="key",
        function_id="GET /x",
        phase=Phase.SYNC,
        retries=3,
        created_at=1,
    )

    assert (1, 0, 0, 0) == (run.epoch, run.failures, run.crash_count, run.event_seq)
