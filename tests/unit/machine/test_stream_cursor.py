"""How far somebody has read the stream of a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.machine.step_ids import hash_step_id
from durable_core.machine.stream_cursor import FINISHED, Cursor, EventId
from durable_core.model.stream import Committed, Pushed, RolledBack

A, B = hash_step_id("a"), hash_step_id("b")

counts = st.integers(0, 999_999_999)
attempts = st.tuples(counts, counts)


def chunk(index: int, attempt: tuple[int, int] = (1, 1), number: int | None = None) -> Pushed:
    return Pushed(text="0", index=index, op_id=A, attempt=attempt, number=number)


def test_a_chunk_is_told_once() -> None:
    """What the reader has seen of an attempt is not told again, what follows is."""
    cursor = Cursor()

    assert (chunk(0),) == cursor.advance(chunk(0))
    assert () == cursor.advance(chunk(0))
    assert (chunk(1),) == cursor.advance(chunk(1))
    assert {A: ((1, 1), 2)} == cursor.open


def test_a_later_attempt_rolls_the_earlier_one_back() -> None:
    """The chunks of an attempt that was never rolled back are, before those of the next."""
    cursor = Cursor(open={A: ((1, 1), 2)})

    told = cursor.advance(chunk(0, (2, 1)))

    assert (RolledBack(op_id=A, attempt=(1, 1)), chunk(0, (2, 1))) == told
    assert {A: ((2, 1), 1)} == cursor.open


def test_an_earlier_attempt_is_old_news() -> None:
    """Neither a chunk nor a rollback of an attempt before the one that is open counts."""
    cursor = Cursor(open={A: ((2, 1), 2)})

    assert () == cursor.advance(chunk(0, (1, 7)))
    assert () == cursor.advance(RolledBack(op_id=A, attempt=(1, 7)))
    assert {A: ((2, 1), 2)} == cursor.open


def test_a_chunk_of_a_commit_that_was_seen_is_old_news() -> None:
    """A chunk whose attempt is known to be committed is not told after the commit."""
    cursor = Cursor(done=3)

    assert () == cursor.advance(chunk(5, number=3))
    assert (chunk(5, number=4),) == cursor.advance(chunk(5, number=4))


def test_a_commit_is_told_once() -> None:
    """A commit closes the attempt and is not repeated; none of a lower number follows it."""
    cursor = Cursor(open={A: ((1, 1), 2)})

    assert (Committed(op_id=A, number=2),) == cursor.advance(Committed(op_id=A, number=2))
    assert {} == cursor.open
    assert () == cursor.advance(Committed(op_id=A, number=2))
    assert () == cursor.advance(Committed(op_id=B, number=1))


def test_a_rollback_is_told_also_where_nothing_was_pushed() -> None:
    """A failed attempt is told of to whoever follows, whether or not it had chunks."""
    cursor = Cursor()

    assert 1 == len(cursor.advance(RolledBack(op_id=A, attempt=(1, 1))))


def test_chunks_outside_steps_go_by_their_place() -> None:
    """Outside steps, a chunk is known by how many came before it."""
    cursor = Cursor()

    assert 1 == len(cursor.advance(Pushed(text="0", index=0)))
    assert () == cursor.advance(Pushed(text="0", index=0))
    assert 1 == cursor.outside


@given(
    counts,
    counts,
    st.dictionaries(
        st.text("0123456789abcdef", min_size=40, max_size=40), st.tuples(attempts, counts)
    ),
)
def test_dump_and_load(
    done: int, outside: int, opened: dict[str, tuple[tuple[int, int], int]]
) -> None:
    """A cursor comes back from its text as it was; the text is one line of visible ASCII."""
    text = Cursor(done, outside, opened).dump()
    cursor = Cursor.load(text)

    assert (done, outside, opened) == (cursor.done, cursor.outside, cursor.open)
    assert text.isascii()
    assert text.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "1.x", "1.2;", "1.2;xyz:1.1:1", f"1.2;{'a' * 40}:1:1"),
        *("1.2;*", "1.1234567890", "\u0661.\u0662"),
    ],
)
def test_what_is_no_cursor(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match="not a position"):
        Cursor.load(text)


def test_an_event_id_says_how_far_and_of_which_run() -> None:
    """A cursor alone; with its run, where the URL does not tell that; or the end."""
    alone = EventId.load("3.1")
    with_run = EventId.load(EventId.prefix("r1", "d1.5.x") + "3.1")
    finished = EventId.load(EventId.prefix("r1", "d1.5.x") + FINISHED)

    assert alone.cursor is not None
    assert with_run.cursor is not None
    assert ("3.1", "", "") == (alone.cursor.dump(), alone.run_id, alone.token)
    assert ("3.1", "r1", "d1.5.x") == (with_run.cursor.dump(), with_run.run_id, with_run.token)
    assert (None, "r1", "d1.5.x") == (finished.cursor, finished.run_id, finished.token)
    assert None is EventId.load(FINISHED).cursor


@pytest.mark.parametrize("text", ["", "7", "r1!3.1", "r1!t!x!3.1", "r1!t!", "End", "3.1!r1!t"])
def test_what_is_no_event_id(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match="not "):
        EventId.load(text)
