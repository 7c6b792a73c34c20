"""What can happen to a run, and what follows from it."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from durable_conformance.store_values import pending
from durable_core.model import decision
from durable_core.model.decision import Command, Failure, HandoffReason, Input, OpParked
from durable_core.model.step import OpKind

REASONS = {
    OpKind.RUN: HandoffReason.STEP_RETRY,
    OpKind.SEND: HandoffReason.STEP_RETRY,
    OpKind.SLEEP: HandoffReason.SLEEP,
    OpKind.WAIT: HandoffReason.WAIT,
    OpKind.SIGNAL: HandoffReason.WAIT,
    OpKind.SEND_SIGNAL: HandoffReason.STEP_RETRY,
    OpKind.CALLBACK: HandoffReason.WAIT,
    OpKind.INVOKE: HandoffReason.INVOKE,
}


def test_every_input_and_command_is_named() -> None:
    """``Input`` and ``Command`` name all there is, so that mypy finds what is not handled."""
    classes = {getattr(decision, name) for name in decision.__all__} - {Input, Command}

    assert classes - {Failure, HandoffReason} == {*get_args(Input), *get_args(Command)}


def test_reasons_are_words_for_people() -> None:
    """A reason reads as its name in lower case, with hyphens."""
    assert [each.name.lower().replace("_", "-") for each in HandoffReason] == [
        each.value for each in HandoffReason
    ]


@pytest.mark.parametrize("kind", OpKind)
def test_reason_of_a_parked_op(kind: OpKind) -> None:
    """For each kind of step there is one reason why a client cannot wait for it."""
    parked = pending()

    assert (
        REASONS[kind] is OpParked(pending=replace(parked, op=replace(parked.op, kind=kind))).reason
    )
