"""Which stored events cannot end a wait, told from the JSON text of their data alone.

Registering a wait looks at every event of that name since its mark, in a transaction that writes.
Most are ruled out by a search for text in SQLite, many times faster than reading their JSON here.
"""

from __future__ import annotations

import json
import re

from durable_core.machine.matching import load_rule
from durable_core.runtime.sqlite.rows import dump_json

__all__ = ["needles"]

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
#: Numbers whose text begins the same whether they are an int or a float, and has no exponent.
_PLAIN = re.compile(r"-?([1-9][0-9]{0,14}(\.[0-9]{1,15})?|0\.[1-9][0-9]{0,14})")

_NONE = ("", "")


def needles(rule: str) -> tuple[str, str]:
    """Return two texts one of which is in the stored data of every event that the rule matches.

    Args:
        rule: as in ``Pending``.

    Returns:
        Both ``""``, which is in every text, if the rule says nothing of that kind.
    """
    loaded = load_rule(rule)
    required = [(path, f"j:{value}") for path, value in loaded.conditions]
    if loaded.match is not None:
        required.insert(0, (loaded.match.path, loaded.match.key))
    found = (_of_value(path[-1], key) for path, key in required)
    return next((each for each in found if each != _NONE), _NONE)


def _of_value(name: str, key: str) -> tuple[str, str]:
    kind, _, text = key.partition(":")
    field = f"{dump_json(name)}:"
    if kind == "t":
        quoted = field + dump_json(text)
        if text in ("true", "false") or _PLAIN.fullmatch(text):
            return quoted, field + text
        return _NONE if _NUMBER.fullmatch(text) else (quoted, quoted)
    value = json.loads(text)
    if isinstance(value, str):
        needle = field + dump_json(value)
        return needle, needle
    if isinstance(value, bool) or _PLAIN.fullmatch(text):
        return field + text, field + text
    return _NONE
