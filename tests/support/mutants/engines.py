"""Engines that are broken on purpose, each in one way: ``support.mutants.durables:<name>``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from durable_core import Durable
from durable_core.engine.embedded import embedded
from durable_core.engine.worker import Worker
from durable_core.flow.attempt import Call
from durable_core.flow.effects import Flow
from durable_core.flow.execution import StoredExecution
from durable_core.flow.flows import EMBEDDED_FLOWS
from durable_core.flow.function_steps import run_step
from durable_core.model.step import Op
from support.engine_subjects import EmbeddedSubject
from support.mutants.runs import committing, lose_events, only_runs, without_body, without_memos

__all__ = ["MUTANTS"]


class BrokenEngine(EmbeddedSubject):
    """The embedded engine with something wrong.

    Args:
        start: called with each application.
    """

    name = "mutant"

    def __init__(self, start: Callable[[Durable[Any]], None]) -> None:
        super().__init__()
        self._start = start

    def application(self, id: str) -> Durable[Any]:
        """Return a broken application."""
        durable = super().application(id)
        self._start(durable)
        return durable


def without_options(durable: Durable[Any]) -> None:
    """Have the workers of an application ignore the options of steps."""
    engine = embedded(durable.engine)

    def run_plain(ex: StoredExecution, op: Op, call: Call) -> Flow[object]:
        return run_step(ex, op, Call(call.fn, call.args, call.kwargs))

    def make_worker(*args: Any) -> Worker:
        worker = Worker(*args)
        worker.flows = replace(EMBEDDED_FLOWS, run_step=run_plain, plain_steps=None)
        return worker

    engine._make_worker = make_worker


class ForgetfulEngine(EmbeddedSubject):
    """The embedded engine, which forgets its runs when it is started again."""

    name = "mutant"

    def application(self, id: str) -> Durable[Any]:
        """Return an application on a new store."""
        self._stores.pop(id, None)
        return super().application(id)


#: Each mutant by what it gets wrong: (subject, the requirements that must fail for it).
MUTANTS: dict[str, tuple[EmbeddedSubject, tuple[str, ...]]] = {
    "forgets_checkpoints": (BrokenEngine(committing(only_runs(without_memos))), ("L2",)),
    "forgets_the_body": (BrokenEngine(committing(only_runs(without_body))), ("L3",)),
    "loses_events": (BrokenEngine(committing(lose_events)), ("E1",)),
    "ignores_options": (BrokenEngine(without_options), ("L14",)),
    "forgets_runs": (ForgetfulEngine(), ("W6",)),
}


#: What they are made of, with nothing wrong.
sound = EmbeddedSubject()


def __getattr__(name: str) -> EmbeddedSubject:
    if name not in MUTANTS:
        raise AttributeError(f"there is no mutant {name!r}")
    return MUTANTS[name][0]
