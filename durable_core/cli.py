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
from typing import Any, cast, get_args

from durable_core import __version__
from durable_core.api.durable import Durable
from durable_core.api.run_info import RunInfo, RunStatus, StepInfo, as_json
from durable_core.api.runs import select, show_run
from durable_core.codec.json import Codec, JSONCodec
from durable_core.codec.records import dump_head
from durable_core.engine.embedded import EmbeddedEngine
from durable_core.engine.secrets import new_secret
from durable_core.errors import ConfigurationError, DurableError, RunNotFoundError, StoreError
from durable_core.http.problem import problem
from durable_core.model.run import Phase
from durable_core.platform import SystemClock
from durable_core.ports import Cancel, Store, StoredResult
from durable_core.stores.sqlite import SQLiteStore

__all__ = [
    "details",
    "load_durable",
    "main",
    "table",
    "work",
]


# --- text -----------------------------------------------------------------------------------------

#: The longest cell of a table, characters.
_LONGEST = 60


def table(runs: Sequence[RunInfo]) -> str:
    """Return one line for each run, under a heading."""
    rows = [
        (run.id, run.status, _time(run.started), _time(run.due), _time(run.ended), run.name)
        for run in runs
    ]
    return _columns(("RUN", "STATUS", "STARTED (UTC)", "DUE", "ENDED", "NAME"), rows)


def details(run: RunInfo) -> str:
    """Return everything about one run but the results of its steps."""
    facts = (
        ("run", run.id),
        ("name", run.name),
        ("function", run.function_id),
        *(("label", f"{name}={value}") for name, value in run.labels.items()),
        *((name, value) for name, value in _given(run) if value is not None),
        ("status", run.status),
        ("attempts", str(run.attempts)),
        ("crashes", str(run.crashes)),
        ("started", _time(run.started)),
        ("due", _time(run.due)),
        ("ended", _time(run.ended)),
        ("error", run.error or "-"),
    )
    head = "".join(f"{name:<10} {_printable(value)}\n" for name, value in facts)
    rows = [_step_row(step) for step in run.steps]
    heading = ("STEP", "KIND", "STATUS", "ATTEMPTS", "STARTED (UTC)", "ENDED", "DUE", "ERROR")
    return f"{head}\n{_columns(heading, rows)}" if rows else head


def _given(run: RunInfo) -> tuple[tuple[str, str | None], ...]:
    """Return what is shown of a run only if it is there."""
    return (("key", run.key), ("version", run.version), ("parent", run.parent))


def _step_row(step: StepInfo) -> tuple[str, ...]:
    status = f"waiting for {step.event}" if step.event else step.status
    times = (_time(step.started), _time(step.ended), _time(step.due))
    return (step.name, step.kind, status, str(step.attempts), *times, step.error or "")


def _time(time: datetime | None) -> str:
    return "-" if time is None else time.strftime("%Y-%m-%d %H:%M:%S")


def _printable(text: str) -> str:
    """Return the text as one line without control characters: a terminal would obey them."""
    return "".join(char if char.isprintable() else " " for char in text)


