"""What leaves a server for a response."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.adapter.messages import check_chunk, prepare_response
from durable_core.http.response import Body, Response


@pytest.mark.parametrize(
    ("response", "head", "expected"),
    [
        (Response(body=b"abc"), False, [("content-length", "3")]),
        (Response(body=b"abc"), True, [("content-length", "3")]),
        (Response(headers={"Content-Length": "9"}, body=b"abc"), False, [("content-length", "3")]),
        (Response(headers={"Content-Length": "9"}), True, [("content-length", "9")]),
        (Response(headers={"Content-Length": "9"}, status=304), False, []),
        (Response(status=204), False, []),
        (Response(headers={"Content-Length": "1"}, body=[b"a"]), False, [("content-length", "1")]),
        (Response(body=[b"a"]), False, []),
    ],
)
def test_length(response: Response, head: bool, expected: list[tuple[str, str]]) -> None:
    """That of a whole body is what it is; a stream keeps its own; some statuses have none."""
    assert tuple(expected) == prepare_response(response, head=head).fields


@given(
    status=st.sampled_from([200, 204, 304]),
    body=st.sampled_from([b"", b"abc", [b"abc"]]),
    declared=st.lists(st.sampled_from(["0", "3", "03", "9", "x", ""]), max_size=2),
    head=st.booleans(),
)
def test_any_length_is_sent_by_the_rules(
    status: int, body: Body, declared: list[str], head: bool
) -> None:
    """What is sent is what it is; else what is declared counts, if that is one number."""
    fields = [("a", "1"), *(("Content-Length", each) for each in declared), ("b", "2")]
    meant = int(declared[0]) if len(declared) == 1 and declared[0].isdigit() else None
    is_sent = isinstance(body, bytes) and not (head and body == b"" and meant is not None)
    length = len(body) if is_sent and isinstance(body, bytes) else meant
    length = None if status in (204, 304) else length
    last = () if length is None else (("content-length", str(length)),)

    made = prepare_response(Response(status=status, headers=fields, body=body), head=head)

    assert (("a", "1"), ("b", "2"), *last) == made.fields
    assert (length, head or status in (204, 304)) == (made.length, made.omit_body)


def test_fields_stay_apart_in_order() -> None:
    """Repeated fields are as the response has them."""
    fields = (("Set-Cookie", "b"), ("X-Own", "1"), ("set-cookie", "a"))

    assert (*fields, ("content-length", "0")) == prepare_response(
        Response(headers=fields), head=False
    ).fields


@pytest.mark.parametrize("name", ["Connection", "TE", "Transfer-Encoding", "Upgrade", "Trailer"])
def test_fields_of_the_server(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is the server's business is dropped, and that is said."""
    assert (("content-length", "0"),) == prepare_response(
        Response(headers={name: "x"}), head=False
    ).fields
    assert [f"the response header {name!r} was dropped: only the server may set it"] == (
        caplog.messages
    )


@pytest.mark.parametrize(
    ("status", "head", "silent"),
    [(200, False, False), (200, True, True), (204, False, True), (304, False, True)],
)
def test_silence(status: int, head: bool, silent: bool) -> None:
    """No body is sent to HEAD, nor where the status has none."""
    assert silent == prepare_response(Response(status=status), head=head).omit_body


@pytest.mark.parametrize("declared", ["five", "-1", "1, 1", ""])
def test_a_declared_length_that_is_none(declared: str, caplog: pytest.LogCaptureFixture) -> None:
    """A stream is sent without it."""
    response = Response(headers={"content-length": declared}, body=[b"a"])

    assert (None, ()) == (
        prepare_response(response, head=False).length,
        prepare_response(response, head=False).fields,
    )
    assert "" == declared or "it is not one number" in caplog.text


@pytest.mark.parametrize("chunk", [b"a", bytearray(b"a"), memoryview(b"a")])
def test_chunks_become_bytes(chunk: bytes) -> None:
    """Servers take nothing else."""
    assert (b"a", bytes) == (check_chunk(chunk), type(check_chunk(chunk)))


def test_text_is_no_chunk() -> None:
    """Nobody said how to encode it."""
    with pytest.raises(TypeError, match="must be bytes, not str"):
        check_chunk("a")
