"""What people are shown of an application: its processes, events, endpoints, and parts of runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from durable_core.codec.records import is_sealed, is_without_body, load_request, load_response
from durable_core.duration import is_int, parse_duration, time_of, time_or_none
from durable_core.engine.embedded import EmbeddedEngine, embedded
from durable_core.errors import EncryptionKeyError, RunNotFoundError
from durable_core.flow.limits import FlowLimits
from durable_core.flow.omitted import OmittedBodyRequest
from durable_core.flow.scope import HandlerKind
from durable_core.flow.wait import RESPONSE_NOT_KEPT
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.matching import load_rule
from durable_core.model.run import Phase
from durable_core.model.step import Pending
from durable_core.ports import Store
from durable_core.runners.settings import RegisteredEndpoint

if TYPE_CHECKING:
    from durable_core.api.engine import Engine

__all__ = [
    "EndpointInfo",
    "EventInfo",
    "ProcessInfo",
    "StreamedChunk",
    "check_limit",
    "endpoints",
    "oldest_due",
    "processes",
    "recent_events",
    "required_values",
    "stored_request",
    "stored_response",
    "streamed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """A process that works on the store.

    Attributes:
        id: a ULID, with the time at which it started.
        host: the host that it runs on.
        pid: its process id there.
        app: the ``Durable(id=)`` whose runs it executes; others may share the store.
        lease_until: when others take its runs, unless it renews its lease; in UTC.
    """

    id: str
    host: str
    pid: int
    app: str
    lease_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EventInfo:
    """An event that was sent.

    Attributes:
        id: identifies it.
        name: what happened.
        data: the data, JSON.
        received: when it was stored, in UTC.
        woke: the ids of the runs whose wait it has ended, the last ones first; 100 at most, of the
            thousand waits that ended last.
    """

    id: str
    name: str
    data: Mapping[str, object]
    received: datetime
    woke: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointInfo:
    """An endpoint of this process, and its limits.

    Attributes:
        function_id: its identity.
        name: how its runs are shown; None if that is ``function_id``, or made of the route.
        kind: of its function.
        retries: how often a step or the handler is tried again.
        run_timeout: how long a run may take, seconds; None for no limit.
        concurrency: how many of its runs are executed at a time; None for any number.
        concurrency_per_key: how many of those with one key; None for any number.
        queue_limit: how many runs may wait their turn; None for any number.
        rate_limit: so many runs may begin within so many seconds; None without a limit.
        singleton: what becomes of a request while another run has not ended; None without a rule.
    """

    function_id: str
    name: str | None
    kind: Literal["def", "async def"]
    retries: int
    run_timeout: float | None
    concurrency: int | None
    concurrency_per_key: int | None
    queue_limit: int | None
    rate_limit: tuple[int, float] | None
    singleton: Literal["reject", "attach", "cancel"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedChunk:
    """Something that a run has pushed to its stream, and keeps.

    Attributes:
        step: the step that pushed it, by its name; None for code outside steps.
        data: what was pushed, JSON.
    """

    step: str | None
    data: object


def processes(engine: Engine) -> list[ProcessInfo]:
    """Return the processes that work on the store of an engine; see ``Durable.processes``."""
    store = _opened(engine).store
    return [
        ProcessInfo(
            id=each.id,
            host=each.host,
            pid=each.pid,
            app=each.app,
            lease_until=time_of(each.expires_at),
        )
        for each in sorted(store.workers(), key=lambda each: each.id)
    ]


def check_limit(limit: object) -> None:
    """See that as many runs or events can be asked for.

    Raises:
        ValueError: it is no int of 1 to 1,000.
    """
    if not is_int(limit) or not 1 <= limit <= 1000:
        raise ValueError(f"limit must be 1 to 1000, not {limit!r}")


def recent_events(engine: Engine, limit: int) -> list[EventInfo]:
    """Return the events that were stored last; see ``Durable.recent_events``."""
    check_limit(limit)
    found = _opened(engine).store.recent_events(engine.env.app, limit)
    return [
        EventInfo(
            id=each.stored.event.id or "",
            name=each.stored.event.name,
            data=each.stored.event.data,
            received=time_of(each.stored.received_at),
            woke=tuple(dict.fromkeys(wait.run_id for wait in each.waits if wait.value != "null")),
        )
        for each in found
    ]


def endpoints(engine: Engine) -> list[EndpointInfo]:
    """Return the endpoints of an engine in this process; see ``Durable.endpoints``."""
    own = {key: each for key, each in engine.endpoints.items() if key == each.options.key}
    return [_show_endpoint(key, own[key]) for key in sorted(own)]


def _show_endpoint(key: str, endpoint: RegisteredEndpoint) -> EndpointInfo:
    options = endpoint.options
    limits = options.limits or FlowLimits()
    slots, rate, singleton = limits.slots, limits.rate, limits.singleton
    return EndpointInfo(
        function_id=key,
        name=options.name,
        kind="def" if endpoint.kind is HandlerKind.DEF else "async def",
        retries=options.retries,
        run_timeout=None if options.run_timeout is None else options.run_timeout / 1000,
        concurrency=None if slots is None else slots.most,
        concurrency_per_key=None if slots is None else slots.most_of_key,
        queue_limit=limits.queue_limit,
        rate_limit=None if rate is None else (rate.limit, parse_duration(rate.period) / 1000),
        singleton=None if singleton is None else singleton.mode,
    )


def oldest_due(engine: Engine) -> datetime | None:
    """Return since when the oldest due run waits for a process; see ``Durable.oldest_due``."""
    now = engine.env.clock.now()
    due = [each.due_at for each in _opened(engine).store.unclaimable(engine.env.app, (), now)]
    first = min((each for each in due if each is not None), default=None)
    return time_or_none(first)


def stored_request(engine: Engine, run_id: str) -> Request:
    """Return the request that began a run; see ``Runs.request``."""
    stored = _opened(engine).store.request(engine.env.app, run_id)
    if stored is None:
        raise _no_run(engine, run_id)
    request = load_request(stored.head, stored.body)
    return OmittedBodyRequest.of(request, is_stored=True) if is_without_body(request) else request


def stored_response(engine: Engine, run_id: str) -> Response | None:
    """Return the response of a run; see ``Runs.response``."""
    result = _opened(engine).store.result(engine.env.app, run_id)
    if result is None:
        raise _no_run(engine, run_id)
    if isinstance(result, Phase):
        return None
    if result.body is None:
        raise LookupError(RESPONSE_NOT_KEPT)
    return load_response(result.head, result.body)


#: About how many bytes of chunks are in memory at a time.
_MOST_READ = 256 * 1024


def streamed(engine: Engine, run_id: str) -> Iterator[StreamedChunk]:
    """Yield what a run has streamed and keeps; see ``Runs.streamed``."""
    store, app = _opened(engine).store, engine.env.app
    record = store.get(app, run_id)
    if record is None:
        raise _no_run(engine, run_id)
    names = {memo.op.id: memo.op.name for memo in record.memos}
    return _chunks(store, app, run_id, names)


def _chunks(
    store: Store, app: str, run_id: str, names: Mapping[str, str]
) -> Iterator[StreamedChunk]:
    begin = None
    while True:
        part = store.read_stream(app, run_id, done=0, outside=0, most=_MOST_READ, begin=begin)
        for batch in () if part is None else part.chunks:
            step = None if batch.op_id is None else names.get(batch.op_id, batch.op_id)
            for text in batch.texts:
                if is_sealed(text):
                    raise EncryptionKeyError(
                        "the stream is stored encrypted, and this process has no keys "
                        "(stores.EncryptedStore)"
                    )
                yield StreamedChunk(step=step, data=json.loads(text))
        begin = None if part is None else part.next
        if begin is None:
            return


def required_values(pending: Pending) -> dict[str, object] | None:
    """Return what an event must have to end a wait, by path; None where it need not be anything.

    A value that was taken from a URL is a text, and matches what has this text.
    """
    if not pending.rule:
        return None
    rule = load_rule(pending.rule)
    found: dict[str, object] = {
        ".".join(path): json.loads(value) for path, value in rule.conditions
    }
    if rule.match is not None:
        kind, _, text = rule.match.key.partition(":")
        found[".".join(rule.match.path)] = text if kind == "t" else json.loads(text)
    return found or None


def _opened(engine: Engine) -> EmbeddedEngine:
    """Return an engine whose store can be read here; nothing is executed for that.

    Raises:
        ConfigurationError: it is not the embedded one.
    """
    own = embedded(engine)
    own.open_store()
    return own


def _no_run(engine: Engine, run_id: str) -> RunNotFoundError:
    return RunNotFoundError(f"there is no run {run_id!r} in app {engine.env.app!r}")
