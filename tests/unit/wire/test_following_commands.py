"""What the client of a stream is told to do."""

from __future__ import annotations

from typing import get_args

from durable_core.wire import following_commands
from durable_core.wire.following_commands import Command


def test_every_command_is_one() -> None:
    """The union names each command of the module, so that a driver can match them all."""
    commands = {kind.__name__ for kind in get_args(Command)}

    assert commands == set(following_commands.__all__) - {
        *("Command", "Commands", "DeliveredEvent")
    }
