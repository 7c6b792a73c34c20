"""The lazy façade ``durable_core``: what it promises to type checkers is what it loads."""

from __future__ import annotations

import ast

import pytest

import durable_core
from support.source_tree import CORE, Module, modules_in


def facade() -> Module:
    return next(module for module in modules_in(CORE) if module.name == "durable_core")


def names_for_type_checkers() -> dict[str, str]:
    """Return name -> module of the façade's imports, all of which type checkers alone see."""
    return {
        alias.name: str(node.module)
        for node in ast.walk(facade().tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("durable_core")
        for alias in node.names
    }


def test_lazy_table_is_what_type_checkers_see() -> None:
    """The table of lazy names and the imports for type checkers are the same."""
    assert names_for_type_checkers() == durable_core._HOMES
    assert {*durable_core._HOMES, "__version__"} == set(durable_core.__all__)


@pytest.mark.parametrize("name", durable_core.__all__)
def test_every_public_name_loads(name: str) -> None:
    """Each name of ``__all__`` is an attribute, and ``dir`` shows it."""
    assert getattr(durable_core, name) is not None
    assert name in dir(durable_core)


def test_unknown_name_is_an_attribute_error() -> None:
    """A name the façade does not have is an AttributeError that says so."""
    with pytest.raises(AttributeError, match="module 'durable_core' has no attribute 'nothing'"):
        _ = durable_core.nothing
