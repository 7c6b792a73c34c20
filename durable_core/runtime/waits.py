"""When a stored event ends a pending wait; the part of it that every store shares."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache

from durable_core.machine.matching import event_keys, load_rule, matches
from durable_core.model.events import Event, StoredEvent
from durable_core.model.ops import Memo, OpKind, Pending

__all__ = ["answers", "check_rule", "marked", "match_keys"]

_load_rule = lru_cache(maxsize=1024)(load_rule)


def match_keys(event: Event, match_path: str) -> tuple[str, ...]:
    """Return the values of ``Pending.match_key`` that the event answers to at that path.

    Args:
        event: an event with the name that is waited for.
        match_path: as in ``Pending``: names joined by dots, or "" for waits without ``match``.
    """
    return event_keys(event, tuple(match_path.split("."))) if match_path else ("",)


def answers(stored: StoredEvent, *, rule: str, mark: int, seen: Collection[int]) -> bool:
    """Tell whether the event ends a wait with this rule, mark and seen numbers (``Pending``)."""
    if stored.seq <= mark or stored.seq in seen:
        return False
    return matches(_load_rule(rule), stored.event)


def check_rule(pending: Pending) -> None:
    """Raise an exception of any kind if the op is a wait whose rule cannot be read."""
    if pending.event:
        _load_rule(pending.rule)


def marked(memos: Sequence[Memo], sent: Sequence[tuple[str, int]]) -> Sequence[Memo]:
    """Return the memos of a write with those of SEND marked past the events it sends.

    A wait after ``step.send_event`` is for what comes later, the run's own events not included.

    Args:
        memos: of one ``RunWrite``.
        sent: id and sequence number of each of its events.
    """
    if not sent:
        return memos
    last = max(seq for _, seq in sent)
    return [
        replace(memo, mark=max(memo.mark, last)) if memo.op.kind is OpKind.SEND else memo
        for memo in memos
    ]
