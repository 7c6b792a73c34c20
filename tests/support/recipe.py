"""The adapter of ``docs/howto/write-an-adapter.md``, made a module."""

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


def source() -> str:
    """Return the code of the page as one text."""
    return "\n".join(_BLOCK.findall(_PAGE.read_text("utf-8")))


@cache
def load() -> Any:
    """Return the module."""
    module = types.ModuleType("my_adapter")
    sys.modules[module.__name__] = module  # dataclasses look there for the types of fields
    exec(compile(source(), str(_PAGE), "exec", dont_inherit=True), module.__dict__)
    return module
