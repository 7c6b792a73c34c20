"""What a store keeps, as it is handed over."""

from __future__ import annotations

from dataclasses import dataclass

from durable_core.model.ops import Memo, Pending
from durable_core.model.run import Phase, Run

__all__ = ["Claimed", "Peer", "RunRecord", "StoredRequest", "StoredResult", "Unreadable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """A request as it is kept: its head as text (``wire/requests.py``), its body as it came."""

    head: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """How a run ended.

    ``phase`` is COMPLETED, FAILED or CANCELLED, ``head`` status and headers as text
    (``wire/requests.py``), ``body`` None when it was too large to keep.
    """

    phase: Phase
    head: str
    body: bytes | None
    ended_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A run that is now ours, and all that replaying it needs.

    Attributes:
        run: with the epoch of this claim, in the phase it was stored with.
        request: the request it was made for.
        memos: by completion number.
        pending: unfinished ops, those matched by an event with the event.
        streamed: how many bytes of chunks are stored.
        outside: how many chunks from outside steps are.
    """

    run: Run
    request: StoredRequest
    memos: tuple[Memo, ...]
    pending: tuple[Pending, ...]
    streamed: int = 0
    outside: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A run that is now ours, but what is stored of it cannot be read; ``reason`` is for the log.

    ``epoch`` is that of this claim: whoever claimed it can end it.
    """

    run_id: str
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A process that shares the store. ``id`` is the owner name in its leases."""

    id: str
    host: str
    pid: int
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What can be looked up about a run.

    ``due_at`` is None while it is live or ended, ``owner`` None while nobody holds it.
    """

    run: Run
    owner: str | None
    due_at: int | None
    ended_at: int | None
    memos: tuple[Memo, ...] = ()
    pending: tuple[Pending, ...] = ()
