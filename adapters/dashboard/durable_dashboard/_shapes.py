"""What the page is sent of runs, steps and events: JSON with times in epoch milliseconds.

No document grows with the values that users store: those are cut, and asked for one by one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from durable_core import AttemptInfo, Request, Response, RunInfo, StepInfo
from durable_core.errors import BodyNotStoredError
from durable_core.inspection import EndpointInfo, EventInfo, ProcessInfo

__all__ = [
    "body_text",
    "clip",
    "millis",
    "preview",
    "show_endpoint",
    "show_event",
    "show_failure",
    "show_process",
    "show_request",
    "show_response",
    "show_run",
    "show_step",
    "show_values",
    "text_of",
]

#: How much of a text is shown beside others, and how much of a value by itself, characters.
_SHORT, _LONG = 300, 20_000
#: How many events, and of how many woken runs, a list shows.
_MOST_WOKEN = 20


def millis(time: datetime | None) -> int | None:
    """Return a time as the page has it."""
    return None if time is None else round(time.timestamp() * 1000)


def clip(text: str | None, most: int = _SHORT) -> str | None:
    """Return a text of bounded length."""
    return text if text is None or len(text) <= most else f"{text[: most - 1]}…"


def text_of(value: object) -> str:
    """Return a value as JSON; one of another codec, which has no such form, by ``repr``."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, default=repr)
    except Exception:  # such as a key that is a tuple; and its repr() is code of the application
        pass
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}, whose repr() fails>"


def preview(value: object, most: int = _LONG) -> dict[str, object]:
    """Return a value as text, cut to a bounded length."""
    text = text_of(value)
    return {"text": text[:most], "size": len(text), "cut": len(text) > most}


def body_text(body: bytes, most: int = _LONG) -> dict[str, object]:
    """Return a body as text, cut to a bounded length; None as text if it is not UTF-8."""
    shown: dict[str, object] = {"text": None, "size": len(body), "cut": len(body) > 4 * most}
    try:
        # A character has at most four bytes, and the last one may be cut.
        text = body[: 4 * most].decode("utf-8", "strict" if len(body) <= 4 * most else "ignore")
    except UnicodeDecodeError:
        return shown
    if "\0" in text:
        return shown
    return {**shown, "text": text[:most], "cut": bool(shown["cut"]) or len(text) > most}


def show_run(run: RunInfo) -> dict[str, object]:
    """Return a run, without its steps."""
    return {
        "id": run.id,
        "name": clip(run.name),
        "endpoint": clip(run.function_id),
        "status": run.status,
        "key": run.key,
        "labels": run.labels,
        "version": run.version,
        "parked": run.parked,
        "parent": run.parent,
        "trace": run.traceparent,
        "attempts": run.attempts,
        "crashes": run.crashes,
        "started": millis(run.started),
        "ended": millis(run.ended),
        "due": millis(run.due),
        "deadline": millis(run.deadline),
        "error": clip(run.error, 1_000),
        "reason": run.cancel_reason,
        "completion": run.completion,
        "completionRun": run.completion_run,
    }


def show_step(step: StepInfo, failures: Sequence[AttemptInfo]) -> dict[str, object]:
    """Return a step without its values; ``failures`` are its attempts that have failed."""
    return {
        "name": step.name,
        "kind": step.kind,
        "status": step.status,
        "attempts": step.attempts,
        "started": millis(step.started),
        "ended": millis(step.ended),
        "due": millis(step.due),
        "event": step.event,
        "match": None if step.match is None else _conditions(step.match),
        "child": step.child,
        "error": clip(step.error),
        "failures": [show_failure(each) for each in failures],
    }


def _conditions(match: Mapping[str, object]) -> str | None:
    pairs = (f"{path} = {json.dumps(value, ensure_ascii=False)}" for path, value in match.items())
    return clip(" and ".join(pairs))


def show_failure(attempt: AttemptInfo) -> dict[str, object]:
    """Return an attempt that has failed."""
    return {
        "number": attempt.number,
        "started": millis(attempt.started),
        "ended": millis(attempt.ended),
        "retry": millis(attempt.retry),
        "error": clip(attempt.error),
    }


def show_values(step: StepInfo) -> dict[str, object]:
    """Return what a step was given, and what came of it."""
    return {
        "name": step.name,
        "result": preview(step.result) if step.status == "completed" else None,
        "arguments": None if step.arguments is None else preview(step.arguments),
        "match": None if step.match is None else preview(step.match),
        "required": step.match,
        "error": clip(step.error, _LONG),
        "trace": clip(step.trace, 2 * _LONG),
    }


def show_request(request: Request) -> dict[str, object]:
    """Return a stored request; ``body`` is None if that is not stored."""
    try:
        body: dict[str, object] | None = body_text(request.body)
    except BodyNotStoredError:
        body = None
    return {
        "method": request.method,
        "url": request.url,
        "headers": [list(pair) for pair in request.headers.raw],
        "notStored": sorted(name for name in request.headers.withheld if name[:1] != ":"),
        "body": body,
    }


def show_response(response: Response) -> dict[str, object]:
    """Return a response, as clients get it."""
    assert isinstance(response.body, bytes)  # stored ones are whole
    return {
        "status": response.status,
        "headers": [list(pair) for pair in response.headers.raw],
        "body": body_text(response.body),
    }


def show_event(event: EventInfo) -> dict[str, object]:
    """Return an event and the runs that it woke."""
    return {
        "id": event.id,
        "name": event.name,
        "data": preview(event.data, _SHORT),
        "received": millis(event.received),
        "woke": list(event.woke[:_MOST_WOKEN]),
        "wokeMore": max(0, len(event.woke) - _MOST_WOKEN),
    }


def show_process(process: ProcessInfo) -> dict[str, object]:
    """Return a process and its lease."""
    return {
        "id": process.id,
        "host": process.host,
        "pid": process.pid,
        "app": process.app,
        "leaseUntil": millis(process.lease_until),
    }


def show_endpoint(endpoint: EndpointInfo) -> dict[str, object]:
    """Return an endpoint and its limits."""
    return {
        "id": endpoint.function_id,
        "name": endpoint.name,
        "kind": endpoint.kind,
        "retries": endpoint.retries,
        "timeout": endpoint.run_timeout,
        "concurrency": endpoint.concurrency,
        "perKey": endpoint.concurrency_per_key,
        "queueLimit": endpoint.queue_limit,
        "rateLimit": None if endpoint.rate_limit is None else list(endpoint.rate_limit),
        "singleton": endpoint.singleton,
    }
