"""The floor: what an engineer would write by hand for one endpoint, with nothing but ``sqlite3``.

It makes the same promise for the same rows (a step is durable before the next one starts, and all
of it before the response) and nothing else: no replay, retries, leases, other processes, limits or
events. One connection behind a lock commits inline; the last step and the end of the run are one
transaction, so a run of n steps takes n commits. On an event loop, what is written in one tick is
one transaction.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from durable_core import Request, Response

__all__ = ["Floor"]

_SCHEMA = """
CREATE TABLE run (id TEXT PRIMARY KEY, name TEXT NOT NULL, phase TEXT NOT NULL,
                  created_at INTEGER NOT NULL, ended_at INTEGER) STRICT, WITHOUT ROWID;
CREATE TABLE request (run_id TEXT PRIMARY KEY, head TEXT NOT NULL, body BLOB NOT NULL)
                  STRICT, WITHOUT ROWID;
CREATE TABLE step (run_id TEXT NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL,
                   value TEXT NOT NULL, ended_at INTEGER NOT NULL, PRIMARY KEY (run_id, number))
                  STRICT, WITHOUT ROWID;
CREATE TABLE result (run_id TEXT PRIMARY KEY, head TEXT NOT NULL, body BLOB NOT NULL)
                  STRICT, WITHOUT ROWID;
"""


class _Step(NamedTuple):
    """One finished step."""

    run_id: str
    number: int
    value: object
    request: Request | None
    response: Response | None


class Floor:
    """One file, one connection, one transaction per step. May be used by several threads."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)
        self._lock = threading.Lock()
        self._tick: list[tuple[asyncio.Future[None], _Step]] = []

    def start(self, name: str) -> str:
        """Return the id of a new run; nothing is stored before its first step."""
        return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"

    def step(
        self,
        run_id: str,
        number: int,
        value: object,
        *,
        request: Request | None = None,
        response: Response | None = None,
    ) -> None:
        """Make a step durable: the first one with its run, the last one with the response."""
        with self._lock:
            self._commit([_Step(run_id, number, value, request, response)])

    async def step_async(
        self,
        run_id: str,
        number: int,
        value: object,
        *,
        request: Request | None = None,
        response: Response | None = None,
    ) -> None:
        """Make a step durable, in one transaction with those of this tick of the loop."""
        loop = asyncio.get_running_loop()
        if not self._tick:
            loop.call_soon(self._commit_tick)
        durable = loop.create_future()
        self._tick.append((durable, _Step(run_id, number, value, request, response)))
        await durable

    def _commit_tick(self) -> None:
        tick, self._tick = self._tick, []
        self._commit([step for _, step in tick])
        for durable, _ in tick:
            durable.set_result(None)

    def _commit(self, steps: Sequence[_Step]) -> None:
        now = time.time_ns() // 1_000_000
        self._db.execute("BEGIN IMMEDIATE")
        for run_id, number, value, request, response in steps:
            if request is not None:
                self._insert_run(run_id, request, now)
            self._db.execute(
                "INSERT INTO step VALUES (?, ?, ?, ?, ?)",
                (run_id, number, f"step-{number}", json.dumps(value), now),
            )
            if response is not None:
                self._insert_result(run_id, response, now)
        self._db.execute("COMMIT")

    def _insert_run(self, run_id: str, request: Request, now: int) -> None:
        name = f"{request.method} {request.path}"
        head = json.dumps([request.method, request.url, request.headers.raw])
        self._db.execute("INSERT INTO run VALUES (?, ?, 'sync', ?, NULL)", (run_id, name, now))
        self._db.execute("INSERT INTO request VALUES (?, ?, ?)", (run_id, head, request.body))

    def _insert_result(self, run_id: str, response: Response, now: int) -> None:
        head = json.dumps([response.status, response.headers.raw])
        self._db.execute(
            "UPDATE run SET phase = 'completed', ended_at = ? WHERE id = ?", (now, run_id)
        )
        self._db.execute("INSERT INTO result VALUES (?, ?, ?)", (run_id, head, response.body))

    def close(self) -> None:
        """Close the connection."""
        self._db.close()
