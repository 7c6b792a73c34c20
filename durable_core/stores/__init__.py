"""Where the embedded engine can keep its state: ``EmbeddedEngine(store=...)``."""

from __future__ import annotations

from durable_core.ports import Store
from durable_core.stores.encrypted import Cipher, EncryptedStore
from durable_core.stores.memory import MemoryStore
from durable_core.stores.sqlite import SQLiteStore

__all__ = ["Cipher", "EncryptedStore", "MemoryStore", "SQLiteStore", "Store"]
