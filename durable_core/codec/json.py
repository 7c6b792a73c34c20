"""Strict JSON: the values that step results and events may have, and their text.

``json.dumps`` changes values silently: a tuple comes back as a list, an ``IntEnum`` as an int,
the key ``1`` as ``"1"``. A handler would then see one value in its first execution and another
on replay. So only values that decode to an equal value of the same types are accepted.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn, Protocol

from durable_core.http.json import chunk_encoder

__all__ = ["MAX_DEPTH", "Codec", "JSONCodec", "canonical_json", "check_json", "type_name"]

#: The maximum depth of nested lists and dicts. Every JSON parser can read that depth.
MAX_DEPTH = 100

_SCALARS = frozenset({str, int, float, bool, type(None)})
_RULE = "allowed are str, int, finite float, bool, None, list, and dict with str keys"

_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
)
_DECODER: Any = json.JSONDecoder()
#: Reads the value that begins at a place of a text; StopIteration if none does.
_scan = _DECODER.scan_once


_chunks = chunk_encoder(_ENCODER)


class Codec(Protocol):
    """Converts step results to text and back.

    ``decode(encode(value))`` must equal ``value``: a handler sees the decoded value in its first
    execution too. ``encode`` raises ``TypeError`` for a value that it cannot represent.
    """

    def encode(self, value: object) -> str:
        """Return the text of the value."""
        ...

    def decode(self, text: str) -> object:
        """Return the value of a text that ``encode`` made."""
        ...


class JSONCodec:
    """Strict JSON: exactly str, int, finite float, bool, None, list, and dict with str keys."""

    __slots__ = ()

    def encode(self, value: object) -> str:
        """Return compact JSON.

        Raises:
            TypeError: the value, or a part of it, is not exactly of an allowed type (a subclass
                is not), or is NaN, an infinity, a str with a lone surrogate, an int with more
                digits than Python converts, nested over ``MAX_DEPTH`` deep, or contains itself.
                The message begins with the path of the part, such as ``$.items[2].price``.
        """
        if type(value) not in _SCALARS and not _has_allowed_types(value):
            _explain(value, "$", ())
        try:
            text = "".join(_chunks(value, 0))
            if not text.isascii():
                text.encode("utf-8")
        except ValueError:
            _explain(value, "$", ())
        return text

    def decode(self, text: str) -> object:
        """Return the value of the text; ``ValueError`` if it is not JSON."""
        value: object
        try:
            value, end = _scan(text, 0)
        except StopIteration:
            end = -1
        if end != len(text):
            value = json.loads(text)  # which finds blanks around it, or what is wrong
        return value


def check_json(value: object) -> None:
    """Raise the ``TypeError`` that ``JSONCodec.encode`` raises for this value, if any."""
    JSONCodec().encode(value)


def canonical_json(value: object) -> str:
    """Return one text for all equal JSON values: keys sorted, ``1.0`` and ``1`` both ``1``.

    Args:
        value: a value that ``check_json`` accepts.
    """
    return json.dumps(
        _canonical(value),
        ensure_ascii=False,
        allow_nan=False,
        sort_keys=True,
        separators=(",", ":"),
    )


def _canonical(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    return value


def _has_allowed_types(value: Any, room: int = MAX_DEPTH - 1) -> bool:
    """Return whether all types and the depth are allowed; a value that contains itself is too deep.

    It runs for every step, so it checks scalars without a call for each.
    """
    kind = type(value)
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        items = value.values()
    elif kind is list:
        items = value
    else:
        return kind in _SCALARS
    for item in items:
        if type(item) not in _SCALARS and (room == 0 or not _has_allowed_types(item, room - 1)):
            return False
    return True


def _explain(value: object, path: str, outer: tuple[object, ...]) -> None:
    """Raise the error for the first part of the value that is not allowed. This is slow."""
    if type(value) is dict or type(value) is list:
        if any(value is container for container in outer):
            _refuse(path, "the value contains itself")
        if len(outer) == MAX_DEPTH:
            _refuse(path, f"the value is nested over {MAX_DEPTH} deep")
    if type(value) is dict:
        for key, item in value.items():
            _explain_key(key, path)
            _explain(item, _member(path, key), (*outer, value))
    elif type(value) is list:
        for number, item in enumerate(value):
            _explain(item, f"{path}[{number}]", (*outer, value))
    else:
        _explain_scalar(value, path)


def _explain_key(key: object, path: str) -> None:
    if type(key) is not str:
        _refuse(path, f"the key {key!r} is of type {type_name(type(key))}; {_RULE}")
    _explain_scalar(key, f"{path} (a key)")


def _explain_scalar(value: object, path: str) -> None:
    if type(value) not in _SCALARS:
        _refuse(
            path, f"a value of type {type_name(type(value))} would not come back the same; {_RULE}"
        )
    try:
        _ENCODER.encode(value).encode("utf-8")
    except UnicodeEncodeError:
        _refuse(path, "the str contains a lone surrogate, which UTF-8 cannot represent")
    except ValueError:
        if type(value) is float:
            _refuse(path, f"{value!r} is not finite; {_RULE}")
        _refuse(path, "the int has too many digits for Python to convert; keep it as hex() text")


def _member(path: str, key: str) -> str:
    return f"{path}.{key}" if key.isidentifier() else f"{path}[{json.dumps(key)}]"


def type_name(kind: type) -> str:
    """Return the name of a class as messages have it, with its module unless that is builtins."""
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _refuse(path: str, reason: str) -> NoReturn:
    raise TypeError(f"{path}: {reason}")
