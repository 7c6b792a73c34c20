"""Problem documents."""

from __future__ import annotations

import json

import pytest

from durable_core.errors import BadRequest, HTTPError
from durable_core.http.problem import problem, problem_from_http_error
from durable_core.http.response import Response


def document(response: Response) -> object:
    assert response.headers["content-type"] == "application/problem+json"
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def test_members_of_a_problem() -> None:
    """Type, title, status, detail, and the further members."""
    response = problem(
        410, "result-dropped", "Result dropped", detail="It was too large.", run_id="01R"
    )
    assert response.status == 410
    assert document(response) == {
        "type": "urn:durable:result-dropped",
        "title": "Result dropped",
        "status": 410,
        "detail": "It was too large.",
        "run_id": "01R",
    }


@pytest.mark.parametrize(
    ("status", "title"),
    [
        (404, "Not Found"),
        (503, "Service Unavailable"),
        (418, "Client Error"),
        (599, "Server Error"),
    ],
)
def test_the_title_is_the_reason_phrase(status: int, title: str) -> None:
    """Without a title the reason phrase is used; an empty detail is left out."""
    expected = {"type": "urn:durable:x", "title": title, "status": status}
    assert expected == document(problem(status, "x"))


def test_a_detail_that_utf8_cannot_hold_hides_nothing() -> None:
    """The text of an error may hold anything; the problem is sent all the same."""
    body = document(problem(500, "x", detail="bad \ud800 text"))
    assert isinstance(body, dict)
    assert body["detail"] == "bad ? text"


def test_an_http_error_as_a_problem() -> None:
    """Status, detail and headers of the error are in the response."""
    response = problem_from_http_error(HTTPError(429, "Slow down.", {"Retry-After": "5"}))
    assert response.status == 429
    assert response.headers["retry-after"] == "5"
    assert document(response) == {
        "type": "urn:durable:too-many-requests",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "Slow down.",
    }
    expected = {"type": "urn:durable:bad-request", "title": "Bad Request", "status": 400}
    assert expected == document(problem_from_http_error(BadRequest()))


def test_an_http_error_cannot_change_the_content_type() -> None:
    """The body is a problem document, whatever the headers of the error say."""
    response = problem_from_http_error(HTTPError(400, "", {"Content-Type": "text/html"}))
    assert ("application/problem+json",) == response.headers.get_all("content-type")
