"""From Response to start_response and an iterable. What is sent is the kit's business."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core import Response
from durable_core.adapters import pull
from durable_wsgi._exchange import WSGIExchange
from support.recording_app import RecordingApp


class Answer(NamedTuple):
    status: str
    headers: list[tuple[str, str]]
    body: bytes


def answered(response: Response, method: str = "GET") -> Answer:
    """Return what a server is given for a response."""
    environ: dict[str, Any] = {"REQUEST_METHOD": method}
    setup_testing_defaults(environ)
    head: list[Any] = []
    app = RecordingApp(response)
    body = pull(app, WSGIExchange(environ, lambda *given: head.append(given)))  # type: ignore[arg-type]
    whole = b"".join(body)
    body.close()
    app.close()
    [(status, headers)] = head
    return Answer(status, headers, whole)


def named(answer: Answer, name: str) -> list[str]:
    return [value for known, value in answer.headers if known.lower() == name]


@pytest.mark.parametrize(
    ("status", "line"), [(200, "200 OK"), (404, "404 Not Found"), (299, "299 Unknown")]
)
def test_status_line(status: int, line: str) -> None:
    """The status has its reason phrase; PEP 3333 wants one for every status."""
    assert line == answered(Response(status=status)).status


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

    assert list(response.headers.raw) == answered(response).headers[: len(fields)]


@pytest.mark.parametrize(
    ("body", "expected"), [(b"", "text/plain"), (b"x", "application/octet-stream")]
)
def test_type_that_is_missing(body: bytes, expected: str) -> None:
    """WSGI wants a content type of every response; a given one stays."""
    assert [expected] == named(answered(Response(body=body)), "content-type")
    given_one = Response(body=body, headers={"Content-Type": "x/y"})
    assert ["x/y"] == named(answered(given_one), "content-type")


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_content(status: int) -> None:
    """They have no body, no length and no type, whatever the handler gives."""
    headers = {"content-type": "x/y", "content-length": "1", "etag": "1"}
    answer = answered(Response(status=status, headers=headers, body=b"x"))

    assert ([("etag", "1")], b"") == (answer.headers, answer.body)


@pytest.mark.parametrize("name", ["trailers", "Status"])
def test_fields_of_the_server_are_dropped(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A handler cannot set what is the server's business, or CGI's; a warning says so."""
    with caplog.at_level(logging.WARNING, "durable"):
        answer = answered(Response(headers={name: "x", "x-own": "y"}))

    assert ["x-own", "content-length", "content-type"] == [name for name, _ in answer.headers]
    assert name.lower() in caplog.text.lower()


def test_tab_becomes_a_space() -> None:
    """WSGI allows no control character in a field value, not even the one that HTTP does."""
    assert ["a b"] == named(answered(Response(headers={"x-own": "a\tb"})), "x-own")


def test_a_head_that_the_server_refuses() -> None:
    """A second call of start_response, with the reason, takes its place."""
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    heads: list[Any] = []

    def start_response(*given: object) -> Callable[[bytes], object]:
        heads.append(given)
        if len(heads) == 1:
            raise ValueError("no such status")
        return lambda data: None

    body: Iterable[bytes] = pull(RecordingApp(), WSGIExchange(environ, start_response))

    assert b"internal-error" in b"".join(body)
    assert ["200 OK", "500 Internal Server Error"] == [head[0] for head in heads]
    assert ValueError is heads[1][2][0]


def test_a_body_that_breaks() -> None:
    """Its error reaches the server, which then cuts the connection."""

    def broken() -> Iterator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        answered(Response(body=broken()))
