"""Which stored events cannot end a wait, told from the JSON text of their data alone.

Registering a wait looks at every event of that name since its mark, in a transaction that writes.
Most are ruled out by a search for text in SQLite, many times faster than reading their JSON here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from durable_core.machine.matching import load_rule
from durable_core.runtime.sqlite.rows import dump_json

__all__ = ["Needles", "needles"]

#: Texts one of which is in the data of every event that may match.
Needles = tuple[str, str, str]

_INTEGER = re.compile(r"-?[0-9]+")
#: What a URL may have in place of a number.
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def needles(rule: str) -> Needles:
    """Return three texts one of which is in the stored data of every event that the rule matches.

    Args:
        rule: as in ``Pending``.

    Returns:
        All ``""``, which is in every text, if the rule requires no value.
    """
    loaded = load_rule(rule)
    required = [(path[-1], f"j:{value}") for path, value in loaded.conditions]
    if loaded.match is not None:
        required.append((loaded.match.path[-1], loaded.match.key))
    found = [_of_field(name, key) for name, key in required]
    one, *others = max(found, key=_rarity, default=("",))
    last = others[-1] if others else one
    return one, others[0] if others else one, last


def _rarity(texts: tuple[str, ...]) -> int:
    """Return how much the texts promise to rule out: the longer, the more."""
    return min(map(len, texts))


def _of_field(name: str, key: str) -> tuple[str, ...]:
    """Return up to three texts one of which stands where a field has a value with this key."""
    kind, _, text = key.partition(":")
    field = f"{dump_json(name)}:"
    if kind == "j":
        return _of_value(field, json.loads(text))
    texts = [field + dump_json(text)]
    if text in ("true", "false"):
        texts.append(field + text)
    elif _NUMBER.fullmatch(text) is not None:
        texts += _of_number(field, text)
    return tuple(texts)


def _of_value(before: str, value: object) -> tuple[str, ...]:
    """Return texts one of which is there where this value comes after the text ``before``.

    The members of an object may stand in any order, so of what has parts the part is chosen that
    rules out the most.
    """
    if isinstance(value, (dict, list)) and value:
        return max(_of_parts(before, value), key=_rarity)
    text = dump_json(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _of_number(before, text)
    return (before + text,)


def _of_parts(before: str, value: dict[str, object] | list[object]) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield _of_value(f"{dump_json(name)}:", part)
    else:
        for index, part in enumerate(value):
            yield _of_value("," if index else f"{before}[", part)


def _of_number(before: str, text: str) -> tuple[str, ...]:
    """Return how what is stored of a number begins: it may have been an int, a float, or both."""
    if text == "0":
        return before + text, f"{before}-0"
    texts = [before + text] if _INTEGER.fullmatch(text) is not None else []
    number = float(text)
    if math.isfinite(number):
        as_float = before + dump_json(number)
        texts += [as_float] if not texts or not as_float.startswith(texts[0]) else []
    return tuple(texts)
