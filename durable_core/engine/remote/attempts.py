"""Calls of a server: a second key, further attempts, and whether the server is there at all."""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from durable_core.errors import ClientError, EngineUnavailableError
from durable_core.ports import Ids

__all__ = ["MAX_ATTEMPTS", "Answered", "Attempts"]

T = TypeVar("T")
CallT = TypeVar("CallT")

#: How often a call is made at most.
MAX_ATTEMPTS = 5
#: Statuses below 500 that may be another one soon.
_PASSING = frozenset({408, 425, 429})
_BASE = 0.1
#: What a server says to a wrong key.
_REFUSED = frozenset({401, 403})
#: What something before a server says that is not there.
_AWAY = frozenset({502, 503, 504})
#: Of a server that has said nothing for so many seconds it is not known whether it is there.
_SILENCE = 10.0


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole answer; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def describe(self) -> str:
        """Return what an answer that is no success says, for a log."""
        text = self.body[:200].decode("utf-8", "replace").strip()
        return f"it answers {self.status} {text}".rstrip()


class Attempts(ABC, Generic[CallT]):
    """Makes calls. Belongs to the event loop that it is first used on.

    Args:
        server: what errors call the server.
        bearers: what proves who we are, the first to be tried first; one at least.
        ids: randomness, for the pauses between attempts.

    Attributes:
        bearer: what the server took last, for calls that can be made only once.
        is_down: the last call that was retried got no answer.
    """

    def __init__(self, server: str, bearers: Sequence[str], ids: Ids) -> None:
        self._server = server
        self._bearers = bearers
        self._ids = ids
        self.bearer = bearers[0]
        self.is_down = False
        self._heard = -math.inf
        self._asking: asyncio.Task[str] | None = None

    @abstractmethod
    def probe_call(self, bearer: str) -> CallT:
        """Return a call that any server which is there answers somehow, a wrong key with 401."""

    @abstractmethod
    async def exchange(self, call: CallT) -> Answered:
        """Make a call, and read its answer.

        Raises:
            ClientError: there is none.
        """

    @property
    def is_reachable(self) -> bool:
        """Whether the server has answered lately: nobody needs to ask if it is there."""
        return not self.is_down and time.monotonic() - self._heard < _SILENCE

    async def probe(self) -> None:
        """Make sure that the server answers; where that is sure, it is not asked.

        Asking costs one exchange, however many want to know at a time, over a connection that is
        used next in any case.

        Raises:
            EngineUnavailableError: it does not.
        """
        if self.is_reachable:
            return
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        why = await asyncio.shield(self._asking)  # others want to know it, too
        if why:
            raise EngineUnavailableError(f"{self._server} cannot be used: {why}")

    async def _ask(self) -> str:
        """Return why the server is of no use, "" if it is; any answer but to the key will do."""
        try:
            answer = await self.with_fallback(self.probe_call)
        except ClientError as error:
            return f"it does not answer: {error}"
        self.is_down = answer.status in _AWAY | _REFUSED
        if answer.status in _REFUSED:
            return f"it does not take the signing key: {answer.describe()}"
        return answer.describe() if self.is_down else ""

    def _asked(self, asking: asyncio.Task[str]) -> None:
        self._asking = None

    async def retry(
        self,
        make: Callable[[str], CallT],
        read: Callable[[Answered], T],
        *,
        if_there: T | None = None,
        well: Collection[int] = (200,),
    ) -> T:
        """Make a call until it is answered well, up to 5 times; return what is read then.

        ``if_there`` is returned where an attempt after the first is told that it has been made.
        ``well`` are the statuses of answers that are read.

        Raises:
            EngineUnavailableError: it was not.
        """
        for attempt in range(1, MAX_ATTEMPTS + 1):
            status = 0
            try:
                answer = await self.with_fallback(make)
                status = answer.status
                if answer.status in well:
                    self.is_down = False
                    return read(answer)
                if answer.status == 409 and attempt > 1 and if_there is not None:
                    return if_there
                why = answer.describe()
                may_pass = answer.status in _PASSING or answer.status >= 500
            except (ClientError, ValueError) as error:
                why, may_pass = f"it gave no sound answer: {error}", True
            if not may_pass or attempt == MAX_ATTEMPTS:
                break
            await self.pause(attempt)
        self.is_down = may_pass or status in _REFUSED
        raise EngineUnavailableError(f"{self._server} has not taken it: {why}")

    async def pause(self, attempt: int) -> None:
        """Wait before the attempt that follows this one."""
        await asyncio.sleep(_BASE * (2 ** (attempt - 1) + self._ids.uniform()))

    async def with_fallback(self, make: Callable[[str], CallT]) -> Answered:
        """Make a call with the first key; where that is refused, at once with the other one."""
        for bearer in self._bearers:
            answer = await self.once(make(bearer))
            if answer.status not in _REFUSED:
                self.bearer = bearer
                break
        return answer

    async def once(self, call: CallT) -> Answered:
        """Make a call, and read its answer.

        Raises:
            ClientError: there is none.
        """
        answer = await self.exchange(call)
        self._heard = time.monotonic()
        return answer
