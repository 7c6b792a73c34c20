"""Results that came about in this process, for clients that wait in it.

The server looks for a result every two seconds. Where the client that waits was handed off here,
and the run comes to its end here, it need not wait for that.
"""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict

from durable_core.model.response import Response
from durable_core.runtime.live import Waiters

__all__ = ["Results"]

_MOST_TOKENS = 10_000
#: Bytes of all responses together.
_MOST_BYTES = 32 * 1024 * 1024


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
        self._size = 0

    def handed_off(self, run_id: str, token: str) -> None:
        """Note that a client was given this token."""
        with self._lock:
            self._tokens[run_id] = token
            self._tokens.move_to_end(run_id)
            while len(self._tokens) > _MOST_TOKENS:
                self._tokens.popitem(last=False)

    def ended(self, run_id: str, response: Response) -> None:
        """Note how a run has ended, and wake who waits for it."""
        with self._lock:
            if run_id not in self._tokens:
                return
            self._keep(run_id, response)
        self.waiters.ended((run_id,))

    def _keep(self, run_id: str, response: Response) -> None:
        before = self._responses.pop(run_id, None)
        self._responses[run_id] = response
        self._size += _size(response) - (_size(before) if before is not None else 0)
        while self._size > _MOST_BYTES:
            self._size -= _size(self._responses.popitem(last=False)[1])

    def get(self, run_id: str, token: str) -> Response | None:
        """Return the response of a run, if this process has it and has given out the token."""
        with self._lock:
            response, known = self._responses.get(run_id), self._tokens.get(run_id, "")
        if response is None:
            return None
        is_right = hmac.compare_digest(
            *(each.encode("utf-8", "replace") for each in (known, token))
        )
        return response if is_right else None


def _size(response: Response) -> int:
    assert isinstance(response.body, bytes)
    fields = sum(len(name) + len(value) for name, value in response.headers.items())
    return 1024 + fields + len(response.body)


def _do_nothing() -> None:
    """Nobody has to look for results while clients wait: they come by themselves."""
