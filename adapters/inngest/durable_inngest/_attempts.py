"""Making calls to the server: fallback key, further attempts, and whether it is there at all."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TypeVar

from durable_core.errors import ClientError, EngineUnavailableError
from durable_core.model.outgoing import OutgoingRequest
from durable_core.ports import Ids
from durable_core.runtime.http.async_client import AsyncHTTPClient
from durable_core.runtime.http.idle import PoolLimits
from durable_inngest._calls import Answered, Calls
from durable_inngest._reading import refusal

__all__ = ["Attempts"]

T = TypeVar("T")

_ATTEMPTS = 5
#: Statuses below 500 that may be another one soon.
_PASSING = frozenset({408, 425, 429})
_BASE = 0.1
#: What something before a server says that is not there.
_AWAY = frozenset({502, 503, 504})
#: Of a server that has said nothing for so many seconds it is not known whether it is there.
_SILENCE = 10.0
#: More than the state of a run, the largest thing the server hands out.
_MOST_BYTES = 64 * 1024 * 1024
_POOL = PoolLimits(per_origin=100, in_all=128, seconds=30.0)


class Attempts:
    """Makes calls. Belongs to the event loop that it is first used on.

    Args:
        calls: makes the requests.
        ids: randomness, for the pauses between attempts.
    """

    def __init__(self, calls: Calls, ids: Ids) -> None:
        self.calls = calls
        self._ids = ids
        self._http = AsyncHTTPClient(limits=_POOL)
        self._closed = False
        #: The key that the server took last, as bearer token: for what can be sent only once.
        self.bearer = calls.bearers[0]
        #: The last call that was insisted on got no answer.
        self.is_down = False
        self._heard = -math.inf
        self._asking: asyncio.Task[str] | None = None

    @property
    def is_sure(self) -> bool:
        """Whether the server has answered lately: nobody needs to ask if it is there."""
        return not self.is_down and time.monotonic() - self._heard < _SILENCE

    async def reach(self) -> None:
        """Make sure that the server answers; where that is sure, it is not asked.

        Asking costs one exchange, however many want to know at a time, over a connection that is
        used next in any case.

        Raises:
            EngineUnavailableError: it does not.
        """
        if self.is_sure:
            return
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
            self._asking.add_done_callback(self._asked)
        why = await asyncio.shield(self._asking)  # others want to know it, too
        if why:
            raise EngineUnavailableError(f"the Inngest server does not answer: {why}")

    async def _ask(self) -> str:
        """Return why the server is not there, "" if it is; any answer of its own will do."""
        try:
            answer = await self.once(self.calls.probe())
        except ClientError as error:
            return str(error)
        self.is_down = answer.status in _AWAY
        return refusal(answer) if self.is_down else ""

    def _asked(self, asking: asyncio.Task[str]) -> None:
        self._asking = None

    async def close(self) -> None:
        """Close the kept connections; keep none from now on."""
        self._closed = True
        await self._http.close()

    async def insist(
        self,
        make: Callable[[str], OutgoingRequest],
        read: Callable[[Answered], T],
        *,
        if_there: T | None = None,
    ) -> T:
        """Make a call until it is answered well, up to 5 times; return what is read then.

        ``if_there`` is returned where an attempt after the first is told that it has been made.

        Raises:
            EngineUnavailableError: it was not.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer = await self.with_fallback(make)
                if answer.status == 200:
                    self.is_down = False
                    return read(answer)
                if answer.status == 409 and attempt > 1 and if_there is not None:
                    return if_there
                why = refusal(answer)
                may_pass = answer.status in _PASSING or answer.status >= 500
            except (ClientError, ValueError) as error:
                why, may_pass = f"it gave no sound answer: {error}", True
            if not may_pass or attempt == _ATTEMPTS:
                break
            await asyncio.sleep(_BASE * (2 ** (attempt - 1) + self._ids.uniform()))
        self.is_down = may_pass
        raise EngineUnavailableError(f"the Inngest server has not taken it: {why}")

    async def with_fallback(self, make: Callable[[str], OutgoingRequest]) -> Answered:
        """Make a call with the first key; where that is refused, at once with the other one."""
        for bearer in self.calls.bearers:
            answer = await self.once(make(bearer))
            if answer.status not in (401, 403):
                self.bearer = bearer
                break
        return answer

    async def once(self, request: OutgoingRequest) -> Answered:
        """Make a call, and read its answer.

        Raises:
            ClientError: there is none.
        """
        try:
            async with await self._http.send(request) as response:
                body = await response.read(_MOST_BYTES)
                self._heard = time.monotonic()
                return Answered(response.status, dict(response.headers.items()), body)
        finally:
            if self._closed:  # meanwhile: nobody else would close the connection
                await self._http.close()
