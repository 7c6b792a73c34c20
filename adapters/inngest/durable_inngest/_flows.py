"""What happens to a run under this engine: its handler and its events."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from durable_core import Event, Response
from durable_core.engines.remote import (
    Call,
    Cancelled,
    Fail,
    FailedOp,
    Failure,
    Flow,
    HandoffReason,
    Op,
    Outcome,
    ReportedStep,
    Unwound,
    answer_client,
    asks,
    call_handler,
    failure_response,
    handoff_response,
    log_warning,
    perform,
    recall,
    report_ops,
    response_or_failure,
    send_handoff,
    send_response,
    store_unavailable_response,
    too_large,
)
from durable_core.errors import EngineUnavailableError, StoreError, Suspended
from durable_inngest import _protocol as _ops
from durable_inngest._api import MOST_BYTES
from durable_inngest._envelope import dump_response, plain_response
from durable_inngest._execution import (
    InngestExecution,
    Reporter,
    internal_error,
    retry_headers,
    server_answer,
)
from durable_inngest._protocol import dump_event, format_duration, send_finished

__all__ = [
    "detach",
    "dump_events",
    "execute",
    "seed_of",
    "sending",
    "suspend",
]


# --- concluding -----------------------------------------------------------------------------------
#
# What the handler comes to: a response, a failure for good, or another attempt.


def _conclude(ex: InngestExecution, outcome: Outcome) -> Flow[None]:
    """Tell the server and the client what the handler has come to."""
    response, failure, error = yield from response_or_failure(ex, outcome)
    if response is not None and ex.reporter is None and not _is_kept(response):
        whose = "with its headers, as the Inngest server keeps it"
        response, failure = None, too_large(MOST_BYTES, whose)
    if response is not None:
        yield from _finish(ex, response)
        return
    assert failure is not None
    failures = ex.counted("") + (ex.reentry.generation if ex.reentry and ex.target else 1)
    shown = _ops.error_of(failure, error)
    final = not failure.retriable or failures > ex.run.retries or (ex.is_full and not ex.target)
    then = "failed" if final else "is to be tried again"
    text = f"the handler failed ({failure.name}: {failure.message}); the run {then}"
    yield from log_warning(text, error)
    if final:
        yield from _fail(ex, failure, shown)
        return
    delay = max(1, ex.delay_of(failure, failures))
    if ex.target:
        # The server waits for the outcome of this step, and for nothing else.
        headers = retry_headers(delay, final=False)
        yield from ex.answer_with(server_answer(500, json.dumps(shown), headers))
        return
    duration = format_duration(delay)
    op = _ops.handler_retry(failures, shown, duration, races=ex.order.is_parallel)
    if ex.reporter is None:
        yield from ex.answer_ops([op])
        return
    yield from report_ops(ex, *ex.order_ops(), op)
    yield from _refer(ex, ex.reporter)


def _is_kept(response: Response) -> bool:
    """Tell whether the server can keep a response; as JSON a body has up to 6 times its size."""
    assert isinstance(response.body, bytes)
    if len(response.body) < MOST_BYTES // 8:
        return True
    return len(_ops.run_complete(dump_response(response)).encode("utf-8")) <= MOST_BYTES


def _finish(ex: InngestExecution, response: Response) -> Flow[None]:
    """Record the response as the run's, then send it."""
    if ex.reporter is None:
        _end(ex, response, failed=False)
        yield from ex.answer_with(server_answer(206, _ops.run_complete(dump_response(response))))
        return
    yield from report_ops(ex, _shown(response, ex.reporter.room))
    yield from answer_client(ex, response)


def _shown(response: Response, room: int) -> str:
    """Return the op that shows a response that its client gets from us; too large, without body."""
    data = plain_response(response)
    op = _ops.run_complete(data)
    return op if len(op.encode("utf-8")) <= room else _ops.run_complete({**data, "body": ""})


def _fail(ex: InngestExecution, failure: Failure, shown: dict[str, object]) -> Flow[None]:
    """Record that the run has failed for good, as a response of its own."""
    fail = Fail("run-failed", failure.name, failure.message, failure.reason, None, failure.public)
    response = failure_response(fail, debug=ex.env.debug, run_id=ex.run.id)
    if ex.reporter is not None:
        yield from report_ops(ex, _ops.run_complete(plain_response(response)))
        yield from answer_client(ex, response, failed=True)
        return
    _end(ex, response, failed=True)
    # The server shows the error, and hands out what it finds as ``data`` for the response.
    body = json.dumps({**shown, "data": dump_response(response, failed=True)})
    yield from ex.answer_with(server_answer(400, body, (("x-inngest-no-retry", "true"),)))


