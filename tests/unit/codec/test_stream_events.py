"""The events of a run's stream, against recorded streams and for all values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.codec.sse import KEEP_ALIVE, SSEDecoder, encode_event
from durable_core.codec.stream_events import (
    Chunk,
    Commit,
    Final,
    Metadata,
    RedirectInfo,
    Rollback,
    StreamEvent,
    chunk_data,
    dump_stream_event,
    load_stream_event,
)
from durable_core.errors import ProtocolError
from durable_core.http.headers import Headers

RECORDED = Path(__file__).parents[2] / "data" / "streams"
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
STEP = st.none() | TEXT
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda values: st.lists(values) | st.dictionaries(TEXT, values),
)
HEADERS = st.dictionaries(
    st.sampled_from(["content-type", "x-a", "x-b"]),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)),
).map(Headers)
EVENTS: st.SearchStrategy[StreamEvent] = st.one_of(
    st.builds(Metadata, run_id=TEXT),
    st.builds(Chunk, data=VALUES, step_id=STEP),
    st.builds(Commit, step_id=STEP),
    st.builds(Rollback, step_id=STEP),
    st.builds(RedirectInfo, run_id=TEXT, url=TEXT),
    st.builds(
        Final,
        status=st.integers(200, 599),
        headers=HEADERS,
        body=st.binary(),
        failed=st.booleans(),
    ),
)


def load_recorded(name: str) -> list[StreamEvent | None]:
    stream = (RECORDED / f"{name}.sse").read_bytes()
    return [load_stream_event(event.event, event.data) for event in SSEDecoder().feed(stream)]


@given(EVENTS)
def test_every_event_comes_back(event: StreamEvent) -> None:
    """What is dumped is one line, and loads as what it was; any body, text or not, is kept."""
    name, data = dump_stream_event(event)

    assert not {"\r", "\n"} & {*name, *data}
    assert event == load_stream_event(name, data)


@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.sse")), ids=lambda path: path.stem)
def test_recorded_streams_are_written_byte_for_byte(path: Path) -> None:
    """Loading a recorded stream and dumping it again gives the same bytes."""
    stream = path.read_bytes()
    events = [load_stream_event(event.event, event.data) for event in SSEDecoder().feed(stream)]

    assert all(event is not None for event in events)
    written = b"".join(encode_event(*dump_stream_event(event)) for event in events if event)
    assert stream.replace(KEEP_ALIVE, b"") == written


def test_a_recorded_stream_of_values() -> None:
    """Objects, strings, numbers and null arrive as what they are, each with its step."""
    gen, gen2 = (
        "4739319abf9070ef0b0e2a73224820ae70488aa6",
        "56aaf2aa9eb2faffeb54679f530580b1c4aafe5c",
    )
    run_id = "01M859JJDGZ4RTJKZ4ZN8ADA2Z"

    assert [
        Metadata(run_id=run_id),
        Chunk(data={"w": "alpha"}, step_id=gen),
        Chunk(data={"w": "beta"}, step_id=gen),
        Chunk(data={"w": "gamma"}, step_id=gen),
        Commit(step_id=gen),
        RedirectInfo(
            run_id=run_id, url="http://127.0.0.1:9288/v1/realtime/sse?token=aaaa.bbbb.cccc"
        ),
        Chunk(data="plain string", step_id=gen2),
        Chunk(data=42, step_id=gen2),
        Chunk(data=None, step_id=gen2),
        Commit(step_id=gen2),
        Final(
            status=200,
            headers=Headers({"content-type": "application/json"}),
            body=b'{"text":"alpha beta gamma","two":2}',
        ),
    ] == load_recorded("values")


def test_a_recorded_stream_that_failed() -> None:
    """A rollback, and a response whose body is the message of the error."""
    *_, rollback, redirect, final = load_recorded("failed")

    assert Rollback(step_id="1902e3d6fc4e78a0bcc50ba12b882769afbf4a8c") == rollback
    assert isinstance(redirect, RedirectInfo)
    headers = Headers({"content-type": "application/json"})
    assert Final(status=500, headers=headers, body=b'"never"', failed=True) == final


def test_a_chunk_outside_steps_names_no_step() -> None:
    """It has no ``hashedStepId``, where that of a step is the second member."""
    assert ("inngest.stream", '{"data":"é"}') == dump_stream_event(Chunk(data="é"))
    assert '{"data":[1],"hashedStepId":"s"}' == chunk_data("[1]", "s")
    assert '{"data":[1]}' == chunk_data("[1]", None)


def test_the_null_step_of_a_commit_is_written() -> None:
    """A commit and a rollback always have their one member."""
    assert ("inngest.commit", '{"hashedStepId":null}') == dump_stream_event(Commit(step_id=None))
    assert ("inngest.rollback", '{"hashedStepId":"a"}') == dump_stream_event(Rollback(step_id="a"))


def test_a_body_that_is_no_text_is_in_base64() -> None:
    """The members keep their order, and the encoding is named after them."""
    response = '{"body":"/w==","statusCode":200,"headers":{},"encoding":"base64"}'
    data = f'{{"status":"succeeded","response":{response}}}'

    assert ("inngest.response", data) == dump_stream_event(Final(status=200, body=b"\xff"))


def test_repeated_headers_are_joined() -> None:
    """The object of the headers has each name once, as RFC 9110, section 5.3 allows."""
    final = Final(status=200, headers=Headers([("X-A", "1"), ("x-b", "2"), ("x-a", "3")]))
    headers = json.loads(dump_stream_event(final)[1])["response"]["headers"]

    assert {"x-a": "1, 3", "x-b": "2"} == headers


def test_javascripts_undefined_is_none() -> None:
    """A chunk without data holds None."""
    assert Chunk(data=None) == load_stream_event("inngest.stream", "{}")


def test_other_types_and_members_are_passed_over() -> None:
    """An unknown type is no event, an unknown member says nothing."""
    assert load_stream_event("message", "not JSON") is None
    assert Metadata(run_id="r") == load_stream_event("inngest.metadata", '{"a":1,"runId":"r"}')


def response(**members: object) -> str:
    whole: dict[str, object] = {"body": "", "statusCode": 200, "headers": {}}
    return json.dumps({"status": "succeeded", "response": whole | members})


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("inngest.stream", "{", "is not JSON"),
        ("inngest.stream", "[" * 100_000, "is not JSON"),
        ("inngest.commit", "[]", "is not a JSON object"),
        ("inngest.metadata", "{}", "'runId' must be a string"),
        ("inngest.commit", '{"hashedStepId":1}', "'hashedStepId' must be a string"),
        ("inngest.redirect_info", '{"runId":"r","url":null}', "'url' must be a string"),
        ("inngest.response", '{"status":"ok"}', "'status' must be one of"),
        ("inngest.response", '{"status":"failed"}', "'response' must be an object"),
        ("inngest.response", response(body=1), "'body' must be a string"),
        ("inngest.response", response(statusCode=True), "'statusCode' must be an integer"),
        ("inngest.response", response(statusCode=101), "'statusCode' must be an integer"),
        ("inngest.response", response(headers=[]), "'headers' must be an object"),
        ("inngest.response", response(headers={"x": 1}), "'x' must be a string"),
        ("inngest.response", response(headers={"x y": ""}), "'headers' are no header fields"),
        ("inngest.response", response(encoding="gzip"), "'encoding' must be one of"),
        ("inngest.response", response(encoding="base64", body="é"), "'body' is not base64"),
    ],
)
def test_malformed_data_of_a_known_type_is_an_error(name: str, data: str, message: str) -> None:
    """The message names the type of the event and what is wrong with its data."""
    with pytest.raises(ProtocolError) as caught:
        load_stream_event(name, data)

    assert f"the data of an event {name!r} " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_a_chunk_must_be_json(value: object) -> None:
    """What JSON cannot hold is refused when it is dumped."""
    with pytest.raises((TypeError, ValueError), match="JSON"):
        dump_stream_event(Chunk(data=value))
