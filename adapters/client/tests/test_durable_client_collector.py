"""What stays of a stream."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from durable_client._collector import Collector
from durable_client._follow import DeliveredEvent
from durable_core.codec.stream_events import Chunk, Commit, Metadata, Rollback


def collected(*events: DeliveredEvent) -> Collector:
    collector = Collector()
    for event in events:
        collector.take(event)
    return collector


def test_a_rollback_drops_what_a_commit_keeps() -> None:
    """The chunks of the attempt that failed are gone, those of the other are there once."""
    attempt = (Chunk(data="a", step_id="s"), Chunk(data="b", step_id="s"))
    collector = collected(*attempt, Rollback(step_id="s"), *attempt, Commit(step_id="s"))

    assert ("a", "b") == collector.items
    assert () == collector.pending


def test_chunks_wait_for_their_step() -> None:
    """They are pending until then; those outside steps count at once."""
    collector = collected(Chunk(data="in", step_id="s"), Chunk(data="out"))
    assert (("out",), ("in",)) == (collector.items, collector.pending)
    assert ("out", "in") == (collector.text, collector.pending_text)

    collector.take(Commit(step_id="s"))
    assert ("out", "in") == collector.items


def test_steps_at_once_do_not_mix() -> None:
    """Each step's chunks count together, when it is committed."""
    collector = collected(
        Chunk(data=1, step_id="a"),
        Chunk(data=2, step_id="b"),
        Chunk(data=3, step_id="a"),
        Commit(step_id="b"),
        Rollback(step_id="c"),
        Commit(step_id="a"),
    )

    assert (2, 1, 3) == collector.items


def test_text_is_of_strings_only() -> None:
    """Other items are kept, but are no text."""
    collector = collected(Chunk(data="a"), Chunk(data={"b": 1}), Chunk(data="c"))

    assert ("ac", 3) == (collector.text, len(collector.items))


def test_the_run_is_known_from_its_metadata() -> None:
    """Before that it is not."""
    assert collected().run_id is None
    assert "r" == collected(Metadata(run_id="r")).run_id


def test_commits_of_no_step_change_nothing() -> None:
    """The protocol allows them."""
    chunk = Chunk(data=1, step_id="s")
    collector = collected(chunk, Commit(step_id=None), Rollback(step_id=None))

    assert ((), (1,)) == (collector.items, collector.pending)


STEPS = st.sampled_from(["a", "b", None])
EVENTS = st.one_of(
    st.builds(Chunk, data=st.integers(), step_id=STEPS),
    st.builds(Commit, step_id=STEPS),
    st.builds(Rollback, step_id=STEPS),
)


@given(st.lists(EVENTS))
def test_every_chunk_is_kept_pending_or_dropped(events: list[DeliveredEvent]) -> None:
    """What is not dropped by a rollback of its step, before a commit of it, is kept once."""
    dropped = 0
    collector = Collector()
    for event in events:
        before = len(collector.pending)
        collector.take(event)
        if isinstance(event, Rollback):
            dropped += before - len(collector.pending)
    chunks = sum(isinstance(event, Chunk) for event in events)

    assert chunks == len(collector.items) + len(collector.pending) + dropped
