"""The application that a command line names, its worker, and what is wrong with it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from durable_core.api.durable import Durable
from durable_core.errors import ConfigurationError, StoreError
from durable_core.platform import check_threading
from durable_core.ports import Store
from durable_core.runners.settings import endpoint_keys, slots_of
from durable_core.stop_notice import SignalEvent
from durable_core.stores.encrypted import EncryptedStore
from durable_core.stores.sqlite import SQLiteStore

__all__ = ["check", "file_of", "import_modules", "load_durable", "open_store", "work"]

#: What can be imported by its name. The parts need be no identifiers: a file may be "my-shop.py".
_MODULE = re.compile(r"[\w-]+(\.[\w-]+)*")
#: Seconds for which steps in flight may go on when the worker is told to stop.
_DRAIN = 10.0
#: Seconds between two looks at whether it was told to.
_LOOK = 0.5


def work(target: str, imports: Sequence[str] = ()) -> None:
    """Work for an application until SIGTERM or SIGINT; then drain.

    Args:
        target: as for :func:`load_durable`.
        imports: further modules, whose endpoints register themselves.

    Raises:
        ConfigurationError: the application cannot be found, has no endpoints, or an engine that
            needs no worker.
        StoreError: its store cannot be opened.
    """
    durable = load_durable(target)
    if durable.engine.store is None:
        raise ConfigurationError(
            f"{target} needs no worker: the server of its engine calls it where it serves clients"
        )
    lifespan = _application_lifespan(durable, [target.partition(":")[0], *imports])
    keys = endpoint_keys(durable.engine.endpoints)
    if not keys:
        raise ConfigurationError(
            f"{target} has no endpoints; name the modules that define them with --import"
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stopped = _stop_on_signals()
    if lifespan is not None:
        asyncio.run(_work_in(lifespan, durable, keys, stopped))
        return
    durable.start()
    try:
        _print_working(durable, keys)
        stopped.wait()
        print("stopping", flush=True)
    finally:
        durable.stop(_DRAIN)


def _application_lifespan(
    durable: Durable[Any], modules: Sequence[str]
) -> AbstractAsyncContextManager[object] | None:
    """Import the modules; return the lifespan of the framework's application, if there is one."""
    return durable.application_lifespan([vars(each) for each in import_modules(modules)])


async def _work_in(
    lifespan: AbstractAsyncContextManager[object],
    durable: Durable[Any],
    keys: Sequence[str],
    stopped: SignalEvent,
) -> None:
    """Work within the lifespan of the application that a framework's handlers are in."""
    async with lifespan:
        durable.start()  # unless the lifespan has done so
        try:
            _print_working(durable, keys)
            while not stopped.is_set():
                await asyncio.sleep(_LOOK)
            print("stopping", flush=True)
        finally:
            await durable.stop_async(_DRAIN)


def _print_working(durable: Durable[Any], keys: Sequence[str]) -> None:
    lines = [f"working for {durable.id}, process {os.getpid()}; endpoints:"]
    print("\n  ".join([*lines, *keys]), flush=True)


def load_durable(target: str) -> Durable[Any]:
    """Return the application that a text such as ``"shop:durable"`` names.

    Raises:
        ConfigurationError: there is no such module, or no ``Durable`` of that name in it.
    """
    module, _, name = target.partition(":")
    if not name or _MODULE.fullmatch(module) is None:
        raise ConfigurationError(
            f"an application is written like shop:durable, not {target!r}; the id of a run, or the "
            "name of an event, stands before it"
        )
    found: object = _import(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"there is no {name!r} in the module {module!r}")
        found = getattr(found, part)
    if not isinstance(found, Durable):
        raise ConfigurationError(f"{target} is no Durable, but of type {type(found).__name__}")
    return found


@contextmanager
def open_store(store: Store | None, target: str) -> Iterator[Store]:
    """Give a store that can be read and written, and close it afterwards. None is made.

    Args:
        store: the store of an application; None if its engine has none.
        target: what the user calls the application.

    Raises:
        ConfigurationError: there is no store.
        StoreError: there is no file of it, or it cannot be opened.
    """
    if store is None:
        raise ConfigurationError(f"{target} runs on an engine which has no store to look into")
    file = file_of(store)
    if file is not None and not file.is_file():
        raise StoreError(f"there is no store {file}")
    store.open()
    try:
        yield store
    finally:
        store.close()


def file_of(store: Store) -> Path | None:
    """Return the file of a store, also of one that is encrypted; None if it has none."""
    if isinstance(store, EncryptedStore):
        store = store.inner
    return Path(store.path) if isinstance(store, SQLiteStore) else None


def import_modules(names: Sequence[str]) -> list[ModuleType]:
    """Import modules whose endpoints register themselves, and return them.

    Raises:
        ConfigurationError: there is no such module.
    """
    return [_import(name) for name in names]


def _import(name: str) -> ModuleType:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does, which a console script does not
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        raise ConfigurationError(
            f"there is no module {error.name!r} here or on PYTHONPATH"
        ) from error


def _stop_on_signals() -> SignalEvent:
    """Return an event that the first SIGTERM or SIGINT sets; a second one ends the process."""
    stopped = SignalEvent()

    def stop(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopped


# --- check ----------------------------------------------------------------------------------------


def check(target: str, imports: Sequence[str] = ()) -> list[str]:
    """Open an application and its store; return what is wrong, one line each.

    Nothing is started, and no store is made.

    Args:
        target: as for :func:`load_durable`.
        imports: further modules that define endpoints.

    Raises:
        ConfigurationError: the application cannot be found.
    """
    durable = load_durable(target)
    _application_lifespan(durable, [target.partition(":")[0], *imports])
    return list(_problems(target, durable))


def _problems(target: str, durable: Durable[Any]) -> Iterator[str]:
    if not durable.engine.endpoints:
        yield f"{target} has no endpoints; name the modules that define them with --import"
    try:
        check_threading()
    except ConfigurationError as error:
        yield str(error)
    store = durable.engine.store
    if store is None:
        return  # what is kept elsewhere is not ours to check
    file = file_of(store)
    if file is not None and not file.is_file():
        return  # the first start makes it
    try:
        store.open()
        try:
            yield from _problems_of_store(durable, store)
        finally:
            store.close()
    except StoreError as error:
        yield f"the store cannot be used: {error}"


def _problems_of_store(durable: Durable[Any], store: Store) -> Iterator[str]:
    env = durable.engine.env
    try:
        env.secrets()
    except ConfigurationError as error:
        yield str(error)
    now = env.clock.now()
    unknown = store.unclaimable(durable.id, sorted(durable.engine.endpoints), now)
    for key in sorted({record.run.endpoint_key for record in unknown}):
        yield f"runs are due for the endpoint {key!r}, which no code here defines"
    working = [worker for worker in store.workers() if worker.app == durable.id]
    slots = slots_of(durable.engine.endpoints.values())
    due = store.next_due(durable.id, sorted(durable.engine.endpoints), slots=slots)
    if due is not None and due <= now and not working:
        yield "runs are due, and no process works on them"
