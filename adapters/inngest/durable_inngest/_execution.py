"""One live execution under this engine, and its reports to the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from durable_core import Request, Response
from durable_core.engines.remote import (
    NO_OPTIONS,
    AppConfig,
    Clock,
    CompletionOrder,
    FailedOp,
    Failure,
    Flow,
    Op,
    OpKind,
    Ops,
    PendingOp,
    Reentry,
    RemoteExecution,
    ReportedStep,
    ResolvedOptions,
    Results,
    Run,
    RunReporter,
    ServerOps,
    StepOptions,
    StreamEmitter,
    Value,
    delay_ms,
    size_of,
)
from durable_core.errors import LimitExceededError
from durable_inngest import _protocol as _ops
from durable_inngest._api import MOST_BYTES, SDK, Begun
from durable_inngest._client import ServerClient
from durable_inngest._protocol import counted_failure_id, format_duration, load_outcome, order_id

__all__ = [
    "InngestExecution",
    "Reporter",
    "internal_error",
    "retry_headers",
    "server_answer",
]


# --- reports --------------------------------------------------------------------------------------
#
# The reports of one live run: the first call begins the run, with the ops that are there.


class Reporter(RunReporter):
    """Reports the ops of a run whose client is attached.

    Args:
        client: calls the server.
        loop: where the client is used.
        clock: tells the time.
        run_id: the run.
        function: what we call its function, the same for each run of it.
        event: what begins it, as JSON.
        retries: how often the server may try a step again.
        end_stream: sees that the server's stream of a run ends, by its id and token.
    """

    def __init__(
        self,
        client: ServerClient,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        run_id: str,
        function: str,
        event: str,
        retries: int,
        end_stream: Callable[[str, str], None],
    ) -> None:
        super().__init__(loop)
        self._client = client
        self._clock = clock
        self._run_id = run_id
        self._function = function
        self._event = event
        self._retries = retries
        self._end_stream = end_stream
        self._redirected = False
        #: What the server said when the run was begun.
        self.begun: Begun | None = None

    @property
    def token(self) -> str:
        """What opens the run's output; "" where the server has given nothing that does."""
        return self.begun.token if self.begun is not None else ""

    @property
    def room(self) -> int:
        """How many bytes of ops the server takes in one call now."""
        return MOST_BYTES - (size_of(self._event) if self.begun is None else 0)

    def end_stream(self) -> None:
        """See that the stream which a client follows to the server ends with the run."""
        self._end_stream(self._run_id, self.token)

    async def send(self, ops: list[str]) -> None:
        """Report ops in one call; see ``RunReporter.send``."""
        now = self._clock.now()
        if self.begun is not None:
            await self._client.go_on(
                run_id=self._run_id, function=self._function, begun=self.begun, ops=ops, ts=now
            )
            return
        self.begun = await self._client.begin(
            run_id=self._run_id,
            function=self._function,
            event=self._event,
            ops=ops,
            ts=now,
            retries=self._retries,
        )

    def recorded(self, ops: Ops, stream: StreamEmitter | None) -> None:
        """Tell the stream that a step counts, and where it goes on after a handoff."""
        if stream is None:
            return
        if ops.commits:
            stream.commit(ops.commits)
        if not self._redirected and self.begun is not None and self.begun.realtime_token:
            self._redirected = True
            stream.redirect(self._client.calls.stream_url(self.begun.realtime_token))


# --- execution ------------------------------------------------------------------------------------

#: The server fails a run that has 1,000 ops when it is about to call us for it. One place is for
#: ``marker``, which the client may add.
_MOST_STEPS = 998


