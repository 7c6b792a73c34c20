"""Group commit: writes that wait at the same moment share one transaction and one fsync.

There is no single writer thread, because passing each write to another thread costs more than the
fsync. A thread that waits for its write while no commit is running becomes the leader. It commits
every queued write; the other threads wait for it. What tasks of an event loop wait for is committed
in the loop's next tick. A background thread commits writes that nobody waits for, after a few
milliseconds, and writes that would block an event loop.

A queued checkpoint is merged with a later one of the same run, so that the last step and the end of
the run are one write.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any, Generic, TypeVar

from durable_core.errors import (
    StoreBrokenError,
    StoreBusyError,
    StoreConflictError,
    StoreError,
    StoreOutcomeUnknownError,
)
from durable_core.model.step import Pending
from durable_core.platform import call_soon, logger, process_id
from durable_core.ports import Checkpoint, Store, Write

__all__ = [
    "CommitFuture",
    "CommitQueue",
    "ThreadWaiter",
    "notify",
]


T = TypeVar("T")

#: How often a batch is committed again after a conflict, or after its answer was lost.
_TRIES = 3


class CommitFuture(Generic[T]):
    """The receipt for one queued write.

    Attributes:
        write: the write.
        done: the write is durable, or has failed.
        answer: the store's answer; None before it is known, or if the write failed.
        error: the error of a failed write.
        threads, tasks: the threads and tasks that wait for it.
        unknown: the error of an earlier attempt that may have succeeded.
        tries_left: how often it may be retried after the answer of the store was lost, if the
            write is repeatable.
    """

    __slots__ = ("answer", "done", "error", "tasks", "threads", "tries_left", "unknown", "write")

    def __init__(self, write: Write[T]) -> None:
        self.write: Write[T] = write
        self.done = False
        self.error: BaseException | None = None
        self.threads: tuple[ThreadWaiter, ...] = ()
        self.tasks: tuple[asyncio.Future[None], ...] = ()
        self.answer: T | None = None
        self.unknown: StoreOutcomeUnknownError | None = None
        self.tries_left = _TRIES

    @classmethod
    def failed(cls, write: Write[T], error: BaseException) -> CommitFuture[T]:
        """Return the receipt of a write that fails without an attempt."""
        ticket = cls(write)
        ticket.error = error
        ticket.done = True
        return ticket

    def result(self) -> T:
        """Return the answer, or raise the error. Call it once ``done``."""
        if self.error is not None:
            raise self.error
        answer: Any = self.answer
        result: T = answer
        return result


class ThreadWaiter:
    """A thread that waits for a ticket; it is woken when the ticket is done, or to lead."""

    __slots__ = ("lock", "ticket")

    def __init__(self, ticket: CommitFuture[Any]) -> None:
        self.ticket = ticket
        self.lock = threading.Lock()
        self.lock.acquire()

    def notify(self) -> None:
        """Wake the thread. Harmless if it is awake already."""
        try:
            self.lock.release()
        except RuntimeError:
            pass


def notify(tickets: Iterable[CommitFuture[Any]]) -> None:
    """Wake all who wait for these tickets; an event loop is called once for all of its tasks."""
    here = asyncio._get_running_loop()
    elsewhere: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for ticket in tickets:
        for blocked in ticket.threads:
            blocked.notify()
        for future in ticket.tasks:
            loop = future.get_loop()
            if loop is not here:
                elsewhere.setdefault(loop, []).append(future)
            elif not future.done():
                future.set_result(None)
    for loop, futures in elsewhere.items():
        call_soon(loop, _finish, futures)


def _finish(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


#: A write that nobody waits for stays queued for once to twice as long, seconds.
_LINGER = 0.005
#: On an event loop a commit is done in place only while commits take less than this, seconds,
#: beside what their writes take. Those need the interpreter, in whichever thread they are made.
_INLINE_LIMIT = 0.001
#: What a write takes at most, seconds.
_WRITE_SECONDS = 0.000_03
#: Weight of the newest commit in the moving average of their durations.
_WEIGHT = 0.125


class CommitQueue:
    """Queues writes for one store and commits them in groups.

    Args:
        store: where they go. While runs are live, only the queue calls its ``commit``.
        busy_timeout: seconds to wait for a store that another process has locked.
        on_commit: called after each commit, in the committing thread and before those who wait
            are woken, with the writes and their answers; it must not block.
        on_timed: called after those who wait are woken, with the number of writes and how many
            seconds the store took for them; it must not block.
    """

    def __init__(
        self,
        store: Store,
        *,
        busy_timeout: float = 5.0,
        on_commit: Callable[[Sequence[CommitFuture[Any]]], None] | None = None,
        on_timed: Callable[[int, float], None] | None = None,
    ) -> None:
        self._store = store
        self._pid = process_id()
        self._busy_timeout = busy_timeout
        self._on_commit = on_commit
        self._on_timed = on_timed
        self._mutex = threading.Lock()  # guards the queue, never held while committing
        self._leading = threading.Lock()  # held while committing
        self._queue: list[CommitFuture[Any]] = []
        self._by_run: dict[str, CommitFuture[Any]] = {}  # the last queued checkpoint of each
        self._oldest: CommitFuture[Any] | None = None  # in the queue, when it was last looked at
        self._blocked: list[ThreadWaiter] = []
        self._tick_scheduled: set[asyncio.AbstractEventLoop] = set()
        self._average = 0.0
        self._wakeup = threading.Condition(self._mutex)
        self._writer_notified = False
        self._urgent = False
        self._stopped = False
        self._thread: threading.Thread | None = None
        self.commits = 0
        self.writes = 0

    @property
    def average(self) -> float:
        """How long a commit takes, seconds: a moving average, without what its writes take."""
        return max(0.0, self._average)

    def start(self) -> None:
        """Start the background thread."""
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="durable-writer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Commit what is queued and end the background thread."""
        with self._mutex:
            self._stopped = True
            self._wakeup.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def submit(self, write: Write[T], after: Sequence[CommitFuture[Any]] = ()) -> CommitFuture[T]:
        """Queue a write. It is committed when a caller waits for it, or after 5 to 10 ms.

        On an event loop the 5 to 10 ms begin with its next tick; see :meth:`commit_forgotten`.

        Args:
            write: the write.
            after: earlier writes that it depends on; if one has failed, it fails with that error.
        """
        with self._mutex:
            for earlier in after:
                if earlier.error is not None:
                    return CommitFuture.failed(write, earlier.error)
            if isinstance(write, Checkpoint):
                queued = self._by_run.get(write.run_id)
                if queued is not None and _can_be_one(queued.write, write):
                    queued.write = _merge(queued.write, write)
                    return queued
                ticket = self._by_run[write.run_id] = CommitFuture(write)
            else:
                ticket = CommitFuture(write)
            self._queue.append(ticket)
            loop = asyncio._get_running_loop()
            if loop is None:
                self._notify_writer()
            elif loop not in self._tick_scheduled:
                self._schedule_tick(loop)
            return ticket

    def _notify_writer(self) -> None:
        """Have the background thread commit what nobody waits for. The caller holds the mutex."""
        if not self._writer_notified:
            self._writer_notified = True
            self._wakeup.notify()

    def _schedule_tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look in the next tick of this loop who waits. The caller holds the mutex.

        The background thread need not wake up for most writes, and fight for the interpreter.
        """
        self._tick_scheduled.add(loop)
        loop.call_soon(self._tick, loop)

    # -- waiting, in a thread ---------------------------------------------------------------

    def wait(self, ticket: CommitFuture[T]) -> T:
        """Block until the write is durable; return its answer or raise its error."""
        while not ticket.done:
            if self._leading.acquire(blocking=False):
                try:
                    self._commit_queued(self._busy_timeout)
                finally:
                    self._leading.release()
                if self._queue:
                    self._hand_over_lead()
            else:
                self._block(ticket)
        return ticket.result()

    def execute(self, write: Write[T]) -> T:
        """Submit a write and wait for it."""
        return self.wait(self.submit(write))

    def _block(self, ticket: CommitFuture[Any]) -> None:
        blocked = ThreadWaiter(ticket)
        with self._mutex:
            if ticket.done:
                return
            if not self._leading.locked():
                return  # the leader left before we were on its list: lead ourselves
            ticket.threads += (blocked,)
            self._blocked.append(blocked)
        blocked.lock.acquire()
        with self._mutex:
            self._blocked.remove(blocked)

    # -- waiting, on an event loop ----------------------------------------------------------

    async def wait_async(self, ticket: CommitFuture[T]) -> T:
        """Wait until the write is durable; return its answer or raise its error.

        The writes of all tasks that wait in the same tick of the loop are committed together.
        """
        if not ticket.done:
            await self.ended(ticket)
        return ticket.result()

    def ended(self, ticket: CommitFuture[Any]) -> asyncio.Future[None]:
        """Return a future that is done when the write is durable, or has failed.

        It is awaited where :meth:`wait_async` would be one coroutine more in each step.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._mutex:
            if ticket.done:
                future.set_result(None)
                return future
            ticket.tasks += (future,)
            if loop not in self._tick_scheduled:
                self._schedule_tick(loop)
        return future

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Commit for all waiting tasks of a loop, or let another thread do it."""
        with self._mutex:
            self._tick_scheduled.discard(loop)
            for ticket in self._queue:
                if ticket.tasks:
                    break
            else:
                if self._queue:
                    self._notify_writer()
                return
        self.commit_here()

    def commit_here(self) -> None:
        """Commit the queued writes in this event-loop thread, or let another thread do it.

        The event loop is not blocked for long. Another thread commits if there is a leader already,
        if the store is locked, or if recent commits were slow.
        """
        if not self._queue:
            return
        quick = self._stopped or self._average < _INLINE_LIMIT  # stopped, there is nobody else
        if quick and self._leading.acquire(blocking=False):
            try:
                self._commit_queued(0.0)
            finally:
                self._leading.release()
            if self._queue:  # a thread that blocks now queued its write under the lead: it is seen
                self._hand_over_lead()
        else:
            self._flush_in_background()

    # -- committing -------------------------------------------------------------------------

    def _commit_queued(self, wait: float) -> None:
        """Commit the queue as the leader; with ``wait`` 0 a busy store leaves it unchanged."""
        with self._mutex:
            batch, self._queue = self._queue, []
            self._by_run.clear()
        if not batch:
            return
        if process_id() != self._pid:
            self._fail(batch, StoreBrokenError("a forked process cannot commit for its parent"))
            return
        writes = [ticket.write for ticket in batch]
        began = perf_counter()
        try:
            answers = self._commit(writes, wait)
        except StoreBusyError as error:
            if wait > 0.0 or not self._requeue(batch):
                self._fail(batch, error)
        except StoreOutcomeUnknownError as error:
            self._try_again(batch, error)
        except StoreError as error:
            self._fail(batch, error)
        except BaseException as error:
            # A bug or an interrupt: no waiter may see success, and none may wait for ever.
            self._fail(batch, StoreBrokenError(f"the commit was cut short: {error!r}"))
            raise
        else:
            seconds, count = perf_counter() - began, len(batch)
            took = seconds - count * _WRITE_SECONDS
            self._average += (took - self._average) * _WEIGHT
            self.commits += 1
            self.writes += count
            self._deliver(batch, answers)
            if self._on_timed is not None:
                self._on_timed(count, seconds)

    def _commit(self, writes: Sequence[Write[Any]], wait: float) -> Sequence[object]:
        for _ in range(_TRIES):
            try:
                return self._store.commit(writes, wait=wait)
            except StoreConflictError:
                continue
        return self._store.commit(writes, wait=wait)

    def _try_again(
        self, batch: Sequence[CommitFuture[Any]], error: StoreOutcomeUnknownError
    ) -> None:
        """The outcome of the batch is unknown: requeue repeatable writes, fail the others."""
        again = [ticket for ticket in batch if ticket.write.repeatable and ticket.tries_left]
        for ticket in again:
            ticket.tries_left -= 1
            ticket.unknown = error
        self._fail([ticket for ticket in batch if ticket not in again], error)
        if again and not self._requeue(again):
            self._fail(again, error)

    def _deliver(self, batch: Sequence[CommitFuture[Any]], answers: Sequence[object]) -> None:
        refused = False
        for ticket, answer in zip(batch, answers, strict=True):
            if isinstance(answer, BaseException):
                ticket.error = answer
                refused = True
            else:
                ticket.answer = answer
        behind = self._fail_behind(batch) if refused else ()
        try:
            if self._on_commit is not None:
                self._on_commit(batch)
        finally:
            self._notify((*batch, *behind) if behind else batch)

    def _fail(self, batch: Sequence[CommitFuture[Any]], error: StoreError) -> None:
        """Fail a batch, and the writes that depend on it."""
        for ticket in batch:
            ticket.error = ticket.unknown or error
        self._notify((*batch, *self._fail_behind(batch)))

    def _fail_behind(self, batch: Sequence[CommitFuture[Any]]) -> Sequence[CommitFuture[Any]]:
        """Fail and return the queued writes with the same lease as a failed write.

        A run must not be stored as completed after its client got an error. A later write finds the
        error in :meth:`submit`, because it was set before this method reads the queue.
        """
        errors = {
            _lease(each.write): each.error
            for each in batch
            if each.error is not None and isinstance(each.write, Checkpoint)
        }
        behind: list[CommitFuture[Any]] = []
        with self._mutex:
            for ticket in self._queue:
                if isinstance(ticket.write, Checkpoint) and _lease(ticket.write) in errors:
                    ticket.error = errors[_lease(ticket.write)]
                    behind.append(ticket)
            if behind:
                self._queue = [each for each in self._queue if each.error is None]
            for run_id, _, _ in errors:
                self._by_run.pop(run_id, None)
        return behind

    def _notify(self, batch: Sequence[CommitFuture[Any]]) -> None:
        waited_for = False
        with self._mutex:
            for ticket in batch:
                ticket.done = True
                waited_for = waited_for or bool(ticket.threads or ticket.tasks)
        if waited_for:
            notify(batch)

    def _requeue(self, batch: list[CommitFuture[Any]]) -> bool:
        """Queue a batch again for the background thread, because this thread must not wait.

        Returns False if the background thread has been stopped.
        """
        with self._mutex:
            if self._stopped:
                return False
            later, self._queue = self._queue, batch
            self._queue.extend(later)
            # Two writes of one run stay apart and in order; the later one is open.
            self._by_run = {
                ticket.write.run_id: ticket
                for ticket in self._queue
                if isinstance(ticket.write, Checkpoint)
            }
        self._flush_in_background()
        return True

    def _hand_over_lead(self) -> None:
        """Writes were queued during the commit: wake one waiting thread to lead the next one.

        A thread that has queued a write and does not wait yet will lead when it waits.
        """
        with self._mutex:
            for blocked in self._blocked:
                if not blocked.ticket.done:  # otherwise it returns and does not lead
                    blocked.notify()
                    return
        # Writes of tasks are committed by the background thread. After its stop, do it here.
        while self._stopped and self._queue and self._leading.acquire(blocking=False):
            try:
                self._commit_queued(self._busy_timeout)
            finally:
                self._leading.release()

    def _flush_in_background(self) -> None:
        with self._mutex:
            self._urgent = True
            self._wakeup.notify()

    def commit_forgotten(self) -> None:
        """Commit in the background what was queued already at the last call.

        Nobody else does so if it was queued on an event loop that is blocked now, or has ended.
        """
        with self._mutex:
            oldest = self._queue[0] if self._queue else None
            is_forgotten = oldest is not None and oldest is self._oldest
            self._oldest = oldest
        if is_forgotten and not self._leading.locked():
            self._flush_in_background()

    def _run(self) -> None:
        """Commit urgent writes at once, and others after a few milliseconds."""
        while True:
            with self._mutex:
                self._idle_wait()
                self._urgent = False
                stopped = self._stopped
                queued = bool(self._queue)
            if queued:
                try:
                    with self._leading:
                        self._commit_queued(self._busy_timeout)
                except Exception:
                    # The waiters have the error. Others need this thread, so it continues.
                    logger.exception("a commit failed unexpectedly")
                if self._queue:
                    self._hand_over_lead()
            elif stopped:
                return

    def _idle_wait(self) -> None:
        """Wait until this thread must commit. The caller holds the mutex.

        The thread does nothing while others commit: a thread that waits for the lead and then for
        the interpreter delays all others.
        """
        while not (self._urgent or self._stopped):
            if not self._writer_notified:
                self._wakeup.wait()
                continue
            oldest = self._queue[:1]
            self._wakeup.wait(_LINGER)
            forgotten = oldest and oldest == self._queue[:1]
            if forgotten and not self._leading.locked():
                return
            self._writer_notified = bool(self._queue)


def _lease(write: Checkpoint) -> tuple[str, str, int]:
    return write.run_id, write.owner, write.epoch


def _can_be_one(first: object, second: Checkpoint) -> bool:
    """Return whether two writes of a run may be merged.

    Not with a write of a lost lease; nor if both send events, as their event_seq differ; nor if an
    op of the first waits for what the second delivers, as deliveries are made before ops wait.
    """
    return (
        isinstance(first, Checkpoint)
        and first.owner == second.owner
        and first.epoch == second.epoch
        and not (first.events and second.events)
        and not (first.pending and second.deliveries)
    )


def _merge(first: object, second: Checkpoint) -> Checkpoint:
    """Return one write with the effect of two of the same lease, one after the other."""
    assert isinstance(first, Checkpoint)
    return Checkpoint(  # by position, see ``record``: the end of most runs is merged
        first.run_id,
        first.owner,
        first.epoch,
        second.now,
        first.create,
        first.request,
        first.memos + second.memos,
        _still_pending(first.pending, second) + second.pending if first.pending else second.pending,
        second.state or first.state,
        second.release or first.release,
        second.result or first.result,
        first.events + second.events,
        first.chunks + second.chunks,
        second.handoff or first.handoff,
        _is_direct(first) and _is_direct(second),
        first.failed_attempts + second.failed_attempts,
        first.replacing + second.replacing,
        False,
        first.deliveries + second.deliveries,
        first.closing + second.closing,
        first.children + second.children,
        second.child_limit if second.children else first.child_limit,
    )


def _still_pending(pending: tuple[Pending, ...], later: Checkpoint) -> tuple[Pending, ...]:
    """Return the ops that a later write neither ends nor changes."""
    renewed = {memo.op.id for memo in later.memos} | {each.op.id for each in later.pending}
    return tuple(each for each in pending if each.op.id not in renewed)


def _is_direct(write: Checkpoint) -> bool:
    return write.no_pending_row or not (write.memos or write.result)
