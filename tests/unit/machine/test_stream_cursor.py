"""How far somebody has read the stream of a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.machine.step_ids import hash_step_id
from durable_core.machine.stream_cursor import Cursor
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
        *("1.2;*;", "1.2;*;*", "1;*", "1.1234567890", "\u0661.\u0662"),
    ],
)
def test_what_is_no_cursor(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match="not a position"):
        Cursor.load(text)


def test_a_truncated_cursor_is_short() -> None:
    """It does not say what is open, however much that is; it stays truncated."""
    opened = {hash_step_id(str(number)): ((1, number), 1) for number in range(3)}
    cursor = Cursor(5, 7, opened)
    truncated = Cursor.load(cursor.dump(2))

    assert (cursor.dump(), "5.7;*") == (cursor.dump(3), cursor.dump(2))
    assert (5, 7, {}, True) == (
        truncated.done,
        truncated.outside,
        truncated.open,
        truncated.is_truncated,
    )
    assert "5.7;*" == truncated.dump()


def test_a_truncated_cursor_rolls_back_what_may_have_been_seen() -> None:
    """Before anything else of a step, once; a commit that was seen is certain."""
    cursor = Cursor(1, 0, is_truncated=True)
    void_a, void_b = (RolledBack(op_id=op, attempt=(0, 0)) for op in (A, B))

    assert (void_a, chunk(0)) == cursor.advance(chunk(0))
    assert (chunk(1),) == cursor.advance(chunk(1))
    assert (Committed(op_id=A, number=2),) == cursor.advance(Committed(op_id=A, number=2))
    assert () == cursor.advance(Committed(op_id=B, number=1))
    assert (void_b, Committed(op_id=B, number=3)) == cursor.advance(Committed(op_id=B, number=3))


def test_a_truncated_cursor_takes_a_rollback_for_one() -> None:
    """What it was told of is clear then."""
    cursor = Cursor(is_truncated=True)
    rolled_back = RolledBack(op_id=A, attempt=(1, 1))

    assert (rolled_back,) == cursor.advance(rolled_back)
    assert (chunk(0, (1, 2)),) == cursor.advance(chunk(0, (1, 2)))
