"""What leaves a server for a response."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.adapter.messages import checked_chunk, chunked, prepare_response
from durable_core.http.response import Response


@pytest.mark.parametrize(
    ("response", "head", "expected"),
    [
        (Response(body=b"abc"), False, [("content-length", "3")]),
        (Response(body=b"abc"), True, [("content-length", "3")]),
        (Response(headers={"Content-Length": "9"}, body=b"abc"), False, [("content-length", "3")]),
        (Response(headers={"Content-Length": "9"}), True, [("Content-Length", "9")]),
        (Response(headers={"Content-Length": "9"}, status=304), False, []),
        (Response(status=204), False, []),
        (Response(headers={"Content-Length": "1"}, body=[b"a"]), False, [("Content-Length", "1")]),
        (Response(body=[b"a"]), False, []),
    ],
)
def test_length(response: Response, head: bool, expected: list[tuple[str, str]]) -> None:
    """That of a whole body is what it is; a stream keeps its own; some statuses have none."""
    assert tuple(expected) == prepare_response(response, head=head).fields


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


@given(st.lists(st.binary(max_size=20)))
def test_chunked(chunks: list[bytes]) -> None:
    """Decoded, the body is the same; only its end has no size."""
    data = b"".join(chunked(Response(body=chunks)))
    body, found = b"", -1
    while found:
        size, _, data = data.partition(b"\r\n")
        found = int(size, 16)
        body, data = body + data[:found], data[found:].removeprefix(b"\r\n")

    assert (b"".join(chunks), b"") == (body, data)


class Body:
    """Yields a chunk and fails."""

    closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield b"a"
        raise ValueError("broken")

    def close(self) -> None:
        self.closed = True


def test_a_stream_that_breaks_has_no_end() -> None:
    """Its client cannot take it for whole; it is closed."""
    body = Body()
    pieces = chunked(Response(body=body))

    assert b"1\r\na\r\n" == next(pieces)
    with pytest.raises(ValueError, match="broken"):
        next(pieces)
    assert body.closed


@pytest.mark.parametrize("chunk", [b"a", bytearray(b"a"), memoryview(b"a")])
def test_chunks_become_bytes(chunk: bytes) -> None:
    """Servers take nothing else."""
    assert (b"a", bytes) == (checked_chunk(chunk), type(checked_chunk(chunk)))


def test_text_is_no_chunk() -> None:
    """Nobody said how to encode it."""
    with pytest.raises(TypeError, match="must be bytes, not str"):
        checked_chunk("a")
