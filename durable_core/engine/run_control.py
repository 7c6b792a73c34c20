"""What operators do to the runs that the embedded engine has stored."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from durable_core.engine.lifecycle import ProcessEngine
from durable_core.engine.unstored import with_ended_sleeps
from durable_core.errors import RunNotFoundError
from durable_core.model.run import Phase, plain_key

if TYPE_CHECKING:
    from durable_core.engine.reports import EngineReports
    from durable_core.engine.worker import Worker
    from durable_core.http.request import Request
    from durable_core.model.run import Run
    from durable_core.ports import Cancel, CancelOutcome, RunFilter, RunRecord, Store, Write

__all__ = ["RunControl"]

T = TypeVar("T")
#: Stands for the run of clients that wait for none.
_NO_RUN = ""
#: Seconds after which a wait for the end of a run looks again, whatever the store says.
_LONGEST_WAIT = 1.0


class RunControl(ProcessEngine["Worker"]):
    """The part of the embedded engine behind ``durable.runs``. It executes no handler."""

    @property
    @abstractmethod
    def store(self) -> Store:
        """The store."""

    @property
    def worker(self) -> Worker | None:
        """What works in this process; None if nothing does."""
        return self.host

    @property
    @abstractmethod
    def _reports(self) -> EngineReports: ...

    @abstractmethod
    def open_store(self) -> None:
        """Open the store, unless this process works on it already."""

    @abstractmethod
    def execute(self, write: Write[T]) -> T:
        """Commit one write."""

    def hold_thread(self, wake: Callable[[], None]) -> Callable[[], None] | None:
        """Count a client that holds a thread of the server, and waits for no run in particular.

        Args:
            wake: called, in another thread, when all clients are handed on.

        Returns:
            What must be called when the client is gone; None if too many wait already.
        """
        worker = self.worker
        if worker is None:
            return lambda: None  # nothing is served here that could lack threads
        waiters = worker.waiters
        if not waiters.add(_NO_RUN, wake, in_thread=True):
            return None
        return lambda: waiters.remove(_NO_RUN, wake, in_thread=True)

    def get(self, run_id: str) -> RunRecord | None:
        """Return all that is known about a run."""
        self.open_store()
        worker = self.worker
        record = self.store.get(self.env.app, run_id)
        if worker is not None:
            record = worker.with_running_steps(run_id, record)
        return None if record is None else with_ended_sleeps(record, self.env.clock.now())

    def _record(self, run_id: str) -> RunRecord:
        record = self.get(run_id)
        if record is None:
            raise RunNotFoundError(f"there is no run {run_id!r} in app {self.env.app!r}")
        return record

    def list(self, where: RunFilter, limit: int) -> Sequence[RunRecord]:
        """Return runs, newest first."""
        self.open_store()
        return self.store.list(self.env.app, where=where, limit=limit)

    def retry(self, run_id: str) -> bool:
        """Let a failed run go on from where it failed; False if it has not failed."""
        from durable_core.engine.children import cancel_abandoned, check_no_child
        from durable_core.flow.undo import check_retry
        from durable_core.machine.retry import steps_to_retry
        from durable_core.ports import Retry

        record = self._record(run_id)
        if record.run.phase is not Phase.FAILED:
            return False
        check_retry(record)
        check_no_child(record)
        # It will begin others.
        cancel_abandoned(self.env, self.store, self.endpoints, self.execute, (run_id,))
        now, steps = self.env.clock.now(), steps_to_retry(record)
        return self.execute(Retry(app=self.env.app, run_id=run_id, now=now, steps=steps))

    def fork(self, run_id: str, step: str, request: Request | None) -> str | None:
        """Begin a run that has the results of another one before a step; return its id."""
        from durable_core.codec.records import dump_request
        from durable_core.flow.undo import check_fork
        from durable_core.ports import Fork, StoredRequest

        record, now = self._record(run_id), self.env.clock.now()
        ops = {memo.op.name: memo.op.id for memo in record.memos}
        ops |= {pending.op.name: pending.op.id for pending in record.pending}
        if step not in ops:
            return None
        check_fork(record, step)
        new = replace(
            record.run,
            id=self.env.ids.ulid(now),
            phase=Phase.SUSPENDED,
            created_at=now,
            failures=0,
            crash_count=0,
            retry_count=0,
            epoch=1,
            cancel_reason=None,
            parent=None,
            depth=0,
            deadline=None if record.run.timeout is None else now + record.run.timeout,
            endpoint_key=plain_key(record.run),
        )
        stored = None
        if request is not None:
            endpoint = self.endpoints.get(new.endpoint_key)
            headers = frozenset() if endpoint is None else endpoint.options.store_headers
            omit = endpoint is not None and endpoint.options.omit_request_body
            if endpoint is not None and endpoint.options.limits is not None:
                new = endpoint.options.limits.keyed(new, request)
            head = dump_request(request, stored_headers=headers, omit_body=omit)
            stored = StoredRequest(head=head, body=b"" if omit else request.body)
        fork = Fork(
            app=self.env.app, run_id=run_id, op_id=ops[step], run=new, now=now, request=stored
        )
        return new.id if self.execute(fork) else None

    def delete(self, run_id: str) -> bool:
        """Delete a run that has ended; False, and nothing is done, if it has not."""
        from durable_core.ports import Delete

        return self.execute(Delete(app=self.env.app, run_id=run_id))

    def await_end(self, run_id: str, timeout: float | None) -> bool:
        """Block until a run has ended, or ``timeout`` seconds are over; return whether it has."""
        self.open_store()
        wakeups, deadline = self.store.wakeups(), None
        if timeout is not None:
            deadline = time.monotonic() + timeout
        while isinstance(result := self.store.result(self.env.app, run_id), Phase):
            left = _LONGEST_WAIT if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            wakeups.wait(min(left, _LONGEST_WAIT), eager=True)
        if result is None:
            raise RunNotFoundError(f"there is no run {run_id!r} in app {self.env.app!r}")
        return True

    def cancel(self, run_id: str, reason: str | None = None) -> bool:
        """Cancel a run and its children; False if it had ended, or had been cancelled."""
        from durable_core.ports import CancelOutcome

        run, cancel = self.cancellation(run_id, reason or "")
        outcome = self.execute(cancel)
        self.after_cancel(run, cancel, outcome)
        return outcome is not CancelOutcome.NOTHING

    def cancellation(self, run_id: str, reason: str) -> tuple[Run, Cancel]:
        """Return a run, and the message that cancels it.

        Raises:
            RunNotFoundError: there is no such run.
            RunUndoneError: it has failed and is being undone.
        """
        from durable_core.engine.children import with_follow_up
        from durable_core.flow.child_runs import cancellation
        from durable_core.flow.undo import check_cancel

        record = self._record(run_id)
        check_cancel(record)
        cancel = cancellation(record.run, reason, self.env.clock.now())
        return record.run, with_follow_up(cancel, self.env, self.endpoints, record.run)

    def after_cancel(self, run: Run, cancel: Cancel, outcome: CancelOutcome) -> None:
        """Report what :meth:`cancellation` has led to, and cancel the children of the run."""
        from durable_core.engine.children import cancel_abandoned
        from durable_core.ports import CancelOutcome

        if outcome is CancelOutcome.NOTHING:
            return
        if outcome is CancelOutcome.ENDED:
            self._reports.cancelled(replace(run, cancel_reason=cancel.reason), cancel.result)
        cancel_abandoned(self.env, self.store, self.endpoints, self.execute, (run.id,))
