"""The documents that the page is sent: JSON with times in epoch milliseconds.

No document grows with the values that users store: those are cut, and asked for one by one.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from durable_core import (
    AttemptInfo,
    BadRequest,
    Durable,
    HTTPError,
    Request,
    Response,
    RunInfo,
    StepInfo,
)
from durable_core.errors import BodyNotStoredError, RunNotFoundError, StoreError
from durable_core.inspection import EndpointInfo, EventInfo, ProcessInfo

__all__ = [
    "Errors",
    "RunPosition",
    "body_text",
    "clip",
    "find_runs",
    "millis",
    "overview",
    "preview",
    "read_body",
    "read_config",
    "read_request",
    "read_response",
    "read_run",
    "read_step",
    "read_value",
    "run_version",
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

_Document = dict[str, Any]

_PAGE = 50
_MOST_OF_PAGE = 200
#: The overview looks at the runs of so long, and at so many at most, but of some minutes.
_WINDOW, _MOST_RUNS = timedelta(hours=1), 1_000
_SHORTEST = timedelta(minutes=5)
#: How many bars its chart has.
_BUCKETS = 30


def read_config(durable: Durable[Any], *, read_only: bool) -> _Document:
    """Return what does not change: the application, and what can be done here."""
    return {
        "app": durable.id,
        "readOnly": read_only,
        "endpoints": [each.function_id for each in durable.endpoints()],
        "now": _now(),
    }


def find_runs(durable: Durable[Any], request: Request) -> _Document:
    """Return a page of runs, the newest first; the conditions are in the query.

    Raises:
        HTTPError: 400, a condition of another form.
    """
    query = request.query
    limit = _number(query.get("limit") or str(_PAGE))
    label = query.get("label") or None
    name, sign, value = (label or "").partition("=")
    if label is not None and not sign:
        raise BadRequest("label is written like name=value")
    status = query.get("status") or None
    try:
        found = durable.runs.list(
            status=status,  # type: ignore[arg-type] # which list() checks
            endpoint=query.get("endpoint") or None,
            key=query.get("key") or None,
            label=None if label is None else (name, value),
            since=_time(query.get("since")),
            until=_time(query.get("until")),
            cursor=query.get("cursor") or None,
            limit=limit,
        )
    except ValueError as error:
        raise BadRequest(str(error)) from error
    more = found[-1].id if len(found) == limit else None
    return {"now": _now(), "runs": [show_run(each) for each in found], "more": more}


def _number(text: str) -> int:
    if not (
        text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= _MOST_OF_PAGE
    ):
        raise BadRequest(f"limit must be 1 to {_MOST_OF_PAGE}")
    return int(text)


def _time(text: str | None) -> datetime | None:
    """Return a time of the page's: epoch milliseconds."""
    if not text:
        return None
    try:
        return datetime.fromtimestamp(int(text) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise BadRequest("since and until are epoch milliseconds") from None


@dataclass(frozen=True, slots=True)
class RunPosition:
    """How much of a run a page has: so many finished steps, and which they are.

    Attributes:
        count: of finished steps.
        check: of their names and times. It is another one where a retry has made some unknown.
    """

    count: int = 0
    check: int = 0

    @classmethod
    def parse(cls, text: str | None) -> RunPosition:
        """Return the position of an event's id; the beginning, for any other text."""
        count, _, check = (text or "").partition(".")
        if count.isascii() and count.isdigit() and check.isascii() and check.isdigit():
            return cls(int(count[:9]), int(check[:12]))
        return cls()

    def __str__(self) -> str:
        return f"{self.count}.{self.check}"


def read_run(
    durable: Durable[Any], run_id: str, position: RunPosition = RunPosition()
) -> tuple[_Document, RunPosition]:
    """Return a run and its steps from a position on; and the next position.

    Raises:
        RunNotFoundError: there is no such run.
    """
    run = durable.runs.get(run_id)
    failures: dict[str | None, list[AttemptInfo]] = {}
    if any(step.attempts > 1 or step.error for step in run.steps) or run.attempts > 1 or run.error:
        for attempt in durable.runs.history(run_id):
            if attempt.status == "failed":
                failures.setdefault(attempt.step, []).append(attempt)
    finished = [step for step in run.steps if step.ended is not None]
    begun = [step for step in run.steps if step.ended is None]
    start = position.count if _check(finished[: position.count]) == position.check else 0
    start = min(start, len(finished))
    document = {
        "now": _now(),
        "run": show_run(run),
        "failures": [show_failure(each) for each in failures.get(None, ())],
        "from": start,
        "finished": [show_step(step, failures.get(step.name, ())) for step in finished[start:]],
        "begun": [show_step(step, failures.get(step.name, ())) for step in begun],
    }
    return document, RunPosition(len(finished), _check(finished))


def run_version(durable: Durable[Any], run_id: str) -> tuple[int, ...] | None:
    """Return what changes when a run that has ended goes on again; None if it cannot be read."""
    store = durable.engine.store
    assert store is not None  # the dashboard refuses other engines
    try:
        return store.stream_versions(durable.id, (run_id,)).get(run_id)
    except StoreError:
        return None


def _check(steps: Sequence[StepInfo]) -> int:
    check = 0
    for step in steps:
        text = f"{step.name}\0{step.ended}\0{step.status}\n"
        check = zlib.crc32(text.encode("utf-8", "replace"), check)
    return check


def read_step(durable: Durable[Any], run_id: str, name: str) -> _Document:
    """Return the values of a step.

    Raises:
        RunNotFoundError: there is no such run.
        HTTPError: 404, there is no such step.
    """
    return show_values(_step(durable.runs.get(run_id), name))


def read_value(durable: Durable[Any], run_id: str, name: str, part: str) -> object:
    """Return a value of a step as a whole: its result or its arguments. Raises as above."""
    step = _step(durable.runs.get(run_id), name)
    if part not in ("result", "arguments"):
        raise BadRequest("part is result or arguments")
    return step.result if part == "result" else step.arguments


def _step(run: RunInfo, name: str) -> StepInfo:
    for step in run.steps:
        if step.name == name:
            return step
    raise HTTPError(404, "the run has no such step")


def read_request(durable: Durable[Any], run_id: str) -> _Document:
    """Return the request that began a run."""
    return show_request(durable.runs.request(run_id))


def read_response(durable: Durable[Any], run_id: str) -> _Document:
    """Return the response of a run: none yet, one that is not kept, or as its clients get it."""
    try:
        response = durable.runs.response(run_id)
    except LookupError as error:
        return {"response": None, "kept": False, "detail": str(error)}
    shown = None if response is None else show_response(response)
    return {"response": shown, "kept": True}


def read_body(durable: Durable[Any], run_id: str, part: str) -> bytes:
    """Return a body as a whole: of the request or of the response of a run.

    Raises:
        HTTPError: 404, there is none.
        BodyNotStoredError: it is not stored.
    """
    if part == "request":
        return durable.runs.request(run_id).body
    try:
        response = durable.runs.response(run_id)
    except LookupError:
        response = None
    if response is None:
        raise HTTPError(404, "there is no body of a response")
    return _whole(response)


def _whole(response: Response) -> bytes:
    assert isinstance(response.body, bytes)  # stored ones are whole
    return response.body


class Errors:
    """Why runs have failed, by their ids and ends. Lists do not say it, and it does not change."""

    def __init__(self, durable: Durable[Any]) -> None:
        self._durable = durable
        self._known: dict[tuple[str, datetime | None], str | None] = {}

    def of(self, run: RunInfo) -> str | None:
        """Return why a run has failed, as a short text."""
        place = run.id, run.ended
        if place in (known := self._known):
            return known[place]
        try:
            error = clip(self._durable.runs.get(run.id).error)
        except RunNotFoundError:
            return None
        if len(known) >= _MOST_ERRORS:
            known = self._known = {}  # other threads may be reading the old one
        known[place] = error
        return error


#: How many errors are kept in memory.
_MOST_ERRORS = 200


def overview(durable: Durable[Any], errors: Errors) -> _Document:
    """Return how the application is doing."""
    now = datetime.now(UTC)
    runs = durable.runs.list(since=now - _WINDOW, limit=_MOST_RUNS)
    begin = now - _WINDOW
    if runs:  # the chart begins with the first run that is there, but has some minutes
        begin = max(begin, min(runs[-1].started, now - _SHORTEST))
    begun = Counter(run.function_id for run in runs)
    failed = Counter(run.function_id for run in runs if run.status == "failed")
    seconds = max(1.0, (now - begin).total_seconds())
    health = durable.health()
    endpoints = [show_endpoint(each) for each in durable.endpoints()]
    known = {each["id"] for each in endpoints}
    endpoints += [{"id": key} for key in sorted(begun.keys() - known)]
    for each in endpoints:
        each |= {"begun": begun[str(each["id"])], "failed": failed[str(each["id"])]}
    return {
        "now": _now(),
        "begin": millis(begin),
        "begun": len(runs),
        "failed": sum(failed.values()),
        "perMinute": len(runs) * 60 / seconds,
        "atLimit": len(runs) == _MOST_RUNS,
        "chart": _chart(runs, begin, now),
        "failures": [
            {**show_run(each), "error": errors.of(each)}
            for each in durable.runs.list(status="failed", limit=8)
        ],
        "oldestDue": millis(durable.oldest_due()),
        "started": health["started"],
        "liveRuns": health.get("live_runs"),
        "waitingClients": health.get("waiting_clients"),
        "commits": health.get("commits"),
        "commitSeconds": health.get("commit_seconds"),
        "processes": [show_process(each) for each in durable.processes()],
        "events": [show_event(each) for each in durable.recent_events(30)],
        "endpoints": endpoints,
    }


def _chart(runs: Sequence[RunInfo], begin: datetime, end: datetime) -> list[dict[str, int]]:
    """Return how many runs have begun in each part of a time, by what has become of them."""
    width = (end - begin) / _BUCKETS
    counts: list[Counter[str]] = [Counter() for _ in range(_BUCKETS)]
    names = {"completed": "completed", "failed": "failed"}
    for run in runs:
        place = min(_BUCKETS - 1, max(0, int((run.started - begin) / width)))
        counts[place][names.get(run.status, "other")] += 1
    return [
        {"at": millis(begin + number * width) or 0, **count} for number, count in enumerate(counts)
    ]


def _now() -> int:
    return round(time.time() * 1000)


# --- runs, steps, events and values ---------------------------------------------------------------

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
        # As text: numbers of JavaScript have fewer digits.
        "required": json.dumps(_nested(step.match or {}), indent=2),
        "error": clip(step.error, _LONG),
        "trace": clip(step.trace, 2 * _LONG),
    }


def _nested(required: Mapping[str, object]) -> dict[str, Any]:
    """Return the data of an event that has these values, whose paths begin with "data."."""
    data: dict[str, Any] = {}
    for path, value in required.items():
        *names, last = path.split(".")[1:]
        inner = data
        for name in names:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return data


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
