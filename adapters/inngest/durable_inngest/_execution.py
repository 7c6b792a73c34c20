"""One live execution under this engine: what it has besides that of any server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from durable_core import Request
from durable_core.engines.remote import (
    AppConfig,
    CompletionOrder,
    Op,
    OpKind,
    Reentry,
    RemoteExecution,
    ResolvedOptions,
    Results,
    Run,
)
from durable_core.errors import LimitExceededError, StepUsageError
from durable_inngest._link import Reporter
from durable_inngest._protocol import Value, counted_failure_id, load_outcome, order, order_id

__all__ = ["NO_CALLBACKS", "InngestExecution"]

#: The server fails a run that has more.
_MOST_STEPS = 1_000

#: What is said of callbacks, which the server does not have.
NO_CALLBACKS = "InngestEngine has no callbacks; make a route that sends a signal, and wait for that"


class InngestExecution(RemoteExecution):
    """The live state of one execution.

    Attributes:
        output_url: where the server gives the output of the run for a token, if clients are to be
            sent there; else None.
    """

    reporter: Reporter | None

    def callback_url(self, step_id: str) -> str:
        """Refuse: the server has no callbacks.

        Raises:
            StepUsageError: always; the message names the engine and the remedy.
        """
        raise StepUsageError(f"run.callback_url({step_id!r}): {NO_CALLBACKS}")

    def check_threads(self, step_name: str) -> None:
        """Refuse branches in threads.

        Raises:
            StepUsageError: always; the message names the engine and the remedy.
        """
        raise StepUsageError(
            f"step {step_name!r}: InngestEngine has no step.parallel in 'def' handlers: its "
            "server asks for one step at a time; call the steps one after the other, or make the "
            "handler an 'async def'"
        )

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
    def is_full(self) -> bool:
        """Whether the server would fail the run for one more op; ours count as the user's do."""
        return len(self._counted) >= _MOST_STEPS

    @property
    def may_have_failed_attached(self) -> bool:
        """Whether the server may call because a step has failed while the client was attached.

        It counts that failure and does not say so; there are nothing but results then.
        """
        memos = self.actions.values()
        are_results = all(isinstance(memo, dict) and set(memo) == {"data"} for memo in memos)
        return self.reentry is not None and are_results and not self._order_parts

    def counted(self, name: str) -> int:
        """Return how many failures of a step, or of the handler (""), we have counted."""
        number = 0
        while counted_failure_id(name, number + 1) in self.actions:
            number += 1
        return number

    def order_ops(self) -> list[str]:
        """Return the op that keeps the order of what has finished, if there is any, and room."""
        op_ids = self.order.unknown or self.order.finished
        return [order(self._order_parts + 1, op_ids)] if op_ids and not self.is_full else []


def _order_in(actions: Mapping[str, object]) -> Iterator[list[str]]:
    """Yield the parts of the order that are kept in a run's state."""
    number = 1
    while order_id(number) in actions:
        outcome = load_outcome(actions[order_id(number)])
        part = outcome.value if isinstance(outcome, Value) else None
        yield [str(op_id) for op_id in part] if isinstance(part, list) else []
        number += 1
