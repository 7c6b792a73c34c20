"""One live execution under this engine: what the server knows of the run and is to hear."""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from durable_core.errors import LimitExceededError
from durable_core.flow.effects import Flow, PendingCommit, Submit
from durable_core.flow.env import AppConfig, ResolvedOptions
from durable_core.flow.execution import Execution, settle
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Run
from durable_core.model.step import Op, OpKind, Pending
from durable_core.runners.live import Waiters
from durable_inngest._link import Link, Ops
from durable_inngest._protocol import Step, counted_failure_id
from durable_inngest._streams import Emitter

__all__ = [
    "Ended",
    "Found",
    "Reentry",
    "RemoteExecution",
    "Results",
    "queue",
    "remote",
    "tell",
]


# --- results --------------------------------------------------------------------------------------
#
# Results that came about in this process, for clients that wait in it.
#
# The server looks for a result every two seconds. Where the client that waits was handed off here,
# and the run comes to its end here, it need not wait for that.

_MOST_TOKENS = 10_000
#: Bytes of all responses together.
_MOST_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run has ended.

    Attributes:
        response: its response; if it has failed, its problem document.
        failed: it has failed, or was cancelled.
    """

    response: Response
    failed: bool = False


class Results:
    """Remembers whom this process has handed off, and how runs have ended in it, lately.

    May be used by several threads.

    Args:
        most_waiting: how many clients may be held at a time.
    """

    def __init__(self, most_waiting: int) -> None:
        #: The clients that are held.
        self.waiters = Waiters(most_waiting, _do_nothing)
        self._lock = threading.Lock()
        self._tokens: OrderedDict[str, str] = OrderedDict()
        self._followed: set[str] = set()
        self._responses: OrderedDict[str, Ended] = OrderedDict()
        self._size = 0

    def handed_off(self, run_id: str, token: str, *, followed: bool = False) -> None:
        """Note that a client was given this token, or follows the run's stream to the server."""
        with self._lock:
            self._tokens[run_id] = token
            self._tokens.move_to_end(run_id)
            if followed:
                self._followed.add(run_id)
            while len(self._tokens) > _MOST_TOKENS:
                self._followed.discard(self._tokens.popitem(last=False)[0])

    def is_followed(self, run_id: str) -> bool:
        """Tell whether a client was sent from here to the stream of a run at the server."""
        with self._lock:
            return run_id in self._followed

    def ended(self, run_id: str, response: Response, *, failed: bool = False) -> None:
        """Note how a run has ended, and wake who waits for it."""
        with self._lock:
            if run_id not in self._tokens:
                return
            self._keep(run_id, Ended(response, failed))
        self.waiters.ended((run_id,))

    def _keep(self, run_id: str, ended: Ended) -> None:
        before = self._responses.pop(run_id, None)
        self._responses[run_id] = ended
        self._size += _size(ended) - (_size(before) if before is not None else 0)
        while self._size > _MOST_BYTES:
            self._size -= _size(self._responses.popitem(last=False)[1])

    def knows(self, run_id: str, token: str) -> bool:
        """Tell whether this process has given out the token, for that run."""
        with self._lock:
            known = self._tokens.get(run_id, "")
        texts = (each.encode("utf-8", "replace") for each in (known, token))
        return bool(known) and hmac.compare_digest(*texts)

    def get(self, run_id: str, token: str) -> Ended | None:
        """Return the end of a run, if this process has it and has given out the token."""
        with self._lock:
            ended = self._responses.get(run_id)
        return ended if ended is not None and self.knows(run_id, token) else None


def _size(ended: Ended) -> int:
    response = ended.response
    assert isinstance(response.body, bytes)
    fields = sum(len(name) + len(value) for name, value in response.headers.items())
    return 1024 + fields + len(response.body)


def _do_nothing() -> None:
    """Nobody has to look for results while clients wait: they come by themselves."""


# --- execution ------------------------------------------------------------------------------------

