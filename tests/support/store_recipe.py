"""The store of ``docs/howto/write-a-store.md``: ``support.store_recipe:log_subject``."""

from __future__ import annotations

from functools import cache
from typing import Any

from support.docs_pages import run_page
from support.source_tree import ROOT

_PAGE = ROOT / "docs" / "howto" / "write-a-store.md"


@cache
def _names() -> dict[str, Any]:
    return run_page(_PAGE)


def __getattr__(name: str) -> Any:
    """Return a name of the page; the suite asks for its subject."""
    if name.startswith("__") or name not in _names():
        raise AttributeError(name)
    return _names()[name]
