"""The store of a harness."""

from __future__ import annotations

from durable_core.errors import LeaseLost
from durable_core.model.event import Event
from durable_core.ports import Checkpoint, SendEvents
from durable_core.testing.simulation import RecordingStore


def test_events_are_noted_once() -> None:
    """Each event that is taken is noted, the first of one id counts, refused writes do not."""
    store = RecordingStore()
    first, again = Event("x", {"n": 1}, id="a"), Event("x", {"n": 2}, id="a")
    refused = Checkpoint(run_id="r", owner="o", epoch=1, now=0, events=(Event("y", id="b"),))

    [_, _, answer] = store.commit(
        [
            SendEvents(app="app", events=(first,), now=0),
            SendEvents(app="app", events=(again,), now=0),
            refused,
        ],
        wait=0.0,
    )

    assert isinstance(answer, LeaseLost)
    assert {"a": first} == store.events