def _end(ex: InngestExecution, response: Response, *, failed: bool) -> None:
    """Tell those who wait for a handed-off run how it has ended."""
    ex.results.ended(ex.run.id, response, failed=failed)
    if ex.open_stream() is not None and ex.emitter is not None:
        ex.emitter.respond(response, failed=failed)


def _refer(ex: InngestExecution, reporter: Reporter) -> Flow[None]:
    """Send the client where its result will be.

    A run without a token would end unseen by its client, who is going to ask again: it ends here.
    """
    token = reporter.token
    if not token:
        error = EngineUnavailableError("the Inngest server gave no token for the run's output")
        response = store_unavailable_response(error)
        yield from log_warning(f"the run is ended: {error}")
        yield from report_ops(ex, _ops.run_complete(plain_response(response)))
        yield from answer_client(ex, response, failed=True)
        return
    ex.results.handed_off(ex.run.id, token, followed=ex.followed)
    if ex.followed:
        reporter.end_stream()
        return  # the stream ends here, and has said where it goes on
    if ex.output_url is not None and ex.options.async_redirect_url is None:
        url = ex.output_url(ex.run.id, token)
        yield from send_response(
            handoff_response(ex.options, ex.request.method, ex.run.id, token, url)
        )
    else:
        yield from send_handoff(ex, token)


# --- handler --------------------------------------------------------------------------------------

_MOST_NAMED = 25


def execute(ex: InngestExecution) -> Flow[None]:
    """Run the handler, and tell the server and the client what has come of it."""
    try:
        outcome = yield from call_handler()
        if ex.answered:
            return
        if ex.closed or isinstance(outcome, (Unwound, Cancelled)):
            yield from suspend(ex)
        else:
            yield from _conclude(ex, outcome)
    except Suspended:
        yield from _refuse(ex)
    finally:
        ex.close()
        if ex.emitter is not None:
            ex.emitter.end()


def suspend(ex: InngestExecution) -> Flow[None]:
    """The handler was unwound: tell the server what to go on from."""
    if ex.answered:
        return
    if ex.fault is not None:
        yield from _refuse(ex)
        return
    try:
        if ex.reporter is not None:
            yield from _hand_over(ex)
        else:
            yield from _report_found(ex)
    except Suspended:
        yield from _refuse(ex)


def detach(ex: InngestExecution, reason: HandoffReason) -> Flow[None]:
    """Do nothing: a run whose client is gone is reported to its end, as if it were there."""
    return
    yield  # a flow, as those of other engines are


# -- while the client is attached --------------------------------------------------------------


def _hand_over(ex: InngestExecution) -> Flow[None]:
    """Report what was found, so that the server goes on, and send the client where to wait."""
    assert ex.reporter is not None
    yield from report_ops(ex, *_to_hand_over(ex))
    yield from _refer(ex, ex.reporter)


def _to_hand_over(ex: InngestExecution) -> list[str]:
    """Return the ops that take the run to the server; the last one makes it call again.

    The server keeps count of steps that go on side by side only where they are reported in the
    answer to a call of its own: several are kept back for that.
    """
    found, now = ex.in_order(), ex.env.clock.now()
    failed = [each for each in found if isinstance(each, FailedOp)]
    again = [each for each in failed if not each.final]
    if len(found) == 1 and not found[0].needs_reentry:
        if not again:
            return [*ex.order_ops(), *ex.dumps(found)]
        if not ex.order.is_apart(again[0].step.op.id):
            return [*ex.order_ops(), _retried(ex, again[0])]
    kept = [
        _ops.counted_failure(
            each.step, each.failures, each.error, final=each.final, until=now + each.delay
        )
        for each in failed
    ]
    return [*ex.order_ops(), *kept, _ops.discovery(now)]


