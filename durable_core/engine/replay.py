"""Stored runs are replayed against new code, and nothing is changed.

The handler is called as in any replay, and its steps return what is stored. At the first step that
is not stored the replay stops: its function is not called. Then what the code has asked for is
compared with what is stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar, cast

from durable_core.codec.records import is_without_body, load_request, load_response
from durable_core.commit_queue import CommitFuture
from durable_core.engine.embedded import EmbeddedEngine
from durable_core.engine.runs import RunExecutor
from durable_core.errors import ConfigurationError, StepTypeError, StoreError, Suspended
from durable_core.flow.effects import (
    CallHandler,
    Flow,
    Outcome,
    Raised,
    Returned,
    Unwound,
    park,
    see_if_alone,
)
from durable_core.flow.env import AppConfig
from durable_core.flow.error_responses import response_for_exception
from durable_core.flow.execution import Execution, StoredExecution
from durable_core.flow.flows import EMBEDDED_FLOWS, EngineFlows
from durable_core.flow.omitted import OmittedBodyRequest
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.results import typed_response
from durable_core.flow.scope import HandlerKind
from durable_core.flow.versions import kind_mismatch, new_step_before, unasked_steps
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.advance import describe
from durable_core.model.decision import HandoffReason
from durable_core.model.run import Phase, plain_key
from durable_core.model.step import Op
from durable_core.ports import ClaimedRun, RunRecord, Store, StoredResult, StoredSecret, Write
from durable_core.runners.host import NoWatermark, RunHost
from durable_core.runners.observers import Observers
from durable_core.runners.settings import RegisteredEndpoint

__all__ = ["Difference", "DifferenceKind", "ReplayReport", "Replayer", "replaying"]

T = TypeVar("T")

#: Seconds for which a handler may await something of its own while steps of it wait.
_OWN_WAIT = 5.0

DifferenceKind: TypeAlias = Literal[
    "step-kind",
    "new-step",
    "missing-step",
    "type",
    "response",
    "handler",
    "endpoint",
    "unreadable",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that new code does otherwise.

    Attributes:
        kind: ``"step-kind"``: another kind of step is stored under the id. ``"new-step"``: a step
            before one that is stored. ``"missing-step"``: a stored step that was not asked for.
            ``"type"``: what is stored does not fit its type. ``"response"``: another response than
            the stored one. ``"handler"``: the handler fails. ``"endpoint"``: there is none of that
            key. ``"unreadable"``: what is stored cannot be read.
        step: the step, by its name; None for the others.
        message: what differs, in a sentence.
    """

    kind: DifferenceKind
    step: str | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """How the replay of one run went.

    Attributes:
        run: the run as it is stored.
        stopped_at: the first step that is not stored, at which it stopped; None if the handler came
            to its end, or there was no replay.
        differences: what differs.
    """

    run: RunRecord
    stopped_at: str | None
    differences: tuple[Difference, ...]


class _ReplayExecution(StoredExecution):
    """One replay.

    Attributes:
        stopped_at: the first step that is not stored.
        outcome: how the handler has ended.
        differences: what has been noticed.
    """

    __slots__ = ("differences", "outcome", "stopped_at")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.stopped_at: str | None = None
        self.outcome: Outcome | Unwound | None = None
        self.differences: list[Difference] = []

    def differ(self, kind: DifferenceKind, message: str, step: str | None = None) -> None:
        """Note a difference, once."""
        found = Difference(kind=kind, step=step, message=message)
        if found not in self.differences:
            self.differences.append(found)


# --- flows ----------------------------------------------------------------------------------------


def _flow_of_stored(flow: Callable[..., Flow[T]]) -> Callable[..., Flow[T]]:
    """Return the flow of a step as it is, if the outcome of the step is stored."""

    def replay(ex: _ReplayExecution, op: Op, *arguments: Any) -> Flow[T]:
        stored = ex.memos.get(op.id) or ex.pending.get(op.id)
        if stored is not None and stored.op.kind is not op.kind:
            ex.differ("step-kind", kind_mismatch(stored.op.kind, op), op.name)
        elif stored is None and ex.unasked and ex.is_sequential and (yield from see_if_alone()):
            ex.differ("new-step", new_step_before(ex, op), op.name)
        elif op.id in ex.memos:
            return (yield from flow(ex, op, *arguments))
        yield from _stop(ex, op)
        raise AssertionError("a step that is not stored has gone on")

    return replay


def _stop(ex: _ReplayExecution, op: Op) -> Flow[None]:
    """Go no further on this branch."""
    ex.unawaited.pop(op.id, None)
    ex.activity += 1
    ex.stopped_at = ex.stopped_at or op.name
    ex.note_awaited(op)
    while True:
        yield from park(op.id, None)
        ex.check_open()


