"""Calling the server from one event loop: fallback key, further attempts, and what failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, Callable, Sequence
from typing import TypeVar

from durable_core.errors import (
    ClientError,
    EngineError,
    EngineUnavailableError,
    RequestTimeoutError,
)
from durable_core.model.outgoing import OutgoingRequest
from durable_core.ports import Ids
from durable_core.runtime.http.async_client import AsyncHTTPClient
from durable_core.runtime.http.idle import PoolLimits
from durable_inngest._calls import Answered, Begun, Calls, begun
from durable_inngest._reading import ids_of, nothing, refusal

__all__ = ["ATTEMPTS", "ServerClient", "Unknown"]

T = TypeVar("T")

ATTEMPTS = 5
#: Statuses below 500 that may be another one soon.
_PASSING = frozenset({408, 425, 429})
_BASE = 0.1
#: More than the state of a run, the largest thing the server hands out.
_MOST_BYTES = 64 * 1024 * 1024
_POOL = PoolLimits(per_origin=100, in_all=128, seconds=30.0)


class Unknown(EngineError):  # noqa: N818 - what the server says of the run
    """The server keeps no state of the run any more."""


class ServerClient:
    """Calls the server. Belongs to the event loop that it is first used on.

    Args:
        calls: makes the requests.
        ids: randomness, for the pauses between attempts.
    """

    def __init__(self, calls: Calls, ids: Ids) -> None:
        self.calls = calls
        self._ids = ids
        self._http = AsyncHTTPClient(limits=_POOL)
        self._closed = False
        #: The last call that was insisted on got no answer.
        self.is_down = False

    async def begin(
        self, *, run_id: str, event: str, ops: Sequence[str], ts: int, retries: int
    ) -> Begun:
        """Begin a run, with its first ops.

        Raises:
            EngineUnavailableError: the server has not taken it.
        """

        def make(bearer: str) -> OutgoingRequest:
            return self.calls.begin(
                bearer, run_id=run_id, event=event, ops=ops, ts=ts, retries=retries
            )

        return await self._insist(make, begun)

    async def go_on(self, *, run_id: str, begun: Begun, ops: Sequence[str], ts: int) -> None:
        """Report further ops of a run.

        Raises:
            EngineUnavailableError: the server has not taken them.
        """

        def make(bearer: str) -> OutgoingRequest:
            return self.calls.go_on(bearer, run_id=run_id, begun=begun, ops=ops, ts=ts)

        await self._insist(make, nothing)

    async def send(self, events: Sequence[object], seed: str) -> list[str]:
        """Send events; return the ids that the server gives them.

        Raises:
            EngineUnavailableError: the server has not taken them.
        """
        return await self._insist(lambda bearer: self.calls.events(events, seed), ids_of)

    async def state(self, run_id: str) -> tuple[object, dict[str, object]]:
        """Return the events of a run and the outcomes of its steps, decoded from JSON.

        Raises:
            Unknown: the run has ended, or there never was one.
            EngineUnavailableError: the server does not say.
            ValueError: what it says makes no sense.
        """
        batch, actions = await asyncio.gather(
            self._state(run_id, "batch"), self._state(run_id, "actions")
        )
        if not isinstance(actions, dict):
            raise ValueError("the state of the run is no object")
        return batch, actions

    async def output(self, run_id: str, token: str, seconds: float) -> Answered | None:
        """Wait for the output of a run; None if it is not there after so many seconds.

        Raises:
            EngineUnavailableError: the server does not answer.
        """
        try:
            return await self._once(self.calls.output(run_id, token, seconds))
        except RequestTimeoutError:
            return None
        except ClientError as error:
            raise EngineUnavailableError(f"the Inngest server does not answer: {error}") from error

    async def tee(self, run_id: str, body: AsyncIterable[bytes]) -> None:
        """Pass on a part of a run's stream.

        Raises:
            ClientError: it did not get through.
        """
        await self._once(self.calls.tee(self.calls.bearers[0], run_id, body))

    async def is_there(self) -> bool:
        """Tell whether the server answers, after it did not; costs nothing while it does."""
        if not self.is_down:
            return True
        try:
            await self._once(self.calls.probe())
        except ClientError:
            return False
        self.is_down = False
        return True

    async def close(self) -> None:
        """Close the kept connections; keep none from now on."""
        self._closed = True
        await self._http.close()

    # -- attempts ---------------------------------------------------------------------------

    async def _state(self, run_id: str, part: str) -> object:
        def make(bearer: str) -> OutgoingRequest:
            return self.calls.state(bearer, run_id, part)

        try:
            answer = await self._with_fallback(make)
        except ClientError as error:
            raise EngineUnavailableError(f"the Inngest server does not answer: {error}") from error
        if answer.status == 410:
            raise Unknown(f"the Inngest server keeps no state of run {run_id} any more")
        if answer.status != 200:
            raise EngineUnavailableError(refusal(answer))
        return json.loads(answer.body)

    async def _insist(
        self, make: Callable[[str], OutgoingRequest], read: Callable[[Answered], T]
    ) -> T:
        """Make a call until it is answered well, up to 5 times."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = await self._with_fallback(make)
                if answer.status == 200:
                    self.is_down = False
                    return read(answer)
                why = refusal(answer)
                may_pass = answer.status in _PASSING or answer.status >= 500
            except (ClientError, ValueError) as error:
                why, may_pass = f"it gave no sound answer: {error}", True
            if not may_pass or attempt == ATTEMPTS:
                break
            await asyncio.sleep(_BASE * (2 ** (attempt - 1) + self._ids.uniform()))
        self.is_down = may_pass
        raise EngineUnavailableError(f"the Inngest server has not taken it: {why}")

    async def _with_fallback(self, make: Callable[[str], OutgoingRequest]) -> Answered:
        """Make a call with the first key; where that is refused, at once with the other one."""
        first, *others = self.calls.bearers
        answer = await self._once(make(first))
        for bearer in others:
            if answer.status in (401, 403):
                answer = await self._once(make(bearer))
        return answer

    async def _once(self, request: OutgoingRequest) -> Answered:
        try:
            async with await self._http.send(request) as response:
                body = await response.read(_MOST_BYTES)
                return Answered(response.status, dict(response.headers.items()), body)
        finally:
            if self._closed:  # meanwhile: nobody else would close the connection
                await self._http.close()
