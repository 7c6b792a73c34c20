"""What stores may offer besides."""

from __future__ import annotations

from pathlib import Path

from durable_core.ports import channel_of
from durable_core.stores.memory import MemoryStore
from durable_core.stores.sqlite import SQLiteStore


def test_a_file_has_a_channel_and_memory_has_none(tmp_path: Path) -> None:
    """What is in one process's memory has no other process to tell."""
    store = SQLiteStore(tmp_path / "store.db")

    assert store.channel is channel_of(store)
    assert None is channel_of(MemoryStore())
