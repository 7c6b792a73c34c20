"""Limits of endpoints across processes of one file."""

from __future__ import annotations

import pytest

from support.processes import World, fetch, until

#: Whole processes in every test: not for the daily loop.
pytestmark = pytest.mark.slow


def test_two_processes_share_one_slot(world: World, face: str) -> None:
    """Runs take turns whatever process they began in, and a killed process leaves its slot.

    The run of the killed process goes on after those that waited already.
    """
    one, two = world.start("one"), world.start("two")
    trips = ("T0", "T1", "T2")
    for trip in trips:
        world.close_gate(trip, "a")
    world.background(one.url(f"/{face}/turn?trip=T0"))
    assert one.pid == world.reached("T0", "a").pid
    for app, trip in ((two, "T1"), (one, "T2")):
        assert 302 == fetch(app.url(f"/{face}/turn?trip={trip}")).status
    for trip in ("T1", "T2"):
        assert [] == world.ledger.find(trip, "a", "begin")

    one.kill()
    assert two.pid == world.reached("T1", "a").pid
    world.open_gate("T1", "a")
    assert two.pid == world.reached("T2", "a").pid
    assert 1 == len(world.ledger.find("T0", "a", "begin"))
    world.open_gate("T2", "a")
    assert two.pid == world.reached("T0", "a", count=2).pid
    world.open_gate("T0", "a")

    until("all runs have ended", world.store.all_ended)
    order = [(entry.trip, entry.mark) for entry in world.ledger.entries()]
    assert [(trip, mark) for trip in ("T1", "T2", "T0") for mark in ("begin", "end")] == order[1:]
