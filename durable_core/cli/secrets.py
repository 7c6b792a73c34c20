"""``durable secrets``: replace the secret of a store that signs the tokens of wait URLs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from durable_core.cli.application import load_durable, open_store
from durable_core.cli.text import show_time
from durable_core.engine.embedded import EmbeddedEngine
from durable_core.engine.secrets import new_secret
from durable_core.errors import ConfigurationError
from durable_core.platform import SystemClock
from durable_core.ports import Store
from durable_core.stores.sqlite import SQLiteStore

__all__ = ["add_secrets"]

#: Seconds to wait for a store that another process has locked.
_BUSY = 5.0
#: No token is valid for longer, milliseconds.
_LONGEST_TTL = 366 * 24 * 3_600_000


def add_secrets(commands: Any) -> None:
    """Add the command to a parser of commands."""
    text = "replace the secret of a store that signs the tokens of wait URLs"
    secrets = commands.add_parser("secrets", help=text, description=text, allow_abbrev=False)
    actions = secrets.add_subparsers(title="actions", required=True, metavar="[list|rotate|revoke]")
    for name, run, help_text in (
        ("list", _list, "show when each secret was made"),
        ("rotate", _rotate, "make a new one; tokens of older ones stay valid"),
        ("revoke", _rotate, "make a new one; tokens of older ones are refused at once"),
    ):
        action = actions.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
        action.add_argument("application", metavar="MODULE:DURABLE", nargs="?")
        action.add_argument("--store", metavar="PATH", help="a store, instead of MODULE:DURABLE")
        action.set_defaults(run=run, revoke=name == "revoke")


def _list(options: argparse.Namespace) -> None:
    with _open(options) as (store, _):
        secrets = store.secrets()
    for index, secret in enumerate(secrets):
        made = "with the store"
        if secret.created_at:
            made = show_time(datetime.fromtimestamp(secret.created_at / 1000, UTC))
        print(f"made {made}{'' if index else ' (newest)'}")


def _rotate(options: argparse.Namespace) -> None:
    with _open(options) as (store, token_ttl):
        write = new_secret(SystemClock().now(), token_ttl, revoke=options.revoke)
        [answer] = store.commit([write], wait=_BUSY)
        if isinstance(answer, BaseException):
            raise answer
        count = len(store.secrets())
    then = "it signs alone" if options.revoke else f"it signs in a few seconds; {count} verify"
    print(f"made a new secret; {then}")


@contextmanager
def _open(options: argparse.Namespace) -> Iterator[tuple[Store, int]]:
    """Yield the store, and how long tokens are valid: as long as any may be, if that is unknown."""
    if (options.application is None) == (options.store is None):
        raise ConfigurationError("name either MODULE:DURABLE, or --store PATH")
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
