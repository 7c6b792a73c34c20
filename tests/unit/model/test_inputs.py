"""What can happen to a run."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from durable_conformance.store_values import pending
from durable_core.model import inputs
from durable_core.model.commands import HandoffReason
from durable_core.model.inputs import Failure, Input, OpParked
from durable_core.model.ops import OpKind

REASONS = {
    OpKind.RUN: HandoffReason.STEP_RETRY,
    OpKind.SEND: HandoffReason.STEP_RETRY,
    OpKind.SLEEP: HandoffReason.SLEEP,
    OpKind.WAIT: HandoffReason.WAIT,
}


def test_input_is_any_of_them() -> None:
    """``Input`` names everything that can happen, so that mypy finds what is not handled."""
    classes = {getattr(inputs, name) for name in inputs.__all__ if name != "Input"}

    assert classes - {Failure} == set(get_args(Input))


@pytest.mark.parametrize("kind", OpKind)
def test_reason_of_a_parked_op(kind: OpKind) -> None:
    """For each kind of step there is one reason why a client cannot wait for it."""
    parked = pending()

    assert (
        REASONS[kind] is OpParked(pending=replace(parked, op=replace(parked.op, kind=kind))).reason
    )