def _retried(ex: InngestExecution, failed: FailedOp) -> str:
    """Return the op of a step that is to be tried again; the server knows no delay here."""
    if not failed.asked:
        return ex.dumps([failed])[0]
    duration = format_duration(max(failed.delay, 1))
    step = replace(failed.step, races=ex.order.is_parallel)
    return _ops.retry_sleep(step, failed.failures, failed.error, duration)


# -- on a re-entry -----------------------------------------------------------------------------


def _report_found(ex: InngestExecution) -> Flow[None]:
    assert ex.reentry is not None
    if ex.target in ex.found:
        yield from ex.answer_found()
    elif ex.target and ex.due_at_once:
        yield from ex.answer_with(internal_error(RuntimeError("the process is stopping")))
    elif ex.target and ex.reentry.generation > ex.run.retries:
        text = "the handler does not ask any more for a step that it has asked for before"
        failure = Failure(name="StepNotFound", message=text, retriable=False)
        yield from log_warning(f"{text}; the run failed")
        yield from _fail(ex, failure, _ops.error_of(failure, None))
    elif ex.target:
        yield from ex.answer_with(_not_found(ex, ex.target))
    elif ex.order.unknown:
        yield from ex.answer_ops(ex.order_ops())
    elif ex.found:
        yield from ex.answer_found()
    else:
        yield from ex.answer_ops([_ops.discovery(ex.env.clock.now())])


def _not_found(ex: InngestExecution, target: str) -> Response:
    """Return the answer where the handler asks for other steps than the one to be run."""
    new = [op for op in ex.pending.values() if op.id not in ex.actions]
    fields = {
        "error": "the handler does not ask for the requested step",
        "requestedStep": target,
        "foundSteps": [
            {"id": op.id, "name": op.name, "displayName": op.name} for op in new[:_MOST_NAMED]
        ],
        "totalFoundSteps": len(new),
    }
    return server_answer(500, json.dumps(fields), retry_headers(0, final=False))


def _refuse(ex: InngestExecution) -> Flow[None]:
    """Nothing of this execution counts: tell whoever waits for the answer."""
    if isinstance(ex.fault, StoreError) and ex.reporter is not None:
        yield from log_warning(f"the run could not be recorded, it is lost: {ex.fault}")
        yield from answer_client(ex, store_unavailable_response(ex.fault), failed=True)


# --- events ---------------------------------------------------------------------------------------
#
# ``step.send_event`` under this engine, and events that are sent from anywhere.

#: Sends events, given as the server takes them, with a seed for their ids.
_Sender = Callable[[Sequence[object], str], Awaitable[list[str]]]


def dump_events(events: Sequence[Event], now: int) -> list[object]:
    """Return events as the server takes them."""
    return [dump_event(event, now) for event in events]


def seed_of(at: int, entropy: bytes) -> str:
    """Return the seed from which the server makes the ids of the events of one call.

    Args:
        at: epoch milliseconds.
        entropy: 10 bytes; the same ones make the same ids.
    """
    return f"{at},{b64encode(entropy).decode('ascii')}"


def sending(send: _Sender) -> Callable[[InngestExecution, Op, tuple[Event, ...]], Flow[list[str]]]:
    """Return the flow of ``step.send_event``.

    The events have ids made from run and step, so that a crash cannot send them twice.

    Args:
        send: sends the events.
    """

    async def send_all(ex: InngestExecution, op: Op, events: tuple[Event, ...]) -> object:
        # The time is that of the run: the ids are the same in every attempt.
        at = ex.run.created_at
        named = [
            event
            if event.id is not None
            else Event(event.name, event.data, f"{ex.run.id}:{op.id}:{index}", event.ts)
            for index, event in enumerate(events)
        ]
        entropy = hashlib.sha256(f"{ex.run.id}:{op.id}".encode()).digest()[:10]
        return {"ids": await send(dump_events(named, at), seed_of(at, entropy))}

    @asks
    def send_events(ex: InngestExecution, op: Op, events: tuple[Event, ...]) -> Flow[list[str]]:
        known = yield from recall(ex, op)
        if known is not None:
            value = known.value
        else:
            call = Call(send_all, (ex, op, events))
            value = yield from perform(ex, op, call, _finished, is_users=False)
        ids = value.get("ids") if isinstance(value, dict) else None
        return [str(each) for each in ids] if isinstance(ids, list) else []

    return send_events


def _finished(step: ReportedStep, value: str) -> str:
    return send_finished(step, json.loads(value)["ids"])
