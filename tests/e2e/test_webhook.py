"""Who is told of the end of a run, although the process dies that has ended it."""

from __future__ import annotations

import pytest

from support.processes import World, fetch, until

#: Whole processes: not for the daily loop.
pytestmark = pytest.mark.slow


def test_a_process_that_is_killed_when_the_run_has_ended(world: World) -> None:
    """Another one tells it: the end of the run and the telling are stored together."""
    world.close_gate("T", "told")
    one = world.start("one")
    assert 201 == fetch(one.url("/sync/told?trip=T")).status
    world.reached("T", "told")
    one.kill()
    two = world.start("two")
    assert two.pid == world.reached("T", "told", count=2).pid
    assert [] == world.ledger.find("T", "told", "end")
    world.open_gate("T", "told")
    until("it was told", lambda: world.ledger.find("T", "told", "end"))
    until("all runs have ended", world.store.all_ended)
