"""Who may import whom.

The core is a row of rooms. A module imports its own room and those before it, never those after
it, also not for types only; and no modules import each other in a circle. The pure rooms see the
world through arguments: of the standard library they import only what touches no clock, entropy,
thread, socket, event loop or file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from support.source_tree import (
    ADAPTER_FOLDERS,
    PUBLIC,
    PURE_ROOMS,
    ROOMS,
    Module,
    adapter_modules,
    conformance_modules,
    core_modules,
    imports_of,
    parse,
    project_of,
)

RANK = {room: rank for rank, room in enumerate(ROOMS)}
# Modules beside the rooms, as high as cli.
FACES = {
    *("__init__", "__main__", "_public", "adapters", "ai", "clients", "engines", "inspection"),
    *("observers", "sync", "webhooks"),
}
FOR_TYPE_CHECKERS = {"typing_extensions"}  # every type checker brings it along
# pytest loads the one room, and nobody else does. The others load a client for a step that is given
# none, and the dashboard; without the package that is an error, which says what to install.
THIRD_PARTIES = {
    "pytest_plugin": {"pytest"},
    "api": {"durable_client", "durable_dashboard"},
    "cli": {"durable_dashboard"},
}
PURE_STDLIB = {
    *(
        "__future__",
        "base64",
        "binascii",
        "collections",
        "contextlib",
        "contextvars",
        "dataclasses",
        "datetime",
    ),
    *("enum", "functools", "hashlib", "hmac", "inspect", "ipaddress", "itertools"),
    *("difflib", "json", "math", "operator", "re"),
    *("string", "types", "typing", "urllib.parse", "weakref"),
    # Types of values, and the libraries that the application has imported.
    *("decimal", "sys", "uuid"),
}


def room_of(name: str) -> str:
    """Return the room of a dotted name in durable_core; the façade's own names are ``__init__``."""
    first = f"{name}.".split(".")[1]
    return first if first in RANK or first in FACES else "__init__"


def rank_of(room: str) -> int:
    return RANK["cli"] if room in FACES else RANK[room]


def core_violations(module: Module) -> Iterator[str]:
    """Yield what a module of durable_core imports and may not."""
    room = room_of(module.name)
    known = sys.stdlib_module_names | FOR_TYPE_CHECKERS
    for line, name in imports_of(module):
        where = f"{module.name}:{line}"
        if name.split(".")[0] == "durable_core":
            if rank_of(room_of(name)) > rank_of(room):
                yield f"{where} imports {name}, which lies above {room}"
        elif name.split(".")[0] not in known | THIRD_PARTIES.get(room, set()):
            yield f"{where} imports {name}, which is not in the standard library"
        elif room in PURE_ROOMS and not is_pure(name):
            yield f"{where} imports {name}, which the pure room {room} may not"


def circle_in(modules: Sequence[Module]) -> list[str]:
    """Return the names of modules that import each other in a circle, if there is one."""
    known = {module.name for module in modules}
    graph: dict[str, set[str]] = {}
    for module in modules:
        wanted = (name for _, name in imports_of(module))
        found = {name if name in known else name.rpartition(".")[0] for name in wanted}
        graph[module.name] = (found & known) - {module.name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def is_pure(name: str) -> bool:
    return any(f"{name}.".startswith(f"{allowed}.") for allowed in PURE_STDLIB)


def adapter_violations(module: Module, allowed: set[str]) -> Iterator[str]:
    """Yield what an adapter's module imports beyond ``allowed`` and the standard library."""
    for line, name in imports_of(module):
        if name.split(".")[0] not in allowed | sys.stdlib_module_names:
            yield f"{module.name}:{line} imports {name}, which is no dependency of its distribution"


#: The packages of distributions that are called otherwise.
_PACKAGES = {"opentelemetry_api": "opentelemetry", "pydantic_ai_slim": "pydantic_ai"}


def allowed_in(folder: Path) -> set[str]:
    """Return the packages that an adapter may import: its own and those it declares."""
    project = project_of(folder)
    requirements = [project["name"], *project["dependencies"]]
    for extra in project.get("optional-dependencies", {}).values():
        requirements += extra
    names = [re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requirements]
    packages = {name.replace("-", "_").lower() for name in names}
    return {_PACKAGES.get(name, name) for name in packages}


@pytest.mark.parametrize("module", core_modules(), ids=lambda module: module.name)
def test_core_imports_only_downwards(module: Module) -> None:
    """A core module imports no higher room, no third party and, if pure, no outside world."""
    assert [] == list(core_violations(module))


@pytest.mark.parametrize("folder", ADAPTER_FOLDERS, ids=lambda folder: folder.name)
def test_adapter_imports_only_its_dependencies(folder: Path) -> None:
    """An adapter imports the core, what its pyproject names and the standard library."""
    modules = adapter_modules(folder)
    allowed = allowed_in(folder)

    assert modules
    assert [] == [line for module in modules for line in adapter_violations(module, allowed)]


#: The adapters for the handlers of a framework, and those that they stand on; and what brings a
#: server along.
_OF_FRAMEWORKS = {
    "dashboard": {"durable_wsgi"},
    "django": {"durable_asgi", "durable_wsgi"},
    "flask": {"durable_wsgi"},
    "starlette": {"durable_asgi"},
}


@pytest.mark.parametrize("folder", ADAPTER_FOLDERS, ids=lambda folder: folder.name)
def test_adapter_depends_on_no_other_adapter(folder: Path) -> None:
    """Only that of a framework needs another one: the one for the framework's server interface.

    The dashboard has a command that serves it by itself.
    """
    others = {project_of(other)["name"].replace("-", "_") for other in ADAPTER_FOLDERS} - {
        project_of(folder)["name"].replace("-", "_")
    }

    assert _OF_FRAMEWORKS.get(folder.name, set()) == allowed_in(folder) & others


def test_an_engine_is_made_of_public_parts() -> None:
    """The Inngest engine imports the faces of the core alone: others can be made of them, too."""
    faces = {"durable_core", "durable_core.errors", "durable_core.engines.remote"}
    [folder] = [folder for folder in ADAPTER_FOLDERS if folder.name == "inngest"]
    imported = {
        name
        for module in adapter_modules(folder)
        for _, name in imports_of(module)
        if name.split(".")[0] == "durable_core"
    }

    assert {True} == {any(in_face(name, face) for face in faces) for name in imported}


def private_imports(module: Module) -> Iterator[str]:
    """Yield what a module imports of the core, and is in no public module."""
    for line, name in imports_of(module):
        origin, _, imported = name.rpartition(".")
        if name.split(".")[0] != "durable_core" or name in PUBLIC:
            continue
        if origin not in PUBLIC or imported not in import_module(origin).__all__:
            yield f"{module.name}:{line} imports {name}, which is not public"


@pytest.mark.parametrize("folder", ADAPTER_FOLDERS, ids=lambda folder: folder.name)
def test_an_adapter_imports_what_is_public(folder: Path) -> None:
    """Strangers write adapters, too: what ours need of the core, theirs may have."""
    assert [] == [line for module in adapter_modules(folder) for line in private_imports(module)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from durable_core.http.headers import Headers", 1),
        ("from durable_core.adapters import App, _App", 1),
        ("from durable_core import duration", 1),
        ("import durable_core.codec.sse", 1),
        ("from durable_core import Headers, errors\nimport durable_core.adapters", 0),
        ("from durable_core.clients import Chunk", 0),
    ],
)
def test_the_rule_sees_a_private_import(source: str, expected: int) -> None:
    """Of a private module, of a private name, and of a private module of a public package."""
    assert expected == len(list(private_imports(parse("durable_x", source))))


