"""Streams: what a store keeps of the chunks that runs push."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from durable_conformance.plugin import requirement
from durable_conformance.store_values import (
    claim,
    commit,
    created,
    ended,
    memo,
    memo_write,
    suspended,
)
from durable_core.errors import LeaseLost, StoreError
from durable_core.model.run import Phase
from durable_core.model.step import OpKind
from durable_core.model.stream import ChunkBatch, StoredStream
from durable_core.ports import Checkpoint, Prune, Store


def _of_step(number: int, *texts: str) -> ChunkBatch:
    return ChunkBatch(number=number, texts=texts, op_id=f"id-step{number}", attempt=(1, number))


def _outside(number: int, start: int, *texts: str) -> ChunkBatch:
    return ChunkBatch(number=number, texts=texts, start=start)


def _read(store: Store, *, done: int = 0, outside: int = 0, most: int = 1000) -> StoredStream:
    stream = store.read_stream("app", "r1", done=done, outside=outside, most=most)
    assert stream is not None
    return stream


@requirement("T20")
def test_chunks_are_stored_with_the_checkpoint_of_their_step(store: Store) -> None:
    """They come back as they were, after the number asked for; a step without any has none."""
    commit(store, replace(created(), chunks=(_of_step(1, '"a"', '"\N{SNOWMAN}"'),)))
    commit(store, memo_write(number=2))

    assert (
        _of_step(1, '"a"', '"\N{SNOWMAN}"'),
        ChunkBatch(number=2, texts=(), op_id="id-step2"),
    ) == _read(store).chunks
    assert (2,) == tuple(piece.number for piece in _read(store, done=1).chunks)


@requirement("T20")
def test_only_steps_that_stream_and_succeed_are_in_it(store: Store) -> None:
    """Neither sleeps and waits, nor a step that has failed for good."""
    failed = replace(memo(3), ok=False)
    memos = (memo(2, kind=OpKind.SLEEP), failed, memo(4, kind=OpKind.SEND))
    commit(store, replace(created(), memos=(memo(1), *memos)))

    assert [1, 4] == [piece.number for piece in _read(store).chunks]


@requirement("T20")
def test_chunks_from_outside_steps_keep_their_place(store: Store) -> None:
    """They come after the step with their number, and by their index."""
    first = replace(created(), chunks=(_outside(0, 0, "1"), _outside(1, 1, "2", "3")))
    commit(store, first)
    commit(store, memo_write(chunks=(_outside(1, 3, "4"),)))

    places = [(piece.number, piece.op_id, piece.start) for piece in _read(store).chunks]
    later = [piece.start for piece in _read(store, done=1, outside=3).chunks]

    assert [(0, None, 0), (1, "id-step1", 0), (1, None, 1), (1, None, 3), (2, "id-step2", 0)] == [
        *places
    ]
    assert [3, 0] == later


@requirement("T21")
def test_a_long_stream_is_read_in_parts(store: Store) -> None:
    """A reader gets about as many bytes as it asks for, and learns that there is more."""
    commit(store, replace(created(), chunks=(_of_step(1, "1" * 50),)))
    commit(store, memo_write(chunks=(_of_step(2, "2" * 50),)))

    first = _read(store, most=10)
    rest = _read(store, done=first.chunks[-1].number, most=1000)

    assert ([1], (2, 0, 0)) == ([piece.number for piece in first.chunks], first.next)
    assert ([2], None) == ([piece.number for piece in rest.chunks], rest.next)


@requirement("T21")
def test_a_long_step_is_read_in_parts(store: Store) -> None:
    """Each part goes on where the one before it ended, in the middle of a step, too."""
    of_step = [
        replace(_of_step(1, "1" * 50, "2" * 50), last=False),
        replace(_of_step(1, "3" * 50), start=2, last=False),
        replace(_of_step(1, "4" * 50), start=3),
    ]
    stream = (*of_step, _outside(1, 1, "5" * 50), _outside(1, 2, "6" * 50))
    commit(store, replace(created(), chunks=(_outside(0, 0, "0"), *stream)))

    parts: list[Sequence[ChunkBatch]] = []
    begin = None
    while not parts or begin is not None:
        part = store.read_stream("app", "r1", done=0, outside=1, most=200, begin=begin)
        assert part is not None
        parts.append(part.chunks)
        begin = part.next

    assert [stream[:1], stream[1:3], stream[3:]] == parts


@requirement("T21")
def test_steps_without_chunks_are_read_in_parts(store: Store) -> None:
    """A part is bounded although there is nothing in it."""
    memos = tuple(memo(number) for number in range(1, 21))
    commit(store, replace(created(), memos=memos))

    first = _read(store, most=1000)
    rest = _read(store, done=first.chunks[-1].number, most=10**6)

    assert list(range(1, 11)) == [batch.number for batch in first.chunks]
    assert list(range(11, 21)) == [batch.number for batch in rest.chunks]
    assert (None, (11, 0, 0)) == (rest.next, first.next)


@requirement("T20")
def test_a_refused_write_stores_no_chunk(store: Store) -> None:
    """Chunks stand and fall with their checkpoint; a place is taken once."""
    commit(store, replace(created(), chunks=(_outside(0, 0, "1"),)))

    with pytest.raises(LeaseLost):
        commit(store, memo_write(epoch=2, chunks=(_of_step(2, "2"),)))
    with pytest.raises(StoreError):
        commit(store, memo_write(chunks=(_outside(0, 0, "1"),)))

    assert [0, 1] == [piece.number for piece in _read(store).chunks]


@requirement("T21")
def test_the_stream_says_where_the_run_is(store: Store) -> None:
    """Its phase and claim, whether somebody executes it, and where its client was handed off."""
    commit(store, created())
    live = _read(store)
    commit(store, Checkpoint(run_id="r1", owner="o1", epoch=1, now=1, handoff="1.0"))
    commit(store, suspended())
    handed_off = _read(store)
    claim(store)
    commit(store, ended(owner="o2", epoch=2))
    over = _read(store)

    assert (Phase.SYNC, 1, True, None) == (live.phase, live.epoch, live.is_running, live.handoff)
    assert (False, "1.0") == (handed_off.is_running, handed_off.handoff)
    assert (Phase.COMPLETED, 2, False) == (over.phase, over.epoch, over.is_running)
    assert store.read_stream("other", "r1", done=0, outside=0, most=9) is None


@requirement("T21")
def test_a_change_of_a_stream_is_seen_without_reading_it(store: Store) -> None:
    """With each checkpoint, handoff, release, claim and end; other runs do not matter.

    The first two numbers say which claim it is, and whether it goes on.
    """
    commit(store, created())
    changes = [
        memo_write(number=2),
        Checkpoint(run_id="r1", owner="o1", epoch=1, now=1, chunks=(_outside(2, 0, "1"),)),
        Checkpoint(run_id="r1", owner="o1", epoch=1, now=1, handoff="2.1"),
        suspended(),
    ]
    marks = [store.stream_versions("app", ["r1"])["r1"]]
    for write in changes:
        commit(store, write)
        marks.append(store.stream_versions("app", ["r1", "nobody"])["r1"])
    claim(store)
    marks.append(store.stream_versions("app", ["r1"])["r1"])
    commit(store, ended(owner="o2", epoch=2))
    marks.append(store.stream_versions("app", ["r1"])["r1"])
    commit(store, created("r2"))

    assert len(marks) == len(set(marks))
    assert [(1, 1)] * 4 + [(1, 0), (2, 1), (2, 0)] == [mark[:2] for mark in marks]
    assert marks[-1] == store.stream_versions("app", ["r1"])["r1"]
    assert {} == dict(store.stream_versions("other", ["r1"]))


@requirement("T21")
def test_a_claim_says_how_much_was_streamed(store: Store) -> None:
    """Whoever goes on with a run knows how many bytes and chunks it has stored."""
    pieces = (_of_step(1, '"a"'), _outside(1, 0, "1", '"é"'))
    commit(store, replace(created(), chunks=pieces))
    commit(store, suspended())

    [claimed] = claim(store)

    assert (8, 2) == (claimed.streamed, claimed.handler_chunks)


@requirement("T20")
def test_chunks_are_pruned_with_their_run(store: Store) -> None:
    """A run of the same id that comes later has none of them."""
    commit(store, replace(created(), chunks=(_of_step(1, "1"), _outside(1, 0, "2"))))
    commit(store, ended())
    commit(store, Prune(app="app", runs_before=1000, events_before=0, limit=9))

    assert store.read_stream("app", "r1", done=0, outside=0, most=9) is None
    commit(store, created())
    assert [()] == [piece.texts for piece in _read(store).chunks]
