"""What the server calls functions and their applications: the same in each run."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from durable_inngest._calls import Begun

__all__ = ["Functions"]

_MOST = 1_000


class Functions:
    """Remembers the ids of functions, by our own name of each."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Begun] = OrderedDict()

    def get(self, name: str) -> Begun | None:
        """Return the ids of a function, without a token; None if it has not run here yet."""
        return self._known.get(name)

    def put(self, name: str, begun: Begun) -> None:
        """Remember the ids that a run of a function was given."""
        self._known[name] = replace(begun, token="", realtime_token="")
        self._known.move_to_end(name)
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
