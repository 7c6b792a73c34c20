"""The protocol of stores, held against those there are. What they do is in ``tests/laws``."""

from __future__ import annotations

import inspect

import pytest

from durable_core.ports import Store
from durable_core.stores.memory import MemoryStore
from durable_core.stores.sqlite.store import SQLiteStore

STORES = [MemoryStore, SQLiteStore]
METHODS = [
    name
    for name, member in vars(Store).items()
    if not name.startswith("_") and inspect.isfunction(member)
]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("store", STORES)
def test_methods_are_called_alike(store: type, name: str) -> None:
    """Each method takes the same arguments, by the same names, as the protocol says."""
    wanted = inspect.signature(getattr(Store, name)).parameters
    found = inspect.signature(getattr(store, name)).parameters

    assert [(each.name, each.kind, each.default) for each in wanted.values()] == [
        (each.name, each.kind, each.default) for each in found.values()
    ]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("store", STORES)
def test_the_protocol_alone_describes_a_method(store: type, name: str) -> None:
    """What a method promises is said once: the stores inherit it, and ``help`` shows it."""
    method = getattr(store, name)

    assert method.__doc__ is None
    assert inspect.getdoc(getattr(Store, name)) == inspect.getdoc(method)
    assert inspect.getdoc(method)
