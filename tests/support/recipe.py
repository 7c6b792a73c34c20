"""The adapters of ``docs/howto/write-an-adapter.md``, made modules."""

from __future__ import annotations

import re
import sys
import types
from functools import cache
from typing import Any

from support.source_tree import ROOT

__all__ = ["load", "source"]

_PAGE = ROOT / "docs" / "howto" / "write-an-adapter.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: The recipes, each with the heading that ends it.
_ENDS = {
    "my_adapter": "\n## On an event loop",
    "my_loop_adapter": "\n## A framework: aiohttp",
    "my_aiohttp_adapter": "\n## A server that pulls",
}
_SUBJECTS = {
    "my_adapter": "subject",
    "my_loop_adapter": "loop_subject",
    "my_aiohttp_adapter": "aiohttp_subject",
}
_FUTURE = "from __future__ import annotations\n"


def source(name: str = "my_adapter") -> str:
    """Return the code of a recipe as one text; the names are those of ``_ENDS``."""
    text = _PAGE.read_text("utf-8")
    for recipe, end in _ENDS.items():
        part, _, text = text.partition(end)
        if recipe == name:
            break
    code = "\n".join(_BLOCK.findall(part))
    return code if code.startswith(_FUTURE) else f"{_FUTURE}{code}"


@cache
def load(name: str = "my_adapter") -> Any:
    """Return a recipe as a module."""
    module = types.ModuleType(name)
    sys.modules[name] = module  # dataclasses look there for the types of fields
    exec(compile(source(name), str(_PAGE), "exec", dont_inherit=True), module.__dict__)
    return module


def __getattr__(name: str) -> Any:
    """Return a subject, so that the suite can be given ``support.recipe:loop_subject``."""
    for recipe, subject in _SUBJECTS.items():
        if subject == name:
            return getattr(load(recipe), subject)
    raise AttributeError(name)