class InngestExecution(RemoteExecution):
    """The live state of one execution.

    The server counts the attempts of a step, and says how often it has made a call; it loses count
    of the handler's. So the handler's failures are counted here: each leaves a sleep of our own in
    the run's state, which is the pause before the next attempt as well. A failure while the client
    is attached is counted that way, too, where the server would lose it: beside other steps, which
    all run in calls of their own then, or with a delay that the error asks for.

    Attributes:
        output_url: where the server gives the output of the run for a token, if clients are to be
            sent there; else None.
    """

    engine_name = "InngestEngine"
    server_name = "the Inngest server"
    ops: ServerOps = _ops
    reporter: Reporter | None

    def __init__(
        self,
        env: AppConfig,
        options: ResolvedOptions,
        run: Run,
        request: Request,
        *,
        reporter: Reporter | None = None,
        reentry: Reentry | None = None,
        results: Results,
        output_url: Callable[[str, str], str] | None = None,
    ) -> None:
        actions = reentry.actions if reentry is not None else {}
        parts = list(_order_in(actions))
        super().__init__(
            env,
            options,
            run,
            request,
            reporter=reporter,
            reentry=reentry,
            results=results,
            order=CompletionOrder(op_id for part in parts for op_id in part),
        )
        self.output_url = output_url
        self._order_parts = len(parts)
        self._counted = set(actions)

    def next_op(self, step_id: str, kind: OpKind, branch: object) -> Op:
        """Return the op for the next use of a step id; see ``Execution.next_op``."""
        op = super().next_op(step_id, kind, branch)
        if op.id not in self._counted and self.is_full:
            del self.unawaited[op.id]
            raise LimitExceededError(
                f"step {op.name!r} is one more than the {_MOST_STEPS} steps and retries that a run "
                "may have under the Inngest engine"
            )
        self._counted.add(op.id)
        return op

    @property
    def room(self) -> int:
        """How many bytes of ops the server takes now."""
        return MOST_BYTES if self.reporter is None else self.reporter.room

    @property
    def is_full(self) -> bool:
        """Whether the server would fail the run for one more op; ours count as the user's do."""
        return len(self._counted) >= _MOST_STEPS

    def order_ops(self) -> list[str]:
        """Return the op that keeps the order of what has finished, if there is any, and room."""
        op_ids = self.order.unknown or self.order.finished
        return [_ops.order(self._order_parts + 1, op_ids)] if op_ids and not self.is_full else []

    # -- failures ----------------------------------------------------------------------------

    def counted(self, name: str) -> int:
        """Return how many failures of a step, or of the handler (""), we have counted."""
        number = 0
        while counted_failure_id(name, number + 1) in self.actions:
            number += 1
        return number

    def failed_op(
        self,
        step: ReportedStep,
        failure: Failure,
        error: BaseException | None,
        options: StepOptions,
    ) -> FailedOp:
        """Return what the server is told of a function that has failed."""
        counted = self.counted(step.op.name)
        failures = counted + (self.reentry.generation if self.reentry is not None else 1)
        retries = self.run.retries if options.retries is None else options.retries
        final = not failure.retriable or failures > retries
        unseen = 1 if not counted and self._may_have_failed_attached else 0
        shown = _ops.error_of(failure, error)
        return FailedOp(
            step=step,
            dump=partial(_ops.step_failure if final else _ops.failed, error=shown),
            error=shown,
            failures=failures,
            final=final,
            delay=0 if final else self.delay_of(failure, failures + unseen, options),
            # The server has neither pauses nor numbers of attempts for a single step.
            asked=any(
                each is not None for each in (failure.retry_after, options.backoff, options.retries)
            ),
        )

    def delay_of(self, failure: Failure, failures: int, options: StepOptions = NO_OPTIONS) -> int:
        """Return how long to wait before the next attempt, milliseconds."""
        if failure.retry_after is not None:
            return failure.retry_after
        policy = options.backoff or self.env.policy
        return delay_ms(policy, max(1, failures), self.env.ids.uniform())

    def kept_back(self, step: ReportedStep) -> PendingOp | None:
        """Return what is to be reported of a step that failed beside others, before it runs again.

        The server has a flag for steps beside others, too, which outlives them: who would follow it
        would count the attempts of a step anew.
        """
        counted = self.counted(step.op.name)
        if not counted:
            return None
        memo = load_outcome(self.actions[counted_failure_id(step.op.name, counted)])
        kept = memo.value if isinstance(memo, Value) else None
        if not isinstance(kept, dict):
            return None  # it was a sleep, and is over
        if kept.get("final") is True:
            error = kept.get("error")
            shown = {"name": "Error", "message": "Unknown error"}
            shown.update(error if isinstance(error, dict) else {})
            dump = partial(_ops.step_failure, error=shown)
            return FailedOp(step=step, dump=dump, error=shown, final=True)
        until = kept.get("until")
        left = until - self.env.clock.now() if isinstance(until, int) else 0
        if left <= 0 or _ops.pause_id(step.op.name, counted) in self.actions:
            return None
        dump = partial(_ops.pause, number=counted, duration=format_duration(left))
        return PendingOp(step=step, dump=dump)

    @property
    def _may_have_failed_attached(self) -> bool:
        """Whether the server may call because a step has failed while the client was attached.

        It counts that failure and does not say so; there are nothing but results then.
        """
        memos = self.actions.values()
        are_results = all(isinstance(memo, dict) and set(memo) == {"data"} for memo in memos)
        return self.reentry is not None and are_results and not self._order_parts

    # -- answers to the server ---------------------------------------------------------------

    def answer_ops(self, ops: Sequence[str], headers: Sequence[tuple[str, str]] = ()) -> Flow[None]:
        """Answer with ops."""
        yield from self.answer_with(server_answer(206, f"[{','.join(ops)}]", headers))

    def answer_found(self) -> Flow[None]:
        """Answer with what was found; a failed step says when it may be tried again."""
        found = self.in_order()
        ops = self.dumps(found)
        failed = [each for each in found if isinstance(each, FailedOp)]
        if any(each.final for each in failed) and self.order.is_parallel and not self.target:
            # Without this the server would wait for the other steps before it calls again.
            ops.append(_ops.discovery(self.env.clock.now()))
        headers: tuple[tuple[str, str], ...] = ()
        if len(ops) == 1 and failed:
            headers = retry_headers(failed[0].delay, final=failed[0].final)
        yield from self.answer_ops(ops, headers)


