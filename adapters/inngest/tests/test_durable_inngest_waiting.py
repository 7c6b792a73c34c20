"""What the server's answer to a question for a run's output means to the client that waits."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core import Response
from durable_core.engine.remote.waiting import Ended
from durable_core.engines.remote import Answered
from durable_core.errors import EngineUnavailableError
from durable_inngest._envelope import MARK, dump_response
from durable_inngest._waiting import answer_of

JSON_TYPE = {"content-type": "application/json"}
STACK = "Traceback: in the secret place"
ERROR = {"name": "TypeError", "message": "no tea", "stack": STACK, "__serialized": True}


def answered(body: object, status: int = 200) -> Answered:
    """Return an answer of the server itself, as JSON."""
    return Answered(status, JSON_TYPE, json.dumps(body).encode())


def ended(answer: Answered) -> Ended:
    said = answer_of(answer, "01RUN")
    assert isinstance(said, Ended)
    return said


def document(said: Ended) -> Any:
    assert isinstance(said.response.body, bytes)
    return json.loads(said.response.body)


@pytest.mark.parametrize(
    "body",
    [
        {"status": "running", "message": "run did not end within 5 minutes"},
        {"status": "unknown", "message": "no reader"},
    ],
)
def test_a_run_that_goes_on(body: dict[str, str]) -> None:
    """The server lets go of who waits after five minutes, with status 200."""
    assert answer_of(answered(body), "01RUN") is None


def test_a_run_that_was_cancelled() -> None:
    """Its output is empty: the client is told that it is gone, and nobody keeps that."""
    said = ended(Answered(200, JSON_TYPE, b""))

    assert (410, True) == (said.response.status, said.failed)
    assert "urn:durable:run-cancelled" == document(said)["type"]
    assert "no-store" == said.response.headers["cache-control"]


@pytest.mark.parametrize("data", [None, "text", {"status": "200"}, {"status": 200, "headers": []}])
def test_a_run_that_failed(data: object) -> None:
    """The server says 200 and shows the error; the client gets a problem without its stack."""
    said = ended(answered({**ERROR, "data": data}))

    assert (500, True) == (said.response.status, said.failed)
    assert "application/problem+json" == said.response.headers["content-type"]
    assert ("urn:durable:run-failed", "01RUN") == tuple(
        document(said)[name] for name in ("type", "run_id")
    )
    assert isinstance(said.response.body, bytes)
    assert STACK.encode() not in said.response.body
    assert b"no tea" not in said.response.body


def test_a_run_that_failed_with_a_response_of_ours() -> None:
    """Where the server shows the whole error, its response is found in it."""
    response = Response(status=500, headers={"x-own": "yes"}, body=b"\xff\x00")
    said = ended(answered({**ERROR, "data": dump_response(response, failed=True)}))

    assert (500, "yes", b"\xff\x00", True) == (
        said.response.status,
        said.response.headers["x-own"],
        said.response.body,
        said.failed,
    )


def test_a_damaged_response_in_an_error() -> None:
    """The error alone counts then."""
    kind = "application/vnd.durable.response+json"
    data = {"status": 500, "headers": {MARK: "failed", "content-type": kind}, "body": "{"}
    said = ended(answered({**ERROR, "data": data}))

    assert (500, "urn:durable:run-failed") == (said.response.status, document(said)["type"])


def test_a_damaged_response() -> None:
    """It is a failure of the run, not one of the server's."""
    headers = {MARK: "1", "content-type": "application/vnd.durable.response+json"}
    said = ended(Answered(200, headers, b"{"))

    assert (500, True) == (said.response.status, said.failed)


def test_a_run_that_the_server_fails_before_a_call() -> None:
    """Its error is encoded twice, as that of a run that has too many steps."""
    error = {"name": "InngestErrFunctionOverflowed", "message": "1000 steps", "error": "too many"}
    said = ended(answered(json.dumps({"error": error})))

    assert (500, True) == (said.response.status, said.failed)
    assert "urn:durable:run-failed" == document(said)["type"]


@pytest.mark.parametrize(
    "text", ['{"error": {"name": "E", "message": "m"}}', '{"error": 7}', "[]", "no json"]
)
def test_a_text_that_is_no_error_of_the_server(text: str) -> None:
    """It is a result, whatever it says."""
    said = ended(answered(text))

    assert (200, text, False) == (said.response.status, document(said), said.failed)


@pytest.mark.parametrize("body", [b"[1, 2]", b'"text"', b"null", b'{"name": 7}', b"no json"])
def test_a_result_that_is_not_ours(body: bytes) -> None:
    """It is passed on as it is."""
    said = ended(Answered(200, JSON_TYPE, body))

    assert (200, body, False) == (said.response.status, said.response.body, said.failed)


def test_a_token_that_opens_nothing() -> None:
    """That is for the client to know, and no end of the run; a handler may say 401, too."""
    said = answer_of(answered({"error": "Unable to find run", "status": 401}, 401), "01RUN")
    assert isinstance(said, Response)
    assert 403 == said.status

    own = Answered(401, {MARK: "1", "www-authenticate": "Basic"}, b"who?")
    assert (401, b"who?") == (ended(own).response.status, ended(own).response.body)


@pytest.mark.parametrize("status", [204, 301, 404, 429, 500, 502])
def test_a_server_that_does_not_say(status: int) -> None:
    """What is not marked as a response of ours is none."""
    with pytest.raises(EngineUnavailableError, match=str(status)):
        answer_of(Answered(status, {}, b"what?"), "01RUN")


@given(st.integers(200, 599), st.binary(max_size=60))
def test_any_answer_has_a_meaning(status: int, body: bytes) -> None:
    """Or is refused as none; no text of the server's is an error of ours."""
    for headers in ({}, JSON_TYPE, {MARK: "1"}, {MARK: "failed", **JSON_TYPE}):
        try:
            answer_of(Answered(status, headers, body), "01RUN")
        except EngineUnavailableError:
            assert MARK not in headers
