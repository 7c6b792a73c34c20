"""The commands: a stand-alone worker, control of runs, events, pruning, and a check of it all.

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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast, get_args

from durable_core import __version__
from durable_core.api.durable import Durable
from durable_core.api.run_info import RunInfo, RunStatus, as_json
from durable_core.cli.application import check, load_durable, open_store, work
from durable_core.cli.text import details, history, show_time, table
from durable_core.duration import parse_duration, time_of
from durable_core.engine.embedded import EmbeddedEngine, embedded
from durable_core.engine.secrets import new_secret
from durable_core.errors import ConfigurationError, DurableError, StoreError
from durable_core.model.event import Event
from durable_core.platform import SystemClock
from durable_core.ports import Prune, Store
from durable_core.stores.sqlite import SQLiteStore

__all__ = ["main"]

_PROGRAM = "durable"
_ACTIONS = ("list", "get", "history", "wait", "cancel", "retry", "resume-from", "delete")
#: Runs and events that one transaction of ``prune`` deletes.
_BATCH = 1_000


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
    except (DurableError, TimeoutError) as error:
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
    _add_send(commands)
    _add_signal(commands)
    _add_prune(commands)
    _add_check(commands)
    _add_replay(commands)
    _add_secrets(commands)
    _add_dashboard(commands)
    return parser


def _add(
    commands: Any, name: str, run: Callable[[argparse.Namespace], str | None], text: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, allow_abbrev=False
    )
    command.set_defaults(run=run)
    return command


def _add_store(command: argparse.ArgumentParser) -> None:
    command.add_argument("application", metavar="MODULE:DURABLE", nargs="?")
    command.add_argument("--store", metavar="PATH", help="a store, instead of MODULE:DURABLE")


def _add_application(command: argparse.ArgumentParser) -> None:
    _add_store(command)
    command.add_argument("--app", metavar="ID", help="with --store: the Durable(id=)")


def _add_imports(command: argparse.ArgumentParser) -> None:
    command.add_argument("application", metavar="MODULE:DURABLE", help="where the Durable is")
    command.add_argument(
        "--import",
        dest="imports",
        metavar="MODULE",
        action="append",
        default=[],
        help="another module whose endpoints register themselves; may be repeated",
    )


def _add_worker(commands: Any) -> None:
    text = "carry runs to their end, without serving clients, until SIGTERM or Ctrl-C"
    _add_imports(_add(commands, "worker", _work, text))


def _add_check(commands: Any) -> None:
    text = "open an application and its store, and print what is wrong"
    _add_imports(_add(commands, "check", _check, text))


def _add_replay(commands: Any) -> None:
    text = "replay stored runs against this code, change nothing, and print what would differ"
    replay = _add(commands, "replay", _replay, text)
    _add_imports(replay)
    replay.add_argument("--store", metavar="COPY", required=True, help="a copy of the store")
    which = replay.add_mutually_exclusive_group()
    which.add_argument("--run", dest="run_id", metavar="RUN_ID", help="only this run")
    which.add_argument("--since", type=_time, metavar="TIME", help="only runs begun then or later")
    replay.add_argument("--json", action="store_true", help="print JSON")


def _add_send(commands: Any) -> None:
    send = _add(commands, "send", _send, "send an event to the runs that wait for it")
    send.add_argument("name", metavar="NAME", help="the event's name")
    _add_application(send)
    send.add_argument("--data", type=_json_object, default={}, metavar="JSON", help="a JSON object")
    send.add_argument("--id", metavar="ID", help="a second event of this id counts as the first")
    send.add_argument("--json", action="store_true", help="print JSON")


def _add_signal(commands: Any) -> None:
    text = "send a signal to the run that waits for it"
    signal = _add(commands, "signal", _signal, text)
    signal.add_argument("name", metavar="NAME", help="the signal's name")
    _add_application(signal)
    signal.add_argument("--data", type=_json_value, metavar="JSON", help="any JSON value")
    signal.add_argument("--id", metavar="ID", help="a second signal of this id is not sent again")
    signal.add_argument("--json", action="store_true", help="print JSON")


def _add_prune(commands: Any) -> None:
    prune = _add(commands, "prune", _prune, "delete runs that have ended, and old events")
    _add_application(prune)
    prune.add_argument(
        "--older-than",
        type=_duration,
        required=True,
        metavar="DURATION",
        help="runs that ended, and events that came, before that: such as '30 days'",
    )
    prune.add_argument("--json", action="store_true", help="print JSON")


def _add_runs(commands: Any) -> None:
    text = "look at runs, wait for one, cancel or delete one"
    runs = commands.add_parser("runs", help=text, description=text, allow_abbrev=False)
    actions = runs.add_subparsers(title="actions", required=True, metavar=f"[{'|'.join(_ACTIONS)}]")

    def add(
        name: str, run: Callable[[argparse.Namespace], str | None], text: str
    ) -> argparse.ArgumentParser:
        action = _add(actions, name, run, text)
        if name != "list":
            action.add_argument("run_id", metavar="RUN_ID")
        _add_application(action)
        action.add_argument("--json", action="store_true", help="print JSON")
        return action

    listing = add("list", _list, "show runs, the newest first; `runs` without an action does so")
    statuses = get_args(RunStatus)
    listing.add_argument("--status", choices=statuses, metavar="STATUS", help=", ".join(statuses))
    listing.add_argument("--endpoint", metavar="ID", help="only runs of this endpoint")
    listing.add_argument("--key", help="only runs with this key")
    listing.add_argument("--label", type=_label, metavar="NAME=VALUE", help="only with this label")
    listing.add_argument("--since", type=_time, metavar="TIME", help="begun then or later")
    listing.add_argument("--until", type=_time, metavar="TIME", help="begun before")
    listing.add_argument("--cursor", metavar="RUN_ID", help="the page after this run")
    listing.add_argument("--limit", type=_limit, default=50, metavar="N", help="1 to 1000; 50")
    add("get", _get, "show one run and its steps")
    add("history", _history, "show every attempt of a run's steps and of its handler")
    waiting = add("wait", _wait, "wait until a run has ended, and show it")
    waiting.add_argument("--timeout", type=_duration, metavar="DURATION", help="such as 5m")
    add("retry", _retry, "let a failed run go on from where it failed")
    resuming = add("resume-from", _resume_from, "begin a run that goes on from a step of another")
    resuming.add_argument("--step", required=True, metavar="NAME", help="the first step to repeat")
    add("delete", _delete, "delete a run that has ended")
    cancelling = add("cancel", _cancel, "end a run; its clients get 410")
    cancelling.add_argument("--reason", metavar="TEXT", help="what its clients are told")


def _limit(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"must be 1 to 1000, not {text!r}")
    return int(text)


def _label(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, not {text!r}")
    return name, value


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a time as in ISO 8601, such as 2026-11-24T06:50, not {text!r}"
        ) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _duration(text: str) -> str:
    try:
        parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _json_value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is no JSON: {error}") from None


def _json_object(text: str) -> dict[str, object]:
    value = _json_value(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, not {text!r}")
    return value


def _work(options: argparse.Namespace) -> None:
    work(options.application, options.imports)


def _check(options: argparse.Namespace) -> str | None:
    problems = check(options.application, options.imports)
    for problem in problems:
        print(problem)
    if not problems:
        print("nothing is wrong")
    return f"{len(problems)} problems" if problems else None


def _replay(options: argparse.Namespace) -> str | None:
    from durable_core.cli.replay import run_replay  # no other command needs the engine

    return run_replay(options)


def _list(options: argparse.Namespace) -> None:
    with _open(options) as durable:
        runs = durable.runs.list(
            status=options.status,
            endpoint=options.endpoint,
            key=options.key,
            label=options.label,
            since=options.since,
            until=options.until,
            cursor=options.cursor,
            limit=options.limit,
        )
    _print_all(options, runs, table)


def _history(options: argparse.Namespace) -> None:
    with _open(options) as durable:
        attempts = durable.runs.history(options.run_id)
    _print_all(options, attempts, history)


def _get(options: argparse.Namespace) -> None:
    with _open(options) as durable:
        run = durable.runs.get(options.run_id)
    _print_run(options, run)


def _wait(options: argparse.Namespace) -> None:
    with _open(options) as durable:
        run = durable.runs.wait(options.run_id, timeout=options.timeout)
    _print_run(options, run)


def _cancel(options: argparse.Namespace) -> str | None:
    run_id = options.run_id
    with _open(options) as durable:
        if not durable.runs.cancel(run_id, reason=options.reason):
            return f"run {run_id} had ended, or was cancelled already"
        status = durable.runs.get(run_id).status
    _report(options, {"id": run_id, "cancelled": True, "status": status}, f"{status} {run_id}")
    return None


def _retry(options: argparse.Namespace) -> str | None:
    run_id = options.run_id
    with _open(options) as durable:
        if not durable.runs.retry(run_id):
            return f"run {run_id} has not failed"
    _report(options, {"id": run_id, "retried": True}, f"{run_id} is due")
    return None


def _resume_from(options: argparse.Namespace) -> str | None:
    with _open(options) as durable:
        try:
            new = durable.runs.resume_from(options.run_id, options.step)
        except ValueError as error:
            return str(error)
    _report(options, {"id": new}, f"began {new}")
    return None


def _delete(options: argparse.Namespace) -> str | None:
    run_id = options.run_id
    with _open(options) as durable:
        if not durable.runs.delete(run_id):
            return f"run {run_id} has not ended; cancel it first"
    _report(options, {"id": run_id, "deleted": True}, f"deleted {run_id}")
    return None


def _send(options: argparse.Namespace) -> str | None:
    try:
        event = Event(options.name, options.data, id=options.id)
    except ValueError as error:
        return str(error)
    with _open(options) as durable:
        [event_id] = durable.send(event)
    _report(options, {"ids": [event_id]}, f"sent {event_id}")
    return None


def _signal(options: argparse.Namespace) -> str | None:
    with _open(options) as durable:
        try:
            run_id = durable.signal(options.name, options.data, id=options.id)
        except (TypeError, ValueError) as error:
            return str(error)
    if options.json:
        print(json.dumps({"run_id": run_id}))
    elif run_id is not None:
        print(f"sent to {run_id}")
    return f"no run waits for the signal {options.name!r}" if run_id is None else None


def _prune(options: argparse.Namespace) -> None:
    with _open(options) as durable:
        engine = embedded(durable.engine)
        before = engine.env.clock.now() - parse_duration(options.older_than)
        prune = Prune(app=durable.id, runs_before=before, events_before=before, limit=_BATCH)
        deleted = 0
        while count := engine.execute(prune):
            deleted += count
    _report(options, {"deleted": deleted}, f"deleted {deleted}")


def _report(options: argparse.Namespace, values: dict[str, object], text: str) -> None:
    """Print what was done: as JSON, or as a line of text."""
    print(json.dumps(values) if options.json else text)


def _print_run(options: argparse.Namespace, run: RunInfo) -> None:
    if options.json:
        print(json.dumps(as_json(run), indent=2, default=repr))
    else:
        print(details(run), end="")


def _print_all(
    options: argparse.Namespace, shown: Sequence[Any], as_text: Callable[[Sequence[Any]], str]
) -> None:
    """Print runs or attempts: as a table, or as a JSON array with a line for each."""
    if options.json:
        lines = ",\n".join(json.dumps(as_json(each)) for each in shown)
        print(f"[{lines}]")
    else:
        print(as_text(shown), end="")


@contextmanager
def _open(options: argparse.Namespace) -> Iterator[Durable[Any]]:
    """Yield the application, whose store can be read and written. Nothing works on it here."""
    durable = _choose(options)
    with open_store(durable.engine.store, options.application):
        yield durable


def _check_one_given(options: argparse.Namespace, or_else: str) -> None:
    if (options.application is None) != (options.store is None):
        return
    text = f"name either MODULE:DURABLE, or {or_else}"
    for what in ("run_id", "name"):
        given = getattr(options, what, None)
        if options.application is None and given is not None:
            text += f"; {given!r} was taken for {what.upper()}"
    raise ConfigurationError(text)


def _choose(options: argparse.Namespace) -> Durable[Any]:
    _check_one_given(options, "--store PATH and --app ID")
    if (options.store is None) != (options.app is None):
        raise ConfigurationError("--store and --app go together")
    if options.application is None:
        return Durable(id=options.app, store=options.store)
    return load_durable(options.application)


# --- secrets --------------------------------------------------------------------------------------

#: Seconds to wait for a store that another process has locked.
_BUSY = 5.0
#: No token is valid for longer, milliseconds.
_LONGEST_TTL = 366 * 24 * 3_600_000


def _add_secrets(commands: Any) -> None:
    text = "replace the secret of a store that signs the tokens of wait URLs"
    secrets = commands.add_parser("secrets", help=text, description=text, allow_abbrev=False)
    actions = secrets.add_subparsers(title="actions", required=True, metavar="[list|rotate|revoke]")
    for name, run, help_text in (
        ("list", _list_secrets, "show when each secret was made"),
        ("rotate", _rotate_secrets, "make a new one; tokens of older ones stay valid"),
        ("revoke", _rotate_secrets, "make a new one; tokens of older ones are refused at once"),
    ):
        action = _add(actions, name, run, help_text)
        _add_store(action)
        action.set_defaults(revoke=name == "revoke")


def _list_secrets(options: argparse.Namespace) -> None:
    with _open_for_secrets(options) as (store, _):
        secrets = store.secrets()
    for index, secret in enumerate(secrets):
        made = "with the store"
        if secret.created_at:
            made = show_time(time_of(secret.created_at))
        print(f"made {made}{'' if index else ' (newest)'}")


def _rotate_secrets(options: argparse.Namespace) -> None:
    with _open_for_secrets(options) as (store, token_ttl):
        write = new_secret(SystemClock().now(), token_ttl, revoke=options.revoke)
        [answer] = store.commit([write], wait=_BUSY)
        if isinstance(answer, BaseException):
            raise answer
        count = len(store.secrets())
    then = "it signs alone" if options.revoke else f"it signs in a few seconds; {count} verify"
    print(f"made a new secret; {then}")


@contextmanager
def _open_for_secrets(options: argparse.Namespace) -> Iterator[tuple[Store, int]]:
    """Yield the store, and how long tokens are valid: as long as any may be, if that is unknown."""
    _check_one_given(options, "--store PATH")
    store: Store | None = None
    token_ttl = _LONGEST_TTL
    if options.application is None:
        store = SQLiteStore(options.store)
    else:
        engine = load_durable(options.application).engine
        store = engine.store
        if isinstance(engine, EmbeddedEngine):
            engine.refuse_given_secrets()
            token_ttl = engine.env.token_ttl
    with open_store(store, options.application) as opened:
        yield opened, token_ttl


# --- dashboard ------------------------------------------------------------------------------------

_PORT = 8321


def _add_dashboard(commands: Any) -> None:
    text = "serve a page for looking at runs, and acting on them, to the users of this machine"
    command = _add(commands, "dashboard", _serve_dashboard, text)
    _add_application(command)
    command.add_argument("--port", type=_port, default=_PORT, metavar="N", help=f"{_PORT}; 0: free")
    command.add_argument("--read-only", action="store_true", help="nothing can be changed")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"must be 0 to 65535, not {text!r}")
    return int(text)


def _serve_dashboard(options: argparse.Namespace) -> str | None:
    try:
        from durable_dashboard import create_dashboard_server
    except ModuleNotFoundError as error:
        if error.name != "durable_dashboard":
            raise
        raise ConfigurationError(
            "this needs the distribution durable-dashboard: install it with pip"
        ) from None
    durable = _choose_for_dashboard(options)
    with open_store(durable.engine.store, options.application):
        server = create_dashboard_server(durable, read_only=options.read_only)
        try:
            server.listen(options.port)
        except OSError as error:
            return f"port {options.port} cannot be had: {error.strerror}; choose one with --port"
        print(f"the dashboard of {durable.id} is at {server.url}/", flush=True)
        server.serve_forever()
    return None


def _choose_for_dashboard(options: argparse.Namespace) -> Durable[Any]:
    """Return the application that the options name, or one with its id and its store."""
    _check_one_given(options, "--store PATH")
    if options.application is not None:
        if options.app is not None:
            raise ConfigurationError("--app goes with --store")
        return load_durable(options.application)
    app = options.app or _only_app(options.store)
    return Durable(id=app, store=options.store)


def _only_app(path: str) -> str:
    """Return the id of the one application that has runs in a store.

    Raises:
        StoreError: there is no store.
        ConfigurationError: there are several applications, or none.
    """
    if not Path(path).is_file():
        raise StoreError(f"there is no store {path}")
    store = SQLiteStore(path)
    store.open()
    try:
        apps = store.apps()
    finally:
        store.close()
    if len(apps) == 1:
        return apps[0]
    if apps:
        raise ConfigurationError(
            f"the store has runs of {', '.join(apps)}: name one of them with --app"
        )
    raise ConfigurationError("the store has no runs yet: name the application with --app")
