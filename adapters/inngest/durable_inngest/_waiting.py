"""Clients at the wait URL: what the server's answers say of the end of a run."""

from __future__ import annotations

import asyncio
import json

from durable_core import Response
from durable_core.engines.remote import (
    PRIVATE_HEADERS,
    Answered,
    Ended,
    Fail,
    WaitRequest,
    failure_response,
    is_ulid,
    problem,
    refuse_incomplete,
    refuse_token,
    with_headers,
)
from durable_core.errors import EngineUnavailableError
from durable_inngest._client import ServerClient
from durable_inngest._envelope import FAILED, MARK, load_response

__all__ = ["answer_of", "ask_for_output", "refused"]

#: Seconds after which an output that is empty is asked for again; then the run was cancelled.
_UNTIL_CANCELLED = (0.1, 0.2, 0.4, 0.8, 1.6)

_NOT_OPENED = "the token does not open this run, or has expired"


def refused(wanted: WaitRequest) -> Response | None:
    """Return the answer to who asks for what cannot be a run; the server is not asked."""
    missing = refuse_incomplete(wanted)
    if missing is not None or is_ulid(wanted.run_id):
        return missing
    return refuse_token(_NOT_OPENED)


async def ask_for_output(
    client: ServerClient, run_id: str, token: str, seconds: float
) -> Ended | Response | None:
    """Ask the server how a run has ended; see ``AskServer``.

    The answer has no body where a run was cancelled, and for a moment after a run has ended.
    """
    for pause in (*_UNTIL_CANCELLED, 0.0):
        answered = await client.output(run_id, token, seconds)
        if answered is None or answered.status != 200 or answered.body or MARK in answered.headers:
            break
        await asyncio.sleep(pause)
    return None if answered is None else answer_of(answered, run_id)


def answer_of(answered: Answered, run_id: str) -> Ended | Response | None:
    """Return what an answer of the server says of a run; None if it goes on.

    A response alone is for a client that may not know.

    Args:
        answered: the server's answer.
        run_id: the run.

    Raises:
        EngineUnavailableError: it does not say.
    """
    if answered.status == 401 and MARK not in answered.headers:
        return refuse_token(_NOT_OPENED)
    try:
        response = load_response(answered.status, answered.headers, answered.body)
    except ValueError as error:
        return _failed(run_id, "Error", str(error))
    if response is not None:
        return Ended(response, failed=answered.headers.get(MARK) == FAILED)
    if answered.status != 200:
        raise EngineUnavailableError(f"the Inngest server answers {answered.status}")
    return _told(answered.body, run_id)


def _told(body: bytes, run_id: str) -> Ended | None:
    """Read what the server itself says of a run."""
    if not body:
        gone = problem(410, "run-cancelled", detail="the run was cancelled", run_id=run_id)
        return Ended(with_headers(gone, PRIVATE_HEADERS), failed=True)
    said = _decoded(body)
    if isinstance(said, str):
        said = _error_of_server(said) or said
    if isinstance(said, dict):
        if said.get("status") in ("running", "unknown") and "message" in said:
            return None
        kept = _kept(said.get("data"))
        if kept is not None:
            return Ended(kept, failed=True)
        # An error of ours, or one of the server itself: a run whose state is too large, say.
        for error in (said, said.get("error")):
            name, message = _error_in(error)
            if name and message:
                return _failed(run_id, name, message)
    # A result that no handler of ours has given, such as that of a run completed while attached.
    return Ended(Response(headers=(("content-type", "application/json"),), body=body))


def _decoded(text: str | bytes) -> object:
    """Return what a text is in JSON; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _error_of_server(text: str) -> dict[str, object] | None:
    """Return the error in a text that is one, encoded; None if it is none.

    The server encodes its error twice where it fails a run before a call, such as one that has too
    many steps. A handler's own text is no such error: it has no name of the server's.
    """
    said = _decoded(text)
    error = said.get("error") if isinstance(said, dict) else None
    name, _ = _error_in(error)
    return error if name.startswith("InngestErr") else None


def _error_in(document: object) -> tuple[str, str]:
    """Return the name and the message of an error as the server shows it; "" if it is none."""
    fields = document if isinstance(document, dict) else {}
    name, message = fields.get("name"), fields.get("message")
    return (name, message) if isinstance(name, str) and isinstance(message, str) else ("", "")


def _kept(data: object) -> Response | None:
    """Return the response of a failed run, where the server hands its error out as it is."""
    if not isinstance(data, dict):
        return None
    status, headers, body = data.get("status"), data.get("headers"), data.get("body")
    if type(status) is not int or not isinstance(headers, dict) or not isinstance(body, str):
        return None
    try:
        fields = {str(name).lower(): str(value) for name, value in headers.items()}
        return load_response(status, fields, body.encode("utf-8"))
    except ValueError:
        return None


def _failed(run_id: str, name: str, message: str) -> Ended:
    """Return what clients get of a failure that the server alone knows; its text is not theirs."""
    fail = Fail("run-failed", name, message)
    return Ended(failure_response(fail, debug=False, run_id=run_id), failed=True)
