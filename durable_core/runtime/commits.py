"""Group commit: writes that wait at the same moment share one transaction and one fsync.

There is no writer everybody hands over to; a hand-over costs more than the fsync. Whoever needs
its write durable and finds nobody committing becomes the leader and commits for all that has
queued meanwhile; the others follow. A background thread commits what nobody waits for after a few
milliseconds, and what an event loop must not be blocked by.

A queued checkpoint takes in a later one of the same run, so that the last step and the end of the
run are one write.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, Generic, TypeVar, cast

from durable_core.errors import StoreBusyError, StoreError
from durable_core.ports import RunWrite, Store, Write

__all__ = ["CommitQueue", "Ticket"]

T = TypeVar("T")

#: How long a write may stay queued if nobody waits for it, seconds.
_LINGER = 0.005
#: On an event loop a commit is done in place only while commits take less than this, seconds.
_INLINE_LIMIT = 0.001
#: Weight of the newest commit in the moving average of their durations.
_WEIGHT = 0.125


class Ticket(Generic[T]):
    """The receipt for one queued write."""

    __slots__ = ("_answer", "_error", "_wakers", "done", "write")

    def __init__(self, write: Write[T]) -> None:
        self.write: Write[T] = write
        self.done = False
        self._answer: Any = None
        self._error: BaseException | None = None
        self._wakers: list[Callable[[], None]] = []

    @property
    def answer(self) -> T | None:
        """The answer; None while there is none, or if the write failed."""
        return cast("T | None", self._answer)

    def result(self) -> T:
        """Return the answer, or raise the error. Call it once ``done``."""
        if self._error is not None:
            raise self._error
        return cast(T, self._answer)


class _Blocked:
    """A thread that waits for a ticket; it is woken when the ticket is done, or to lead."""

    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()

    def wake(self) -> None:
        """Let the thread look again. Harmless if it has been woken already."""
        try:
            self.lock.release()
        except RuntimeError:
            pass


class CommitQueue:
    """Queues writes for one store and commits them in groups.

    Args:
        store: where they go. The queue is the only one to call its ``commit``.
        busy_timeout: seconds to wait for a store that another process has locked.
        on_commit: called after each commit, in the committing thread, with the writes and their
            answers; it must not block.
    """

    def __init__(
        self,
        store: Store,
        *,
        busy_timeout: float = 5.0,
        on_commit: Callable[[Sequence[Ticket[Any]]], None] | None = None,
    ) -> None:
        self._store = store
        self._busy_timeout = busy_timeout
        self._on_commit = on_commit
        self._mutex = threading.Lock()  # guards the queue, never held while committing
        self._leading = threading.Lock()  # held while committing
        self._queue: list[Ticket[Any]] = []
        self._by_run: dict[str, Ticket[Any]] = {}
        self._blocked: list[_Blocked] = []
        self._loops: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}
        self._average = 0.0
        self._wakeup = threading.Condition(self._mutex)
        self._armed = False
        self._urgent = False
        self._stopped = False
        self._thread: threading.Thread | None = None
        self.commits = 0
        self.writes = 0

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

    def submit(self, write: Write[T]) -> Ticket[T]:
        """Queue a write; it is committed when somebody waits for it, or after 5 ms."""
        with self._mutex:
            return self._enqueue(write)

    def _enqueue(self, write: Write[T]) -> Ticket[T]:
        if isinstance(write, RunWrite):
            queued = self._by_run.get(write.run_id)
            if queued is not None:
                queued.write = _merged(queued.write, write)
                return queued
        ticket: Ticket[Any] = Ticket(write)
        if isinstance(write, RunWrite):
            self._by_run[write.run_id] = ticket
        self._queue.append(ticket)
        if not self._armed:
            self._armed = True
            self._wakeup.notify()
        return cast("Ticket[T]", ticket)

    # -- waiting, in a thread ---------------------------------------------------------------

    def wait(self, ticket: Ticket[T]) -> T:
        """Block until the write is durable; return its answer or raise its error."""
        while not ticket.done:
            if self._leading.acquire(blocking=False):
                try:
                    self._commit_queued(self._busy_timeout)
                finally:
                    self._leading.release()
                self._promote()
            else:
                self._block(ticket)
        return ticket.result()

    def execute(self, write: Write[T]) -> T:
        """Submit a write and wait for it."""
        return self.wait(self.submit(write))

    def _block(self, ticket: Ticket[Any]) -> None:
        blocked = _Blocked()
        with self._mutex:
            if ticket.done:
                return
            if not self._leading.locked():
                return  # the leader left before we were on its list: lead ourselves
            ticket._wakers.append(blocked.wake)
            self._blocked.append(blocked)
        blocked.lock.acquire()
        with self._mutex:
            self._blocked.remove(blocked)

    # -- waiting, on an event loop ----------------------------------------------------------

    async def wait_async(self, ticket: Ticket[T]) -> T:
        """Wait until the write is durable; return its answer or raise its error.

        The writes of all tasks that wait in the same tick of the loop are committed together.
        """
        if not ticket.done:
            loop = asyncio.get_running_loop()
            waiting = _Waiting(loop)
            with self._mutex:
                if not ticket.done:
                    ticket._wakers.append(waiting.wake_from_anywhere)
                    waiters = self._loops.get(loop)
                    if waiters is None:
                        self._loops[loop] = [waiting]
                        loop.call_soon(self._tick, loop)
                    else:
                        waiters.append(waiting)
                else:
                    return ticket.result()
            await waiting.future
        return ticket.result()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Commit for all tasks of a loop that have come to wait, or see that somebody does."""
        with self._mutex:
            self._loops.pop(loop, None)
            if not self._queue:
                return
        if self._average < _INLINE_LIMIT and self._leading.acquire(blocking=False):
            try:
                self._commit_queued(0.0)
            finally:
                self._leading.release()
            self._promote()
        else:
            self._hurry()

    # -- committing -------------------------------------------------------------------------

    def _commit_queued(self, wait: float) -> None:
        """Commit what is queued; the caller leads. With ``wait`` 0 a busy store leaves it so."""
        with self._mutex:
            batch, self._queue = self._queue, []
            self._by_run.clear()
        if not batch:
            return
        began = perf_counter()
        try:
            answers = self._store.commit([ticket.write for ticket in batch], wait=wait)
        except StoreBusyError as error:
            if wait == 0.0:
                self._put_back(batch)
                return
            self._fail(batch, error)
        except StoreError as error:
            self._fail(batch, error)
        except BaseException as error:
            # A bug or an interrupt: nobody may take it for success, nobody may wait for ever.
            self._fail(batch, StoreError(f"the commit was cut short: {error!r}"))
            raise
        else:
            took = perf_counter() - began
            self._average += (took - self._average) * _WEIGHT
            self.commits += 1
            self.writes += len(batch)
            self._deliver(batch, answers)

    def _deliver(self, batch: Sequence[Ticket[Any]], answers: Sequence[object]) -> None:
        for ticket, answer in zip(batch, answers, strict=True):
            if isinstance(answer, BaseException):
                ticket._error = answer
            else:
                ticket._answer = answer
        self._wake(batch)
        if self._on_commit is not None:
            self._on_commit(batch)

    def _fail(self, batch: Sequence[Ticket[Any]], error: StoreError) -> None:
        for ticket in batch:
            ticket._error = error
        self._wake(batch)

    def _wake(self, batch: Sequence[Ticket[Any]]) -> None:
        with self._mutex:
            wakers = []
            for ticket in batch:
                ticket.done = True
                if ticket._wakers:
                    wakers.extend(ticket._wakers)
        for wake in wakers:
            wake()

    def _put_back(self, batch: list[Ticket[Any]]) -> None:
        """The store is busy and this thread must not wait for it: leave it to the background."""
        with self._mutex:
            later, self._queue = self._queue, batch
            self._by_run = {
                ticket.write.run_id: ticket
                for ticket in batch
                if isinstance(ticket.write, RunWrite)
            }
            for ticket in later:
                self._queue.append(ticket)
                if isinstance(ticket.write, RunWrite):
                    # Two writes of one run stay apart and in order; the later one is open.
                    self._by_run[ticket.write.run_id] = ticket
        self._hurry()

    def _promote(self) -> None:
        """The leader leaves: if more has queued meanwhile, make somebody lead who waits for it."""
        with self._mutex:
            if not self._queue:
                return
            if self._blocked:
                self._blocked[0].wake()
                return
        self._hurry()

    def _hurry(self) -> None:
        with self._mutex:
            self._urgent = True
            self._wakeup.notify()

    def _run(self) -> None:
        """Commit what is urgent at once, and the rest when it has lingered."""
        while True:
            with self._mutex:
                while not (self._urgent or self._stopped or self._armed):
                    self._wakeup.wait()
                if not (self._urgent or self._stopped):
                    self._wakeup.wait(_LINGER)
                self._urgent = False
                self._armed = False
                stopped = self._stopped
                queued = bool(self._queue)
            if queued:
                with self._leading:
                    self._commit_queued(self._busy_timeout)
                self._promote()
            elif stopped:
                return


class _Waiting:
    """A task that waits for a ticket."""

    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()

    def wake_from_anywhere(self) -> None:
        """Wake the task, from its own loop's thread or from another."""
        if asyncio._get_running_loop() is self.loop:
            self._wake()
        else:
            try:
                self.loop.call_soon_threadsafe(self._wake)
            except RuntimeError:
                pass  # the loop is closed, and the task with it

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


def _merged(first: object, second: RunWrite) -> RunWrite:
    """Return one write that does what two of the same run do, one after the other."""
    assert isinstance(first, RunWrite)
    settled = {memo.op.id for memo in second.memos}
    renewed = settled | {each.op.id for each in second.pending}
    kept = tuple(each for each in first.pending if each.op.id not in renewed)
    return replace(
        first,
        now=second.now,
        memos=(*first.memos, *second.memos),
        pending=(*kept, *second.pending),
        state=second.state or first.state,
        release=second.release or first.release,
        result=second.result or first.result,
        sends=(*first.sends, *second.sends),
    )
