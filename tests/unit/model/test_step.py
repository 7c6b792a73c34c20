"""Steps, and what becomes of them."""

from __future__ import annotations

from typing import get_args

from durable_conformance.store_values import memo, pending
from durable_core.model.step import OpKind, Pending, StepKind


def test_kinds_as_they_are_stored() -> None:
    """The words for kinds stand in every store there is; they do not change."""
    kinds = {
        "RUN": "run",
        "SLEEP": "sleep",
        "WAIT": "wait",
        "SEND": "send",
        "SIGNAL": "signal",
        "SEND_SIGNAL": "send-signal",
        "CALLBACK": "callback",
        "INVOKE": "invoke",
    }
    assert kinds == {kind.name: kind.value for kind in OpKind}
    assert tuple(kinds.values()) == get_args(StepKind)


def test_pending_op_that_has_not_failed() -> None:
    """An op that is asked for the first time has no failure, waits for nothing, saw nothing."""
    op = pending().op
    first = Pending(op=op, due_at=7)

    assert (
        Pending(
            op=op,
            due_at=7,
            failures=0,
            error="",
            rule="",
            event="",
            match_path="",
            match_key="",
            event_seq=0,
            consumed_seqs=(),
            matched=None,
        )
        == first
    )


def test_memos_are_values() -> None:
    """Equal memos are one member of a set, and the type checker lets nobody change one."""
    assert 1 == len({memo(1), memo(1)})
    assert memo(1) != memo(2)
    memo(1).ok = False  # type: ignore[misc]