def _execute(ex: _ReplayExecution) -> Flow[None]:
    try:
        ex.outcome = yield CallHandler()
    except Suspended:
        pass
    finally:
        ex.close()


def _close(ex: _ReplayExecution, reason: HandoffReason | None = None) -> Flow[None]:
    ex.close()
    yield from ()


#: What a replay does otherwise than the engine, besides its steps.
_OWN: dict[str, Any] = {"execute": _execute, "suspend": _close, "detach": _close}
#: As the engine's own, but that nothing is written and no function of a step is called. Each step
#: takes its flow.
_REPLAYED: dict[str, Any] = {
    field.name: _OWN.get(field.name) or _flow_of_stored(flow)
    for field in fields(EngineFlows)
    if callable(flow := getattr(EMBEDDED_FLOWS, field.name))
}
_FLOWS: EngineFlows[Any] = replace(EMBEDDED_FLOWS, **_REPLAYED, plain_steps=None)


# --- the replay -----------------------------------------------------------------------------------


class _NoQueue:
    """A replay writes nothing."""

    def submit(self, write: Write[T], after: Sequence[CommitFuture[Any]] = ()) -> NoReturn:
        """Refuse a write."""
        raise StoreError("a replay changes nothing")

    def wait(self, ticket: CommitFuture[T]) -> NoReturn:
        """Refuse to wait: there is no write."""
        raise StoreError("a replay changes nothing")

    async def wait_async(self, ticket: CommitFuture[T]) -> NoReturn:
        """Refuse to wait: there is no write."""
        raise StoreError("a replay changes nothing")

    def ended(self, ticket: CommitFuture[Any]) -> NoReturn:
        """Refuse to wait: there is no write."""
        raise StoreError("a replay changes nothing")

    def commit_here(self) -> None:
        """Do nothing: there is no write."""


class _Host(RunHost):
    """What a run needs of its worker, without a store."""

    queue = _NoQueue()
    event_watermark = NoWatermark()

    def __init__(self) -> None:
        waits = {"max_own_wait": _OWN_WAIT, "unwind_time": _OWN_WAIT}
        super().__init__(_FLOWS, Observers(()), serving_threads=4, **waits)

    def release_later(self, ex: Execution) -> None:
        """Do nothing: nobody holds the run."""

    def stop(self) -> None:
        """End its threads and its loop."""
        self.threads.shutdown()
        self.servers.shutdown()
        self.loops.stop()