def _short(text: str) -> str:
    line = _printable(text[: _LONGEST + 1])
    return line if len(text) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def _columns(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heading, *(tuple(_short(cell) for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


# --- worker ---------------------------------------------------------------------------------------

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


# --- commands -------------------------------------------------------------------------------------

_PROGRAM = "python -m durable_core"
_ACTIONS = ("list", "get", "cancel")
#: Seconds to wait for a store that another process has locked.
_BUSY = 5.0
#: No token is valid for longer, milliseconds.
_LONGEST_TTL = 366 * 24 * 3_600_000


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
    _add_secrets(commands)
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
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(run=run)
        return action

    listing = add("list", _list, "show runs, the newest first; `runs` without an action does so")
    statuses = get_args(RunStatus)
    listing.add_argument("--status", choices=statuses, metavar="STATUS", help=", ".join(statuses))
    listing.add_argument("--limit", type=_limit, default=50, metavar="N", help="1 to 1000; 50")
    listing.add_argument("--before", metavar="RUN_ID", help="only runs older than this one")
    add("get", _get, "show one run and its steps")
    add("cancel", _cancel, "end a run; its clients get 410")


def _add_secrets(commands: Any) -> None:
    text = "replace the secret of a store that signs the tokens of wait URLs"
    secrets = commands.add_parser("secrets", help=text, description=text, allow_abbrev=False)
    actions = secrets.add_subparsers(title="actions", required=True, metavar="[list|rotate|revoke]")
    for name, run, help_text in (
        ("list", _list_secrets, "show when each secret was made"),
        ("rotate", _rotate_secrets, "make a new one; tokens of older ones stay valid"),
        ("revoke", _rotate_secrets, "make a new one; tokens of older ones are refused at once"),
    ):
        action = actions.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
        action.add_argument("application", metavar="MODULE:DURABLE", nargs="?")
        action.add_argument("--store", metavar="PATH", help="a store, instead of MODULE:DURABLE")
        action.set_defaults(run=run, app="", revoke=name == "revoke")


def _list_secrets(options: argparse.Namespace) -> None:
    with _opened_for_secrets(options) as (store, _):
        secrets = store.secrets()
    for index, secret in enumerate(secrets):
        made = "with the store"
        if secret.created_at:
            made = _time(datetime.fromtimestamp(secret.created_at / 1000, UTC))
        print(f"made {made}{'' if index else ' (newest)'}")


def _rotate_secrets(options: argparse.Namespace) -> None:
    with _opened_for_secrets(options) as (store, token_ttl):
        write = new_secret(SystemClock().now(), token_ttl, revoke=options.revoke)
        [answer] = store.commit([write], wait=_BUSY)
        if isinstance(answer, BaseException):
            raise answer
        count = len(store.secrets())
    then = "it signs alone" if options.revoke else f"it signs in a few seconds; {count} verify"
    print(f"made a new secret; {then}")


@contextmanager
def _opened_for_secrets(options: argparse.Namespace) -> Iterator[tuple[Store, int]]:
    """Yield the store, and how long tokens are valid: as long as any may be, if that is unknown."""
    token_ttl = _LONGEST_TTL
    if options.application is not None:
        engine = load_durable(options.application).engine
        if isinstance(engine, EmbeddedEngine):
            engine.refuse_given_secrets()
            token_ttl = engine.env.token_ttl
    with _opened(options) as (store, _, _):
        yield store, token_ttl


def _limit(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"must be 1 to 1000, not {text!r}")
    return int(text)


def _list(options: argparse.Namespace) -> None:
    with _opened(options) as (store, app, _):
        runs = select(
            lambda where, limit: store.list(app, where=where, limit=limit),
            status=options.status,
            before=options.before,
            limit=options.limit,
        )
    if options.json:
        lines = ",\n".join(json.dumps(as_json(run)) for run in runs)
        print(f"[{lines}]")
    else:
        print(table(runs), end="")


def _get(options: argparse.Namespace) -> None:
    with _opened(options) as (store, app, codec):
        record = store.get(app, options.run_id)
    if record is None:
        raise RunNotFoundError(f"there is no run {options.run_id!r} in app {app!r}")
    run = show_run(record, codec)
    if options.json:
        print(json.dumps(as_json(run), indent=2, default=repr))
    else:
        print(details(run), end="")


def _cancel(options: argparse.Namespace) -> str | None:
    run_id = options.run_id
    with _opened(options) as (store, app, _):
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
def _opened(options: argparse.Namespace) -> Iterator[tuple[Store, str, Codec]]:
    """Yield the store, open but without an engine that works on it, and the application's own.

    That is its id, and how it stores the results of steps.
    """
    store, app, codec = _chosen(options)
    if isinstance(store, SQLiteStore) and not Path(store.path).is_file():
        raise StoreError(f"there is no store {store.path}")
    store.open()
    try:
        yield store, app, codec
    finally:
        store.close()


def _chosen(options: argparse.Namespace) -> tuple[Store, str, Codec]:
    if (options.application is None) == (options.store is None):
        rest = " and --app ID" if options.app is None else ""
        raise ConfigurationError(f"name either MODULE:DURABLE, or --store PATH{rest}")
    if options.app != "" and (options.store is None) != (options.app is None):
        raise ConfigurationError("--store and --app go together")
    if options.application is None:
        return SQLiteStore(options.store), options.app, JSONCodec()
    durable = load_durable(options.application)
    store = durable.engine.store
    if store is None:
        raise ConfigurationError(
            f"{options.application} runs on {durable.engine.name}, which has no store to look into"
        )
    return store, durable.id, durable.engine.env.codec
