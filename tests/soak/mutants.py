"""What the soak must catch: the engine without one of its safeguards.

``python3 dev.py soak --mutant NAME`` runs with one of these in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from durable_core.flow.execution import Execution, StoredExecution
from durable_core.ports import Checkpoint, Heartbeat, Register, Write
from durable_core.stores.sqlite import SQLiteStore

__all__ = ["MUTANTS", "make_store"]


class Unfenced(SQLiteStore):
    """Takes whoever writes a checkpoint for the one who holds the run.

    A process that was taken for dead comes back under its old name. So none learns that others
    have taken its runs.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._registered: Register | None = None

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Commit with the leases that are valid now."""
        for write in writes:
            if isinstance(write, Register):
                self._registered = write
        answers = super().commit([self._with_lease(write) for write in writes], wait=wait)
        beats = [isinstance(write, Heartbeat) for write in writes]
        if False in [answer for answer, beat in zip(answers, beats, strict=True) if beat]:
            assert self._registered is not None
            super().commit([self._registered], wait=wait)
        return [beat or answer for answer, beat in zip(answers, beats, strict=True)]

    def _with_lease(self, write: Write[object]) -> Write[object]:
        if not isinstance(write, Checkpoint) or write.create is not None:
            return write
        record = self.get("soak", write.run_id)
        if record is None or record.owner is None:
            return write
        return replace(write, owner=record.owner, epoch=record.run.epoch)


def _no_check(self: Execution) -> bool:
    return True


def _unchecked(path: Path) -> SQLiteStore:
    """Begin steps without a look at the lease, however long ago it was known to be held."""
    StoredExecution.was_held_lately = _no_check  # type: ignore[method-assign]
    return SQLiteStore(path)


#: Each makes the store of a process.
MUTANTS: dict[str, Callable[[Path], SQLiteStore]] = {
    "": SQLiteStore,
    "unfenced": Unfenced,
    "unchecked": _unchecked,
}


def make_store(mutant: str, path: Path) -> SQLiteStore:
    """Return the store at that path; of a sound engine if the mutant is ``""``."""
    return MUTANTS[mutant](path)
