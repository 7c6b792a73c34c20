"""Where the processor time of a request goes: its parts, and what is saved by leaving one out.

``async def`` handlers are called directly, from 16 tasks. The time is that of all threads of the
process, as in ``cpu.py``; the databases are in a memory file system if the machine has one.

*Parts.* A run of 0, of 1 and of 10 steps tell what the run itself takes, what it takes to store it
(its request, its row and its response), and what each step takes. *SQLite* is what is saved by a
store that keeps nothing, with the rows that are made for it.

*Left out* are, from runs of 3 steps: Python's collector of cycles; the indexes by which people
find runs; the JSON of results, which a codec stands for that knows the only result.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from time import process_time

from _floor import Floor
from _inprocess import call_from_tasks
from _measure import (
    Burst,
    arguments,
    interleaved,
    machine,
    quantile,
    ratio,
    save_json,
    show,
    work_folder,
)
from _subjects import Async, Subjects

from durable_core import Durable, Request, Response, endpoint_adapter
from durable_core.codec.json import Codec
from durable_core.ports import Checkpoint, CheckpointResult, Write
from durable_core.stores import SQLiteStore

_MEMORY = Path("/dev/shm")
_CLIENTS = 16
_STORED = CheckpointResult()


class _FloorWithoutStore(Floor):
    """Commits nothing."""

    def _commit(self, steps: Sequence[object]) -> None:
        pass


class _NoStore(SQLiteStore):
    """Keeps what processes write about themselves, and nothing of runs."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._held: dict[str, int] = {}

    def commit(
        self, writes: Sequence[Write[object]], *, wait: float
    ) -> Sequence[object | BaseException]:
        """Say of checkpoints that they are stored."""
        others = [write for write in writes if not isinstance(write, Checkpoint)]
        answers = iter(super().commit(others, wait=wait) if others else ())
        return [
            self._keep(write) if isinstance(write, Checkpoint) else next(answers)
            for write in writes
        ]

    def _keep(self, write: Checkpoint) -> CheckpointResult:
        if write.result is not None:
            self._held.pop(write.run_id, None)
        elif write.create is not None:
            self._held[write.run_id] = write.epoch
        return _STORED

    def held(self, owner: str) -> Mapping[str, int]:
        """Return the runs that have not ended."""
        return dict(self._held)


class _OnlyResult:
    """A codec for the result of each step of these runs."""

    def encode(self, value: object) -> str:
        """Return a text."""
        return '{"number":1}'

    def decode(self, text: str) -> object:
        """Return the value of any text."""
        return {"number": 1}


def _subjects(folder: Path, store: SQLiteStore, codec: Codec | None = None) -> Subjects:
    durable = Durable(id="bench", endpoint_adapter=endpoint_adapter, store=store, codec=codec)
    return Subjects(durable, _FloorWithoutStore(folder / f"{Path(store.path).stem}-floor.db"))


class _Parts:
    """Takes the times.

    Args:
        folder: where the databases go.
        seconds, rounds: how long a turn takes, and how many each subject has.
    """

    def __init__(self, folder: Path, seconds: float, rounds: int) -> None:
        self._seconds, self._rounds = seconds, rounds
        self._runner = asyncio.Runner()
        self.whole = Subjects.in_folder(folder)
        self.no_store = _subjects(folder, _NoStore(folder / "none.db"))
        self.no_indexes = _subjects(folder, SQLiteStore(folder / "no-indexes.db"))
        self.no_json = _subjects(folder, SQLiteStore(folder / "no-json.db"), _OnlyResult())
        self._all = (self.whole, self.no_store, self.no_indexes, self.no_json)
        for each in self._all:
            each.durable.start()
        _drop_indexes(folder / "no-indexes.db")

    def close(self) -> None:
        """Stop all engines."""
        for each in self._all:
            self._runner.run(each.durable.stop_async())
            each.close()
        self._runner.close()

    def parts(self) -> Iterator[list[object]]:
        """Yield rows: what, the floor, of that SQLite, ours, of that SQLite; microseconds."""
        rows: dict[str, list[object]] = {"the run": [], "storing it": [], "each step": []}
        for name in ("floor", "ours"):
            handles = {
                f"{steps} {what}": subjects.asynchronous(name, steps)
                for what, subjects in (("whole", self.whole), ("python", self.no_store))
                for steps in (0, 1, 10)
            }
            took = {name: _least(bursts) for name, bursts in self._turns(handles).items()}
            whole, python = _split(took, "whole"), _split(took, "python")
            for row, all_of_it, of_python in zip(rows.values(), whole, python, strict=True):
                row += [all_of_it, max(0.0, all_of_it - of_python)]
        for what, row in rows.items():
            yield [what, *row]

    def left_out(self) -> Iterator[list[object]]:
        """Yield rows: what is left out, the time of a run of 3 steps, what is saved."""
        handles = {
            "nothing": self.whole.asynchronous("ours", 3),
            "SQLite": self.no_store.asynchronous("ours", 3),
            "indexes for lists": self.no_indexes.asynchronous("ours", 3),
            "JSON of results": self.no_json.asynchronous("ours", 3),
            "collector of cycles": _without_collector(self.whole.asynchronous("ours", 3)),
        }
        turns = self._turns(handles)
        whole = _least(turns["nothing"])
        for what, bursts in turns.items():
            # By turns: the load of others is alike in both turns of a round.
            left = ratio(bursts, turns["nothing"], lambda each: 1 / each.rate)
            yield [what, whole * left, whole * (1 - left)]

    def _turns(self, handles: Mapping[str, Async]) -> dict[str, list[Burst]]:
        turns = {name: partial(self._turn, handle) for name, handle in handles.items()}
        return interleaved(turns, self._rounds)

    def _turn(self, handle: Async) -> Burst:
        began = process_time()
        burst = self._runner.run(call_from_tasks(handle, _CLIENTS, self._seconds))
        gc.enable()
        return Burst(burst.latencies, process_time() - began)


def _least(bursts: Sequence[Burst]) -> float:
    """Return the processor time of a request, microseconds; see ``cpu.py``."""
    return quantile([1e6 / each.rate for each in bursts], 0.1)


def _split(took: Mapping[str, float], what: str) -> tuple[float, float, float]:
    """Return what a run, storing it and a step take, of the times of 0, 1 and 10 steps."""
    none, one, ten = (took[f"{steps} {what}"] for steps in (0, 1, 10))
    step = (ten - one) / 9
    return none, one - step - none, step


def _without_collector(handle: Async) -> Async:
    """Return the handler, which stops the collector until the end of the turn."""

    async def call(request: Request) -> Response:
        gc.disable()
        return await handle(request)

    return call


def _drop_indexes(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        for name in ("run_phase", "run_endpoint"):  # the scheduler needs the others
            db.execute(f"DROP INDEX {name}")


def main() -> None:
    """Measure, print, and write the figures to a file if one was named."""
    options = arguments(__doc__).parse_args()
    seconds, rounds = (0.03, 10) if options.quick else (0.05, 60)
    parent = options.folder or (_MEMORY if _MEMORY.is_dir() else None)
    with work_folder(parent) as folder:
        facts = machine(folder)
        measured = _Parts(folder, seconds, rounds)
        parts, left_out = list(measured.parts()), list(measured.left_out())
        measured.close()
    show(
        "processor time of the parts, us",
        ("part", "floor", "of that SQLite", "ours", "of that SQLite"),
        parts,
    )
    show("left out of a run of 3 steps, us", ("what", "ours", "saved"), left_out)
    save_json(options.json, {"machine": facts, "parts": parts, "left_out": left_out})


if __name__ == "__main__":
    main()
