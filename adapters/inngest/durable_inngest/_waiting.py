"""Clients at the wait URL: the server is asked for the output of their run."""

from __future__ import annotations

import asyncio
import json

from durable_core.errors import EngineUnavailableError
from durable_core.flow.handoff import PRIVATE_HEADERS, with_headers
from durable_core.flow.serve import unavailable
from durable_core.flow.wait import WaitRequest, not_yet, refuse_incomplete, refuse_token, too_many
from durable_core.model.response import Response
from durable_core.runtime.logs import run_logger
from durable_core.wire.problem import problem
from durable_core.wire.ulid import is_ulid
from durable_inngest._calls import Answered
from durable_inngest._client import ServerClient
from durable_inngest._envelope import FAILED, MARK, load_response
from durable_inngest._results import Ended, Results

__all__ = ["answer_of", "first_of", "refused", "wait_for_output"]

_NOT_OPENED = "the token does not open this run, or has expired"


async def wait_for_output(client: ServerClient, results: Results, wanted: WaitRequest) -> Response:
    """Answer with the run's own response, or with where to ask again.

    The token is the server's, and it alone decides whether it opens the run.
    """
    answer = refused(wanted)
    if answer is not None:
        return answer
    local = results.get(wanted.run_id, wanted.token)
    if local is not None:
        return local.response
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(ended.set)
        except RuntimeError:
            pass  # the loop is closed, and the client with it

    if not results.waiters.add(wanted.run_id, wake):
        return too_many()
    try:
        seconds = max(wanted.hold_ms / 1000, 0.01)
        said = await first_of(client, results, wanted, ended, seconds)
    except EngineUnavailableError as error:
        run_logger(wanted.run_id, "").error("a client that waits got no answer: %s", error)
        return unavailable(error)
    finally:
        results.waiters.remove(wanted.run_id, wake)
    if said is None:
        return not_yet(wanted, wanted.token)
    return said.response if isinstance(said, Ended) else said


def refused(wanted: WaitRequest) -> Response | None:
    """Return the answer to who asks for what cannot be a run; the server is not asked."""
    missing = refuse_incomplete(wanted)
    if missing is not None or is_ulid(wanted.run_id):
        return missing
    return refuse_token(_NOT_OPENED)


async def first_of(
    client: ServerClient,
    results: Results,
    wanted: WaitRequest,
    ended: asyncio.Event,
    seconds: float,
) -> Ended | Response | None:
    """Wait for what comes first: the server's output, the end of the run here, or the time.

    Returns:
        How the run has ended; an answer to a client that may not know; None if it goes on.

    Raises:
        EngineUnavailableError: the server does not answer.
    """
    asking = asyncio.ensure_future(client.output(wanted.run_id, wanted.token, seconds))
    ending = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait((asking, ending), return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            return results.get(wanted.run_id, wanted.token)
        answered = asking.result()
    finally:
        for task in (asking, ending):
            task.cancel()
        await asyncio.wait((asking, ending))
    return None if answered is None else answer_of(answered, wanted.run_id)


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
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if isinstance(said, dict):
        if said.get("status") in ("running", "unknown") and "message" in said:
            return None
        kept = _kept(said.get("data"))
        if kept is not None:
            return Ended(kept, failed=True)
        name, message = said.get("name"), said.get("message")
        if isinstance(name, str) and isinstance(message, str):
            return _failed(run_id, name, message)
    # A result that no handler of ours has given, such as that of a run completed while attached.
    return Ended(Response(headers=(("content-type", "application/json"),), body=body))


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
    failure = problem(
        500,
        "run-failed",
        detail=f"{name}: {message}",
        error={"name": name, "message": message},
        run_id=run_id,
    )
    return Ended(failure, failed=True)
