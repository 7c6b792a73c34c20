"""The Python blocks of a page of the documentation, run as its reader would."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

from support.source_tree import ROOT

__all__ = ["name_of", "run_page"]

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    """Return the path of a page in the repository."""
    return str(page.relative_to(ROOT))


def run_page(page: Path) -> dict[str, Any]:
    """Run the Python blocks of a page from top to bottom, as one module; return its names."""
    module = types.ModuleType(f"docs_{page.stem.replace('-', '_')}")
    for number, block in enumerate(_BLOCK.findall(page.read_text("utf-8")), start=1):
        code = compile(block, f"{name_of(page)}, block {number}", "exec", dont_inherit=True)
        exec(code, module.__dict__)
    return module.__dict__
