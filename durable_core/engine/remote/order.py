"""The order in which steps have finished, where a handler that has several at a time may see it.

A server may hand outcomes over in any order, and call again after each. Which of two steps was the
first is therefore kept in the run's state: a call that sees a further outcome while another step is
still asked for reports its place first, and goes on only when it is called again. The server keeps
the first of two such reports, so all later calls agree.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "CompletionOrder",
]


class CompletionOrder:
    """What is known of the order of outcomes, and which steps are asked for at a time.

    Args:
        known: ids of steps in the order in which they have finished, as far as that is kept.

    Attributes:
        unknown: ids of steps whose outcome is there, and its place in the order not.
        finished: ids of steps that have finished here beside others, in order.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = {op_id: place for place, op_id in enumerate(dict.fromkeys(known), 1)}
        self._asked: dict[str, int] = {}
        self._undecided: set[str] = set()
        self._beside: set[str] = set()
        self._after: set[str] = set()
        self._last = ""
        self.unknown: list[str] = []
        self.finished: list[str] = []

    @property
    def is_parallel(self) -> bool:
        """Whether several steps were asked for at a time in this run."""
        return bool(self._known or self._beside)

    def ask(self, op_id: str) -> None:
        """Note that the handler asks for a step."""
        self._asked[op_id] = len(self._known) + len(self._asked) + 1
        if self._undecided:
            self._beside |= {op_id, *self._undecided}
        elif self._last in self._beside:
            # The server calls for each that finishes beside others: this call is one of several.
            self._after.add(op_id)
        self._undecided.add(op_id)

    def decide(self, op_id: str) -> None:
        """Note that the handler waits for a step no more."""
        self._undecided.discard(op_id)

    def place(self, op_id: str) -> int:
        """Return the place of an outcome; those not known come last, as they were asked for."""
        return self._known.get(op_id) or self._asked[op_id]

    def is_apart(self, op_id: str) -> bool:
        """Tell whether a step needs a call of its own: it is beside others, or the next one."""
        return op_id in self._beside or op_id in self._after

    def is_known(self, op_id: str) -> bool:
        """Tell whether the handler may see an outcome now: no other one may come before it."""
        is_known = op_id in self._known or self._undecided <= {op_id}
        if is_known:
            self._last = op_id
        return is_known

    def finish(self, op_id: str) -> None:
        """Note that a step has finished here."""
        self._last = op_id
        if not self._undecided <= {op_id}:
            self.finished.append(op_id)
