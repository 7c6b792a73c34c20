"""Limits of what clients may have in the store."""

from __future__ import annotations

import threading
import time

from durable_core.flow.env import AppConfig
from durable_core.http.problem import problem
from durable_core.http.response import Response, with_headers
from durable_core.platform import logger
from durable_core.ports import Store

__all__ = ["Quota"]

#: The usage of a principal is known for this time, seconds, or for as long as makes looking it up
#: one part in a hundred of the time. That of the application is read again by the scheduler, once a
#: second.
_KNOWN, _PART = 1.0, 100
#: The usage of so many principals is remembered.
_MOST_PRINCIPALS = 1_000
_RETRY_AFTER = (("retry-after", "5"),)


class Quota:
    """Refuses new runs while the application, or a principal, has too much in the store.

    Runs that begin within a second of reaching a limit go beyond it.

    Args:
        env: the application, with its limits.
        store: where the runs are.

    Attributes:
        is_full: the application is at a limit.
    """

    def __init__(self, env: AppConfig, store: Store) -> None:
        self._env = env
        self._store = store
        self._lock = threading.Lock()
        self._principals: dict[str, tuple[float, str]] = {}
        self.is_full = False

    def refresh(self) -> None:
        """Read again how much the application has in the store.

        Raises:
            StoreError: it cannot be read.
        """
        limits = self._env.limits
        usage = self._store.usage(self._env.app, most=limits.live_runs)
        reason = ""
        if usage.live_runs >= limits.live_runs:
            reason = f"{limits.live_runs} runs have not ended (Limits.live_runs)"
        elif usage.stored_bytes >= limits.stored_bytes:
            reason = f"{usage.stored_bytes} bytes are stored (Limits.stored_bytes)"
        if reason and not self.is_full:
            logger.error("no new run begins: %s", reason)
        elif self.is_full and not reason:
            logger.warning("new runs begin again")
        self.is_full = bool(reason)

    def refusal(self, principal: str | None) -> Response | None:
        """Return the answer to a request whose run may not begin, or None.

        Raises:
            StoreError: the store cannot be read.
        """
        if self.is_full:
            detail = "the application has too many runs, or too much in its store"
            return with_headers(problem(503, "too-many-runs", detail=detail), _RETRY_AFTER)
        if principal is None or not self._reason_of(principal):
            return None
        detail = "you have too many runs, or too much in the store"
        return with_headers(problem(429, "too-many-runs", detail=detail), _RETRY_AFTER)

    def _reason_of(self, principal: str) -> str:
        """Return why a principal may begin no run, or ""."""
        now = time.monotonic()
        with self._lock:
            known_until, before = self._principals.get(principal, (now, ""))
        if now < known_until:
            return before
        reason = self._look_up(principal)
        took = time.monotonic() - now
        if reason and not before:
            logger.error("no new run of principal %r begins: %s", principal, reason)
        with self._lock:
            if len(self._principals) >= _MOST_PRINCIPALS:
                self._principals.clear()
            self._principals[principal] = now + max(_KNOWN, took * _PART), reason
        return reason

    def _look_up(self, principal: str) -> str:
        limits = self._env.limits
        most = limits.principal_live_runs
        usage = self._store.usage(self._env.app, principal=principal, most=most)
        if usage.live_runs >= most:
            return f"{most} runs have not ended (Limits.principal_live_runs)"
        if usage.stored_bytes >= limits.principal_bytes:
            return f"{usage.stored_bytes} bytes are stored (Limits.principal_bytes)"
        return ""
