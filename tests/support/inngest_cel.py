"""As much of CEL as waits need: equality of paths below ``async`` with literals, and, or.

Literals are what the server makes of them, which takes them out before it parses: the text between
the quotes as it stands, an escaped quote with its backslash; and it crashes where that goes wrong.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

__all__ = ["holds"]

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:\\"|[^"])*"|'(?:\\'|[^'])*')
    | (?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<op>==|&&|\|\||[()\[\]{}.,:])
    )""",
    re.VERBOSE,
)
_MISSING = object()


def holds(expression: str, event: Mapping[str, object]) -> bool:
    """Tell whether the expression is true of an event; ``ValueError`` if it is malformed."""
    if "vars." in expression:
        raise ValueError(f"the name that literals get is used: {expression!r}")
    parser = _Parser(expression, event)
    value = parser.either()
    if parser.tokens:
        raise ValueError(f"unexpected {parser.tokens[0]} in {expression!r}")
    return value is True


class _Parser:
    def __init__(self, text: str, event: Mapping[str, object]) -> None:
        self.event = event
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise ValueError(f"not CEL at {at}: {text!r}")
            kind = found.lastgroup
            assert kind is not None
            self.tokens.append((kind, found[kind]))
            at = found.end()

    def accept(self, op: str) -> bool:
        if self.tokens and self.tokens[0] == ("op", op):
            self.tokens.pop(0)
            return True
        return False

    def expect(self, op: str) -> None:
        if not self.accept(op):
            raise ValueError(f"expected {op}, found {self.tokens[:1]}")

    def either(self) -> object:
        value = self.both()
        while self.accept("||"):
            other = self.both()
            value = value is True or other is True
        return value

    def both(self) -> object:
        value = self.equality()
        while self.accept("&&"):
            other = self.equality()
            value = value is True and other is True
        return value

    def equality(self) -> object:
        left = self.primary()
        if not self.accept("=="):
            return left
        right = self.primary()
        return _MISSING not in (left, right) and _same(left, right)

    def primary(self) -> Any:
        if self.accept("("):
            value = self.either()
            self.expect(")")
            return value
        if self.accept("["):
            return self._items("]", self.primary)
        if self.accept("{"):
            return dict(self._items("}", self._pair))
        kind, text = self.tokens.pop(0)
        if kind == "string":
            return text[1:-1]
        if kind == "number":
            return json.loads(text)
        if text in ("true", "false", "null"):
            return json.loads(text)
        if text in ("dyn", "b64decode"):
            return self._call(text)
        if text != "async":
            raise ValueError(f"unknown name {text}")
        return self._path()

    def _call(self, function: str) -> Any:
        self.expect("(")
        value = self.primary()
        self.expect(")")
        if function == "dyn":
            return value
        return b64decode(value, validate=True).decode("utf-8", "surrogatepass")

    def _items(self, end: str, item: Any) -> list[Any]:
        items: list[Any] = []
        while not self.accept(end):
            items.append(item())
            if not self.accept(","):
                self.expect(end)
                break
        return items

    def _pair(self) -> tuple[Any, Any]:
        key = self.primary()
        self.expect(":")
        return key, self.primary()

    def _path(self) -> object:
        value: object = self.event
        while True:
            if self.accept("."):
                name: object = self.tokens.pop(0)[1]
            elif self.accept("["):
                name = self.primary()
                self.expect("]")
            else:
                return value
            value = value.get(name, _MISSING) if isinstance(value, Mapping) else _MISSING


def _same(left: object, right: object) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return left == right
    return type(left) is type(right) and left == right
