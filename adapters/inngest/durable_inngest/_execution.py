"""One live execution under this engine: what the server knows of the run and is to hear."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from durable_core.errors import LimitExceededError
from durable_core.flow.env import Env, Options
from durable_core.flow.execution import Execution
from durable_core.model.ops import Op, OpKind
from durable_core.model.request import Request
from durable_core.model.run import Run
from durable_inngest._link import Link
from durable_inngest._ops import Step, counted_failure_id
from durable_inngest._results import Results
from durable_inngest._streams import Emitter

__all__ = ["Found", "Reentry", "RemoteExecution", "remote"]

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
        env: Env,
        options: Options,
        run: Run,
        request: Request,
        *,
        link: Link | None = None,
        reentry: Reentry | None = None,
        results: Results,
        output_url: Callable[[str, str], str] | None = None,
    ) -> None:
        super().__init__(env, options, run, request, owner="")
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
        self._counted = set(self.actions)
        self._order = {op_id: number for number, op_id in enumerate(self.actions, 1)}

    def take(self, step_id: str, kind: OpKind, branch: object) -> Op:
        """Return the op for the next use of a step id; see ``Execution.take``."""
        op = super().take(step_id, kind, branch)
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

    def note(self, written: Sequence[object]) -> None:
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
