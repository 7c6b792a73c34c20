"""The messages to a store, and its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from durable_core.model._record import record
from durable_core.model.event import Event, StoredEvent
from durable_core.model.run import Phase, Run
from durable_core.model.step import FailedAttempt, Memo, Pending, RunningStep
from durable_core.model.stream import ChunkBatch
from durable_core.ports.limits import BeginRefused, CancelOutcome, RateRule, Slots

__all__ = [
    "ANY_RUN",
    "Begin",
    "Begun",
    "Cancel",
    "Checkpoint",
    "CheckpointResult",
    "Claim",
    "ClaimedRun",
    "CorruptRun",
    "Delete",
    "Deliver",
    "Delivered",
    "Delivery",
    "EarlierRun",
    "EndedWait",
    "Fork",
    "Heartbeat",
    "IdempotencyKey",
    "LeaveQueue",
    "NewRun",
    "Prune",
    "ReapWorkers",
    "RecentEvent",
    "Register",
    "Release",
    "Retry",
    "RotateSecret",
    "RunFilter",
    "RunProgress",
    "RunRecord",
    "SealedRun",
    "SendEvents",
    "Sent",
    "StoredRequest",
    "StoredResult",
    "StoredSecret",
    "Unregister",
    "Usage",
    "WorkerRecord",
    "Write",
]


# --- records --------------------------------------------------------------------------------------
#
# The records of a store.


@record(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """A stored request: its head as text (``codec/records.py``), and its body unchanged."""

    head: str
    body: bytes


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run that another one starts, or that its end starts: it is suspended and due at once."""

    run: Run
    request: StoredRequest


