"""What the handler comes to: a response, a failure for good, or another attempt."""

from __future__ import annotations

import json
from dataclasses import replace

from durable_core.errors import EngineUnavailableError
from durable_core.flow.asks import Flow, Outcome, Returned, answer, report
from durable_core.flow.handoff import refer_client, referral
from durable_core.flow.serve import collected, translated, unavailable
from durable_core.machine.failures import failure_of_handler
from durable_core.model.inputs import Failure, HandlerRaised, ResponseTooLarge
from durable_core.model.response import Response
from durable_core.wire.problem import problem
from durable_inngest import _ops
from durable_inngest._answers import answer_ops, answer_with, server_answer
from durable_inngest._calls import MOST_BYTES
from durable_inngest._durations import format_duration
from durable_inngest._envelope import dump_response, plain_response
from durable_inngest._execution import RemoteExecution
from durable_inngest._failing import delay_of
from durable_inngest._link import Link
from durable_inngest._reporting import tell

__all__ = ["answer_client", "conclude", "refer"]


def conclude(ex: RemoteExecution, outcome: Outcome) -> Flow[None]:
    """Tell the server and the client what the handler has come to."""
    response, failure, error = yield from _meant(ex, outcome)
    if failure is None:
        assert response is not None
        yield from _finish(ex, response)
        return
    failures = ex.counted("") + 1
    shown = _ops.error_of(failure, error)
    final = failure.final or failures > ex.run.retries or ex.is_full
    then = "failed" if final else "is to be tried again"
    text = f"the handler failed ({failure.name}: {failure.message}); the run {then}"
    yield from report(text, error)
    if final:
        yield from _fail(ex, failure, shown)
        return
    delay = max(1, delay_of(ex, failure, failures))
    op = _ops.handler_retry(failures, shown, format_duration(delay))
    if ex.link is None:
        yield from answer_ops(ex, [op])
        return
    yield from tell(ex, ex.link, op)
    yield from refer(ex, ex.link)


def _meant(
    ex: RemoteExecution, outcome: Outcome
) -> Flow[tuple[Response | None, Failure | None, Exception | None]]:
    """Return the response that the outcome stands for, or the failure and its error."""
    now = ex.env.clock.now()
    error: Exception | None = None
    if isinstance(outcome, Returned):
        try:
            response: Response | None = Response.from_value(outcome.value)
        except (TypeError, ValueError) as wrong:
            return None, replace(failure_of_handler(wrong, now), final=True), wrong
    else:
        assert isinstance(outcome.error, Exception)
        error = outcome.error
        try:
            response = translated(ex, error)
        except Exception as broken:
            response, error = None, broken
        if response is None:
            return None, failure_of_handler(error, now), error
    assert response is not None
    if response.is_streaming:
        whole = yield from collected(ex, response)
        if isinstance(whole, HandlerRaised):
            return None, whole.failure, None
        if isinstance(whole, ResponseTooLarge):
            return None, _too_large(whole.most, "Limits.response_stored"), None
        response = whole
    if ex.link is None and not _is_kept(response):
        return (
            None,
            _too_large(MOST_BYTES, "with its headers, as the Inngest server keeps it"),
            None,
        )
    return response, None, None


def _is_kept(response: Response) -> bool:
    """Tell whether the server can keep a response; as JSON a body has up to 6 times its size."""
    assert isinstance(response.body, bytes)
    if len(response.body) < MOST_BYTES // 8:
        return True
    return len(_ops.run_complete(dump_response(response)).encode("utf-8")) <= MOST_BYTES


def _too_large(most: int, whose: str) -> Failure:
    text = f"the response has more than {most} bytes ({whose})"
    return Failure(name="ResponseTooLarge", message=text, final=True)


def _finish(ex: RemoteExecution, response: Response) -> Flow[None]:
    """Record the response as the run's, then send it."""
    if ex.link is None:
        _end(ex, response, failed=False)
        yield from answer_with(ex, server_answer(206, _ops.run_complete(dump_response(response))))
        return
    yield from tell(ex, ex.link, _shown(response, ex.link.room))
    yield from answer_client(ex, response)


def _shown(response: Response, room: int) -> str:
    """Return the op that shows a response that its client gets from us; too large, without body."""
    data = plain_response(response)
    op = _ops.run_complete(data)
    return op if len(op.encode("utf-8")) <= room else _ops.run_complete({**data, "body": ""})


def _fail(ex: RemoteExecution, failure: Failure, shown: dict[str, object]) -> Flow[None]:
    """Record that the run has failed for good, as a response of its own."""
    short = {"name": failure.name, "message": failure.message}
    if failure.reason:
        short["reason"] = failure.reason
    detail = f"{failure.name}: {failure.message}"
    response = problem(500, "run-failed", detail=detail, error=short, run_id=ex.run.id)
    if ex.link is not None:
        yield from tell(ex, ex.link, _ops.run_complete(plain_response(response)))
        yield from answer_client(ex, response, failed=True)
        return
    _end(ex, response, failed=True)
    # The server shows the error, and hands out what it finds as ``data`` for the response.
    body = json.dumps({**shown, "data": dump_response(response, failed=True)})
    yield from answer_with(ex, server_answer(400, body, (("x-inngest-no-retry", "true"),)))


def answer_client(ex: RemoteExecution, response: Response, *, failed: bool = False) -> Flow[None]:
    """Give the attached client the run's response, in its stream if it follows that."""
    if ex.followed and ex.emitter is not None:
        ex.emitter.respond(response, failed=failed)
    else:
        yield from answer(response)


def _end(ex: RemoteExecution, response: Response, *, failed: bool) -> None:
    """Tell those who wait for a handed-off run how it has ended."""
    ex.results.ended(ex.run.id, response, failed=failed)
    if ex.open_stream() is not None and ex.emitter is not None:
        ex.emitter.respond(response, failed=failed)


def refer(ex: RemoteExecution, link: Link) -> Flow[None]:
    """Send the client where its result will be.

    A run without a token would end unseen by its client, who is going to ask again: it ends here.
    """
    token = link.token
    if not token:
        error = EngineUnavailableError("the Inngest server gave no token for the run's output")
        response = unavailable(error)
        yield from report(f"the run is ended: {error}")
        yield from tell(ex, link, _ops.run_complete(plain_response(response)))
        yield from answer_client(ex, response, failed=True)
        return
    ex.results.handed_off(ex.run.id, token, followed=ex.followed)
    if ex.followed:
        return  # the stream ends here, and has said where it goes on
    if ex.output_url is not None and ex.options.redirect_url is None:
        url = ex.output_url(ex.run.id, token)
        yield from answer(referral(ex.options, ex.request.method, ex.run.id, token, url))
    else:
        yield from refer_client(ex, token)
