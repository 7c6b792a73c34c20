"""The default store: one SQLite file, shared by any number of processes of one machine."""

from durable_core.runtime.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
