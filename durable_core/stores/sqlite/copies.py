"""A copy of a store that is only looked at: nothing is written beside it, nor in it."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from durable_core.errors import RunNotFoundError, StoreError
from durable_core.ports import ClaimedRun, RunFilter, RunRecord, StoredResult, StoredSecret
from durable_core.stores.sqlite import reads
from durable_core.stores.sqlite.opening import refuse_other_version
from durable_core.stores.sqlite.sql import store_error

__all__ = ["CopiedRun", "StoreCopy", "open_copy"]

#: So many runs are listed at a time.
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedRun:
    """A run as it is stored.

    Attributes:
        record: the facts about it.
        claimed: what a replay needs.
        result: its result; None if it has not ended.
    """

    record: RunRecord
    claimed: ClaimedRun
    result: StoredResult | None


class StoreCopy:
    """Reads one application's runs.

    Args:
        db: a connection to the copy.
        app: the application.
    """

    def __init__(self, db: sqlite3.Connection, app: str) -> None:
        self._db = db
        self._app = app

    def ids(self, since: str | None = None) -> Iterator[str]:
        """Yield the ids of the runs, the newest first; with ``since`` those from this id on."""
        where = RunFilter(since=since)
        while True:
            page = reads.find_runs(self._db, self._app, where, _PAGE)
            yield from (record.run.id for record in page)
            if len(page) < _PAGE:
                return
            where = RunFilter(since=since, before=page[-1].run.id)

    def secrets(self) -> Sequence[StoredSecret]:
        """Return the keys that sign tokens, the newest first."""
        return reads.secrets(self._db)

    def load(self, run_id: str) -> CopiedRun:
        """Return a run.

        Raises:
            RunNotFoundError: there is none.
            StoreError: it cannot be read.
        """
        record = reads.find_run(self._db, self._app, run_id)
        if record is None:
            raise RunNotFoundError(f"there is no run {run_id!r} in app {self._app!r}")
        try:
            [claimed] = reads.load_claimed(self._db, (run_id,))
        except MemoryError:
            raise
        except Exception as error:
            raise StoreError(f"what is stored of run {run_id} cannot be read: {error!r}") from error
        result = reads.result(self._db, self._app, run_id)
        return CopiedRun(
            record=record,
            claimed=claimed,
            result=result if isinstance(result, StoredResult) else None,
        )


@contextmanager
def open_copy(path: str, app: str) -> Iterator[StoreCopy]:
    """Give the copy of a store.

    A write-ahead log beside it is read from a copy of both in a temporary folder, because SQLite
    would write beside the file to read the log.

    Args:
        path: the file. No process may write to it meanwhile.
        app: the application.

    Raises:
        StoreVersionError: the file is no store, or one of another release.
        StoreError: there is no file, or it cannot be read.
    """
    file, log = Path(path), Path(f"{path}-wal")
    if not file.is_file():
        raise StoreError(f"there is no store {path}")
    with tempfile.TemporaryDirectory(prefix="durable-replay-") as folder:
        how = "mode=ro&immutable=1"
        if log.is_file() and log.stat().st_size > 0:
            for each in (file, log):
                shutil.copyfile(each, Path(folder) / f"copy{each.name.removeprefix(file.name)}")
            file, how = Path(folder) / "copy", "mode=rw"
        uri = f"file:{quote(str(file.absolute()))}?{how}"
        try:
            with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
                refuse_other_version(db, path)
                yield StoreCopy(db, app)
        except sqlite3.Error as error:
            raise store_error(error, path) from error
