"""Small values for the cases of stores: runs, memos, waits and the writes that carry them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

from durable_core.machine.matching import MatchRule, WaitRule, dump_rule
from durable_core.model.event import Event
from durable_core.model.run import Phase, Run
from durable_core.model.step import FailedAttempt, Memo, Op, OpKind, Pending
from durable_core.ports import (
    Checkpoint,
    Claim,
    ClaimedRun,
    Delivery,
    Register,
    Release,
    SendEvents,
    Store,
    StoredRequest,
    StoredResult,
    WorkerRecord,
    Write,
)

__all__ = [
    "REQUEST",
    "addressed",
    "claim",
    "commit",
    "created",
    "delivery",
    "ended",
    "event",
    "failed_attempt",
    "matched_seqs",
    "memo",
    "memo_write",
    "peer",
    "pending",
    "pending_of",
    "result",
    "run",
    "send",
    "suspended",
    "wait",
]

T = TypeVar("T")

REQUEST = StoredRequest(head="GET /x", body=b"body")


def run(id_: str = "r1", *, app: str = "app", key: str = "key", epoch: int = 1) -> Run:
    """Return a run in its first phase."""
    return Run(
        id=id_,
        app=app,
        endpoint_key=key,
        function_id="GET /x",
        phase=Phase.SYNC,
        retries=3,
        created_at=1,
        epoch=epoch,
    )


def memo(number: int, *, name: str = "", value: str = "1", kind: OpKind = OpKind.RUN) -> Memo:
    """Return the outcome of a finished op."""
    name = name or f"step{number}"
    op = Op(id=f"id-{name}", name=name, kind=kind)
    return Memo(
        op=op, completion_no=number, ok=True, value=value, event_seq=0, attempts=1, ended_at=number
    )


def failed_attempt(number: int, op_id: str = "id-step1") -> FailedAttempt:
    """Return an attempt of a step that failed and will be made again."""
    return FailedAttempt(
        op_id=op_id,
        number=number,
        started_at=number,
        ended_at=number + 1,
        error_name="OSError",
        error_message="no \N{SNOWMAN}",
        retry_at=number + 2,
    )


def pending(name: str = "nap", *, due_at: int = 1000) -> Pending:
    """Return a sleep that is not over."""
    return Pending(op=Op(id=f"id-{name}", name=name, kind=OpKind.SLEEP), due_at=due_at)


def wait(
    name: str = "wait",
    *,
    event: str = "e",
    path: str = "",
    key: str = "",
    mark: int = 0,
    seen: tuple[int, ...] = (),
    conditions: tuple[tuple[tuple[str, ...], str], ...] = (),
    due_at: int = 1000,
) -> Pending:
    match = MatchRule(path=tuple(path.split(".")), key=key) if path else None
    return Pending(
        op=Op(id=f"id-{name}", name=name, kind=OpKind.WAIT),
        due_at=due_at,
        rule=dump_rule(WaitRule(event=event, match=match, conditions=conditions)),
        event=event,
        match_path=path,
        match_key=key,
        event_seq=mark,
        consumed_seqs=seen,
    )


def addressed(name: str = "wait", *, address: str = "a", due_at: int = 1000) -> Pending:
    """Return an op that waits at an address."""
    op = Op(id=f"id-{name}", name=name, kind=OpKind.WAIT)
    return Pending(op=op, due_at=due_at, address=address)


def delivery(id_: str = "1", *, address: str = "a", run_id: str | None = None) -> Delivery:
    """Return what is delivered to an address: to a name, or to one that belongs to a run."""
    return Delivery(address=address, event=event(id_, "d", n=id_), run_id=run_id)


def event(id_: str, name: str = "e", /, **data: object) -> Event:
    """Return an event with its id and time set."""
    return Event(name=name, data=data, id=id_, ts=1)


def result(phase: Phase = Phase.COMPLETED, *, ended_at: int = 50) -> StoredResult:
    """Return how a run ended."""
    return StoredResult(phase=phase, head="200", body=b"ok", ended_at=ended_at)


def created(
    id_: str = "r1", *, owner: str = "o1", app: str = "app", key: str = "key"
) -> Checkpoint:
    """Return the write that creates a run with its first memo."""
    return Checkpoint(
        run_id=id_,
        owner=owner,
        epoch=1,
        now=10,
        create=run(id_, app=app, key=key),
        request=REQUEST,
        memos=(memo(1),),
    )


def memo_write(
    id_: str = "r1", number: int = 2, *, owner: str = "o1", epoch: int = 1, **parts: Any
) -> Checkpoint:
    """Return a write with one memo, or with other ``parts``; it says whether it is one memo."""
    write = Checkpoint(run_id=id_, owner=owner, epoch=epoch, now=20, memos=(memo(number),))
    write = replace(write, **parts)
    is_one_memo = len(write.memos) == 1 and not parts.keys() - {"memos", "no_pending_row"}
    return replace(write, is_one_memo=is_one_memo)


def suspended(id_: str = "r1", *ops: Pending, owner: str = "o1", due_at: int = 1000) -> Checkpoint:
    """Return the write that gives a run up until it is due."""
    return Checkpoint(
        run_id=id_, owner=owner, epoch=1, now=20, pending=ops, release=Release(due_at=due_at)
    )


def ended(id_: str = "r1", *, owner: str = "o1", epoch: int = 1, ended_at: int = 50) -> Checkpoint:
    """Return the write that ends a run."""
    return Checkpoint(
        run_id=id_, owner=owner, epoch=epoch, now=ended_at, result=result(ended_at=ended_at)
    )


def commit(store: Store, write: Write[T], *, wait: float = 1.0) -> T:
    """Commit one write and return its answer; raise it if it is an error."""
    [answer] = store.commit([write], wait=wait)
    if isinstance(answer, BaseException):
        raise answer
    return cast(T, answer)


def claim(
    store: Store,
    owner: str = "o2",
    *,
    keys: Sequence[str] = ("key",),
    now: int = 5000,
    limit: int = 10,
    run_ids: tuple[str, ...] | None = None,
    ahead: int = 0,
) -> Sequence[ClaimedRun]:
    """Register the owner and claim due runs, which can all be read."""
    commit(store, Register(worker=peer(owner)))
    wanted = Claim(
        app="app",
        owner=owner,
        keys=tuple(keys),
        now=now,
        limit=limit,
        run_ids=run_ids,
        ahead=ahead,
    )
    claimed = commit(store, wanted)
    readable = tuple(each for each in claimed if isinstance(each, ClaimedRun))
    assert len(readable) == len(claimed), claimed
    return readable


def send(store: Store, *events: Event, now: int = 100) -> Sequence[tuple[str, str | None]]:
    """Send events to the app and return who is woken."""
    return commit(store, SendEvents(app="app", events=events, now=now)).resumed_runs


def peer(id_: str, *, expires_at: int = 100) -> WorkerRecord:
    """Return a process."""
    return WorkerRecord(id=id_, host="h", pid=1, expires_at=expires_at)


def pending_of(store: Store, id_: str = "r1") -> tuple[Pending, ...]:
    """Return what is unfinished of a run."""
    record = store.get("app", id_)
    assert record is not None
    return record.pending


def matched_seqs(store: Store, id_: str = "r1") -> list[int | None]:
    """Return which event, if any, has answered each unfinished op of a run."""
    return [None if op.matched is None else op.matched.seq for op in pending_of(store, id_)]
