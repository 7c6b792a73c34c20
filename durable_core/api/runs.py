"""Looking at runs, and cancelling them."""

from __future__ import annotations

from collections.abc import Sequence

from durable_core.api.engine import Engine
from durable_core.errors import RunNotFoundError
from durable_core.model.run import Phase
from durable_core.ports import RunRecord

__all__ = ["Runs"]


class Runs:
    """``durable.runs``. Every method raises ``StoreError`` if the store cannot answer.

    An engine that keeps its runs elsewhere raises ``EngineError``, which says where to look.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, run_id: str) -> RunRecord:
        """Return all that is known about a run, its steps included.

        Raises:
            RunNotFoundError: there is none with that id (any more).
        """
        record = self._engine.get(run_id)
        if record is None:
            raise RunNotFoundError(f"there is no run {run_id!r} in app {self._engine.env.app!r}")
        return record

    def list(
        self, *, phase: Phase | str | None = None, before: str | None = None, limit: int = 100
    ) -> Sequence[RunRecord]:
        """Return runs without their steps, the newest first.

        Args:
            phase: only runs in this phase, such as ``"suspended"``.
            before: only runs older than the one with this id; for the next page.
            limit: 1 to 1,000.

        Raises:
            ValueError: no such phase, or a limit out of range.
        """
        if isinstance(limit, bool) or not 1 <= limit <= 1000:
            raise ValueError(f"limit must be 1 to 1000, not {limit!r}")
        phases = {each.value: each for each in Phase}
        if isinstance(phase, str) and phase not in phases:
            raise ValueError(f"phase must be one of {', '.join(phases)}, not {phase!r}")
        wanted = phases[phase] if isinstance(phase, str) else phase
        return self._engine.list(wanted, before, limit)

    def cancel(self, run_id: str) -> bool:
        """End a run: its handler is unwound, its waits are dropped, its clients get 410.

        Returns:
            False if it had ended already, which changes nothing.

        Raises:
            RunNotFoundError: there is no such run.
        """
        return self._engine.cancel(run_id)
