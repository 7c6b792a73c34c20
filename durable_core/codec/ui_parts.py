"""The ids of the parts of text and reasoning of a UI message.

A client knows the open parts of a message by their ids alone. Steps that stream side by side may
use the same one, as they do if they call the same function: then the chunks of one would go on in
the part of the other, and its end would be the end of both, after which the client ends the
conversation at the next chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from durable_core.codec.ui_messages import UIChunk

__all__ = ["UIPartIds"]

_KINDS = ("text", "reasoning")
#: Of an open part: its kind, and the id by which its step knows it.
_Name: TypeAlias = tuple[str, str]


class UIPartIds:
    """Gives each open part of a message an id of its own."""

    def __init__(self) -> None:
        self._open: dict[str | None, dict[_Name, str]] = {}  # of each step: the ids of the message
        self._used: set[str] = set()
        self._texts_begun = 0

    def new_text(self) -> str:
        """Return the id of a new part of plain text."""
        self._texts_begun += 1
        return self._use(f"text-{self._texts_begun}")

    def end_text(self, id_: str) -> None:
        """Note that a part of plain text is complete, or void."""
        self._used.discard(id_)

    def of_message(self, chunk: UIChunk, step: str | None) -> Iterator[UIChunk]:
        """Yield a chunk of a step with the id that its part has in the message.

        A delta of a part that was not begun begins it, and the end of such a part is left out.
        """
        kind, _, how = chunk["type"].rpartition("-")
        if kind not in _KINDS or how not in ("start", "delta", "end"):
            yield chunk
            return
        name = kind, chunk["id"]
        owner = self._owner_of(name, step)
        if how == "start" or (how == "delta" and owner is None):
            self._close(name, step)
            id_ = self._open.setdefault(step, {})[name] = self._use(chunk["id"])
            if how == "delta":
                yield {"type": f"{kind}-start", "id": id_}
            yield {**chunk, "id": id_}
        elif owner is not None:
            yield {**chunk, "id": owner[name]}
            if how == "end":
                self._used.discard(owner.pop(name))

    def drop(self, step: str) -> None:
        """Forget the parts of a step whose attempt has failed."""
        self._used.difference_update(self._open.pop(step, {}).values())

    def _owner_of(self, name: _Name, step: str | None) -> dict[_Name, str] | None:
        """Return the parts among which a step means this one: its own first, then any other's."""
        own = self._open.get(step, {})
        if name in own:
            return own
        return next((parts for parts in self._open.values() if name in parts), None)

    def _close(self, name: _Name, step: str | None) -> None:
        id_ = self._open.get(step, {}).pop(name, None)
        if id_ is not None:
            self._used.discard(id_)

    def _use(self, wanted: str) -> str:
        """Return an id that no open part has, and note that one has it now."""
        id_, number = wanted, 1
        while id_ in self._used:
            number += 1
            id_ = f"{wanted}-{number}"
        self._used.add(id_)
        return id_
