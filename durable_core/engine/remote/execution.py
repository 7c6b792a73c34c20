"""One live execution whose run a server keeps: what it knows of the run, and what it is to hear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from durable_core.engine.remote.ops import (
    FailedOp,
    Ops,
    PendingOp,
    ReportedStep,
    RunReporter,
    ServerOps,
)
from durable_core.engine.remote.streams import StreamEmitter
from durable_core.engine.remote.waiting import Results
from durable_core.errors import StepUsageError
from durable_core.flow.effects import (
    Flow,
    Outcome,
    PendingCommit,
    Raised,
    Returned,
    Submit,
    send_response,
)
from durable_core.flow.env import AppConfig
from durable_core.flow.error_responses import handler_failure, response_for_exception
from durable_core.flow.execution import Execution, settle
from durable_core.flow.handler import read_whole_body
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.results import typed_response
from durable_core.flow.step_options import StepOptions
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.machine.advance import failure_of_handler
from durable_core.model.decision import Failure, HandlerRaised, ResponseTooLarge
from durable_core.model.run import Run
from durable_core.model.step import Op, OpKind

__all__ = [
    "CompletionOrder",
    "Reentry",
    "RemoteExecution",
    "answer_client",
    "queue_op",
    "report_ops",
    "response_or_failure",
    "too_large",
]


# --- order ----------------------------------------------------------------------------------------
#
# The order in which steps have finished, where a handler that has several at a time may see it.
#
# A server may hand outcomes over in any order, and call again after each. Which of two steps was
# the first is therefore kept in the run's state: a call that sees a further outcome while another
# step is still asked for reports its place first, and goes on only when it is called again. The
# server keeps the first of two such reports, so all later calls agree.


class CompletionOrder:
    """What is known of the order of outcomes, and which steps are asked for at a time.

    Args:
        known: ids of steps in the order in which they have finished, as far as that is kept.

    Attributes:
        unknown: ids of steps whose outcome is there, and its place in the order not.
        finished: ids of steps that have finished here beside others, in order.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = {op_id: place for place, op_id in enumerate(dict.fromkeys(known), 1)}
        self._asked: dict[str, int] = {}
        self._undecided: set[str] = set()
        self._beside: set[str] = set()
        self._after: set[str] = set()
        self._last = ""
        self.unknown: list[str] = []
        self.finished: list[str] = []

    @property
    def is_parallel(self) -> bool:
        """Whether several steps were asked for at a time in this run."""
        return bool(self._known or self._beside)

    def ask(self, op_id: str) -> None:
        """Note that the handler asks for a step."""
        self._asked[op_id] = len(self._known) + len(self._asked) + 1
        if self._undecided:
            self._beside |= {op_id, *self._undecided}
        elif self._last in self._beside:
            # The server calls for each that finishes beside others: this call is one of several.
            self._after.add(op_id)
        self._undecided.add(op_id)

    def decide(self, op_id: str) -> None:
        """Note that the handler waits for a step no more."""
        self._undecided.discard(op_id)

    def place(self, op_id: str) -> int:
        """Return the place of an outcome; those not known come last, as they were asked for."""
        return self._known.get(op_id) or self._asked[op_id]

    def is_apart(self, op_id: str) -> bool:
        """Tell whether a step needs a call of its own: it is beside others, or the next one."""
        return op_id in self._beside or op_id in self._after

    def is_known(self, op_id: str) -> bool:
        """Tell whether the handler may see an outcome now: no other one may come before it."""
        is_known = op_id in self._known or self._undecided <= {op_id}
        if is_known:
            self._last = op_id
        return is_known

    def finish(self, op_id: str) -> None:
        """Note that a step has finished here."""
        self._last = op_id
        if not self._undecided <= {op_id}:
            self.finished.append(op_id)


# --- execution ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reentry:
    """What the server asks for when it calls the endpoint again.

    Attributes:
        actions: the outcomes of steps, by hashed id.
        target: the hashed id of the one step to run; "" for whatever is next.
        generation: how often the server has made this call; 1 if it does not say.
    """

    actions: Mapping[str, object]
    target: str = ""
    generation: int = 1