@record(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """The result of a run.

    ``phase`` is COMPLETED, FAILED or CANCELLED, ``head`` status and headers as text
    (``codec/records.py``), ``body`` None if it was too large to store. ``follow_up`` is a run to
    store in the same transaction, if this ends the run; it is not read again.
    """

    phase: Phase
    head: str
    body: bytes | None
    ended_at: int
    follow_up: NewRun | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRun:
    """A claimed run, and everything that its replay needs.

    Attributes:
        run: the run with the epoch of this claim, in its stored phase.
        request: the request that began it.
        memos: by completion number.
        pending: unfinished ops; a matched wait has its event.
        streamed: the number of stored bytes of chunks.
        handler_chunks: the number of stored chunks from outside steps.
    """

    run: Run
    request: StoredRequest
    memos: tuple[Memo, ...]
    pending: tuple[Pending, ...]
    streamed: int = 0
    handler_chunks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CorruptRun:
    """A claimed run whose record cannot be read; ``reason`` is for the log.

    ``epoch`` is the epoch of this claim, with which the owner can end the run. ``parent`` is the id
    of the run that started it, if one did.
    """

    run_id: str
    epoch: int
    reason: str
    parent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRun:
    """A claimed run that this process cannot read and another one can: it lacks the key.

    ``run`` has the epoch of this claim, with which the owner can release the run; ``reason`` is for
    the log.
    """

    run: Run
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A process that shares the store.

    The one with the lowest id leads: it alone calls ``run_maintenance``. Of those of one app, the
    one with the lowest id prunes.

    Attributes:
        id: the owner name in its leases, a ULID: the first process has the lowest id.
        host: the host that it runs on.
        pid: its process id there.
        expires_at: the end of its lease, by :meth:`Store.now`.
        app: the application whose runs it executes.
    """

    id: str
    host: str
    pid: int
    expires_at: int
    app: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How much an application, or one of its principals, has in the store.

    Attributes:
        live_runs: the runs that have not ended, counted up to a bound.
        stored_bytes: of a principal, about the size of the requests and results of its runs. Of an
            application, about the size of all that is stored, for other applications, too.
    """

    live_runs: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSecret:
    """A key that signs and verifies tokens; ``created_at`` is 0 for the one made with the store."""

    value: bytes
    created_at: int

    def __repr__(self) -> str:
        return f"StoredSecret(created_at={self.created_at})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The stored facts about a run.

    ``due_at`` is None while the run is live or ended, ``owner`` None while no process holds it.
    The failed attempts of each step are in order; those of the handler (op id "") come first.
    ``running`` is not stored: the engine of the process that executes the run adds it.
    """

    run: Run
    owner: str | None
    due_at: int | None
    ended_at: int | None
    memos: tuple[Memo, ...] = ()
    pending: tuple[Pending, ...] = ()
    failed_attempts: tuple[FailedAttempt, ...] = ()
    running: tuple[RunningStep, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """How far a run is.

    Attributes:
        record: of the run, without memos and failed attempts, and with 100 of its pending ops at
            most.
        steps_done: how many memos it has.
    """

    record: RunRecord
    steps_done: int


@dataclass(frozen=True, slots=True)
class EndedWait:
    """A wait that has ended when its run had seen an event: by the event, or its time was over.

    Attributes:
        run_id: the run.
        value: of its memo, which is "null" if the time was over; None if it is longer than 512
            characters, so that it was an event.
    """

    run_id: str
    value: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentEvent:
    """A stored event, and waits that it may have ended: 100 at most, the last ones first."""

    stored: StoredEvent
    waits: tuple[EndedWait, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs to list; all conditions must hold.

    Ids of runs begin with the time at which they were created, so ``since`` and ``before`` also
    bound that time: give the lowest id of a moment.

    Attributes:
        phases: in one of these phases; empty for any.
        endpoint_key: of this handler.
        key: known to callers by this key.
        label: with this name and value among their labels.
        principal: started by this caller, as ``authorize=`` has named them.
        since: with this id or a higher one.
        before: with a lower id.
        held: only runs that a process holds. There are few of these, whatever the store has.
        cancelled: only runs that were cancelled and have not ended.
    """

    phases: tuple[Phase, ...] = ()
    endpoint_key: str | None = None
    key: str | None = None
    label: tuple[str, str] | None = None
    principal: str | None = None
    since: str | None = None
    before: str | None = None
    held: bool = False
    cancelled: bool = False


#: No condition.
ANY_RUN = RunFilter()


# --- messages -------------------------------------------------------------------------------------

AnswerT = TypeVar("AnswerT", covariant=True)


class Write(Generic[AnswerT]):
    """A message to :meth:`Store.commit`; the type parameter is the type of its answer.

    Attributes:
        repeatable: a second commit changes nothing, so it may be committed again after its answer
            was lost.
        is_one_memo: see :class:`Checkpoint`; no other message is one.
    """

    __slots__ = ()
    repeatable: ClassVar[bool] = False
    is_one_memo: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Release the run until ``due_at`` (epoch milliseconds), or until a wait matches.

    ``awaited`` are the ops whose matches count; None means all. Waits of an older version of the
    code do not count. ``endpoint_key`` is the handler that the run belongs to from now on; None for
    the same one.
    """

    due_at: int
    awaited: tuple[str, ...] | None = None
    endpoint_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """The outcome of the one op that waits at an address.

    An address is a text; ``machine/addresses.py`` makes them. At most one op of an application
    waits at an address at a time. Whatever ends that op (its outcome, its time-out, the end of its
    run) makes the address free. Each address gets only deliveries of one sort:

    - With a ``run_id``, the address belongs to that run. It takes one delivery, which is kept until
      the run is deleted. An op of that run that waits there later, or again, gets it at once.
    - Without, the address is a name. A delivery ends the op that waits there now. If there is none,
      nothing is kept, and a later op does not get it.

    Attributes:
        address: 1 to 512 characters.
        event: what the op gets, with ``id`` and ``ts`` set. A second delivery of one id to an
            address is not delivered again, for as long as the run that got it is stored.
        run_id: the run that the address belongs to, or None.
    """

    address: str
    event: Event
    run_id: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.address) <= _LONGEST_ADDRESS:
            most = _LONGEST_ADDRESS
            raise ValueError(f"an address has 1 to {most} characters, not {len(self.address)}")
        if self.event.id is None or self.event.ts is None:
            raise ValueError("what is delivered must have an id and a time")


_LONGEST_ADDRESS = 512


@record(frozen=True, slots=True, kw_only=True)
class CheckpointResult:
    """The answer to a :class:`Checkpoint`.

    Attributes:
        matched: for each op in ``pending`` that a stored event or delivery already ends, and for
            each in ``closing`` that has a delivery: its op id and the event. The store has recorded
            the match.
        sent: id and sequence number of each of ``events``, in order; of one that was stored
            already, those of the first.
        resumed_runs: the runs with an op that one of ``events`` or ``deliveries`` answered, and
            their owner or None. The run itself may be among them.
        refused: the ids of the ops in ``pending`` that are not stored: another op has their
            address, or the child that they would wait for is beyond ``child_limit``.
    """

    matched: tuple[tuple[str, StoredEvent], ...] = ()
    sent: tuple[tuple[str, int], ...] = ()
    resumed_runs: tuple[tuple[str, str | None], ...] = ()
    refused: tuple[str, ...] = ()


@record(frozen=True, slots=True)
class Checkpoint(Write[CheckpointResult]):
    """One checkpoint: all changes of one run, applied together or not at all.

    Refused with ``LeaseLost`` unless the stored run has this owner and epoch (a ``create`` needs
    no stored run) and has not ended.

    Attributes:
        run_id, owner, epoch: the lease.
        create: the run to insert first, with its request; None once it is stored.
        request: goes with ``create``.
        memos: finished ops. Each replaces the pending record of the same op, also one in here.
        no_pending_row: none of the memos' ops has ever had a pending record and, with ``result``,
            the run has none, so there is nothing to remove. A store may rely on it, or ignore it.
        pending: unfinished ops, inserted or replaced. A WAIT is checked against the stored
            events with a sequence number above its ``event_seq`` and not among its
            ``consumed_seqs``, the earliest first. A store compares it with the first of them in
            the same transaction, and may compare it with the others later; see :class:`Store`.
            An op with an ``address`` is stored only if no other op waits there. One that is stored
            already keeps what was delivered to it.
        replacing: the ids of ops in ``pending`` that take their address from an op that waits
            there. That op stays, without an address, until its time-out.
        closing: the ids of stored ops whose time is over: from now on nothing is delivered to them.
            One that has a delivery keeps it.
        state: the run's new phase, failures and crash count, and whether it is undoable; None
            leaves them. If it has a ``cancel_reason``, its owner knows that the run was cancelled.
        release: release the run; at once due if it was cancelled and its owner does not know that.
        result: the run has ended; also removes its pending ops. If the run was cancelled, and
            ``state`` says that its owner does not know that, it does not end: it is suspended and
            due at once, everything but ``deliveries`` is stored, and the answer is ``LeaseLost``.
        events: those of ``step.send_event``, stored in the same transaction and matched to waits,
            before ``pending``. The memos of kind SEND get the last one's number as theirs.
        deliveries: made in the same transaction, before ``pending`` and after ``events``.
        children: runs to insert; the whole write is refused with ``LeaseLost`` if one of them
            exists.
        child_limit: how many runs may have been begun below the topmost run above ``children`` that
            is stored, with these; None for any number. A child beyond it is not stored, and neither
            is the op that waits for it. A retry of the topmost run begins to count anew.
        chunks: chunks to store: of steps among ``memos``, and of the code outside steps.
        handoff: the position in its stream at which the client was handed off; None leaves it.
        failed_attempts: attempts that have failed. Each replaces one of the same op and number.
        is_one_memo: there is a single memo and nothing else, as in nearly all checkpoints, so that
            nobody has to look. A store may rely on it, or ignore it.
        now: epoch milliseconds.
    """

    run_id: str
    owner: str
    epoch: int
    now: int
    create: Run | None = None
    request: StoredRequest | None = None
    memos: tuple[Memo, ...] = ()
    pending: tuple[Pending, ...] = ()
    state: Run | None = None
    release: Release | None = None
    result: StoredResult | None = None
    events: tuple[Event, ...] = ()
    chunks: tuple[ChunkBatch, ...] = ()
    handoff: str | None = None
    no_pending_row: bool = False
    failed_attempts: tuple[FailedAttempt, ...] = ()
    replacing: tuple[str, ...] = ()
    is_one_memo: bool = False
    deliveries: tuple[Delivery, ...] = ()
    closing: tuple[str, ...] = ()
    children: tuple[NewRun, ...] = ()
    child_limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """A client's name for a request, by which a repeated request finds the run of the first.

    Attributes:
        scope: the key is unique within this text in the application. It is made of all that keeps
            keys apart: the endpoint, the method, the principal.
        key: the client's text, at most 255 characters.
        fingerprint: tells another request with the same key from a repeated one.
        expires_at: from this time on (epoch milliseconds) the key is free again, if its run has
            ended. It is free, too, when its run is pruned.
    """

    scope: str
    key: str
    fingerprint: str
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The answer to :class:`Begin`.

    Attributes:
        run_id: the run that has the key; without a key, the run of the message.
        fingerprint: of the request that began it; "" without a key.
        is_new: it is the run of the message; else an earlier one, and nothing was stored.
        is_queued: it is new and waits for a slot, without an owner.
        replaced: what came of ``Begin.replaces``.
    """

    run_id: str
    fingerprint: str
    is_new: bool
    is_queued: bool = False
    replaced: CancelOutcome = CancelOutcome.NOTHING


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """A run that a client joins, in place of one of its own.

    Attributes:
        run_id: the run.
        fingerprint: of the request that began it, which had the same key; None if the client may
            join it whatever that request was.
    """

    run_id: str
    fingerprint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin(Write[Begun | BeginRefused]):
    """Create a run, unless another one has its key or a limit refuses it.

    Of several that are committed at the same time with one key, in whatever processes, one creates
    its run, and the others are answered with it. The limits, too, hold across processes: each
    message is judged by what those before it have left. ``checkpoint`` creates the run; it is
    refused as any other, and then the key stays free and the rate limit is not used.

    A run without a free slot, or with others in line that could take it, is stored in phase QUEUED,
    without an owner, and due now.

    Attributes:
        key: None for a request without one.
        slots: of its endpoint; ``create.slot_key`` is then set. None without a limit.
        queue_limit: refuse the run if it would be queued behind so many of its endpoint.
        rate: a rate limit of its endpoint, which a run that begins uses.
        replaces: cancels the run that has the singleton key, in the same transaction, unless
            another limit refuses the new run. If that run ends, the new one begins in its place,
            also in its slot. If it must be undone first, or another run has the key, the new one
            is refused.
        checkpoint: with ``create.singleton_key`` the run is refused if a run of its endpoint with
            this singleton key has not ended.
    """

    repeatable: ClassVar[bool] = True
    checkpoint: Checkpoint
    key: IdempotencyKey | None = None
    slots: Slots | None = None
    queue_limit: int | None = None
    rate: RateRule | None = None
    replaces: Cancel | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The answer to :class:`SendEvents`.

    Attributes:
        ids: the id of each event, in order; an event sent twice has the id of the first.
        resumed_runs: the runs with a wait that one of them answered, or that cannot be read, and
            their owner or None.
    """

    ids: tuple[str, ...]
    resumed_runs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SendEvents(Write[Sent]):
    """Store events and match them to waits.

    Every event has its ``id`` and ``ts`` set. An event whose id the app has stored already from the
    same source (and not pruned) is not stored again and ends no wait. A wait that cannot be read
    does not affect others: its run is resumed, so that it can fail.

    ``source`` names the sender, so that no sender can use the ids of another. It is "" for the
    application itself, as it is for the events of a :class:`Checkpoint`.
    """

    repeatable: ClassVar[bool] = True
    app: str
    events: tuple[Event, ...]
    now: int
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The answer to :class:`Deliver`.

    Attributes:
        run_id: the run that has the delivery. None if no op waits at the address, or the run that
            it belongs to is unknown, has ended or was cancelled; then nothing was stored.
        is_used: the address has had its one delivery before, under another id. Nothing was stored.
        resumed_runs: the run with the op that this answered, and its owner or None.
    """

    run_id: str | None
    is_used: bool = False
    resumed_runs: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver(Write[Delivered]):
    """Deliver the outcome of the op that waits at an address; see :class:`Delivery`.

    Of several that are committed at the same time to one address, one ends the op.
    """

    repeatable: ClassVar[bool] = True
    app: str
    delivery: Delivery
    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Write[tuple[ClaimedRun | CorruptRun | SealedRun, ...]]):
    """Claim due runs without an owner whose handler is known, the earliest due first.

    A run that cannot be read is claimed too, so that it can fail; it does not affect the others.
    If the answer is lost, :meth:`Store.held` returns the runs of the owner.
    Refused with ``LeaseLost`` unless the owner is a registered process: one that was reaped has to
    register again first, or its runs would be taken from it while it executes them.
    With ``run_ids`` only these of the runs are claimed, and none of endpoints with ``slots``.
    The last ``ahead`` of the runs wait in the process until a handler ends. None of these comes
    after a run that has died with a process since its last checkpoint, or may have, or is queued:
    the former may take with it what waits behind it, and the latter would have a slot while it
    waits.

    Runs of an endpoint with ``slots`` are queued when they are due (up to 1,000 at a time, the
    earliest due first), and claimed from the queue as far as there are slots. The queued runs of
    different slot keys are claimed in turns. ``slots`` are those of the claiming process's code: a
    store keeps none.
    """

    app: str
    owner: str
    keys: tuple[str, ...]
    now: int
    limit: int
    run_ids: tuple[str, ...] | None = None
    slots: tuple[Slots, ...] = ()
    ahead: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveQueue(Write[int]):
    """Take runs of endpoints without slots out of the queue; answers how many.

    They are due as other runs are. It is for runs that were queued by code with a limit that newer
    code does not have. Of an endpoint that this process does not know, another one may have the
    code, and the limit: its runs stay, unless they have waited since long.

    Attributes:
        app: the application.
        unlimited: endpoints without slots.
        limited: endpoints with slots; their runs stay.
        before: of other endpoints, only runs that have been due since before this time.
        limit: the most to take.
    """

    repeatable: ClassVar[bool] = True
    app: str
    unlimited: tuple[str, ...]
    limited: tuple[str, ...]
    before: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Register(Write[None]):
    """Add a process."""

    repeatable: ClassVar[bool] = True
    worker: WorkerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Write[bool]):
    """Renew the lease of a process. Answered with False if the process was reaped meanwhile."""

    repeatable: ClassVar[bool] = True
    id: str
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReapWorkers(Write[tuple[str, ...]]):
    """Remove dead processes and free their runs, due at once; answers the ids of these runs.

    Each freed run gets a higher epoch, so that writes of its old owner are refused, and a higher
    crash count. One that was claimed ahead keeps its crash count, since it may not have begun, and
    is not claimed ahead again before it was released. ``orphans`` also frees runs whose owner is
    not a registered process. With ``skip_if_renewed_after``, a process that has renewed its lease
    past that time is kept.
    """

    repeatable: ClassVar[bool] = True
    ids: tuple[str, ...]
    now: int
    skip_if_renewed_after: int | None = None
    orphans: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unregister(Write[tuple[str, ...]]):
    """Remove a process that stops cleanly; answers the ids of the runs that it still held.

    They are due at once, and their crash count stays.
    """

    repeatable: ClassVar[bool] = True
    id: str
    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Write[CancelOutcome]):
    """End a run as cancelled with this result; have it undone first if it is undoable.

    A run that is undoable is suspended and due at once, if nobody holds it. If a process holds it,
    that process finds it by ``Store.cancelled_runs``, and releases it when the steps in flight have
    been stored. Whoever claims it then undoes it and ends it.

    From now on nothing ends a wait of a run that is to be undone, also of one that its owner begins
    to store because it does not know of this: no event, and no delivery. Their addresses are free.

    ``deliveries`` are made in the same transaction, if this ends the run.

    Raises ``RunNotFoundError`` (as its answer) if there is no such run.

    Attributes:
        app, run_id: the run.
        result: how it ends if there is nothing to undo; its ``ended_at`` is the time now.
        reason: why it is cancelled; "" without a reason.
    """

    app: str
    run_id: str
    result: StoredResult
    deliveries: tuple[Delivery, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(Write[bool]):
    """Delete a run that has ended. Answered with False, and without effect, if it has not ended.

    Raises ``RunNotFoundError`` (as its answer) if there is no such run.
    """

    app: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(Write[bool]):
    """Let a failed run go on from where it failed. Answered with False if it has not failed.

    It is suspended and due at once, in a higher epoch, without its result, and may take as long as
    before (``Run.timeout``). Those of ``steps`` that have finished are unknown again; all other
    steps keep their outcome. What these steps have streamed is gone, and what code outside steps
    has streamed since the first of them finished. Nothing of this needs a table of its own: a run
    that failed differs from a suspended one only in these records. The rows of failed attempts stay
    until an attempt with the same number replaces them.

    Raises ``RunNotFoundError`` (as its answer) if there is no such run, and ``SingletonError`` if
    another run has its singleton key.

    Attributes:
        app, run_id: the run.
        now: epoch milliseconds.
        steps: the ids of ops.
    """

    app: str
    run_id: str
    now: int
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork(Write[bool]):
    """Create a run that goes on from a step of another one. Answered with False without that step.

    The new run is suspended and due at once. It has a copy of the steps that finished before the
    step did, and of what they have streamed; of the request, unless it gets one of its own; and
    nothing that is pending. If the step has not finished, it has all finished steps. The old run
    stays as it is, whatever its phase.

    Raises ``RunNotFoundError`` (as its answer) if there is no such run, ``LeaseLost`` if the
    new run exists, and ``SingletonError`` if another run has its singleton key.

    Attributes:
        app, run_id: the run to copy.
        op_id: the first step that the new run does not have.
        run: the new run, of the same application.
        request: replaces the request; None for the same one.
        now: epoch milliseconds.
    """

    app: str
    run_id: str
    op_id: str
    run: Run
    now: int
    request: StoredRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune(Write[int]):
    """Delete runs that ended before ``runs_before`` and events received before ``events_before``.

    Up to ``limit`` of each, the oldest first; answers the number of deleted runs and events.
    """

    repeatable: ClassVar[bool] = True
    app: str
    runs_before: int
    events_before: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateSecret(Write[None]):
    """Add a secret; remove the secrets that were replaced before a time (epoch milliseconds).

    A secret is replaced when the next one is added. The newest one is never removed. Of one value
    there is one secret.
    """

    repeatable: ClassVar[bool] = True
    secret: bytes
    now: int
    replaced_before: int

    def __repr__(self) -> str:
        return f"RotateSecret(now={self.now}, replaced_before={self.replaced_before})"
