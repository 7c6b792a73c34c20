"""What the server is asked and told, from one event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, Sequence

from durable_core.errors import (
    ClientError,
    EngineError,
    EngineUnavailableError,
    RequestTimeoutError,
)
from durable_core.model.outgoing import OutgoingRequest
from durable_core.ports import Ids
from durable_inngest._attempts import Attempts
from durable_inngest._calls import Answered, Begun, Calls, begun
from durable_inngest._functions import Functions
from durable_inngest._reading import ids_of, nothing, refusal

__all__ = ["ServerClient", "Unknown"]


class Unknown(EngineError):  # noqa: N818 - what the server says of the run
    """The server keeps no state of the run any more."""


class ServerClient(Attempts):
    """Calls the server's API; see ``Attempts`` for the arguments."""

    def __init__(self, calls: Calls, ids: Ids) -> None:
        super().__init__(calls, ids)
        self._functions = Functions()

    async def begin(
        self, *, run_id: str, function: str, event: str, ops: Sequence[str], ts: int, retries: int
    ) -> Begun:
        """Begin a run, with its first ops.

        Where an earlier attempt has begun it, and only its answer was lost, a server may refuse
        the next one (409): the ops are told once more then, and no token is known.

        Raises:
            EngineUnavailableError: the server has not taken it.
        """
        known = self._functions.get(function)

        def make(bearer: str) -> OutgoingRequest:
            return self.calls.begin(
                bearer, run_id=run_id, event=event, ops=ops, ts=ts, retries=retries
            )

        made = await self.insist(make, begun, if_there=known)
        if made is known:
            await self.go_on(run_id=run_id, begun=known, ops=ops, ts=ts)
            return known
        self._functions.put(function, made)
        return made

    async def go_on(self, *, run_id: str, begun: Begun, ops: Sequence[str], ts: int) -> None:
        """Report further ops of a run.

        Raises:
            EngineUnavailableError: the server has not taken them.
        """

        def make(bearer: str) -> OutgoingRequest:
            return self.calls.go_on(bearer, run_id=run_id, begun=begun, ops=ops, ts=ts)

        await self.insist(make, nothing)

    async def send(self, events: Sequence[object], seed: str) -> list[str]:
        """Send events; return the ids that the server gives them.

        Raises:
            EngineUnavailableError: the server has not taken them.
        """
        return await self.insist(lambda bearer: self.calls.events(events, seed), ids_of)

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
            return await self.once(self.calls.output(run_id, token, seconds))
        except RequestTimeoutError:
            return None
        except ClientError as error:
            raise EngineUnavailableError(f"the Inngest server does not answer: {error}") from error

    async def tee(self, run_id: str, body: AsyncIterable[bytes]) -> None:
        """Pass on a part of a run's stream.

        Raises:
            ClientError: it did not get through.
        """
        await self.once(self.calls.tee(self.bearer, run_id, body))

    async def _state(self, run_id: str, part: str) -> object:
        def make(bearer: str) -> OutgoingRequest:
            return self.calls.state(bearer, run_id, part)

        try:
            answer = await self.with_fallback(make)
        except ClientError as error:
            raise EngineUnavailableError(f"the Inngest server does not answer: {error}") from error
        if answer.status == 410:
            raise Unknown(f"the Inngest server keeps no state of run {run_id} any more")
        if answer.status != 200:
            raise EngineUnavailableError(refusal(answer))
        return json.loads(answer.body)
