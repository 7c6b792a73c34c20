"""From Response to start_response and an iterable."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core import Response
from durable_core.runners.event_loops import LoopThread
from durable_wsgi._response import Answer, to_answer

T = TypeVar("T")
CHUNKS = (b"a", b"", b"b")


class Body:
    """An iterable that knows whether it was closed, and how often."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = iter(chunks)
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        self.closed += 1


class AsyncBody(Body):
    """The same for async handlers."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


def close(answer: Answer) -> None:
    """Do what a server does at the end."""
    ending: Callable[[], None] | None = getattr(answer.body, "close", None)
    if ending is not None:
        ending()


def named(answer: Answer, name: str) -> list[str]:
    return [value for known, value in answer.headers if known.lower() == name]


@pytest.mark.parametrize(
    ("status", "line"), [(200, "200 OK"), (404, "404 Not Found"), (299, "299 Unknown")]
)
def test_status_line(status: int, line: str) -> None:
    """The status has its reason phrase; PEP 3333 wants one for every status."""
    assert line == to_answer(Response(status=status)).status


@given(body=st.binary(), head=st.booleans())
def test_whole_body(body: bytes, head: bool) -> None:
    """A whole body is sent with its length; to HEAD only the length is."""
    answer = to_answer(Response(body=body, headers={"Content-Length": "77777"}), head=head)

    if head and not body:
        assert ["77777"] == named(answer, "content-length")
    else:
        assert [str(len(body))] == named(answer, "content-length")
    assert (b"" if head else body) == b"".join(answer.body)


@given(
    fields=st.lists(
        st.tuples(
            st.sampled_from(["x-a", "X-B", "Set-Cookie"]),
            st.text(st.characters(codec="latin-1", exclude_categories=["Cc"])),
        )
    )
)
def test_fields_are_the_responses_own(fields: list[tuple[str, str]]) -> None:
    """Names, values, order and repetition of header fields stay as they are."""
    response = Response(headers=fields)

    assert list(response.headers.raw) == to_answer(response).headers[: len(fields)]


@pytest.mark.parametrize(
    ("body", "expected"), [(b"", "text/plain"), (b"x", "application/octet-stream")]
)
def test_type_that_is_missing(body: bytes, expected: str) -> None:
    """WSGI wants a content type of every response; a given one stays."""
    assert [expected] == named(to_answer(Response(body=body)), "content-type")
    given_one = Response(body=body, headers={"Content-Type": "x/y"})
    assert ["x/y"] == named(to_answer(given_one), "content-type")


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_content(status: int) -> None:
    """They have no body, no length and no type, whatever the handler gives; a stream is closed."""
    headers = {"content-type": "x/y", "content-length": "1", "etag": "1"}
    body = Body(b"x")

    for response in (
        Response(status=status, headers=headers, body=b"x"),
        Response(status=status, headers=headers, body=body),
    ):
        answer = to_answer(response)
        assert ([("etag", "1")], []) == (answer.headers, list(answer.body))
    assert 1 == body.closed


@pytest.mark.parametrize(
    "name",
    ["Connection", "keep-alive", "Transfer-Encoding", "TE", "trailers", "upgrade", "status"],
)
def test_fields_of_the_server_are_dropped(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A handler cannot set what is the server's business; a warning says so."""
    with caplog.at_level(logging.WARNING, "durable.wsgi"):
        answer = to_answer(Response(headers={name: "x", "x-own": "y"}))

    assert ["x-own", "content-length", "content-type"] == [name for name, _ in answer.headers]
    expected = f"the response header {name!r} was dropped: only the server may set it"
    assert [expected] == caplog.messages


def test_tab_becomes_a_space() -> None:
    """WSGI allows no control character in a field value, not even the one that HTTP does."""
    assert ["a b"] == named(to_answer(Response(headers={"x-own": "a\tb"})), "x-own")


def test_stream() -> None:
    """A streamed body is passed on chunk by chunk, without a length, and closed once."""
    body = Body(*CHUNKS)
    answer = to_answer(Response(body=body))

    assert ([], CHUNKS, 0) == (named(answer, "content-length"), tuple(answer.body), body.closed)
    close(answer)
    close(answer)
    assert 1 == body.closed


def test_stream_without_close() -> None:
    """An iterable that cannot be closed need not be."""
    answer = to_answer(Response(body=CHUNKS))

    assert CHUNKS == tuple(answer.body)
    close(answer)


@pytest.mark.parametrize("make", [Body, AsyncBody])
def test_stream_to_head(make: type[Body]) -> None:
    """To HEAD a stream is not sent but closed; its length stays if the handler knows it."""
    body = make(*CHUNKS)
    answer = to_answer(Response(body=body, headers={"content-length": "2"}), head=True)

    assert ([], ["2"], 1) == (list(answer.body), named(answer, "content-length"), body.closed)


@pytest.mark.parametrize("own_loop", [True, False])
def test_async_stream(own_loop: bool) -> None:
    """An async body is iterated and closed on the given loop, else on one of its own."""
    ran: list[str] = []
    loop = None if own_loop else LoopThread()

    def run(coroutine: Coroutine[Any, Any, T]) -> T:
        ran.append(str(getattr(coroutine, "__name__", coroutine)))
        assert loop is not None
        return loop.run(coroutine)

    body = AsyncBody(*CHUNKS)
    answer = to_answer(Response(body=body), run=run if loop is not None else None)

    assert CHUNKS == tuple(answer.body)
    close(answer)
    assert 1 == body.closed
    assert ran == ([] if own_loop else ["_next"] * 4 + ["_close"])
    if loop is not None:
        loop.stop()


def test_async_generator_is_closed_where_it_stands() -> None:
    """Closing runs the generator's own clean-up, when the client has gone before its end."""
    cleaned = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            cleaned.append(True)

    answer = to_answer(Response(body=chunks()))

    assert b"a" == next(iter(answer.body))
    close(answer)
    assert [True] == cleaned


@pytest.mark.parametrize("chunk", [bytearray(b"x"), memoryview(b"x")])
def test_chunks_become_bytes(chunk: Any) -> None:
    """Servers take bytes only; what is as good is converted."""
    assert [b"x"] == list(to_answer(Response(body=[chunk])).body)


def test_chunk_of_another_type() -> None:
    """Anything else is an error that says what is allowed."""
    chunks: Any = ["text"]

    with pytest.raises(TypeError, match="a chunk of a response body must be bytes, not str"):
        list(to_answer(Response(body=chunks)).body)


def test_send() -> None:
    """An answer is given by start_response and an iterable."""
    said: list[object] = []

    def start_response(*arguments: object) -> Callable[[bytes], object]:
        said.extend(arguments)
        return lambda data: None

    body = to_answer(Response.text("hi")).send(start_response)

    headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", "2")]
    assert (["200 OK", headers], [b"hi"]) == (said, body)
