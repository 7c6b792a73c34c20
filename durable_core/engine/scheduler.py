"""The scheduler: one thread per process, for periodic and timed work.

It renews the process's lease, takes over the runs of dead processes, claims due runs, notices the
commits of other processes, and deletes old rows. It never runs a handler, so a slow step does not
delay it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from durable_core.duration import time_of
from durable_core.engine.children import awaited_children, cancel_abandoned
from durable_core.engine.runs import RunManager, WorkerParts
from durable_core.errors import LeaseLost, StoreError, StoreOutcomeUnknownError
from durable_core.flow.execution import StoredExecution
from durable_core.flow.scope import HandlerKind
from durable_core.model.fact import StoreFault
from durable_core.model.run import Phase
from durable_core.platform import host_id, logger
from durable_core.ports import (
    Checkpoint,
    Claim,
    ClaimedRun,
    CorruptRun,
    Heartbeat,
    LeaveQueue,
    Prune,
    ReapWorkers,
    Register,
    Release,
    RunFilter,
    SealedRun,
    Unregister,
    WorkerRecord,
)

__all__ = [
    "PeriodicTask",
    "Scheduler",
]


#: The maximum time between two rounds, seconds.
_PAUSE = 1.0
#: The same while due runs may be left for want of room.
_ROOM_PAUSE = 0.02
#: How often the store is maintained, seconds.
_MAINTENANCE = 0.02
#: A larger difference between wall clock and monotonic clock means that the clock was set, ms.
_CLOCK_STEP = 5_000
#: The maximum number of runs of one claim: all that they have finished is in memory together.
_CLAIM = 20
#: A run that was claimed and has waited for a thread for longer than this, seconds, is released:
#: another process may have room for it. What follows the end of a run waits no longer either.
_STALE = 0.5
#: The maximum number of rows of one deletion.
_PRUNE = 100
#: The maximum number of runs that leave a queue at a time.
_LEAVE_QUEUE = 1_000


class PeriodicTask:
    """A callable that a polling loop runs at a fixed interval.

    Args:
        every: the interval, seconds; the first call is at once.
        do: the callable.
    """

    def __init__(self, every: float, do: Callable[[], object]) -> None:
        self._every = every
        self._do = do
        self._due = 0.0

    def run_if_due(self) -> None:
        """Call it if the interval has passed."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._every
            self._do()

    def run_soon(self) -> None:
        """Make it due in 0.1 seconds."""
        self._due = time.monotonic() + 0.1


