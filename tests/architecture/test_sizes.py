"""Modules and functions stay small enough to be read at one sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from support.source_tree import (
    ADAPTER_FOLDERS,
    ROOT,
    Module,
    adapter_modules,
    conformance_modules,
    core_modules,
    parse,
    read_module,
)

CORE_MODULE_LINES = 400
ADAPTER_MODULE_LINES = 200
CONFORMANCE_MODULE_LINES = 300
FUNCTION_LINES = 60

SCRIPTS = [ROOT / "dev.py", *ROOT.glob("examples/*.py"), *ROOT.glob("benchmarks/*.py")]
CORE = [*core_modules(), *(read_module(path.stem, path) for path in sorted(SCRIPTS))]
ADAPTERS = [module for folder in ADAPTER_FOLDERS for module in adapter_modules(folder)]


def length_of(module: Module) -> int:
    return len(module.path.read_text("utf-8").splitlines())


def long_functions(module: Module, limit: int) -> Iterator[str]:
    """Yield the functions with more lines than ``limit``, their docstrings not counted."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = lines_of(node) - (lines_of(node.body[0]) if ast.get_docstring(node) else 0)
            if lines > limit:
                yield f"{module.name}.{node.name} has {lines} lines"


def lines_of(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize(
    ("module", "limit"),
    [
        *((module, CORE_MODULE_LINES) for module in CORE),
        *((module, ADAPTER_MODULE_LINES) for module in ADAPTERS),
        *((module, CONFORMANCE_MODULE_LINES) for module in conformance_modules()),
    ],
    ids=lambda value: value.name if isinstance(value, Module) else str(value),
)
def test_modules_and_functions_are_short(module: Module, limit: int) -> None:
    """No module and no function is longer than its limit."""
    assert length_of(module) <= limit
    assert [] == list(long_functions(module, FUNCTION_LINES))


def test_the_rule_sees_a_long_function() -> None:
    """A function over the limit is found, also inside a class; its docstring is not counted."""
    source = (
        'class C:\n    def f(self):\n        """A\n\n        B"""\n        a = 1\n        return a'
    )

    assert ["m.f has 3 lines"] == list(long_functions(parse("m", source), 2))
    assert [] == list(long_functions(parse("m", source), 3))
