"""The command line: a stand-alone worker, and a look at runs.

Exit codes: 0 it went well, 1 it could not be done (no such run, a store that cannot be used), 2 the
command line makes no sense.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from durable_core import __version__
from durable_core.api.durable import Durable
from durable_core.codec.records import dump_head
from durable_core.errors import ConfigurationError, DurableError, RunNotFoundError, StoreError
from durable_core.http.problem import problem
from durable_core.model.run import Phase
from durable_core.model.step import Memo, Pending
from durable_core.platform import SystemClock
from durable_core.ports import Cancel, RunFilter, RunRecord, Store, StoredResult
from durable_core.stores.sqlite import SQLiteStore

__all__ = [
    "as_json",
    "details",
    "load_durable",
    "main",
    "table",
    "work",
]


# --- cli text -------------------------------------------------------------------------------------
#
# How the command line shows runs: tables for people, JSON for programs.

_LONGEST = 60


def table(records: Sequence[RunRecord]) -> str:
    """Return one line for each run, under a heading."""
    rows = [
        (
            record.run.id,
            record.run.phase.value,
            _time(record.run.created_at),
            _time(record.due_at),
            _time(record.ended_at),
            record.run.function_id,
        )
        for record in records
    ]
    return _columns(("RUN", "PHASE", "CREATED (UTC)", "DUE", "ENDED", "FUNCTION"), rows)


def details(record: RunRecord) -> str:
    """Return everything about one run but the results of its steps."""
    run = record.run
    facts = (
        ("run", run.id),
        ("function", run.function_id),
        ("endpoint", run.endpoint_key),
        ("phase", run.phase.value),
        ("created", _time(run.created_at)),
        ("due", _time(record.due_at)),
        ("ended", _time(record.ended_at)),
        ("owner", record.owner or "-"),
        ("failures", f"{run.failures} of the handler, {run.retries} retries allowed"),
        ("crashes", str(run.crash_count)),
    )
    head = "".join(f"{name:<10} {value}\n" for name, value in facts)
    rows = [*map(_memo_row, record.memos), *map(_pending_row, record.pending)]
    steps = _columns(("STEP", "KIND", "STATE", "ATTEMPTS", "WHEN (UTC)", "ERROR"), rows)
    return f"{head}\n{steps}" if rows else head


def as_json(record: RunRecord, *, steps: bool = False) -> dict[str, object]:
    """Return the run as a JSON-ready dict; with ``steps``, what it has done and waits for too."""
    run = record.run
    fields: dict[str, object] = {
        "id": run.id,
        "app": run.app,
        "function_id": run.function_id,
        "endpoint_key": run.endpoint_key,
        "phase": run.phase.value,
        "retries": run.retries,
        "failures": run.failures,
        "crash_count": run.crash_count,
        "owner": record.owner,
        "created_at": run.created_at,
        "due_at": record.due_at,
        "ended_at": record.ended_at,
    }
    if steps:
        fields["steps"] = [_memo_json(memo) for memo in record.memos]
        fields["pending"] = [_pending_json(pending) for pending in record.pending]
    return fields


def _memo_json(memo: Memo) -> dict[str, object]:
    return {
        "id": memo.op.name,
        "kind": memo.op.kind.value,
        "ok": memo.ok,
        "attempts": memo.attempts,
        "ended_at": memo.ended_at,
        "result" if memo.ok else "error": _parsed(memo.value),
    }


def _pending_json(pending: Pending) -> dict[str, object]:
    return {
        "id": pending.op.name,
        "kind": pending.op.kind.value,
        "failures": pending.failures,
        "due_at": pending.due_at,
        "event": pending.event or None,
        "error": _parsed(pending.error) if pending.error else None,
    }


def _memo_row(memo: Memo) -> tuple[str, ...]:
    state, error = ("done", "") if memo.ok else ("failed", _error(memo.value))
    kind, attempts = memo.op.kind.value, str(memo.attempts)
    return (memo.op.name, kind, state, attempts, _time(memo.ended_at), error)


def _pending_row(pending: Pending) -> tuple[str, ...]:
    state = f"waiting for {pending.event}" if pending.event else "waiting"
    kind, attempts = pending.op.kind.value, str(pending.failures)
    error = _error(pending.error) if pending.error else ""
    return (pending.op.name, kind, state, attempts, f"due {_time(pending.due_at)}", error)


def _error(text: str) -> str:
    fields = json.loads(text)
    return _short(f"{fields['name']}: {fields['message']}")


def _parsed(text: str) -> object:
    """Return what the text stands for; a codec of the user's may write what is not JSON."""
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value


