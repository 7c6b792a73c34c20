"""Public means listed: ``__all__`` is what a module makes public, no more and no less."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from support.source_tree import (
    ADAPTER_FOLDERS,
    Module,
    adapter_modules,
    conformance_modules,
    core_modules,
    parse,
)

MODULES = [
    *core_modules(),
    *(module for folder in ADAPTER_FOLDERS for module in adapter_modules(folder)),
    *conformance_modules(),
]


def listed(module: Module) -> list[str] | None:
    """Return a module's ``__all__``, None when it has none."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and "__all__" in targets(node):
            assert node.value is not None
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def public_names(module: Module) -> set[str]:
    """Return what a module makes public.

    It is what the module defines. A package also passes on what it imports from its own modules,
    and a module that defines nothing passes on all it imports from the project.
    """
    defined = {name for name in defined_names(module) if not name.startswith("_")}
    own = f"{module.name}." if defined else "durable_"
    return defined | (
        set(imported_names(module, own)) if module.is_package or not defined else set()
    )


def defined_names(module: Module) -> Iterator[str]:
    for node in top_level(module.tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not is_type_variable(node):
            yield from targets(node)


def imported_names(module: Module, origin: str) -> Iterator[str]:
    """Yield the names that a module imports from modules whose names begin with ``origin``."""
    for node in top_level(module.tree.body):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(origin):
            yield from (alias.asname or alias.name for alias in node.names)


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, also those under a top-level ``if``."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from top_level(node.body + node.orelse)


def targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    found = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in found if isinstance(target, ast.Name)]


def is_type_variable(node: ast.Assign | ast.AnnAssign) -> bool:
    call = node.value
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in {"ParamSpec", "TypeVar", "TypeVarTuple", "DefaultTypeVar"}
    )


@pytest.mark.parametrize(
    "module",
    [module for module in MODULES if listed(module) is not None],
    ids=lambda module: module.name,
)
def test_all_is_what_is_public(module: Module) -> None:
    """``__all__`` names each public name once (its order is the linter's business)."""
    names = listed(module) or []

    assert public_names(module) == {name for name in names if not name.startswith("_")}
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize(
    "module",
    [
        module
        for module in MODULES
        if module.is_package and public_names(module) and module.name != "durable_core"
    ],
    ids=lambda module: module.name,
)
def test_package_with_public_names_has_all(module: Module) -> None:
    """A package that makes names public says which; ``durable_core`` does so in ``_public``."""
    assert listed(module) is not None


def test_public_names_of_a_module_that_defines() -> None:
    """What a module defines is public, but neither its imports nor its type variables."""
    source = """
from durable_x.http import Request
if TYPE_CHECKING:
    class Extra: ...
T = TypeVar("T")
LIMIT: int = 3
_table = {}
def serve(): ...
"""

    assert {"Extra", "LIMIT", "serve"} == public_names(parse("durable_x.app", source))


def test_public_names_of_a_facade() -> None:
    """A module that defines nothing passes on what it imports from the project."""
    source = """
from typing import TYPE_CHECKING
from durable_x.app import App as Application
if TYPE_CHECKING:
    from durable_x.proxy import proxy
def __getattr__(name): ...
"""

    assert {"Application", "proxy"} == public_names(parse("durable_x", source))