class Replayer:
    """Replays stored runs.

    Args:
        env: the application.
        endpoints: its handlers by key.
    """

    def __init__(self, env: AppConfig, endpoints: dict[str, RegisteredEndpoint]) -> None:
        self._env = env
        self._endpoints = endpoints
        self._host = _Host()
        self._runs: RunExecutor[_ReplayExecution] = RunExecutor(
            self._host, lambda ex: Response(status=204)
        )

    def replay(
        self, record: RunRecord, claimed: ClaimedRun, result: StoredResult | None
    ) -> ReplayReport:
        """Replay a run.

        Args:
            record: the facts about it.
            claimed: what a replay needs.
            result: its result; None if it has not ended.
        """
        key = plain_key(record.run)
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            message = f"there is no endpoint {key!r}"
            return _report(record, Difference(kind="endpoint", step=None, message=message))
        try:
            ex = self._execution(claimed, endpoint.options)
        except Exception as error:
            message = f"what is stored of it cannot be read: {describe(error)}"
            return _report(record, Difference(kind="unreadable", step=None, message=message))
        self._run(endpoint, ex)
        self._compare(record, ex, result)
        return ReplayReport(run=record, stopped_at=ex.stopped_at, differences=(*ex.differences,))

    def stop(self) -> None:
        """End the threads that it has used."""
        self._host.stop()

    def _execution(self, claimed: ClaimedRun, options: ResolvedOptions) -> _ReplayExecution:
        request: Request = load_request(claimed.request.head, claimed.request.body)
        if claimed.run.principal is not None:
            request = request.with_principal(claimed.run.principal)
        if is_without_body(request):
            request = OmittedBodyRequest.of(request, is_stored=True)
        run = replace(
            claimed.run,
            phase=Phase.ASYNC,
            epoch=claimed.run.epoch + 1,
            cancel_reason=None,
            deadline=None,
        )
        return _ReplayExecution(
            self._env,
            options,
            run,
            request,
            owner="",
            memos=claimed.memos,
            pending=claimed.pending,
        )

    def _run(self, endpoint: RegisteredEndpoint, ex: _ReplayExecution) -> None:
        if endpoint.kind is HandlerKind.DEF:
            self._runs.start_for_client(endpoint, ex)
        else:
            self._host.run_on_background_loop(self._runs.start_for_client_async(endpoint, ex))

    def _compare(
        self, record: RunRecord, ex: _ReplayExecution, result: StoredResult | None
    ) -> None:
        """Note what differs at the end of a replay."""
        if ex.unasked and not ex.differences and _is_certain(ex):
            end = "has ended" if isinstance(ex.outcome, Returned) else "has come to a new step"
            text = f"the handler {end} without {unasked_steps(ex)}, which the run has stored"
            ex.differ("missing-step", text)
        if isinstance(ex.outcome, Returned):
            try:
                self._compare_response(
                    ex, typed_response(ex.options.result, ex.outcome.value), result
                )
            except (TypeError, ValueError) as error:
                if not _has_failed_so(record, error):
                    ex.differ("handler", f"its return value cannot be sent: {error}")
        elif isinstance(ex.outcome, Raised):
            self._compare_error(record, ex, ex.outcome.error, result)
        elif ex.stopped_at is None:
            text = f"the handler has come to no step and no end in {_OWN_WAIT:g} seconds"
            ex.differ("handler", text)

    def _compare_error(
        self,
        record: RunRecord,
        ex: _ReplayExecution,
        error: Exception,
        result: StoredResult | None,
    ) -> None:
        if isinstance(error, StepTypeError):
            ex.differ("type", str(error))
            return
        response = response_for_exception(ex.options, error)
        if response is not None:
            self._compare_response(ex, response, result)
        elif not _has_failed_so(record, error):
            ex.differ("handler", f"the handler fails: {describe(error)}")

    def _compare_response(
        self, ex: _ReplayExecution, response: Response, result: StoredResult | None
    ) -> None:
        """Compare with the response of a run that has completed; others have none of their own."""
        if result is None or result.phase is not Phase.COMPLETED:
            return
        before = load_response(result.head, result.body or b"")
        if before.status != response.status:
            ex.differ("response", f"the status is {response.status}, and {before.status} is stored")
        elif result.body is not None and (body := self._whole(response)) != result.body:
            stored = f"{len(result.body)} bytes are stored"
            ex.differ("response", f"the body differs: it has {len(body)} bytes, and {stored}")

    def _whole(self, response: Response) -> bytes:
        body = response.body
        if isinstance(body, bytes):
            return body
        if isinstance(body, AsyncIterable):
            return self._host.run_on_background_loop(_joined(body))
        return b"".join(body)


async def _joined(body: AsyncIterable[bytes]) -> bytes:
    return b"".join([chunk async for chunk in body])


def _report(record: RunRecord, difference: Difference) -> ReplayReport:
    return ReplayReport(run=record, stopped_at=None, differences=(difference,))


def _is_certain(ex: _ReplayExecution) -> bool:
    """Tell whether steps that were not asked for by now were missed: several branches may wait."""
    return isinstance(ex.outcome, Returned) or (ex.stopped_at is not None and ex.is_sequential)


def _has_failed_so(record: RunRecord, error: Exception) -> bool:
    """Tell whether the handler has failed with such an error in the stored run, too."""
    name = type(error).__name__
    return any(each.op_id == "" and each.error_name == name for each in record.failed_attempts)


class _NoStore:
    """In place of the application's store: code that a replay repeats may not reach that.

    Args:
        secrets: what is read of it all the same, for ``run.callback_url``.
    """

    reads_are_fast = True

    def __init__(self, secrets: Sequence[StoredSecret]) -> None:
        self._secrets = secrets

    def secrets(self) -> Sequence[StoredSecret]:
        """Return the keys that sign tokens."""
        return self._secrets

    def open(self) -> NoReturn:
        """Refuse to open it."""
        raise StoreError("a replay changes nothing: the application's store is not opened")

    commit = open


@contextmanager
def replaying(engine: EmbeddedEngine, secrets: Sequence[StoredSecret]) -> Iterator[Replayer]:
    """Give a replayer of an application; meanwhile the application has no store.

    Args:
        engine: of the application.
        secrets: those of the store, by which URLs of callbacks are signed.

    Raises:
        ConfigurationError: the application works in this process.
    """

    def make_worker(*arguments: Any) -> NoReturn:
        raise ConfigurationError("the application is being replayed, and serves nobody")

    store = cast("Store", _NoStore(secrets))
    env, settings = engine.env, engine.settings
    with engine.override(env=env, store=store, settings=settings, make_worker=make_worker):
        replayer = Replayer(env, engine.endpoints)
        try:
            yield replayer
        finally:
            replayer.stop()
