"""The lines between processes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.machine.step_ids import hash_step_id
from durable_core.model.stream import (
    Committed,
    LiveStream,
    OpenAttempt,
    Pushed,
    RolledBack,
    Streamed,
)
from durable_core.streams.relay import Head, dump_events, dump_head, load_event, load_head

A = hash_step_id("a")

texts = (
    st.text()
    .map(lambda text: json.dumps(text, ensure_ascii=False))
    .filter(lambda text: text.isprintable())
)
numbers = st.integers(0, 999_999_999)
attempts = st.tuples(st.just(7), numbers)
events: st.SearchStrategy[Streamed] = st.one_of(
    st.builds(Pushed, text=texts, index=numbers),
    st.builds(Pushed, text=texts, index=numbers, op_id=st.just(A), attempt=attempts),
    st.builds(Committed, op_id=st.just(A), number=numbers),
    st.builds(RolledBack, op_id=st.just(A), attempt=attempts),
)


@given(st.lists(events, max_size=5))
def test_events_are_read_as_they_were_written(told: list[Streamed]) -> None:
    """One line each, whatever the chunks hold."""
    lines = dump_events(told).splitlines()

    assert told == [load_event(line, 7) for line in lines]


def test_the_head_says_how_much_is_open() -> None:
    """The lines after it tell the open attempts and the chunks from outside steps."""
    live = LiveStream(
        epoch=7,
        attempts={(7, 2): OpenAttempt(op_id=A, texts=("1", "2"), number=5)},
        handler_chunks=(Pushed(text="0", index=3),),
        done=4,
    )
    head, body = dump_head(live).split(b"\n", 1)

    assert Head(4, len(body)) == load_head(head)
    assert [
        Pushed(text="0", index=3),
        Pushed(text="1", index=0, op_id=A, attempt=(7, 2)),
        Pushed(text="2", index=1, op_id=A, attempt=(7, 2)),
    ] == [load_event(line, 7) for line in body.splitlines()]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "[]",
        "[1",
        "[" * 100_000,
        '["chunk"]',
        '["chunk",null,0,0,1]',
        '["chunk",null,0,-1,"1"]',
        '["chunk",null,0,true,"1"]',
        '["chunk",null,0,1000000000,"1"]',
        f'["chunk",null,0,{"9" * 5000},"1"]',
        '["chunk",null,0,0,"not JSON"]',
        '["chunk",null,0,0,"1\\n"]',
        '["chunk",null,0,0,"NaN"]',
        '["chunk",null,0,0,"\\"\\ud800\\""]',
        f'["chunk",null,0,0,"{"[" * 100_000}"]',
        '["chunk","a",1,0,"1"]',
        f'["chunk","{A}",1.5,0,"1"]',
        f'["chunk","{A}\\n",1,0,"1"]',
        f'["commit","{A}",null]',
        f'["rollback","{A}"]',
        f'["else","{A}",1]',
        '["live",1,0,0]',
    ],
)
def test_what_is_no_event_is_refused(line: str) -> None:
    """Nothing gets into a stream that would break it."""
    with pytest.raises(ValueError, match=r"."):
        load_event(line.encode(), 1)


@pytest.mark.parametrize("line", [b"", b"\xff", b'["live",2,0,0]', b'["live",1,-1,0]', b"[1,2]"])
def test_what_is_no_head_is_refused(line: bytes) -> None:
    """Also that of a release that writes something else."""
    with pytest.raises(ValueError, match=r"."):
        load_head(line)
