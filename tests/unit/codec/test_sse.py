"""Server-sent events: the encoder, and the decoder cut anywhere."""

from __future__ import annotations

import re
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.codec.sse import KEEP_ALIVE, ServerSentEvent, SSEDecoder, encode_event
from durable_core.errors import ProtocolError

LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=8)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ID = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=4)

#: Pieces of which any stream, right or wrong, may be made.
PIECES = st.sampled_from(
    [
        *(b"\r", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"data", b":", b" ", b"data: ", b"data:"),
        *(b"event: e", b"id: 7", b"id", b"id: \0", b"retry: 5", b"retry: x", b": note", b"other"),
        *(
            b"\xef\xbb\xbf",
            "é".encode(),
            "😀".encode(),
            b"\xf0\x9f",
            b"\xff",
            b"\0",
            b"data: a\n\n",
        ),
    ]
)
STREAMS = st.lists(PIECES, max_size=30).map(b"".join)


def decode(*parts: bytes, last_event_id: str = "") -> list[ServerSentEvent]:
    decoder = SSEDecoder(last_event_id=last_event_id)
    return [event for part in parts for event in decoder.feed(part)]


def state_after(*parts: bytes) -> tuple[list[ServerSentEvent], str, int | None]:
    decoder = SSEDecoder()
    events = [event for part in parts for event in decoder.feed(part)]
    return events, decoder.last_event_id, decoder.retry_ms


def by_the_standard(stream: bytes) -> list[ServerSentEvent]:
    """Decode a whole stream as the standard tells it, a step after the other, to compare with."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, _unfinished = re.split("\r\n|\r|\n", text)
    found, data, name, event_id = [], "", "", ""
    for line in lines:
        if line == "":
            if data != "":
                found.append(ServerSentEvent(event=name or "message", data=data[:-1], id=event_id))
            data, name = "", ""
        elif not line.startswith(":"):
            field, value = line.split(":", 1) if ":" in line else (line, "")
            value = value[1:] if value.startswith(" ") else value
            if field == "data":
                data += value + "\n"
            elif field == "event":
                name = value
            elif field == "id" and "\0" not in value:
                event_id = value
    return found


@given(STREAMS)
def test_every_stream_is_read_as_the_standard_reads_it(stream: bytes) -> None:
    """Whatever the bytes are, the events are those of the algorithm in the HTML standard."""
    assert by_the_standard(stream) == decode(stream)


@given(STREAMS)
def test_it_does_not_matter_where_a_stream_is_cut(stream: bytes) -> None:
    """Each way to cut it in two, and byte by byte, gives the same events, id and retry time."""
    whole = state_after(stream)

    assert whole == state_after(*(stream[i : i + 1] for i in range(len(stream))))
    for cut in range(len(stream) + 1):
        assert whole == state_after(stream[:cut], b"", stream[cut:])


@given(st.lists(st.tuples(LINE.filter(bool), TEXT, ID)))
def test_what_is_encoded_comes_back(events: list[tuple[str, str, str]]) -> None:
    """Every event comes back, with LF for each line end of its data."""
    stream = b"".join(encode_event(name, data, id=id) + KEEP_ALIVE for name, data, id in events)
    expected = [
        ServerSentEvent(event=name, data=re.sub("\r\n?", "\n", data), id=id)
        for name, data, id in events
    ]

    assert expected == decode(stream)


def test_the_bytes_of_an_event() -> None:
    """One line each for the type, the id and each line of data, and a blank line."""
    assert b"event: e\ndata: x\n\n" == encode_event("e", "x")
    assert b"event: e\nid: 3\ndata: a\ndata: b\n\n" == encode_event("e", "a\r\nb", id="3")
    assert b"event: e\ndata: \n\n" == encode_event("e", "")


@pytest.mark.parametrize("name", ["", "a\nb", "a\rb"])
def test_a_type_must_be_a_line(name: str) -> None:
    """An event type that is empty or not one line is refused."""
    with pytest.raises(ValueError, match="the type of an event must be one line that is not empty"):
        encode_event(name, "x")


@pytest.mark.parametrize("id", ["a\nb", "a\rb", "a\0b"])
def test_an_id_must_be_a_line_without_nul(id: str) -> None:
    """An id that a reader would ignore, or take for two lines, is refused."""
    with pytest.raises(ValueError, match="the id of an event must be one line without NUL"):
        encode_event("e", "x", id=id)


def test_one_space_after_the_colon_is_no_part_of_the_value() -> None:
    """``data:x`` and ``data: x`` are the same, a second space counts."""
    assert ["x", "x", " x"] == [e.data for e in decode(b"data:x\n\ndata: x\n\ndata:  x\n\n")]


def test_an_event_without_data_is_none_but_sets_the_id() -> None:
    """A block with an id alone is not dispatched; later events carry its id."""
    assert ([], "5", None) == state_after(b"id: 5\nevent: e\n\n")
    assert [ServerSentEvent(data="x", id="5")] == decode(b"id: 5\nevent: e\n\ndata: x\n\n")


def test_an_id_counts_from_the_end_of_its_event() -> None:
    """An event that is cut off does not move the last event id; a whole one does."""
    assert "1" == state_after(b"id: 1\ndata: a\n\nid: 2\ndata: b\n")[1]
    assert "" == state_after(b"id: 1\ndata: a\n\nid\ndata: b\n\n")[1]


def test_a_stream_goes_on_from_the_id_it_was_asked_for() -> None:
    """Events without an id of their own carry the one the stream was resumed at."""
    assert [ServerSentEvent(data="x", id="9")] == decode(b"data: x\n\n", last_event_id="9")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"retry: 1500\n", 1500),
        (b"retry:0\n", 0),
        (b"retry: -1\n", None),
        (b"retry: 1.5\n", None),
        (b"retry: \xd9\xa1\n", None),  # an Arabic digit is none here
        (b"retry\n", None),
        (b"retry: 99999999999999999999\n", None),
    ],
)
def test_retry_is_a_number_of_milliseconds(line: bytes, expected: int | None) -> None:
    """Only ASCII digits count, and only as many as a time may have."""
    assert expected == state_after(line)[2]


@pytest.mark.parametrize(
    "stream",
    [b"data: 4567890", b"data: 45\ndata: 45\n", b": comment\n: comment\n", b"data: 4567890\n\n"],
)
def test_an_event_over_the_limit_is_an_error(stream: bytes) -> None:
    """It is found in one line and in the sum of the lines, wherever the bytes are cut."""
    for cut in range(len(stream)):
        decoder = SSEDecoder(limit=12)
        parts = (stream[:cut], stream[cut:])
        with pytest.raises(ProtocolError, match="over 12 bytes, which is the most allowed"):
            list(chain.from_iterable(map(decoder.feed, parts)))


def test_the_limit_is_of_each_event() -> None:
    """Any number of events at the limit go through, and each is there before the error."""
    decoder = SSEDecoder(limit=7)
    events = decoder.feed(b"data: x\n\n" * 100 + b"data: xx\n\n")

    assert ["x"] * 100 == [next(events).data for _ in range(100)]
    with pytest.raises(ProtocolError, match="over 7 bytes"):
        next(events)


def test_a_limit_must_allow_something() -> None:
    """A limit below one byte is refused."""
    with pytest.raises(ValueError, match="must be 1 byte or more, not 0"):
        SSEDecoder(limit=0)