def _order_in(actions: Mapping[str, object]) -> Iterator[list[str]]:
    """Yield the parts of the order that are kept in a run's state."""
    number = 1
    while order_id(number) in actions:
        outcome = load_outcome(actions[order_id(number)])
        part = outcome.value if isinstance(outcome, Value) else None
        yield [str(op_id) for op_id in part] if isinstance(part, list) else []
        number += 1


_OWN = (
    ("content-type", "application/json"),
    ("x-inngest-sdk", SDK),
    ("x-inngest-framework", "durable"),
    ("x-inngest-req-version", "2"),
    ("x-inngest-sdk-handled", "true"),
    ("user-agent", SDK),
)


def server_answer(
    status: int, body: str | bytes, headers: Sequence[tuple[str, str]] = ()
) -> Response:
    """Return an answer with all the headers that the server needs."""
    content = body.encode("utf-8") if isinstance(body, str) else body
    return Response(status=status, headers=(*_OWN, *headers), body=content)


def retry_headers(delay: int, *, final: bool) -> tuple[tuple[str, str], ...]:
    """Return the headers that say whether to try again, and after how many milliseconds."""
    if final:
        return (("x-inngest-no-retry", "true"),)
    return (("x-inngest-no-retry", "false"), ("retry-after", str(max(1, -(-delay // 1000)))))


def internal_error(error: BaseException) -> Response:
    """Return the answer when a call cannot be served; the server tries again."""
    fields = {"type": "internal", "name": type(error).__name__, "message": str(error)}
    return server_answer(500, json.dumps(fields), (("x-inngest-no-retry", "false"),))
