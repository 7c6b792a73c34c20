"""The messages that stores take."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from durable_core import ports
from durable_core.ports import Heartbeat, Write
from durable_core.ports.messages import __all__ as names
from durable_core.stores.memory import MemoryStore
from durable_core.stores.sqlite import writes as batches

MESSAGES = {
    each
    for each in (getattr(ports, name) for name in names)
    if isinstance(each, type) and issubclass(each, Write) and each is not Write
}


def test_every_store_takes_every_message() -> None:
    """There is no message that one of the stores does not know, and none that only one knows."""
    assert MESSAGES == set(batches._APPLY)
    assert MESSAGES == set(MemoryStore()._apply)


def test_messages_cannot_be_changed() -> None:
    """A message may wait in a queue and be sent again; nobody changes it meanwhile."""
    beat = Heartbeat(id="o1", expires_at=5)

    with pytest.raises(FrozenInstanceError):
        beat.expires_at = 6  # type: ignore[misc]
    assert Heartbeat(id="o1", expires_at=5) == beat
