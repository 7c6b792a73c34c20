"""Results that came about in this process, for clients that wait in it.

The server looks for a result every two seconds. Where the client that waits was handed off here,
and the run comes to its end here, it need not wait for that.
"""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict
from typing import TypeVar

from durable_core.model.response import Response
from durable_core.runtime.live import Waiters

__all__ = ["Results"]

V = TypeVar("V")

_MOST_TOKENS = 10_000
_MOST_RESPONSES = 200


class Results:
    """Remembers whom this process has handed off, and how runs have ended in it, lately.

    May be used by several threads.

    Args:
        most_waiting: how many clients may be held at a time.
    """

    def __init__(self, most_waiting: int) -> None:
        #: The clients that are held.
        self.waiters = Waiters(most_waiting, _do_nothing)
        self._lock = threading.Lock()
        self._tokens: OrderedDict[str, str] = OrderedDict()
        self._responses: OrderedDict[str, Response] = OrderedDict()

    def handed_off(self, run_id: str, token: str) -> None:
        """Note that a client was given this token."""
        with self._lock:
            _put(self._tokens, run_id, token, _MOST_TOKENS)

    def ended(self, run_id: str, response: Response) -> None:
        """Note how a run has ended, and wake who waits for it."""
        with self._lock:
            if run_id not in self._tokens:
                return
            _put(self._responses, run_id, response, _MOST_RESPONSES)
        self.waiters.ended((run_id,))

    def get(self, run_id: str, token: str) -> Response | None:
        """Return the response of a run, if this process has it and has given out the token."""
        with self._lock:
            response, known = self._responses.get(run_id), self._tokens.get(run_id, "")
        if response is None:
            return None
        is_right = hmac.compare_digest(known.encode(), token.encode("utf-8", "replace"))
        return response if is_right else None


def _put(where: OrderedDict[str, V], key: str, value: V, most: int) -> None:
    where[key] = value
    where.move_to_end(key)
    while len(where) > most:
        where.popitem(last=False)


def _do_nothing() -> None:
    """Nobody has to look for results while clients wait: they come by themselves."""
