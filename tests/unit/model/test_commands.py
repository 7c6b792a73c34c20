"""What follows from what happened to a run."""

from __future__ import annotations

from typing import get_args

from durable_core.model import commands
from durable_core.model.commands import Command, HandoffReason


def test_command_is_any_of_them() -> None:
    """``Command`` names every command there is, so that mypy finds the one that is not handled."""
    classes = {getattr(commands, name) for name in commands.__all__ if name != "Command"}

    assert classes - {HandoffReason} == set(get_args(Command))


def test_reasons_are_words_for_people() -> None:
    """A reason reads as its name in lower case, with hyphens."""
    assert [each.name.lower().replace("_", "-") for each in HandoffReason] == [
        each.value for each in HandoffReason
    ]