class Scheduler:
    """Keeps the lease of this process, claims due runs, and notices what other processes commit.

    Args:
        host: the worker that owns it; the scheduler sets its ``owner``.
        runs: resumes the claimed runs.

    Attributes:
        claimed: how many runs this process has claimed.
    """

    def __init__(self, host: WorkerParts, runs: RunManager) -> None:
        self._host = host
        self._runs = runs
        self._wakeups = host.store.wakeups()
        self._look = True
        self._claim_lost = False
        self._stopped = False
        self._draining = False
        self._next_due: int | None = None
        self._left: set[HandlerKind] = set()  # of which due runs may be left for want of room
        self._asked = threading.Condition()  # for the four that follow
        self._asks = self._answered = 0
        self._deadlines: list[float] = []
        self._is_done = False
        self.claimed = 0
        self._thread: threading.Thread | None = None
        self._workers: Sequence[WorkerRecord] = ()
        self._skew = 0
        self._spare_until = 0.0
        self._renewed = time.monotonic()
        self._reported: set[str] = set()
        self._pruning = PeriodicTask(5.0, self._prune)
        self._leaving = PeriodicTask(60.0, self._leave_queues)
        #: Runs whose children are to be cancelled; others append.
        self._parents: deque[str] = deque()
        self._chores = (
            PeriodicTask(host.settings.heartbeat, self._renew_leases),
            PeriodicTask(0.0, host.queue.commit_forgotten),
            PeriodicTask(_MAINTENANCE, self._maintain),
            PeriodicTask(10.0, self._reap_unowned),
            self._pruning,
            self._leaving,
            PeriodicTask(0.0, self._cancel_children),
            PeriodicTask(10.0, self._cancel_abandoned),
            PeriodicTask(60.0, self._report_unknown),
            PeriodicTask(2.0, host.env.refresh_secrets),
            PeriodicTask(1.0, host.quota.refresh),
        )

    def start(self) -> None:
        """Register the process and start the thread."""
        self.register()
        self._refresh_workers()  # while it is alone, requests and steps ask the store for less
        self._skew = self._clock_skew()
        self._thread = threading.Thread(target=self._run, name="durable-scheduler", daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """Claim no more; go on renewing leases until :meth:`stop`."""
        self._draining = True

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._wakeups.notify()
        with self._asked:
            self._asked.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def alive(self) -> bool:
        """True while the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def wake(self) -> None:
        """Run a full round now."""
        self._next_due = None
        self._look = True
        self._wakeups.notify()

    def claim_soon(self, kind: HandlerKind) -> None:
        """Claim due runs now, if some may be left that there was no room for.

        Args:
            kind: that of the handlers for which there is more room now.
        """
        if kind in self._left and self._runs.capacity.is_worth_a_claim(kind):
            self._next_due = None
            self._wakeups.notify()

    def poll_faster(self) -> None:
        """Poll other processes more often, because a client waits for them."""
        self._wakeups.notify()

    def cancel_abandoned_soon(self, parent: str) -> None:
        """Cancel the children of a run that has ended, or was cancelled."""
        self._parents.append(parent)
        self._wakeups.notify()

    def _cancel_children(self) -> None:
        """Cancel the children of the runs that have ended here since the last round."""
        host, parents = self._host, []
        while self._parents:
            parents.append(self._parents.popleft())
        if not parents:
            return
        try:
            cancel_abandoned(host.env, host.store, host.endpoints, host.queue.execute, parents)
        except BaseException:
            self._parents.extend(parents)
            raise

    def _cancel_abandoned(self) -> None:
        """Cancel what a process that died, or could not reach the store, has left to cancel."""
        host = self._host
        if self._leads(each for each in self._workers if each.app == host.env.app):
            cancel_abandoned(host.env, host.store, host.endpoints, host.queue.execute)

    def wake_at(self, due_at: int) -> None:
        """Run a round when a run is due, epoch milliseconds."""
        next_due = self._next_due
        if next_due is None or due_at < next_due:
            self._wakeups.notify()

    def _run(self) -> None:
        troubled = False
        while not self._stopped:
            try:
                delay = self._round()
                troubled = False
            except StoreError as error:
                if not troubled:
                    self._report_fault(error)
                troubled, delay = True, 0.5
            except Exception:
                logger.exception("the scheduler failed in one round, it continues")
                delay = 0.5
            self._wakeups.wait(delay, eager=self._is_waited_for())

    def _report_fault(self, error: StoreError) -> None:
        text = f"the scheduler cannot reach the store, it keeps trying: {error}"
        env = self._host.env
        at = time_of(env.clock.now())
        self._host.observers.notify(
            StoreFault(app=env.app, run=None, at=at, error=error, message=text)
        )

    def _round(self) -> float:
        self._watch_clock()
        for chore in self._chores:
            chore.run_if_due()
        asks, were_live, claimed = self._asks, len(self._host.live), self.claimed
        self._next_due = None  # a run that becomes due during the round may be missed by it
        next_due = self._next_due = self.catch_up()
        if asks != self._answered:
            self._answer(asks, next_due, had_runs=were_live > 0 or self.claimed > claimed)
        if self._left:
            return _ROOM_PAUSE
        if next_due is None:
            return _PAUSE
        return min(_PAUSE, max(0.0, (next_due - self._host.env.clock.now()) / 1000))

    def _is_waited_for(self) -> bool:
        return bool(len(self._host.waiters) or len(self._host.live))

    def catch_up(self) -> int | None:
        """Process the commits of others and claim due runs; return the next due time."""
        self._notice_others()
        self._reap_dead()
        self._runs.release_waiting(_STALE)
        self._runs.late_ends.finish_waiting(_STALE)
        self._release_unknown()
        fault = self._release_abandoned()
        if not self._host.settings.on_demand or self._is_asked():
            next_due = self._claim_due()
        else:
            next_due = self._claim_waited_for()
        if fault is not None:
            raise StoreError(f"a run cannot be released: {fault}") from fault
        return next_due

    # -- the process's own lease ------------------------------------------------------------

    def register(self) -> None:
        """Add the process to those that share the store, under a new name."""
        owner = self._host.env.ids.ulid(self._host.env.clock.now())
        worker = WorkerRecord(
            id=owner,
            host=host_id(),
            pid=os.getpid(),
            expires_at=self._expiry(),
            app=self._host.env.app,
        )
        begun = self._host.env.clock.elapsed()
        self._host.queue.execute(Register(worker=worker))
        self._host.owner = self._host.env.lease.owner = owner
        self._extend_certainty(begun)

    def _expiry(self) -> int:
        """Return the end of a lease that is renewed now."""
        now = self._host.store.now(self._host.env.clock.now())
        return now + int(self._host.settings.lease * 1000)

    def _extend_certainty(self, renewed_at: float) -> None:
        """Note a lease that begins at that time, by ``Clock.elapsed``, or later.

        It counts as certain for less than it lasts: a step begins a moment after it was looked at.
        """
        env = self._host.env
        env.lease.certain_until = renewed_at + self._host.settings.lease - env.lease_check_age

    def _renew_leases(self) -> None:
        begun = self._host.env.clock.elapsed()
        heartbeat = Heartbeat(id=self._host.owner, expires_at=self._expiry())
        if self._host.queue.execute(heartbeat):
            self._extend_certainty(begun)
            self._note_renewal()
            return
        logger.warning(
            "this process did not renew its lease in time and others took its runs; it continues "
            "under a new name"
        )
        reaped = self._host.owner
        self._host.env.lease.lost.add(reaped)
        self.register()
        for live in self._host.live.all():
            ex = live.ex
            if isinstance(ex, StoredExecution) and ex.owner == reaped and ex.stored:
                live.lease_lost()
        # Frees runs that began under the old name after it was reaped.
        freed = self._host.queue.execute(Unregister(id=reaped, now=self._host.env.clock.now()))
        self._close_freed(freed)

    def _close_freed(self, run_ids: Iterable[str]) -> None:
        """Close the executions, in this process, of runs that nobody holds now.

        They began under a name that was not valid any more, and the process did not know that yet.
        """
        for run_id in run_ids:
            live = self._host.live.get(run_id)
            if live is not None:
                live.lease_lost()

    def _note_renewal(self) -> None:
        """Keep the other processes for a while if this one could not renew its own lease for long.

        The same cause may have delayed them: a store without writes, or a frozen host. So they get
        time to renew their leases.
        """
        now, heartbeat = time.monotonic(), self._host.settings.heartbeat
        if now - self._renewed > 2 * heartbeat:
            self._spare_until = max(self._spare_until, now + 2 * heartbeat)
        self._renewed = now

    def _clock_skew(self) -> int:
        return self._host.env.clock.now() - time.monotonic_ns() // 1_000_000

    def _clock_was_set(self) -> bool:
        return abs(self._clock_skew() - self._skew) > _CLOCK_STEP

    def _watch_clock(self) -> None:
        """When the wall clock was set, renew leases first and give others time to do so."""
        if not self._clock_was_set():
            return
        skew = self._clock_skew()
        logger.warning("the clock was set by %+d ms", skew - self._skew)
        self._spare_until = time.monotonic() + 2 * self._host.settings.heartbeat
        self._renew_leases()
        self._skew = skew  # only now: after a failed heartbeat the next round must try again
        for live in self._host.live.all():
            live.recheck_deadlines()

    # -- other processes --------------------------------------------------------------------

    def _refresh_workers(self) -> None:
        self._workers = [peer for peer in self._host.store.workers() if peer.id != self._host.owner]
        self._host.event_watermark.share(bool(self._workers))
        self._host.streams.share(bool(self._workers))

    def _reap_dead(self) -> None:
        if not self._workers:
            return
        dead = tuple(self._host.store.dead_workers(self._workers))
        local = self._host.env.clock.now()
        if dead:
            self._reap(ReapWorkers(ids=dead, now=local))
        if time.monotonic() < self._spare_until or self._clock_was_set():
            return  # the next round renews our own lease first, and gives the others time
        now = self._host.store.now(local)
        expired = tuple(
            peer.id for peer in self._workers if peer.expires_at < now and peer.id not in dead
        )
        if expired:
            self._reap(ReapWorkers(ids=expired, now=local, skip_if_renewed_after=now))

    def _reap_unowned(self) -> None:
        self._reap(ReapWorkers(ids=(), now=self._host.env.clock.now(), orphans=True))

    def _reap(self, reap: ReapWorkers) -> None:
        freed = self._host.queue.execute(reap)
        if freed:
            logger.warning("took %d runs over from dead processes", len(freed))
            self._close_freed(freed)
        if reap.ids:
            self._refresh_workers()

    def _notice_others(self) -> None:
        """Process the commits of other processes since the last round."""
        if not (self._wakeups.changed() or self._look):
            return
        self._look = False  # before the reads, so that a later commit causes another look
        try:
            self._poll_others()
        except BaseException:
            self._look = True  # some commits were not processed
            raise

    def _poll_others(self) -> None:
        self._host.event_watermark.changed()
        self._refresh_workers()
        store, app = self._host.store, self._host.env.app
        if len(self._host.live):
            for run_id, op_id, event in store.matched_waits(self._host.owner):
                live = self._host.live.get(run_id)
                if live is not None:
                    live.on_event(op_id, event)
            for run_id in store.cancelled_runs(self._host.owner):
                live = self._host.live.get(run_id)
                if live is not None and live.ex.run.cancel_reason is None:
                    live.stop()  # it is released, and claimed to be undone
        waited_for = self._host.waiters.run_ids()
        if waited_for:
            self._host.waiters.wake(store.which_ended(app, waited_for))
        if len(self._host.streams):
            self._host.streams.poll_others(store, app)

    # -- due runs ---------------------------------------------------------------------------

    def run_due(self, seconds: float) -> int:
        """Claim due runs until none is due or live; return how many there were.

        After that time no further one is claimed. It is called in another thread than the
        scheduler's own.
        """
        end, before = time.monotonic() + seconds, self.claimed
        with self._asked:
            self._deadlines.append(end)
        try:
            while (left := end - time.monotonic()) > 0:
                if self._finishes_round(left):
                    break
                self._host.live.wait_until_empty(min(left, _PAUSE))
        finally:
            with self._asked:
                self._deadlines.remove(end)
        return self.claimed - before

    def _is_asked(self) -> bool:
        """Return whether all due runs may be claimed now."""
        with self._asked:
            return any(time.monotonic() < deadline for deadline in self._deadlines)

    def _finishes_round(self, timeout: float) -> bool:
        """Have a round done that begins from now on; return whether it has left nothing to do."""
        with self._asked:
            self._asks += 1
            mine = self._asks
            self.wake()
            self._asked.wait_for(lambda: self._answered >= mine or self._stopped, timeout)
            return self._stopped or (self._answered >= mine and self._is_done)

    def _answer(self, asks: int, next_due: int | None, *, had_runs: bool) -> None:
        """Let those go on who had asked for a round before this one began.

        A run that has ended during the round may have left a slot to one that was not due before.
        """
        is_due = next_due is not None and next_due <= self._host.env.clock.now()
        with self._asked:
            self._answered = asks
            self._is_done = not (had_runs or is_due or len(self._host.live))
            self._asked.notify_all()

    def _claim_waited_for(self) -> int | None:
        """Claim the due runs that clients wait for here; return when the next of these is due."""
        env, next_due = self._host.env, None
        self._left.clear()
        run_ids = self._host.waiters.run_ids()
        for run_id in run_ids:
            record = self._host.store.get(env.app, run_id)
            if record is None or self._draining:
                continue
            run_ids += awaited_children(record)
            if record.due_at is None:
                continue
            key = record.run.endpoint_key
            endpoint = self._host.endpoints.get(key)
            if record.due_at > env.clock.now():
                next_due = _earlier(next_due, record.due_at)
            elif endpoint is not None:
                self._left.add(endpoint.kind)
                if self._runs.capacity.free(endpoint.kind):
                    for claimed in self._claim_for(key, run_id):
                        self._take(claimed, self._runs.resume)
        return next_due

    def _claim_for(self, key: str, run_id: str) -> tuple[ClaimedRun | CorruptRun | SealedRun, ...]:
        """Claim a run that a client waits for; of an endpoint with slots, the next one in line."""
        slots = self._runs.slots((key,))
        if not slots:
            return self._claim((key,), 1, (run_id,))
        env = self._host.env
        due_at = self._host.store.next_due(env.app, (key,), slots=slots)
        return () if due_at is None or due_at > env.clock.now() else self._claim((key,), 1)

    def _claim_due(self) -> int | None:
        """Claim due runs as far as there is capacity; return the next due time."""
        next_due: int | None = None
        capacity = self._runs.capacity
        for kind in HandlerKind:
            keys = self._runs.keys(kind)
            self._left.discard(kind)
            while keys and not self._draining:
                self._left.add(kind)  # before the look: whoever makes room after it sees this
                room = capacity.room(kind)
                slots = self._runs.slots(keys) if room else ()
                app = self._host.env.app
                if not room:
                    break
                due_at = self._host.store.next_due(app, keys, slots=slots)
                if due_at is None or due_at > self._host.env.clock.now():
                    self._left.discard(kind)
                    next_due = _earlier(next_due, due_at)
                    break
                free = capacity.free(kind)
                runs = self._claim(keys, min(room, _CLAIM), free=free)
                for claimed in runs:
                    self._take(claimed, self._runs.resume)
                if not runs:
                    if free:
                        self._left.discard(kind)  # another process was first
                    break  # else the first one may have to wait for a free thread
        return next_due

    def _take(
        self,
        claimed: ClaimedRun | CorruptRun | SealedRun,
        take: Callable[[ClaimedRun], None],
    ) -> None:
        if isinstance(claimed, SealedRun):
            self._runs.leave_sealed(claimed)
            return
        if isinstance(claimed, CorruptRun):
            self._runs.fail_corrupt(claimed)
            return
        try:
            take(claimed)
        except Exception as error:
            # The other claimed runs must continue.
            logger.error("run %s cannot be resumed by this process", claimed.run.id)
            self._runs.give_back(claimed.run, error)

    def _claim(
        self,
        keys: tuple[str, ...],
        limit: int,
        run_ids: tuple[str, ...] | None = None,
        *,
        free: int = 1,
    ) -> tuple[ClaimedRun | CorruptRun | SealedRun, ...]:
        env = self._host.env
        claim = Claim(
            app=env.app,
            owner=self._host.owner,
            keys=keys,
            now=env.clock.now(),
            limit=limit,
            run_ids=run_ids,
            slots=self._runs.slots(keys),
            ahead=max(0, limit - free),
        )
        try:
            claimed = self._host.queue.execute(claim)
            self.claimed += len(claimed)
            return claimed
        except LeaseLost:
            self._renew_leases()  # the process was reaped: claim under the new name next time
            self._wakeups.notify()
            return ()
        except StoreOutcomeUnknownError:
            self._claim_lost = True
            raise

    def _release_unknown(self) -> None:
        """Release the runs of a claim whose answer was lost."""
        if not self._claim_lost:
            return
        owner, now = self._host.owner, self._host.env.clock.now()
        for run_id, epoch in self._host.store.held(owner).items():
            if self._host.live.get(run_id) is None:
                release = Release(due_at=now)
                write = Checkpoint(
                    run_id=run_id, owner=owner, epoch=epoch, now=now, release=release
                )
                self._host.abandoned.append(write)
        self._claim_lost = False

    def _release_abandoned(self) -> Exception | None:
        """Retry the writes of abandoned runs; return the error if some still fail."""
        abandoned, queue = self._host.abandoned, self._host.queue
        fault: Exception | None = None
        for write, ticket in [(write, queue.submit(write)) for write in list(abandoned)]:
            try:
                queue.wait(ticket)
            except LeaseLost:
                pass  # another process has the run, or it was never stored
            except Exception as error:
                fault = fault or error
                continue
            abandoned.remove(write)
        return fault

    def _leave_queues(self) -> None:
        """Take runs out of the queue whose endpoints have no slots in the code of this process."""
        env = self._host.env
        queued = RunFilter(phases=(Phase.QUEUED,))
        if not self._host.store.list(env.app, where=queued, limit=1):
            return
        known = tuple(self._host.endpoints)
        limited = tuple(each.endpoint_key for each in self._runs.slots(known))
        leave = LeaveQueue(
            app=env.app,
            unlimited=tuple(key for key in known if key not in limited),
            limited=limited,
            # Those of an endpoint that nobody knows are failed then.
            before=env.clock.now() - int(self._host.settings.orphan_after * 1000),
            limit=_LEAVE_QUEUE,
        )
        if self._host.queue.execute(leave) >= _LEAVE_QUEUE:
            self._leaving.run_soon()

    def _report_unknown(self) -> None:
        """Log due runs with unknown handlers once per key, and fail them after a long time."""
        env, host = self._host.env, self._host
        now = env.clock.now()
        known = (*self._runs.keys(HandlerKind.DEF), *self._runs.keys(HandlerKind.ASYNC_DEF))
        too_old = now - int(host.settings.orphan_after * 1000)
        for record in host.store.unclaimable(env.app, known, now):
            key = record.run.endpoint_key
            if key not in self._reported:
                self._reported.add(key)
                logger.warning("runs of endpoint %r are due, but no code here knows it", key)
            if record.due_at is not None and record.due_at < too_old:
                for claimed in self._claim((key,), 1):
                    self._take(claimed, self._runs.fail_orphan)

    # -- what one process does for all ----------------------------------------------------------

    def _leads(self, others: Iterable[WorkerRecord]) -> bool:
        """Return whether this process registered before all of those."""
        return all(self._host.owner < each.id for each in others)

    def _maintain(self) -> None:
        if self._leads(self._workers):
            self._host.store.run_maintenance()

    # -- old things -------------------------------------------------------------------------

    def _prune(self) -> None:
        env, settings = self._host.env, self._host.settings
        if not self._leads(each for each in self._workers if each.app == env.app):
            return
        now = env.clock.now()
        gone = self._host.queue.execute(
            Prune(
                app=env.app,
                runs_before=now - settings.keep_runs_ms,
                events_before=now - int(settings.keep_events * 1000),
                limit=_PRUNE,
            )
        )
        if gone >= _PRUNE:
            self._pruning.run_soon()


def _earlier(one: int | None, other: int | None) -> int | None:
    """Return the earlier of two moments; None stands for never."""
    return min((each for each in (one, other) if each is not None), default=None)
