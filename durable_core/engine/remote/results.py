"""Results that came about in this process, for clients that wait in it.

The server is asked for a result, or looks for it, now and then. Where the client that waits was
handed off here, and the run comes to its end here, it need not wait for that.
"""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict
from dataclasses import dataclass

from durable_core.http.response import Response
from durable_core.runners.live import Waiters

__all__ = [
    "Ended",
    "Results",
]

_MOST_TOKENS = 10_000
#: Bytes of all responses together.
_MOST_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run has ended.

    Attributes:
        response: its response; if it has failed, its problem document.
        failed: it has failed, or was cancelled.
    """

    response: Response
    failed: bool = False


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
        self._followed: set[str] = set()
        self._responses: OrderedDict[str, Ended] = OrderedDict()
        self._size = 0

    def handed_off(self, run_id: str, token: str, *, followed: bool = False) -> None:
        """Note that a client was given this token, or follows the run's stream to the server."""
        with self._lock:
            self._tokens[run_id] = token
            self._tokens.move_to_end(run_id)
            if followed:
                self._followed.add(run_id)
            while len(self._tokens) > _MOST_TOKENS:
                self._followed.discard(self._tokens.popitem(last=False)[0])

    def is_followed(self, run_id: str) -> bool:
        """Tell whether a client was sent from here to the stream of a run at the server."""
        with self._lock:
            return run_id in self._followed

    def ended(self, run_id: str, response: Response, *, failed: bool = False) -> None:
        """Note how a run has ended, and wake who waits for it."""
        with self._lock:
            if run_id not in self._tokens:
                return
            self._keep(run_id, Ended(response, failed))
        self.waiters.wake((run_id,))

    def _keep(self, run_id: str, ended: Ended) -> None:
        before = self._responses.pop(run_id, None)
        self._responses[run_id] = ended
        self._size += _size(ended) - (_size(before) if before is not None else 0)
        while self._size > _MOST_BYTES:
            self._size -= _size(self._responses.popitem(last=False)[1])

    def knows(self, run_id: str, token: str) -> bool:
        """Tell whether this process has given out the token, for that run."""
        with self._lock:
            known = self._tokens.get(run_id, "")
        texts = (each.encode("utf-8", "replace") for each in (known, token))
        return bool(known) and hmac.compare_digest(*texts)

    def get(self, run_id: str, token: str) -> Ended | None:
        """Return the end of a run, if this process has it and has given out the token."""
        with self._lock:
            ended = self._responses.get(run_id)
        return ended if ended is not None and self.knows(run_id, token) else None


def _size(ended: Ended) -> int:
    response = ended.response
    assert isinstance(response.body, bytes)
    fields = sum(len(name) + len(value) for name, value in response.headers.items())
    return 1024 + fields + len(response.body)


def _do_nothing() -> None:
    """Nobody has to look for results while clients wait: they come by themselves."""
