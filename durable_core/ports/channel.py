"""What a store may offer besides: news of running steps, between the processes that share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Channel", "ChannelFile", "ChannelName", "channel_of"]


@dataclass(frozen=True, slots=True)
class ChannelName:
    """Whose news it is.

    Attributes:
        run_id, epoch: the run, and its claim.
        part: counts how often the execution has begun anew; only the last part matters.
    """

    run_id: str
    epoch: int
    part: int


@dataclass(frozen=True, slots=True)
class ChannelFile:
    """How much there is: ``size`` in bytes, ``age`` in seconds since the last was added."""

    name: ChannelName
    size: int
    age: float


class Channel(Protocol):
    """Bytes that executions tell the other processes. Nothing durable depends on them.

    Methods may be called from any thread, those that write by one thread at a time for each
    execution. All raise ``StoreError`` when they cannot do what they should.
    """

    def begin(self, name: ChannelName, data: bytes) -> None:
        """Tell this first. The name must be new."""
        ...

    def append(self, name: ChannelName, data: bytes) -> bool:
        """Tell this, too; False, and nothing is done, if what came before is gone."""
        ...

    def remove(self, name: ChannelName) -> None:
        """Forget what was told under this name, if anything."""
        ...

    def listed(self) -> Sequence[ChannelFile]:
        """Return what there is, of whatever run."""
        ...

    def read(self, name: ChannelName, offset: int, most: int) -> bytes | None:
        """Return up to so many bytes from an offset on; None if there is nothing of that name."""
        ...


def channel_of(store: object) -> Channel | None:
    """Return the channel of a store, its attribute ``channel``; None if it has none."""
    channel: Channel | None = getattr(store, "channel", None)
    return channel
