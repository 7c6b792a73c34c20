"""The command line: a stand-alone worker, and a look at runs.

Exit codes: 0 it went well, 1 it could not be done (no such run, a store that cannot be used), 2 the
command line makes no sense.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from durable_core import __version__
from durable_core.api import cli_text
from durable_core.api.cli_worker import load_durable, work
from durable_core.errors import ConfigurationError, DurableError, RunNotFoundError, StoreError
from durable_core.model.run import Phase
from durable_core.ports import Cancel, Store, StoredResult
from durable_core.runtime.sqlite import SQLiteStore
from durable_core.runtime.system import SystemClock
from durable_core.wire.problem import problem
from durable_core.wire.requests import dump_head

__all__ = ["main"]

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
    phase = Phase(options.phase) if options.phase else None
    with _opened(options) as (store, app):
        records = store.list(app, phase=phase, before=options.before, limit=options.limit)
    if options.json:
        lines = ",\n".join(json.dumps(cli_text.as_json(record)) for record in records)
        print(f"[{lines}]")
    else:
        print(cli_text.table(records), end="")


def _get(options: argparse.Namespace) -> None:
    with _opened(options) as (store, app):
        record = store.get(app, options.run_id)
    if record is None:
        raise RunNotFoundError(f"there is no run {options.run_id!r} in app {app!r}")
    if options.json:
        print(json.dumps(cli_text.as_json(record, steps=True), indent=2))
    else:
        print(cli_text.details(record), end="")


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