#: The server fails a run that has more.
_MOST_STEPS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reentry:
    """What the server asks for when it calls the endpoint again.

    Attributes:
        actions: the outcomes of steps, by hashed id.
        target: the hashed id of the one step to run; "" for whatever is next.
        force_plan: plan new steps, even a single one.
        generation: how often the server has dispatched this call; 1 if it does not say.
    """

    actions: Mapping[str, object]
    target: str = ""
    force_plan: bool = False
    generation: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An op that only the server can go on from.

    Attributes:
        step: the step.
        op: what it is told, as JSON.
        error: the error of a function that has failed.
        final: it failed for good.
        delay: how long until it is to be tried again, milliseconds.
        asked: the delay is the error's own wish.
        detour: it cannot be told at a checkpoint, only in the answer to a re-entry.
    """

    step: Step
    op: str
    error: dict[str, object] | None = None
    final: bool = False
    delay: int = 0
    asked: bool = False
    detour: bool = False


class RemoteExecution(Execution):
    """The live state of one execution.

    Attributes:
        link: the line to the server while the client is attached; None on a re-entry.
        reentry: what the server asks for; None while the client is attached.
        results: where results are kept for clients that wait in this process.
        output_url: where the server gives the output of the run for a token, if clients are to be
            sent there; else None.
        found: ops that the server must go on from, in order.
        candidates: steps on a re-entry that have not run yet, by op id.
        running: the op id of the one step that runs on a re-entry.
        answered: the server has its answer.
        barrier: no further step may begin, for one has failed for good.
    """

    def __init__(
        self,
        env: AppConfig,
        options: ResolvedOptions,
        run: Run,
        request: Request,
        *,
        link: Link | None = None,
        reentry: Reentry | None = None,
        results: Results,
        output_url: Callable[[str, str], str] | None = None,
    ) -> None:
        super().__init__(env, options, run, request, {})
        self.link = link
        self.reentry = reentry
        self.results = results
        self.output_url = output_url
        self.found: list[Found] = []
        self.candidates: dict[str, Step] = {}
        self.running: str | None = None
        self.answered = False
        self.barrier = False
        self._steps: dict[str, Step] = {}
        self.actions = reentry.actions if reentry is not None else {}
        self.pending: dict[str, Pending] = {}
        self._counted = set(self.actions)
        self._order = {op_id: number for number, op_id in enumerate(self.actions, 1)}

    def next_op(self, step_id: str, kind: OpKind, branch: object) -> Op:
        """Return the op for the next use of a step id; see ``Execution.take``."""
        op = super().next_op(step_id, kind, branch)
        if op.id not in self._counted and self.is_full:
            raise LimitExceededError(
                f"step {op.name!r} is one more than the {_MOST_STEPS} steps and retries that a run "
                "may have under the Inngest engine"
            )
        self._counted.add(op.id)
        self._steps[op.id] = Step(op=op, id=step_id)
        return op

    @property
    def is_full(self) -> bool:
        """Whether the server would fail the run for one more op; ours count as the user's do."""
        return len(self._counted) >= _MOST_STEPS

    def apply_results(self, written: Sequence[object]) -> None:
        """Do nothing: the server answers reports with nothing but that it has them."""

    def step(self, op: Op, *, began: int = 0, took: int = 0) -> Step:
        """Return an op as the server shows it."""
        return replace(self._steps[op.id], began=began, took=took)

    @property
    def emitter(self) -> Emitter | None:
        """What the run streams to, if it does by now."""
        return cast("Emitter | None", self.stream)

    def in_order(self) -> list[Found]:
        """Return what was found, in the order in which the steps were first asked for."""
        places = {op_id: place for place, op_id in enumerate(self._steps)}
        return sorted(self.found, key=lambda found: places[found.step.op.id])

    def number(self, op_id: str) -> int:
        """Return the place of a memo among all: the server tells no other order."""
        return self._order.get(op_id, 0)

    def counted(self, name: str) -> int:
        """Return how many failures of a step, or of the handler (""), we have counted."""
        number = 0
        while counted_failure_id(name, number + 1) in self.actions:
            number += 1
        return number


def remote(ex: Execution) -> RemoteExecution:
    """Return an execution of this engine as what it is."""
    return cast(RemoteExecution, ex)


# --- reporting ------------------------------------------------------------------------------------
#
# Telling the server of a run whose client is attached.


def queue(ex: RemoteExecution, link: Link, op: str, commits: str = "") -> Flow[None]:
    """Let an op go out; it is recorded after the next ``settle``."""
    ticket: PendingCommit = yield Submit(Ops(link, (op,), commits), ex.tickets)
    ex.queued(ticket)


def tell(ex: RemoteExecution, link: Link, *ops: str) -> Flow[None]:
    """Report ops one by one: together they would be taken for parallel steps.

    Raises:
        Suspended: the server has not taken one; the execution is closed.
    """
    yield from settle(ex)
    for op in ops:
        yield from queue(ex, link, op)
        yield from settle(ex)