def _time(ms: int | None) -> str:
    if ms is None:
        return "-"
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _short(text: str) -> str:
    """Return the text as one line of printable characters, cut if it is long."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def _columns(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heading, *(tuple(_short(cell) for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


# --- cli worker -----------------------------------------------------------------------------------
#
# The stand-alone worker: carries runs to their end without serving clients.

#: Seconds for which steps in flight may go on when the worker is told to stop.
_DRAIN = 10.0


def work(target: str, imports: Sequence[str] = ()) -> None:
    """Work for an application until SIGTERM or SIGINT; then drain.

    Args:
        target: as for :func:`load_durable`.
        imports: further modules, whose endpoints register themselves.

    Raises:
        ConfigurationError: the application cannot be found, or has no endpoints.
        StoreError: its store cannot be opened.
    """
    durable = load_durable(target)
    for module in imports:
        _import(module)
    keys = sorted(durable.engine.endpoints)
    if not keys:
        raise ConfigurationError(
            f"{target} has no endpoints; name the modules that define them with --import"
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stopped = _stop_on_signals()
    durable.start()
    try:
        lines = [f"working for {durable.id}, process {os.getpid()}; endpoints:"]
        print("\n  ".join([*lines, *keys]), flush=True)
        # Python runs signal handlers between steps of this thread, and a signal that another thread
        # takes does not end a wait: without a time-out it could go unnoticed for ever.
        while not stopped.wait(0.5):
            pass
        print("stopping", flush=True)
    finally:
        durable.stop(_DRAIN)


def load_durable(target: str) -> Durable[Any]:
    """Return the application that a text such as ``"shop:durable"`` names.

    Raises:
        ConfigurationError: there is no such module, or no ``Durable`` of that name in it.
    """
    module, _, name = target.partition(":")
    if not module or not name:
        raise ConfigurationError(f"an application is written like shop:durable, not {target!r}")
    found: object = _import(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Durable):
        raise ConfigurationError(f"{target} is no Durable, but of type {type(found).__name__}")
    return found


def _import(name: str) -> object:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        raise ConfigurationError(
            f"there is no module {error.name!r} here or on PYTHONPATH"
        ) from error


def _stop_on_signals() -> threading.Event:
    """Return an event that the first SIGTERM or SIGINT sets; a second one ends the process."""
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopped


# --- cli ------------------------------------------------------------------------------------------

_PROGRAM = "python -m durable_core"
_ACTIONS = ("list", "get", "cancel")
#: Seconds to wait for a store that another process has locked.
_BUSY = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments (default: the process's own) name.

    Returns:
        The exit code.

    Raises:
        SystemExit: the arguments were refused (2), or help or version was asked for (0).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(_with_default_action(words))
    try:
        complaint = cast("Callable[[argparse.Namespace], str | None]", options.run)(options)
        sys.stdout.flush()  # at exit it would be too late to learn that nobody reads it
        return 0 if complaint is None else _complain(complaint, 1)
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except DurableError as error:
        return _complain(error, 2 if isinstance(error, ConfigurationError) else 1)


def _complain(why: object, code: int) -> int:
    print(f"{_PROGRAM}: {why}", file=sys.stderr)
    return code


def _with_default_action(words: list[str]) -> list[str]:
    """``runs`` without an action lists."""
    if words[:1] == ["runs"] and (len(words) == 1 or words[1] not in {*_ACTIONS, "-h", "--help"}):
        return ["runs", "list", *words[1:]]
    return words


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"durable-core {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_worker(commands)
    _add_runs(commands)
    return parser


def _add_worker(commands: Any) -> None:
    text = "carry runs to their end, without serving clients, until SIGTERM or Ctrl-C"
    worker = commands.add_parser("worker", help=text, description=text, allow_abbrev=False)
    worker.add_argument("application", metavar="MODULE:DURABLE", help="where the Durable is")
    worker.add_argument(
        "--import",
        dest="imports",
        metavar="MODULE",
        action="append",
        default=[],
        help="another module whose endpoints register themselves; may be repeated",
    )
    worker.set_defaults(run=lambda options: work(options.application, options.imports))


def _add_runs(commands: Any) -> None:
    text = "look at runs, or cancel one"
    runs = commands.add_parser("runs", help=text, description=text, allow_abbrev=False)
    actions = runs.add_subparsers(title="actions", required=True, metavar="[list|get|cancel]")

    def add(name: str, run: Callable[[argparse.Namespace], str | None], text: str) -> Any:
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name != "list":
            action.add_argument("run_id", metavar="RUN_ID")
        action.add_argument("application", metavar="MODULE:DURABLE", nargs="?")
        action.add_argument("--store", metavar="PATH", help="a store, instead of MODULE:DURABLE")
        action.add_argument("--app", metavar="ID", help="with --store: the Durable(id=)")
        action.add_argument("--json", action="store_true", help="print JSON; times in epoch ms")
        action.set_defaults(run=run)
        return action

    listing = add("list", _list, "show runs, the newest first; `runs` without an action does so")
    phases = [phase.value for phase in Phase]
    listing.add_argument("--phase", choices=phases, metavar="PHASE", help=", ".join(phases))
    listing.add_argument("--limit", type=_limit, default=50, metavar="N", help="1 to 1000; 50")
    listing.add_argument("--before", metavar="RUN_ID", help="only runs older than this one")
    add("get", _get, "show one run and its steps")
    add("cancel", _cancel, "end a run; its clients get 410")


def _limit(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"must be 1 to 1000, not {text!r}")
    return int(text)


def _list(options: argparse.Namespace) -> None:
    phases = (Phase(options.phase),) if options.phase else ()
    where = RunFilter(phases=phases, before=options.before)
    with _opened(options) as (store, app):
        records = store.list(app, where=where, limit=options.limit)
    if options.json:
        lines = ",\n".join(json.dumps(as_json(record)) for record in records)
        print(f"[{lines}]")
    else:
        print(table(records), end="")


def _get(options: argparse.Namespace) -> None:
    with _opened(options) as (store, app):
        record = store.get(app, options.run_id)
    if record is None:
        raise RunNotFoundError(f"there is no run {options.run_id!r} in app {app!r}")
    if options.json:
        print(json.dumps(as_json(record, steps=True), indent=2))
    else:
        print(details(record), end="")


def _cancel(options: argparse.Namespace) -> str | None:
    run_id = options.run_id
    with _opened(options) as (store, app):
        cancel = Cancel(app=app, run_id=run_id, result=_cancelled(run_id))
        [answer] = store.commit([cancel], wait=_BUSY)
    if isinstance(answer, BaseException):
        raise answer
    if answer is not True:
        return f"run {run_id} had ended already"
    print(json.dumps({"id": run_id, "cancelled": True}) if options.json else f"cancelled {run_id}")
    return None


def _cancelled(run_id: str) -> StoredResult:
    """Return what the clients of a cancelled run get."""
    response = problem(410, "run-cancelled", detail="the run was cancelled", run_id=run_id)
    return StoredResult(
        phase=Phase.CANCELLED,
        head=dump_head(response),
        body=cast(bytes, response.body),
        ended_at=SystemClock().now(),
    )


@contextmanager
def _opened(options: argparse.Namespace) -> Iterator[tuple[Store, str]]:
    """Yield the store, open but without an engine that works on it, and the application's id."""
    store, app = _chosen(options)
    if isinstance(store, SQLiteStore) and not Path(store.path).is_file():
        raise StoreError(f"there is no store {store.path}")
    store.open()
    try:
        yield store, app
    finally:
        store.close()


def _chosen(options: argparse.Namespace) -> tuple[Store, str]:
    if (options.application is None) == (options.store is None):
        raise ConfigurationError("name either MODULE:DURABLE, or --store PATH and --app ID")
    if (options.store is None) != (options.app is None):
        raise ConfigurationError("--store and --app go together")
    if options.application is None:
        return SQLiteStore(options.store), options.app
    durable = load_durable(options.application)
    store = durable.engine.store
    if store is None:
        raise ConfigurationError(
            f"{options.application} runs on {durable.engine.name}, which has no store to look into"
        )
    return store, durable.id
