"""A store in the memory of one process: the reference for what every store must do.

It is written to be read. Each message checks first and changes afterwards, so that a refused one
has changed nothing and there is nothing to undo.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any

from durable_core.errors import LeaseLost, RunNotFoundError, StoreError
from durable_core.machine.addresses import child_address
from durable_core.machine.matching import match_keys, wait_matches, with_event_seq
from durable_core.model.event import Event, StoredEvent
from durable_core.model.run import Phase, Run
from durable_core.model.step import OpKind, Pending
from durable_core.model.stream import StoredStream, StreamPlace
from durable_core.ports import (
    ANY_RUN,
    Begin,
    BeginRefused,
    Begun,
    Cancel,
    CancelOutcome,
    Checkpoint,
    CheckpointResult,
    Claim,
    ClaimedRun,
    Delete,
    Deliver,
    Delivered,
    Delivery,
    EndedWait,
    Fork,
    Heartbeat,
    IdempotencyKey,
    LeaveQueue,
    Prune,
    ReapWorkers,
    RecentEvent,
    Register,
    Retry,
    RotateSecret,
    RunFilter,
    RunProgress,
    RunRecord,
    SendEvents,
    Sent,
    Slots,
    Store,
    StoredRequest,
    StoredResult,
    StoredSecret,
    Unregister,
    Usage,
    Wakeups,
    WorkerRecord,
    Write,
)
from durable_core.stores.memory_run import StoredRun
from durable_core.stores.memory_slots import FlowControl
from durable_core.stores.wakeups import PolledWakeups

__all__ = ["MemoryStore"]


_MOST_UNCLAIMABLE = 100
_MOST_ABANDONED = 100
#: How many ended waits are shown of an event, and the longest value of one, characters.
_MOST_OF_EVENT, _LONGEST = 100, 512


class MemoryStore(Store):
    """Keeps everything in dictionaries; see ``durable_core.ports.Store`` for the contract.

    What it holds lives as long as the object, through ``close`` and ``open``.
    """

    reads_are_fast = True

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._runs: dict[str, StoredRun] = {}
        self._peers: dict[str, WorkerRecord] = {}
        self._events: dict[tuple[str, str, str], StoredEvent] = {}  # by app, source and id
        self._last_seq = 0
        #: By app, scope and key: the run, and the key as it was given.
        self._keys: dict[tuple[str, str, str], tuple[str, IdempotencyKey]] = {}
        #: By app, address and id: the run, and what was delivered to an address of its own.
        self._deliveries: dict[tuple[str, str, str], tuple[str, StoredEvent | None]] = {}
        self._flow = FlowControl(self._of)
        self._secrets = [StoredSecret(value=os.urandom(32), created_at=0)]
        self._apply: Mapping[type, Callable[[Any], object]] = {
            Checkpoint: self._write_run,
            Begin: self._begin,
            SendEvents: self._send_events,
            Deliver: self._deliver,
            Claim: self._claim,
            LeaveQueue: self._leave_queue,
            Cancel: self._cancel,
            Delete: self._delete,
            Retry: self._retry,
            Fork: self._fork,
            Register: self._register,
            Heartbeat: self._heartbeat,
            ReapWorkers: self._reap,
            Unregister: self._unregister,
            Prune: self._prune,
            RotateSecret: self._rotate_secret,
        }

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def run_maintenance(self) -> None:
        pass

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        with self._lock:
            return [self._answer(write) for write in writes]

    def _answer(self, write: Write[object]) -> object | BaseException:
        try:
            return self._apply[type(write)](write)
        except (Exception, LeaseLost) as error:
            return error

    # Runs

    def _write_run(self, write: Checkpoint) -> CheckpointResult | LeaseLost:
        row = self._row_to_change(write)
        self._runs[write.run_id] = row
        app = row.run.app
        left_out = self._add_children(row, write) if write.children else set()
        sent, woken = self._store_events(app, "", write.events, write.now)
        if write.result is not None and row.is_unknown_to_be_cancelled(write):
            write = replace(write, deliveries=())
        for delivery in write.deliveries:
            woken.update(self._deliver_one(app, delivery, write.now).resumed_runs)
        matched, refused = [], []
        for pending in write.pending:
            if pending.address in left_out:
                refused.append(pending.op.id)
                continue
            if row.run.cancel_reason is not None:  # its owner may not know it
                pending = replace(pending, event="", address="")
            if pending.matched is None and pending.event:
                pending = replace(pending, matched=self._earliest_answer(app, pending))
            elif pending.matched is None and pending.address:
                pending = replace(pending, matched=self._delivered(row, pending))
                if not self._take_address(row, pending, write.replacing):
                    refused.append(pending.op.id)
                    continue
            row.pending[pending.op.id] = pending
            if pending.matched is not None:
                matched.append((pending.op.id, deepcopy(pending.matched)))
        for op_id in write.closing:
            closed = row.pending.get(op_id)
            if closed is not None and closed.matched is not None:
                matched.append((op_id, deepcopy(closed.matched)))
            elif closed is not None:
                row.pending[op_id] = replace(closed, address="")
        for memo in with_event_seq(write.memos, sent):
            row.memos[memo.completion_no] = memo
            row.pending.pop(memo.op.id, None)
        if not row.settle(write):
            return _lease_lost(write)
        if write.result is not None:
            self._follow_up(write.result)
        return CheckpointResult(
            matched=tuple(matched),
            sent=sent,
            resumed_runs=tuple(woken.items()),
            refused=tuple(refused),
        )

    def _begin(self, message: Begin) -> Begun | BeginRefused:
        write, key, run = message.checkpoint, message.key, message.checkpoint.create
        if run is None:
            raise ValueError("the checkpoint of a Begin must create a run")
        fingerprint = "" if key is None else key.fingerprint
        found = None if key is None else self._keyed_run(run.app, key, write.now)
        if found is not None and found.run_id != run.id:
            return found
        row, replaced = self._runs.get(run.id), CancelOutcome.NOTHING
        if row is not None and (key is None or found is not None):
            # The answer to this message was lost.
            is_queued = (row.owner, row.run.epoch) != (write.owner, write.epoch)
        else:
            old = self._flow.replaced_by(message, run)
            refusal, is_queued = self._flow.pass_limits(message, run)
            if refusal is None:
                self._write_run(write)
            if old is not None and (refusal is None or refusal.reason == "singleton"):
                replaced = self._cancel(old)
            if refusal is not None:
                return replace(refusal, replaced=replaced)
            if is_queued:
                self._runs[run.id].due_at = write.now
                self._runs[run.id].enqueue()
            elif message.slots is not None:
                self._flow.take_turn(run, message.slots)
        if key is not None:
            self._keys[run.app, key.scope, key.key] = run.id, key
        return Begun(
            run_id=run.id,
            fingerprint=fingerprint,
            is_new=True,
            is_queued=is_queued,
            replaced=replaced,
        )

    def _keyed_run(self, app: str, key: IdempotencyKey, now: int) -> Begun | None:
        run_id, known = self._keys.get((app, key.scope, key.key), ("", key))
        row = self._runs.get(run_id)
        if row is None or (row.result is not None and known.expires_at <= now):
            return None
        return Begun(run_id=run_id, fingerprint=known.fingerprint, is_new=False)

    def _row_to_change(self, write: Checkpoint) -> StoredRun:
        """Return the row that the write is about; raise before anything is changed."""
        if write.create is None:
            row = self._runs.get(write.run_id)
            if row is None or row.owner != write.owner or row.run.epoch != write.epoch:
                raise _lease_lost(write)
        else:
            if write.request is None:
                raise ValueError("a Checkpoint that creates a run must bring its request")
            if write.run_id in self._runs:
                raise _lease_lost(write)
            run = replace(write.create, epoch=write.epoch)
            row = StoredRun(run=run, request=write.request, owner=write.owner)
        born = [child.run.id for child in write.children]
        if len({write.run_id, *born}) <= len(born) or any(id_ in self._runs for id_ in born):
            raise _lease_lost(write)
        numbers = [*row.memos, *(memo.completion_no for memo in write.memos)]
        if len(set(numbers)) != len(numbers):
            raise StoreError(f"run {write.run_id}: a memo with this number is stored already")
        places = [*row.chunks, *(batch.place for batch in write.chunks)]
        if len(set(places)) != len(places):
            raise StoreError(f"run {write.run_id}: chunks with this place are stored already")
        _check_ids(write.events)
        return row

    def _add_children(self, row: StoredRun, write: Checkpoint) -> set[str]:
        """Add children within the limit; return the addresses of the others."""
        top = row
        while top.run.parent in self._runs:
            top = self._runs[top.run.parent]
        left_out = set()
        for child in write.children:
            if write.child_limit is not None and top.descendants >= write.child_limit:
                left_out.add(child_address(child.run.id))
                continue
            top.descendants += write.child_limit is not None
            self._runs[child.run.id] = _suspended(child.run, child.request, write.now)
        return left_out

    def _cancel(self, message: Cancel) -> CancelOutcome:
        outcome = self._existing(message.app, message.run_id).cancel(message)
        if outcome is CancelOutcome.ENDED:
            self._follow_up(message.result)
            for delivery in message.deliveries:
                self._deliver_one(message.app, delivery, message.result.ended_at)
        return outcome

    def _follow_up(self, result: StoredResult) -> None:
        """Store the run that begins because another one has ended."""
        new = result.follow_up
        if new is not None:
            self._runs[new.run.id] = _suspended(new.run, new.request, result.ended_at)

    def _delete(self, message: Delete) -> bool:
        row = self._find(message.app, message.run_id)
        if row is None:
            raise RunNotFoundError(f"no run {message.run_id!r} in app {message.app!r}")
        if row.result is None:
            return False
        self._forget({message.run_id})
        return True

    def _retry(self, message: Retry) -> bool:
        row = self._existing(message.app, message.run_id)
        if row.run.phase is not Phase.FAILED:
            return False
        self._flow.refuse_second(row.run)
        run = row.run
        row.run = replace(
            run,
            phase=Phase.SUSPENDED,
            failures=0,
            crash_count=0,
            epoch=run.epoch + 1,
            retry_count=run.retry_count + 1,
            deadline=None if run.timeout is None else message.now + run.timeout,
        )
        row.result, row.due_at, row.descendants = None, message.now, 0
        gone = {number for number, memo in row.memos.items() if memo.op.id in message.steps}
        if gone:
            row.memos = {number: memo for number, memo in row.memos.items() if number not in gone}
            row.chunks = {
                place: batch
                for place, batch in row.chunks.items()
                if (batch.number < min(gone) if batch.op_id is None else batch.number not in gone)
            }
        return True

    def _fork(self, message: Fork) -> bool:
        old = self._existing(message.app, message.run_id)
        numbers = [n for n, memo in old.memos.items() if memo.op.id == message.op_id]
        if not numbers and message.op_id not in old.pending:
            return False
        if message.run.id in self._runs:
            raise LeaseLost(f"there is a run {message.run.id}")
        self._flow.refuse_second(message.run)
        end = min(numbers, default=1 << 24)
        self._runs[message.run.id] = StoredRun(
            run=replace(message.run, phase=Phase.SUSPENDED),
            request=message.request or old.request,
            owner=None,
            due_at=message.now,
            memos={number: memo for number, memo in old.memos.items() if number < end},
            chunks={place: batch for place, batch in old.chunks.items() if batch.number < end},
        )
        return True

    def _existing(self, app: str, run_id: str) -> StoredRun:
        row = self._find(app, run_id)
        if row is None:
            raise RunNotFoundError(f"no run {run_id!r} in app {app!r}")
        return row

    def _claim(self, message: Claim) -> tuple[ClaimedRun, ...]:
        if message.owner not in self._peers:
            raise LeaseLost(f"the process {message.owner} is not registered: it cannot claim runs")
        limited = {each.endpoint_key for each in message.slots}
        keys = {key for key in message.keys if key not in limited}
        due = self._due(message.app, message.now, lambda key: key in keys)
        if message.run_ids is not None:
            due = [row for row in due if row.run.id in message.run_ids]
            return tuple(row.take(message.owner) for row in due[: message.limit])
        at_once = message.limit - message.ahead
        for each in message.slots:
            self._flow.enqueue(message.app, each, message.now)
        # What is left of those that are due is broken, and needs no slot to fail.
        due = self._due(message.app, message.now, lambda key: key in keys or key in limited)
        slots = {each.endpoint_key: each for each in message.slots}
        lines = [self._flow.in_line(message.app, each) for each in message.slots]
        line = merge(((row.due, row) for row in due), *lines, key=itemgetter(0))
        claimed: list[ClaimedRun] = []
        # A line is asked for its next run only when the one before has been claimed.
        for _, row in islice(line, message.limit):
            is_queued = row.run.phase is Phase.QUEUED
            ahead = len(claimed) >= at_once
            if ahead and (is_queued or row.run.crash_count or row.claimed_ahead):
                break
            claimed.append(row.take(message.owner, ahead=ahead))
            if is_queued:
                self._flow.take_turn(row.run, slots[row.run.endpoint_key])
        return tuple(claimed)

    def _leave_queue(self, message: LeaveQueue) -> int:
        queued = [
            row
            for row in self._of(message.app)
            if row.run.phase is Phase.QUEUED
            and row.run.endpoint_key not in message.limited
            and (row.run.endpoint_key in message.unlimited or row.due[0] < message.before)
        ]
        for row in queued[: message.limit]:
            row.leave_queue()
        return len(queued[: message.limit])

    def _due(self, app: str, now: int, wanted: Callable[[str], bool]) -> list[StoredRun]:
        """Return the runs that are due and not queued, of handlers that are wanted, in order."""
        due = [
            row
            for row in self._of(app)
            if row.due_at is not None and row.due_at <= now and wanted(row.run.endpoint_key)
        ]
        waiting = (row for row in due if row.run.phase is not Phase.QUEUED)
        return sorted(waiting, key=lambda row: row.due)

    def _of(self, app: str) -> Iterable[StoredRun]:
        return (row for row in self._runs.values() if row.run.app == app)

    def _find(self, app: str, run_id: str) -> StoredRun | None:
        row = self._runs.get(run_id)
        return row if row is not None and row.run.app == app else None

    # Events and waits

    def _send_events(self, message: SendEvents) -> Sent:
        _check_ids(message.events)
        sent, woken = self._store_events(message.app, message.source, message.events, message.now)
        return Sent(ids=tuple(id_ for id_, _ in sent), resumed_runs=tuple(woken.items()))

    def _store_events(
        self, app: str, source: str, events: Sequence[Event], now: int
    ) -> tuple[tuple[tuple[str, int], ...], dict[str, str | None]]:
        sent: list[tuple[str, int]] = []
        woken: dict[str, str | None] = {}
        for event in events:
            assert event.id is not None
            stored = self._events.get((app, source, event.id))
            if stored is None:
                stored = StoredEvent(seq=self._next_seq(), event=deepcopy(event), received_at=now)
                self._events[app, source, event.id] = stored
                woken.update(self._wake(app, stored, now))
            sent.append((event.id, stored.seq))
        return tuple(sent), woken

    def _next_seq(self) -> int:
        self._last_seq += 1
        return self._last_seq

    def _wake(self, app: str, stored: StoredEvent, now: int) -> dict[str, str | None]:
        woken = {}
        for row in self._of(app):
            for op_id, pending in row.pending.items():
                if pending.matched is None and _is_answered(pending, stored):
                    row.pending[op_id] = replace(pending, matched=stored)
                    row.wake(now)
                    woken[row.run.id] = row.owner
        return woken

    def _earliest_answer(self, app: str, pending: Pending) -> StoredEvent | None:
        stored = [event for (of_app, _, _), event in self._events.items() if of_app == app]
        return min(
            (event for event in stored if _is_answered(pending, event)),
            key=lambda event: event.seq,
            default=None,
        )

    # Addresses

    def _deliver(self, message: Deliver) -> Delivered:
        return self._deliver_one(message.app, message.delivery, message.now)

    def _deliver_one(self, app: str, delivery: Delivery, now: int) -> Delivered:
        event, address = delivery.event, delivery.address
        assert event.id is not None
        place = app, address, event.id
        if place in self._deliveries:
            return Delivered(run_id=self._deliveries[place][0])
        stored = StoredEvent(seq=0, event=deepcopy(event), received_at=now)
        waiter = self._waiter(app, address)
        if delivery.run_id is None:
            if waiter is None:
                return Delivered(run_id=None)
            self._deliveries[place] = waiter[0].run.id, None
        else:
            if any((app, address) == known[:2] for known in self._deliveries):
                return Delivered(run_id=None, is_used=True)
            row = self._find(app, delivery.run_id)
            if row is None or row.result is not None or row.run.cancel_reason is not None:
                return Delivered(run_id=None)
            self._deliveries[place] = row.run.id, stored
            if waiter is None or waiter[0] is not row:
                return Delivered(run_id=row.run.id)
        row, pending = waiter
        row.pending[pending.op.id] = replace(pending, matched=stored)
        row.wake(now)
        return Delivered(run_id=row.run.id, resumed_runs=((row.run.id, row.owner),))

    def _waiter(self, app: str, address: str) -> tuple[StoredRun, Pending] | None:
        """Return the op that waits at an address, and its run."""
        for row in self._of(app):
            for pending in row.pending.values():
                if pending.address == address and pending.matched is None:
                    return row, pending
        return None

    def _delivered(self, row: StoredRun, pending: Pending) -> StoredEvent | None:
        """Return what was delivered to the address of an op that the run wants to wait."""
        known = row.pending.get(pending.op.id)
        if known is not None and known.address == pending.address and known.matched is not None:
            return known.matched
        for place, (run_id, stored) in self._deliveries.items():
            if place[:2] == (row.run.app, pending.address) and run_id == row.run.id and stored:
                return stored
        return None

    def _take_address(self, row: StoredRun, pending: Pending, replacing: Sequence[str]) -> bool:
        """Let an op have its address; False if another op has it."""
        waiter = self._waiter(row.run.app, pending.address)
        if waiter is None or pending.matched is not None:
            return True
        other, op_id = waiter[0], waiter[1].op.id
        if (other.run.id, op_id) != (row.run.id, pending.op.id):
            if pending.op.id not in replacing:
                return False
            other.pending[op_id] = replace(waiter[1], address="")
        return True

    # Processes

    def _register(self, message: Register) -> None:
        self._peers[message.worker.id] = message.worker

    def _heartbeat(self, message: Heartbeat) -> bool:
        peer = self._peers.get(message.id)
        if peer is None:
            return False
        self._peers[message.id] = replace(peer, expires_at=message.expires_at)
        return True

    def _reap(self, message: ReapWorkers) -> tuple[str, ...]:
        dead = {
            id_ for id_ in message.ids if not self._is_spared(id_, message.skip_if_renewed_after)
        }
        for id_ in dead:
            self._peers.pop(id_, None)
        if message.orphans:
            owners = {row.owner for row in self._runs.values() if row.owner is not None}
            dead |= owners - set(self._peers)
        return self._free(dead, message.now, crashed=True)

    def _is_spared(self, id_: str, skip_if_renewed_after: int | None) -> bool:
        peer = self._peers.get(id_)
        return (
            peer is not None
            and skip_if_renewed_after is not None
            and peer.expires_at > skip_if_renewed_after
        )

    def _unregister(self, message: Unregister) -> tuple[str, ...]:
        self._peers.pop(message.id, None)
        return self._free({message.id}, message.now, crashed=False)

    def _free(self, owners: set[str], now: int, *, crashed: bool) -> tuple[str, ...]:
        freed = [row for row in self._runs.values() if row.owner in owners]
        for row in freed:
            row.free(now, crashed=crashed)
        return tuple(row.run.id for row in freed)

    def _prune(self, message: Prune) -> int:
        ended = [
            (row.result.ended_at, row.run.id)
            for row in self._of(message.app)
            if row.result is not None and row.result.ended_at < message.runs_before
        ]
        runs = sorted(ended)[: message.limit]
        self._forget({run_id for _, run_id in runs})
        received = [
            (stored.received_at, stored.seq, key)
            for key, stored in self._events.items()
            if key[0] == message.app and stored.received_at < message.events_before
        ]
        events = sorted(received)[: message.limit]
        for _, _, key in events:
            del self._events[key]
        self._flow.forget_rates(message.app, message.events_before)
        return len(runs) + len(events)

    def _forget(self, gone: set[str]) -> None:
        """Delete runs with all that belongs to them."""
        for run_id in gone:
            del self._runs[run_id]
        self._keys = {place: each for place, each in self._keys.items() if each[0] not in gone}
        self._deliveries = {
            place: each for place, each in self._deliveries.items() if each[0] not in gone
        }

    def _rotate_secret(self, message: RotateSecret) -> None:
        if all(each.value != message.secret for each in self._secrets):
            new = StoredSecret(value=message.secret, created_at=message.now)
            self._secrets.append(new)
        successors = [*self._secrets[1:], None]
        self._secrets = [
            each
            for each, successor in zip(self._secrets, successors, strict=True)
            if successor is None or successor.created_at >= message.replaced_before
        ]

    # Reads

    def now(self, local: int) -> int:
        return local

    def event_seq(self, app: str) -> int:
        with self._lock:
            return max((stored.seq for stored in self._events.values()), default=0)

    def result(self, app: str, run_id: str) -> StoredResult | Phase | None:
        with self._lock:
            row = self._find(app, run_id)
            return None if row is None else row.result or row.run.phase

    def keyed_run(self, app: str, key: IdempotencyKey, now: int) -> Begun | None:
        with self._lock:
            return self._keyed_run(app, key, now)

    def read_stream(
        self,
        app: str,
        run_id: str,
        *,
        done: int,
        outside: int,
        most: int,
        begin: StreamPlace | None = None,
    ) -> StoredStream | None:
        with self._lock:
            row = self._find(app, run_id)
            return None if row is None else row.read_stream(done, outside, most, begin)

    def stream_versions(self, app: str, run_ids: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
        with self._lock:
            rows = [self._find(app, run_id) for run_id in run_ids]
            return {row.run.id: row.stream_version() for row in rows if row is not None}

    def which_ended(self, app: str, run_ids: Sequence[str]) -> Sequence[str]:
        with self._lock:
            rows = [self._find(app, run_id) for run_id in run_ids]
            return [row.run.id for row in rows if row is not None and row.result is not None]

    def next_due(self, app: str, keys: Sequence[str], *, slots: Sequence[Slots] = ()) -> int | None:
        with self._lock:
            rows = [row for row in self._of(app) if row.run.endpoint_key in keys]
            due = [row.due_at for row in rows if row.run.phase is not Phase.QUEUED]
            first = (self._flow.next_in_line(app, each) for each in slots)
            due += [row.due_at for row in first if row is not None]
            return min((due_at for due_at in due if due_at is not None), default=None)

    def unclaimable(self, app: str, keys: Sequence[str], now: int) -> Sequence[RunRecord]:
        with self._lock:
            due = self._due(app, now, lambda key: key not in keys)
            return [row.record() for row in due[:_MOST_UNCLAIMABLE]]

    def matched_waits(self, owner: str) -> Sequence[tuple[str, str, StoredEvent]]:
        with self._lock:
            return [
                (row.run.id, pending.op.id, pending.matched)
                for row in self._runs.values()
                if row.owner == owner
                for pending in row.ops()[1]
                if pending.matched is not None
            ]

    def abandoned_children(
        self, app: str, parents: Sequence[str] | None = None
    ) -> Sequence[RunRecord]:
        with self._lock:
            children = [
                row
                for row in self._of(app)
                if self._is_abandoned(row) and (parents is None or row.run.parent in parents)
            ]
            records = sorted((row.record() for row in children), key=lambda each: each.run.id)
            return records[:_MOST_ABANDONED]

    def _is_abandoned(self, row: StoredRun) -> bool:
        run = row.run
        if run.parent is None or run.cancel_reason is not None or row.result is not None:
            return False
        parent = self._runs.get(run.parent)
        return (
            parent is None
            or parent.result is not None
            or parent.run.cancel_reason is not None
            or not any(each.address == child_address(run.id) for each in parent.pending.values())
        )

    def cancelled_runs(self, owner: str) -> Sequence[str]:
        with self._lock:
            held = (row.run for row in self._runs.values() if row.owner == owner)
            return [run.id for run in held if run.cancel_reason is not None]

    def held(self, owner: str) -> Mapping[str, int]:
        with self._lock:
            return {row.run.id: row.run.epoch for row in self._runs.values() if row.owner == owner}

    def workers(self) -> Sequence[WorkerRecord]:
        with self._lock:
            return list(self._peers.values())

    def dead_workers(self, workers: Sequence[WorkerRecord]) -> Sequence[str]:
        return ()

    def get(self, app: str, run_id: str) -> RunRecord | None:
        with self._lock:
            row = self._find(app, run_id)
            if row is None:
                return None
            memos, pending = row.ops()
            failed = tuple(row.failed_attempts[key] for key in sorted(row.failed_attempts))
            return replace(row.record(), memos=memos, pending=pending, failed_attempts=failed)

    def progress(self, app: str, run_id: str) -> RunProgress | None:
        with self._lock:
            row = self._find(app, run_id)
            if row is None:
                return None
            record = replace(row.record(), pending=row.ops()[1][:100])
            return RunProgress(record=record, steps_done=len(row.memos))

    def list(self, app: str, *, where: RunFilter = ANY_RUN, limit: int) -> Sequence[RunRecord]:
        with self._lock:
            records = [row.record() for row in self._of(app)]
        wanted = [record for record in records if _is_wanted(record, where)]
        return sorted(wanted, key=lambda record: record.run.id, reverse=True)[:limit]

    def request(self, app: str, run_id: str) -> StoredRequest | None:
        with self._lock:
            row = self._find(app, run_id)
            return None if row is None else row.request

    def recent_events(self, app: str, limit: int) -> Sequence[RecentEvent]:
        with self._lock:
            stored = [each for (of_app, _, _), each in self._events.items() if of_app == app]
            newest = sorted(stored, key=lambda each: (-each.received_at, -each.seq))[:limit]
            ended = sorted(
                (
                    (memo.ended_at, row.run.id, memo)
                    for row in self._of(app)
                    for memo in row.memos.values()
                    if memo.op.kind is OpKind.WAIT
                ),
                key=itemgetter(0, 1),
                reverse=True,
            )
            return [
                RecentEvent(
                    stored=deepcopy(each),
                    waits=tuple(
                        EndedWait(run_id, memo.value if len(memo.value) <= _LONGEST else None)
                        for _, run_id, memo in ended
                        if memo.event_seq == each.seq
                    )[:_MOST_OF_EVENT],
                )
                for each in newest
            ]

    def apps(self) -> Sequence[str]:
        with self._lock:
            return sorted({row.run.app for row in self._runs.values()})

    def usage(self, app: str, *, principal: str | None = None, most: int) -> Usage:
        with self._lock:
            rows = [
                row for row in self._of(app) if principal is None or row.run.principal == principal
            ]
            live = sum(row.result is None for row in rows)
            return Usage(live_runs=min(live, most), stored_bytes=sum(row.size for row in rows))

    def secrets(self) -> Sequence[StoredSecret]:
        with self._lock:
            return self._secrets[::-1]

    def wakeups(self) -> Wakeups:
        return PolledWakeups(lambda: 0)  # no other process can commit


def _suspended(run: Run, request: StoredRequest, now: int) -> StoredRun:
    """Return a run that is due at once, which nobody has executed."""
    return StoredRun(
        run=replace(run, phase=Phase.SUSPENDED), request=request, owner=None, due_at=now
    )


def _is_wanted(record: RunRecord, where: RunFilter) -> bool:
    run = record.run
    return (
        (not where.phases or run.phase in where.phases)
        and where.endpoint_key in (None, run.endpoint_key)
        and where.key in (None, run.key)
        and (where.label is None or where.label in run.labels)
        and where.principal in (None, run.principal)
        and (where.since is None or where.since <= run.id)
        and (where.before is None or run.id < where.before)
        and (not where.held or record.owner is not None)
        and (not where.cancelled or (run.cancel_reason is not None and not run.phase.ended))
    )


def _is_answered(pending: Pending, stored: StoredEvent) -> bool:
    return (
        pending.event == stored.event.name
        and pending.match_key in match_keys(stored.event, pending.match_path)
        and wait_matches(
            stored, rule=pending.rule, mark=pending.event_seq, seen=pending.consumed_seqs
        )
    )


def _check_ids(events: Sequence[Event]) -> None:
    if any(event.id is None for event in events):
        raise ValueError("an event must have an id before it is stored")


def _lease_lost(write: Checkpoint) -> LeaseLost:
    return LeaseLost(
        f"run {write.run_id} is not held by owner {write.owner} in epoch {write.epoch}"
    )
