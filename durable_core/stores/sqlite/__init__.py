"""The default store: one SQLite file, shared by any number of processes of one machine."""

from durable_core.stores.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