class RemoteExecution(Execution):
    """The live state of one execution.

    Attributes:
        reporter: reports to the server while the client is attached; None on a re-entry.
        reentry: what the server asks for; None while the client is attached.
        results: where results are kept for clients that wait in this process.
        actions: the outcomes of steps, by hashed id.
        order: what is known of the order in which steps have finished.
        found: ops that the server must go on from, by op id.
        pending: ops that are parked, by op id.
        running: the op id of the one step that runs on a re-entry.
        answered: the server has its answer.
        no_new_steps: one has failed for good; the handler is told on the next re-entry.
    """

    #: What errors call the engine and its server, and the forms of that.
    engine_name: str
    server_name: str
    ops: ServerOps

    def __init__(
        self,
        env: AppConfig,
        options: ResolvedOptions,
        run: Run,
        request: Request,
        *,
        reporter: RunReporter | None = None,
        reentry: Reentry | None = None,
        results: Results,
        order: CompletionOrder,
    ) -> None:
        super().__init__(env, options, run, request, {})
        self.reporter = reporter
        self.reentry = reentry
        self.results = results
        self.actions: Mapping[str, object] = reentry.actions if reentry is not None else {}
        self.order = order
        self.found: dict[str, PendingOp] = {}
        self.running: str | None = None
        self.no_new_steps = False
        self.pending: dict[str, Op] = {}
        self._steps: dict[str, ReportedStep] = {}

    def next_op(self, step_id: str, kind: OpKind, branch: object) -> Op:
        """Return the op for the next use of a step id; see ``Execution.next_op``."""
        op = super().next_op(step_id, kind, branch)
        self._steps[op.id] = ReportedStep(op=op, id=step_id)
        return op

    # -- what differs from one server to another ---------------------------------------------

    @property
    def room(self) -> int:
        """How many bytes of ops the server takes now."""
        raise NotImplementedError

    @property
    def is_full(self) -> bool:
        """Whether the server would fail the run for one more op."""
        return False

    def counted(self, name: str) -> int:
        """Return how many failures of a step we have counted, beside those of the server."""
        return 0

    def kept_back(self, step: ReportedStep) -> PendingOp | None:
        """Return what the server must be told before a step may run, if anything."""
        return None

    def failed_op(
        self,
        step: ReportedStep,
        failure: Failure,
        error: BaseException | None,
        options: StepOptions,
    ) -> FailedOp:
        """Return what the server is told of a function that has failed."""
        raise NotImplementedError

    def answer_with(self, response: Response) -> Flow[None]:
        """Answer a call of the server; nothing that the handler does from now on counts."""
        self.answered = True
        yield from send_response(response)

    def answer_ops(self, ops: Sequence[str]) -> Flow[None]:
        """Answer a call of the server with ops."""
        raise NotImplementedError

    def answer_found(self) -> Flow[None]:
        """Answer a call of the server with what was found."""
        raise NotImplementedError

    # -- what no server has --------------------------------------------------------------------

    @property
    def no_callbacks(self) -> str:
        """What is said of callbacks."""
        return (
            f"{self.engine_name} has no callbacks; make a route that sends a signal, and wait for "
            "that"
        )

    def callback_url(self, step_id: str) -> str:
        """Refuse: the server takes no answers.

        Raises:
            StepUsageError: always; the message names the engine and the remedy.
        """
        raise StepUsageError(f"run.callback_url({step_id!r}): {self.no_callbacks}")

    def check_threads(self, step_name: str) -> None:
        """Refuse branches in threads.

        Raises:
            StepUsageError: always; the message names the engine and the remedy.
        """
        raise StepUsageError(
            f"step {step_name!r}: {self.engine_name} has no step.parallel in 'def' handlers: its "
            "server asks for one step at a time; call the steps one after the other, or make the "
            "handler an 'async def'"
        )

    def is_replaying(self, step_name: str) -> bool:
        """Refuse to tell; see ``Execution.is_replaying``.

        Raises:
            StepUsageError: always; the server does not say which steps come after this one.
        """
        raise StepUsageError(
            f"step {step_name!r}: {self.engine_name} has no step.patched, because its server does "
            "not say which steps come later; give the new code an endpoint of its own"
        )

    # -- its steps ---------------------------------------------------------------------------

    def has_outcome(self, op: Op) -> bool:
        """Tell whether the server has an outcome of the op."""
        return op.id in self.actions

    @property
    def target(self) -> str:
        """The hashed id of the one step that the server asks for; "" for whatever is next."""
        return self.reentry.target if self.reentry is not None else ""

    @property
    def emitter(self) -> StreamEmitter | None:
        """What the run streams to, if it does by now."""
        return cast("StreamEmitter | None", self.stream)

    def step(self, op: Op, *, began: int = 0, took: int = 0) -> ReportedStep:
        """Return an op as it is reported."""
        return replace(self._steps[op.id], began=began, took=took)

    def describe(self, op: Op, name: str, arguments: tuple[object, ...] | None) -> None:
        """Note what people see of a step; see ``ReportedStep``."""
        self._steps[op.id] = replace(self._steps[op.id], name=name, arguments=arguments)

    def in_order(self) -> list[PendingOp]:
        """Return what was found, in the order in which the steps were first asked for."""
        return [self.found[op_id] for op_id in self._steps if op_id in self.found]

    def dumps(self, found: Sequence[PendingOp]) -> list[str]:
        """Return the JSON of ops that are reported together."""
        races = self.order.is_parallel or len(found) > 1
        return [each.dump(replace(each.step, races=races)) for each in found]


