"""``durable dashboard``: the page for looking at runs, by itself, for the users of this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from durable_core.api.durable import Durable
from durable_core.cli.application import load_durable, open_store
from durable_core.errors import ConfigurationError, StoreError
from durable_core.stores.sqlite import SQLiteStore

__all__ = ["add_dashboard"]

_PORT = 8321


def add_dashboard(commands: Any) -> None:
    """Add the command to a parser of commands."""
    text = "serve a page for looking at runs, and acting on them, to the users of this machine"
    command = commands.add_parser("dashboard", help=text, description=text, allow_abbrev=False)
    command.add_argument("application", metavar="MODULE:DURABLE", nargs="?")
    command.add_argument("--store", metavar="PATH", help="a store, instead of MODULE:DURABLE")
    command.add_argument("--app", metavar="ID", help="with --store: the Durable(id=)")
    command.add_argument("--port", type=_port, default=_PORT, metavar="N", help=f"{_PORT}; 0: free")
    command.add_argument("--read-only", action="store_true", help="nothing can be changed")
    command.set_defaults(run=_serve)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"must be 0 to 65535, not {text!r}")
    return int(text)


def _serve(options: argparse.Namespace) -> str | None:
    try:
        from durable_dashboard import create_dashboard_server
    except ModuleNotFoundError as error:
        if error.name != "durable_dashboard":
            raise
        raise ConfigurationError(
            "this needs the distribution durable-dashboard: install it with pip"
        ) from None
    durable = _choose(options)
    with open_store(durable.engine.store, options.application):
        server = create_dashboard_server(durable, read_only=options.read_only)
        try:
            server.listen(options.port)
        except OSError as error:
            return f"port {options.port} cannot be had: {error.strerror}; choose one with --port"
        print(f"the dashboard of {durable.id} is at {server.url}/", flush=True)
        server.serve_forever()
    return None


def _choose(options: argparse.Namespace) -> Durable[Any]:
    """Return the application that the options name, or one with its id and its store."""
    if (options.application is None) == (options.store is None):
        raise ConfigurationError("name either MODULE:DURABLE, or --store PATH")
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
