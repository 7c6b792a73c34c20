"""``durable replay``: stored runs against new code, before it is deployed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from durable_core.api.adapter import NativeAdapter
from durable_core.api.durable import Durable
from durable_core.api.runs import first_id, show_run
from durable_core.cli.application import import_modules, load_durable
from durable_core.codec.json import JSONCodec
from durable_core.engine.embedded import embedded
from durable_core.engine.replay import (
    Difference,
    Replayer,
    ReplayReport,
    replaying,
)
from durable_core.errors import ConfigurationError, EncryptionKeyError
from durable_core.ports import Store
from durable_core.stores.encrypted import EncryptedStore
from durable_core.stores.sqlite.copies import StoreCopy, open_copy

__all__ = ["replay", "run_replay"]

_JSON = JSONCodec()


def run_replay(options: argparse.Namespace) -> str | None:
    """Replay what the options name, and print what differs; return the complaint, if it does."""
    durable = load_durable(options.application)
    import_modules(options.imports)
    reports = []
    for report in replay(durable, options.store, run_id=options.run_id, since=options.since):
        reports.append(report)
        if not options.json:
            _print(report)
    if options.json:
        print(json.dumps([_as_json(each) for each in reports], indent=2))
    different = sum(bool(each.differences) for each in reports)
    if not options.json:
        print(f"replayed {len(reports)} runs")
    return f"{different} of {len(reports)} runs would differ" if different else None


def replay(
    durable: Durable[Any], path: str, *, run_id: str | None = None, since: datetime | None = None
) -> Iterator[ReplayReport]:
    """Yield how the replay of each stored run went, the newest first.

    Args:
        durable: the application with the new code.
        path: the copy of its store.
        run_id: only this run.
        since: only runs that began then or later.

    Raises:
        ConfigurationError: the application has another engine, handlers of a framework, or works in
            this process.
        RunNotFoundError: there is no such run.
        StoreError: the copy cannot be read.
    """
    engine = embedded(durable.engine)
    if isinstance(durable._adapter, NativeAdapter):
        raise ConfigurationError(
            "the handlers of a framework cannot be replayed alone: the framework makes their "
            "arguments in the running application"
        )
    store = engine.store
    first = None if since is None else first_id(since, "since")
    with open_copy(path, durable.id) as copy, replaying(engine, copy.secrets()) as replayer:
        for each in copy.ids(first) if run_id is None else (run_id,):
            yield _replayed(copy, store, replayer, each)


def _replayed(copy: StoreCopy, store: Store, replayer: Replayer, run_id: str) -> ReplayReport:
    copied = copy.load(run_id)
    record, claimed, result = copied.record, copied.claimed, copied.result
    if isinstance(store, EncryptedStore):
        try:
            claimed, result = store.decrypt(claimed, result)
        except EncryptionKeyError as error:
            found = Difference(kind="unreadable", step=None, message=str(error))
            return ReplayReport(run=record, stopped_at=None, differences=(found,))
    return replayer.replay(record, claimed, result)


def _print(report: ReplayReport) -> None:
    run = show_run(report.run, _JSON)
    for difference in report.differences:
        print(f"{run.id} {run.function_id}\n  {difference.kind}: {difference.message}")


def _as_json(report: ReplayReport) -> dict[str, object]:
    run = show_run(report.run, _JSON)
    return {
        "id": run.id,
        "function_id": run.function_id,
        "version": run.version,
        "status": run.status,
        "stopped_at": report.stopped_at,
        "differences": [
            {"kind": each.kind, "step": each.step, "message": each.message}
            for each in report.differences
        ],
    }