def queue_op(ex: RemoteExecution, op: str, commits: str = "") -> Flow[None]:
    """Let an op go out; it is recorded after the next ``settle``."""
    assert ex.reporter is not None
    ticket: PendingCommit = yield Submit(Ops(ex.reporter, (op,), commits), ex.tickets)
    ex.add_ticket(ticket)


def report_ops(ex: RemoteExecution, *ops: str) -> Flow[None]:
    """Report ops, after all that were reported before, and wait until they are recorded.

    Raises:
        Suspended: the server has not taken one; the execution is closed.
    """
    for op in ops:
        yield from queue_op(ex, op)
    yield from settle(ex)


def answer_client(ex: RemoteExecution, response: Response, *, failed: bool = False) -> Flow[None]:
    """Give the attached client the run's response, in its stream if it follows that."""
    if ex.followed and ex.emitter is not None:
        ex.emitter.respond(response, failed=failed)
    else:
        yield from send_response(response)


# --- outcome --------------------------------------------------------------------------------------
#
# What the handler of a run comes to under any server: a whole response, or a failure.


def response_or_failure(
    ex: RemoteExecution, outcome: Outcome
) -> Flow[tuple[Response, None, None] | tuple[None, Failure, Exception | None]]:
    """Return the response that an outcome stands for, or the failure and its error.

    A streamed body is read to its end: a server keeps whole responses.
    """
    now = ex.env.clock.now()
    if isinstance(outcome, Returned):
        try:
            response: Response | None = typed_response(ex.options.result, outcome.value)
        except (TypeError, ValueError) as wrong:
            return None, replace(failure_of_handler(wrong, now), retriable=False), wrong
    else:
        assert isinstance(outcome, Raised)
        try:
            response = response_for_exception(ex.options, outcome.error)
        except Exception as broken:
            response, outcome = None, Raised(broken)
        if response is None:
            return None, handler_failure(outcome, now), outcome.error
    assert response is not None
    if response.is_streaming:
        whole = yield from read_whole_body(ex, response)
        if isinstance(whole, HandlerRaised):
            return None, whole.failure, None
        if isinstance(whole, ResponseTooLarge):
            return None, too_large(whole.most, "Limits.response_stored"), None
        response = whole
    return response, None, None


def too_large(most: int, whose: str) -> Failure:
    """Return the failure of a run whose response has more bytes than ``whose`` limit."""
    text = f"the response has more than {most} bytes ({whose})"
    return Failure(name="ResponseTooLarge", message=text, retriable=False, public=text)
