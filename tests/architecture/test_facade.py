"""The façade ``durable_core``: it loads its names when one is used."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

import durable_core
from durable_core import _public
from support.source_tree import ADAPTER_FOLDERS, PUBLIC, ROOT, adapter_modules


def test_names_are_those_of_the_module_behind_it() -> None:
    """Each public name is an attribute, and ``dir`` shows it beside the version."""
    assert durable_core.__all__ == _public.__all__
    assert {name: getattr(_public, name) for name in _public.__all__} == {
        name: getattr(durable_core, name) for name in durable_core.__all__
    }
    assert {*durable_core.__all__, "__version__"} <= set(dir(durable_core))


@pytest.mark.parametrize("name", ["nothing", "_nothing", "annotations_", "__wrapped__"])
def test_unknown_name_is_an_attribute_error(name: str) -> None:
    """A name the façade does not have is an AttributeError that says so."""
    with pytest.raises(AttributeError, match=f"module 'durable_core' has no attribute '{name}'"):
        getattr(durable_core, name)


#: The pages about adapters and stores show what these are made of.
KITS = ("write-an-adapter.md", "write-a-store.md")
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if page.name not in KITS
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_import_what_is_public(page: Path) -> None:
    """What a page tells users to import is in a public module, and listed in its ``__all__``."""
    imports = re.findall(
        r"^\s*from (durable_[\w.]+) import \(?([\w\s,]+?)\)?$", page.read_text("utf-8"), re.M
    )
    private = [
        (module, name)
        for module, names in imports
        for name in re.findall(r"(\w+)(?: as \w+)?", names.strip())
        if module not in PUBLIC or name not in import_module(module).__all__
    ]

    assert [] == private


def test_every_public_module_is_in_the_reference() -> None:
    """A module without an underscore in its name that has its names in ``__all__`` is public."""
    packages = [adapter for folder in ADAPTER_FOLDERS for adapter in adapter_modules(folder)]
    of_adapters = {module.name for module in packages if "._" not in module.name}
    not_for_users = {"conformance", "_public"}

    assert set() == {
        name for name in of_adapters - PUBLIC if name.rpartition(".")[2] not in not_for_users
    }
