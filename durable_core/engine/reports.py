"""What an engine tells observers that happens outside runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from durable_core.commit_queue import CommitFuture
from durable_core.duration import time_of
from durable_core.errors import StoreError
from durable_core.flow.env import AppConfig
from durable_core.flow.error_responses import cancel_detail
from durable_core.flow.facts import event_sent, run_facts
from durable_core.model.fact import RunFinished, RunStarted, StoreFault
from durable_core.model.run import Run
from durable_core.ports import (
    Begin,
    Begun,
    Cancel,
    CancelOutcome,
    Checkpoint,
    Fork,
    SendEvents,
    StoredResult,
)
from durable_core.runners.observers import Observers

__all__ = ["EngineReports", "report_begun"]


class EngineReports:
    """Notifies observers, the log among them.

    Args:
        env: the application.
    """

    def __init__(self, env: AppConfig) -> None:
        self._env = env
        self._observers = Observers(env.observers)

    def store_fault(self, message: str, error: StoreError) -> None:
        """Report that the store could not answer; see ``StoreFault``."""
        at = time_of(self._env.clock.now())
        self._observers.notify(
            StoreFault(app=self._env.app, run=None, at=at, error=error, message=message)
        )

    @contextmanager
    def sending(self, write: SendEvents) -> Iterator[None]:
        """Report events that are sent here, or the store that does not take them."""
        try:
            yield
        except StoreError as error:
            self.store_fault("", error)
            raise
        if self._observers.watched:
            for event in write.events:
                self._observers.notify(event_sent(self._env.app, None, event, write.now))

    def cancelled(self, run: Run, result: StoredResult) -> None:
        """Report a run that was cancelled and is not undone."""
        if not self._observers.watched:
            return
        self._observers.notify(
            RunFinished(
                run=run_facts(run),
                at=time_of(result.ended_at),
                status="cancelled",
                http_status=410,
                reason=cancel_detail(run),
            )
        )


def report_begun(observers: Observers, batch: Sequence[CommitFuture[Any]]) -> None:
    """Report the runs that a commit has begun and that no client waits for in this process.

    The others are reported where their handlers are called.

    Args:
        observers: who is notified.
        batch: what was committed, with the answers of the store.
    """
    for commit in batch:
        for run in _begun_by(commit.write, commit.answer):
            observers.notify(RunStarted(run=run_facts(run), at=time_of(run.created_at)))


def _begun_by(write: object, answer: object) -> Iterator[Run]:
    match write:
        case Checkpoint() if answer is not None:
            yield from (each.run for each in write.children)
            if write.result is not None:
                yield from _follow_up(write.result)
        case Begin() if isinstance(answer, Begun) and answer.is_new:
            if answer.is_queued and write.checkpoint.create is not None:
                yield write.checkpoint.create
            if write.replaces is not None and answer.replaced is CancelOutcome.ENDED:
                yield from _follow_up(write.replaces.result)
        case Cancel() if answer is CancelOutcome.ENDED:
            yield from _follow_up(write.result)
        case Fork() if answer is True:
            yield write.run


def _follow_up(result: StoredResult) -> Iterator[Run]:
    if result.follow_up is not None:
        yield result.follow_up.run
