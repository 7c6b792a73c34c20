"""Query and form parameters, parsed when first read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar, TypeVar
from urllib.parse import parse_qsl

from durable_core.errors import BadRequest, MissingParameter

__all__ = ["FormParams", "QueryParams"]

_T = TypeVar("_T")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class QueryParams:
    """The parameters of a URL query, in order; a name may occur more than once.

    Blank values are kept. Bytes that are not UTF-8 become U+FFFD.

    Args:
        raw: the query text, percent-encoded, without the ``?``.
    """

    __slots__ = ("_index", "_items", "_raw")

    _kind: ClassVar[str] = "query parameter"
    _raw: str
    _items: tuple[tuple[str, str], ...] | None
    _index: dict[str, tuple[str, ...]] | None

    def __init__(self, raw: str = "") -> None:
        self._raw = raw
        self._items = None
        self._index = None

    @property
    def raw(self) -> str:
        """The text the parameters were given in, still percent-encoded."""
        return self._raw

    def items(self) -> tuple[tuple[str, str], ...]:
        """Return every ``(name, value)`` pair in order, repeated names too."""
        if self._items is None:
            pairs = parse_qsl(self._raw, keep_blank_values=True) if self._raw else ()
            self._items = tuple(pairs)
        return self._items

    def _by_name(self) -> dict[str, tuple[str, ...]]:
        if self._index is None:
            lists: dict[str, list[str]] = {}
            for name, value in self.items():
                lists.setdefault(name, []).append(value)
            self._index = {name: tuple(values) for name, values in lists.items()}
        return self._index

    def __getitem__(self, name: str) -> str:
        """Return the first value; ``MissingParameter`` (answers 400) when there is none."""
        values = self._by_name().get(name)
        if values is None:
            raise MissingParameter(f"{self._kind} {name!r} is missing")
        return values[0]

    def get(self, name: str, default: _T | None = None) -> str | _T | None:
        """Return the first value, or ``default`` when there is none."""
        values = self._by_name().get(name)
        return default if values is None else values[0]

    def get_all(self, name: str) -> tuple[str, ...]:
        """Return every value of the name in order; empty when there is none."""
        return self._by_name().get(name, ())

    def keys(self) -> tuple[str, ...]:
        """Return the distinct names in order of first appearance."""
        return tuple(self._by_name())

    def __contains__(self, name: object) -> bool:
        return name in self._by_name()

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name())

    def __len__(self) -> int:
        return len(self._by_name())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QueryParams):
            return NotImplemented
        return self.items() == other.items()

    def __hash__(self) -> int:
        return hash(self.items())

    def __repr__(self) -> str:
        """Show the names only: values may be secrets."""
        return f"{type(self).__name__}({', '.join(map(repr, self))})"


class FormParams(QueryParams):
    """The fields of an ``application/x-www-form-urlencoded`` body."""

    __slots__ = ()
    _kind = "form field"

    @classmethod
    def parse(cls, body: bytes) -> FormParams:
        """Read a form body at once.

        Raises:
            BadRequest: the body is not UTF-8, or holds a broken percent escape.
        """
        try:
            text = body.decode("utf-8")
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict") if text else ()
        except UnicodeDecodeError:
            raise BadRequest("the form body is not valid UTF-8") from None
        if _BROKEN_ESCAPE.search(text) is not None:
            raise BadRequest("the form body has a '%' that two hex digits do not follow")
        form = cls(text)
        form._items = tuple(pairs)
        return form
