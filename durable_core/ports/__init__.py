"""What the core needs from outside, as Protocols, and the messages that cross them.

A store is one method that writes (:meth:`Store.commit`, a batch of :class:`Write` messages in one
transaction) and a few that read. Everything about concurrency is in the messages: a
:class:`RunWrite` takes effect only while its owner and epoch still hold the run.
"""

from __future__ import annotations

from durable_core.ports.channel import Channel, ChannelFile, ChannelName
from durable_core.ports.records import (
    Claimed,
    Peer,
    RunRecord,
    StoredRequest,
    StoredResult,
    Unreadable,
)
from durable_core.ports.store import Store
from durable_core.ports.world import Clock, Ids
from durable_core.ports.writes import (
    Beat,
    Bury,
    Cancel,
    Claim,
    Prune,
    Register,
    Release,
    RunWrite,
    SendEvents,
    Sent,
    Unregister,
    Write,
    Written,
)

__all__ = [
    "Beat",
    "Bury",
    "Cancel",
    "Channel",
    "ChannelFile",
    "ChannelName",
    "Claim",
    "Claimed",
    "Clock",
    "Ids",
    "Peer",
    "Prune",
    "Register",
    "Release",
    "RunRecord",
    "RunWrite",
    "SendEvents",
    "Sent",
    "Store",
    "StoredRequest",
    "StoredResult",
    "Unreadable",
    "Unregister",
    "Write",
    "Written",
]
