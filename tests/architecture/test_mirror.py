"""``tests/unit`` mirrors ``durable_core`` file for file."""

from __future__ import annotations

import ast
from pathlib import PurePosixPath

import pytest

from support.source_tree import ROOT, Module, core_modules, parse

UNIT = ROOT / "tests" / "unit"

#: Modules with code and without a test file of their own: name -> where they are tested instead.
EXCEPTIONS = {
    "durable_core": "tests/architecture/test_facade.py",
    "durable_core.ports.http": "tests/unit/runtime/http/test_client.py",  # data, made by clients
    # Data, made by stores.
    "durable_core.ports.records": "conformance/durable_conformance/suites/test_store_runs.py",
}


def has_code(module: Module) -> bool:
    """Tell whether a module does anything but import names and list them."""
    return any(
        not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr) and not is_dunder(node)
        for node in module.tree.body
    )


def is_dunder(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("__")


def mirror_of(module: Module) -> PurePosixPath:
    """Return the test file of a module, below tests/unit."""
    parts = [part.strip("_") for part in module.name.split(".")[1:]]
    if module.is_package:
        parts.append("init")
    return PurePosixPath(*parts[:-1], f"test_{parts[-1]}.py")


def test_every_module_has_its_test_file() -> None:
    """Each module with code has a test file of the same name in the same place."""
    missing = {
        module.name: str(mirror_of(module))
        for module in core_modules()
        if has_code(module) and not (UNIT / mirror_of(module)).is_file()
    }

    assert EXCEPTIONS.keys() == missing.keys(), missing


def test_exceptions_are_tested_where_they_say() -> None:
    """Every exception names a file that exists."""
    assert [] == [path for path in EXCEPTIONS.values() if not (ROOT / path).is_file()]


@pytest.mark.parametrize(
    ("name", "is_package", "expected"),
    [
        ("durable_core.errors", False, "test_errors.py"),
        ("durable_core.model.http", False, "model/test_http.py"),
        ("durable_core.runtime.sqlite.store", False, "runtime/sqlite/test_store.py"),
        ("durable_core.runtime.sqlite", True, "runtime/sqlite/test_init.py"),
        ("durable_core.__main__", False, "test_main.py"),
    ],
)
def test_mirror_of(name: str, is_package: bool, expected: str) -> None:
    """A module's test file lies at the same path, with ``test_`` before its name."""
    assert expected == str(mirror_of(parse(name, "", is_package=is_package)))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""Doc."""\nfrom a import b\n__all__ = ["b"]', False),
        ("def f(): ...", True),
        ("LIMIT = 3", True),
    ],
)
def test_has_code(source: str, expected: bool) -> None:
    """A module that only re-exports has no code; one that defines anything has."""
    assert expected == has_code(parse("m", source))
