"""The remembered event mark."""

from __future__ import annotations

import pytest

from durable_core.engine.runs import EventWatermark
from durable_core.errors import StoreError
from durable_core.model.event import Event
from durable_core.ports import SendEvents
from durable_core.runners.store_reads import StoreReads
from durable_core.stores.memory import MemoryStore


class CountedStore(MemoryStore):
    """A store that counts how often it is asked, and can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.fault: StoreError | None = None

    def event_seq(self, app: str) -> int:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return super().event_seq(app)

    def send(self, id: str) -> None:
        event = Event(name="e", id=id, ts=1)
        self.commit([SendEvents(app="app", events=(event,), now=1)], wait=0)


@pytest.fixture
def store() -> CountedStore:
    store = CountedStore()
    store.open()
    return store


def test_recent_asks_only_after_a_change(store: CountedStore) -> None:
    """The store is asked once, and once more after each change, by a process that is alone."""
    mark = EventWatermark(store, "app", StoreReads(store))
    mark.share(False)
    assert [0, 0] == [mark.recent(), mark.recent()]
    store.send("a")
    assert 0 == mark.recent()
    mark.changed()
    assert [1, 1] == [mark.recent(), mark.recent()]
    assert 2 == store.asked


def test_recent_always_asks_while_others_may_write(store: CountedStore) -> None:
    """Of what another process stores nobody tells us; so it is as long as nobody has looked."""
    mark = EventWatermark(store, "app", StoreReads(store))
    for shared in (None, True):
        if shared is not None:
            mark.share(False)
            mark.recent()
            mark.share(shared)
        before = mark.recent()
        store.send(f"{shared}")
        assert before + 1 == mark.recent()


def test_a_change_while_reading_is_not_missed(store: CountedStore) -> None:
    """What changes between the store's answer and its arrival is read by the next caller."""
    mark = EventWatermark(store, "app", StoreReads(store))

    class Interrupted(CountedStore):
        def event_seq(self, app: str) -> int:
            answer = store.event_seq(app)
            store.send("a")
            mark.changed()
            return answer

    mark._store = Interrupted()
    assert 0 == mark.recent()
    mark._store = store
    assert 1 == mark.recent()


def test_a_failed_read_is_tried_again(store: CountedStore) -> None:
    """A mark that could not be read is not taken for known."""
    mark = EventWatermark(store, "app", StoreReads(store))
    store.fault = StoreError("gone")
    with pytest.raises(StoreError):
        mark.recent()
    store.fault = None
    store.send("a")
    assert 1 == mark.recent()


def test_the_mark_never_falls(store: CountedStore) -> None:
    """Pruning events may lower what the store says, not what is remembered."""
    mark = EventWatermark(store, "app", StoreReads(store))
    store.send("a")
    assert 1 == mark.recent()
    empty = CountedStore()
    empty.open()
    mark._store = empty
    assert 1 == mark.recent()
