"""What is wrong with an application and its store, as ``durable check`` prints it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from durable_core.api.durable import Durable
from durable_core.cli.application import file_of, import_modules, load_durable
from durable_core.errors import ConfigurationError, StoreError
from durable_core.platform import check_threading
from durable_core.ports import Store
from durable_core.runners.settings import slots_of

__all__ = ["check"]


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
    import_modules(imports)
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
