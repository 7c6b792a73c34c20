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
#: The heading of the second recipe.
_SECOND = "\n## On an event loop"
_FUTURE = "from __future__ import annotations\n"


def source(name: str = "my_adapter") -> str:
    """Return the code of a recipe as one text: ``my_adapter``, or ``my_loop_adapter``."""
    first, _, second = _PAGE.read_text("utf-8").partition(_SECOND)
    code = "\n".join(_BLOCK.findall(first if name == "my_adapter" else second))
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
    if name == "subject":
        return load().subject
    if name == "loop_subject":
        return load("my_loop_adapter").loop_subject
    raise AttributeError(name)
