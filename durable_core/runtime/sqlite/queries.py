"""The named statements of ``queries.sql`` and the text of ``schema.sql``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

__all__ = ["QUERIES", "SCHEMA", "parse_queries"]

_HEADER = re.compile(r"^-- ([a-z][a-z-]*) --$\n", re.MULTILINE)


def parse_queries(text: str) -> Mapping[str, str]:
    """Return the statements of a file by their names.

    Raises:
        ValueError: a name comes twice.
    """
    _, *parts = _HEADER.split(text)
    names, bodies = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"a query name comes twice among {sorted(names)}")
    return MappingProxyType(dict(zip(names, (body.strip() for body in bodies), strict=True)))


def _text_of(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


#: SQL by name. The same ``str`` object each time, so a connection finds its prepared statement.
QUERIES = parse_queries(_text_of("queries.sql"))
#: All statements that make an empty file a store.
SCHEMA = _text_of("schema.sql")