def in_face(name: str, face: str) -> bool:
    """Tell whether a dotted name is a face, or one of the names that it makes public."""
    return name == face or name.rpartition(".")[0] == face


def test_the_suite_imports_no_adapter() -> None:
    """The conformance suite imports the core, pytest, hypothesis and the standard library."""
    allowed = {"durable_conformance", "durable_core", "pytest", "hypothesis"}
    modules = conformance_modules()

    assert modules
    assert [] == [line for module in modules for line in adapter_violations(module, allowed)]


def test_subjects_need_no_suite() -> None:
    """An adapter's ``conformance.py`` imports what its distribution does, and nothing else."""
    modules = {
        folder: module
        for folder in ADAPTER_FOLDERS
        for module in adapter_modules(folder)
        if module.name.endswith(".conformance")
    }

    # An engine that needs a server of somebody else's has its subject where that is imitated. An
    # observer, a page, and what calls steps are no subjects.
    assert {"dashboard", "inngest", "otel", "prometheus", "pydantic_ai"} == {
        folder.name for folder in ADAPTER_FOLDERS
    } - {folder.name for folder in modules}
    assert [] == [
        line
        for folder, module in modules.items()
        for line in adapter_violations(module, allowed_in(folder))
    ]


def test_every_core_module_is_in_a_room() -> None:
    """Whatever lies at the top of durable_core is a room or one of its faces."""
    top = {module.name.split(".")[1] for module in core_modules() if "." in module.name}

    assert set() == top - set(ROOMS) - FACES


def test_core_modules_import_each_other_in_no_circle() -> None:
    """Who reads a module can begin with what it imports, and never comes back to it."""
    assert [] == circle_in(core_modules())


def test_the_rule_sees_a_circle() -> None:
    """Also one that stands within functions."""
    first = parse(
        "durable_core.api.step", "def f():\n    from durable_core.api.call_steps import g"
    )
    second = parse("durable_core.api.call_steps", "from durable_core.api import step")

    assert {"durable_core.api.step", "durable_core.api.call_steps"} == set(
        circle_in([first, second])
    )


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("durable_core.http.headers", "import socket"),
        ("durable_core.http.headers", "from urllib.request import urlopen"),
        ("durable_core.errors", "from durable_core.http import headers"),
        ("durable_core.machine.table", "from durable_core import Durable"),
        ("durable_core.machine.table", "import durable_core"),
        ("durable_core.flow.effects", "def f():\n    import threading"),
        ("durable_core.codec.sse", "if TYPE_CHECKING:\n    from durable_core.flow import asks"),
        ("durable_core.ports", "from . import api"),
        ("durable_core.engine.worker", "from durable_core import sync"),
        ("durable_core.sync", "from durable_core.testing import client"),
        ("durable_core.api.durable", "import durable_wsgi"),
        ("durable_core.testing.client", "import pytest"),
        ("durable_core.testing.client", "from durable_core import pytest_plugin"),
    ],
)
def test_the_rule_sees_a_wrong_import(name: str, source: str) -> None:
    """Each kind of forbidden import in the core is found, wherever it stands."""
    assert 1 == len(list(core_violations(parse(name, source))))


def test_the_rule_lets_right_imports_pass() -> None:
    """Lower rooms, the own room and the listed standard library are allowed."""
    source = "from collections.abc import Mapping\nfrom durable_core import errors\n"

    assert [] == list(core_violations(parse("durable_core.http.headers", source)))


def test_the_rule_sees_an_adapter_that_imports_another() -> None:
    """An adapter that imports a package it does not declare is found."""
    module = parse("durable_wsgi.app", "import wsgiref\nfrom durable_asgi import app")

    assert 1 == len(list(adapter_violations(module, {"durable_wsgi", "durable_core"})))
