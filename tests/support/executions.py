"""Executions without a node, for tests of what they are given."""

from __future__ import annotations

from durable_conformance.store_values import run
from durable_core.flow.env import AppConfig, Limits
from durable_core.flow.execution import StoredExecution
from durable_core.flow.options import ResolvedOptions
from durable_core.model.step import Memo
from durable_core.platform import SystemIds
from support.harness import FakeClock, request

__all__ = ["execution"]


def execution(
    *memos: Memo, limits: Limits | None = None, streamed: int = 0, outside: int = 0
) -> StoredExecution:
    """Return one of run ``"r1"`` that has these memos."""
    env = AppConfig(
        app="app",
        clock=FakeClock(5),
        ids=SystemIds(),
        secrets=lambda: (b"s" * 32,),
        limits=limits or Limits(),
    )
    return StoredExecution(
        env,
        ResolvedOptions(key="it"),
        run(),
        request(),
        owner="o1",
        memos=memos,
        streamed=streamed,
        handler_chunks=outside,
    )
