"""The project's own source, for the tests that hold its architecture."""

from __future__ import annotations

import ast
import runpy
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "durable_core"
CONFORMANCE = ROOT / "conformance"
ADAPTER_FOLDERS = sorted(path.parent for path in ROOT.glob("adapters/*/pyproject.toml"))

#: The modules whose names the reference lists, with their signatures.
PUBLIC = frozenset(runpy.run_path(str(ROOT / "docs" / "_generate" / "signatures.py"))["MODULES"])

#: The rooms of the core, each of which may import those before it.
ROOMS = (
    *("duration", "errors", "http", "model", "ports", "codec", "machine", "flow"),
    *("platform", "stop_notice", "commit_queue", "stores", "runners", "streams", "engine"),
    *("api", "routing", "adapter", "cli", "testing", "pytest_plugin"),
)
#: The rooms that see time, chance and the outside world only through arguments.
PURE_ROOMS = ROOMS[: ROOMS.index("flow") + 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One Python file; ``name`` is dotted, and a package's ``__init__`` goes by the package."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


def modules_in(package: Path) -> list[Module]:
    """Return every module of a package folder, sorted by name."""
    return sorted(_read_package(package), key=lambda module: module.name)


def core_modules() -> list[Module]:
    """Return every module of durable_core."""
    return modules_in(CORE)


def adapter_modules(folder: Path) -> list[Module]:
    """Return every module of the distribution in an adapter's folder."""
    return modules_in(folder / project_of(folder)["name"].replace("-", "_"))


def conformance_modules() -> list[Module]:
    """Return every module of the conformance suite."""
    return modules_in(CONFORMANCE / "durable_conformance")


def project_of(folder: Path) -> dict[str, Any]:
    """Return the ``[project]`` table of a distribution's pyproject.toml."""
    project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))[
        "project"
    ]
    return project


def imports_of(module: Module) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) for every import, wherever in the file it stands.

    ``from a import b`` yields ``a.b``, for ``b`` may be a module. A relative one keeps its dots.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def read_module(name: str, path: Path) -> Module:
    """Return the module in a file."""
    return Module(name=name, path=path, tree=ast.parse(path.read_text("utf-8"), str(path)))


def parse(name: str, source: str, *, is_package: bool = False) -> Module:
    """Return a module made from text, for tests of the rules themselves."""
    path = Path("__init__.py" if is_package else f"{name}.py")
    return Module(name=name, path=path, tree=ast.parse(source))


def _read_package(package: Path) -> Iterator[Module]:
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        yield read_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path)
