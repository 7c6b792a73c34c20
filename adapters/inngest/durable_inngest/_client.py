"""What the server is asked and told, from one event loop."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterable, Sequence
from dataclasses import replace

from durable_core.engines.remote import MAX_ATTEMPTS, Answered, Attempts, Ids
from durable_core.errors import (
    ClientError,
    EngineError,
    EngineUnavailableError,
    RequestTimeoutError,
)
from durable_inngest._api import Begun, Calls, begun, ids_of, nothing, receiver_of
from durable_inngest._http import Call, Connections
from durable_inngest._protocol import marker

__all__ = [
    "Functions",
    "RunUnknown",
    "ServerClient",
]


# --- functions ------------------------------------------------------------------------------------
#
# What the server calls functions and their applications: the same in each run.
#
# It makes a function in the background when the first run of it begins. What it is told of a run
# before it has done that is lost, and answered as if it was not: so it is asked, once for each
# function, whether it has what it was told.

_MOST = 1_000
#: More than the state of a run, the largest thing the server hands out.
_MOST_BYTES = 64 * 1024 * 1024


class Functions:
    """Remembers the ids of functions, by our own name of each."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Begun] = OrderedDict()
        self._taken: set[str] = set()

    def get(self, name: str) -> Begun | None:
        """Return the ids of a function, without a token; None if it has not run here yet."""
        return self._known.get(name)

    def put(self, name: str, begun: Begun) -> None:
        """Remember the ids that a run of a function was given."""
        self._known[name] = replace(begun, token="", realtime_token="")
        self._known.move_to_end(name)
        if len(self._known) > _MOST:
            self._taken.discard(self._known.popitem(last=False)[0])

    def is_taken(self, name: str) -> bool:
        """Tell whether the server has taken a checkpoint of a run of the function."""
        return name in self._taken

    def taken(self, name: str) -> None:
        """Note that it has."""
        if name in self._known:
            self._taken.add(name)


# --- client ---------------------------------------------------------------------------------------


#: Seconds after which ops are told again that the server has not saved.
_UNTIL_TAKEN = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


def _is_saved(op: str) -> bool:
    """Tell whether an op, given as JSON, shows in the state of its run once it is taken."""
    return json.loads(op)["op"] in ("StepRun", "RunComplete")


class RunUnknown(EngineError):  # noqa: N818 - what the server says of the run
    """The server keeps no state of the run any more."""


class ServerClient(Attempts[Call]):
    """Calls the server's API.

    Args:
        calls: makes the requests.
        ids: randomness, for the pauses between attempts.
    """

    def __init__(self, calls: Calls, ids: Ids) -> None:
        super().__init__("the Inngest server", calls.bearers, ids)
        self.calls = calls
        self._http = Connections()
        self._functions = Functions()

    def probe_call(self, bearer: str) -> Call:
        """Return a call that any server answers; see ``Attempts``."""
        return self.calls.probe(bearer)

    async def exchange(self, call: Call) -> Answered:
        """Make a call, and read its answer; see ``Attempts``."""
        return await self._http.exchange(call, _MOST_BYTES)

    async def close(self) -> None:
        """Close the kept connections; keep none from now on."""
        await self._http.close()

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

        def make(bearer: str) -> Call:
            return self.calls.begin(
                bearer, run_id=run_id, event=event, ops=ops, ts=ts, retries=retries
            )

        made = await self.retry(make, begun, if_there=known)
        if made is known:
            await self.go_on(run_id=run_id, function=function, begun=known, ops=ops, ts=ts)
            return known
        self._functions.put(function, made)
        return made

    async def go_on(
        self, *, run_id: str, function: str, begun: Begun, ops: Sequence[str], ts: int
    ) -> None:
        """Report further ops of a run.

        Raises:
            EngineUnavailableError: the server has not taken them.
        """

        def make(bearer: str) -> Call:
            return self.calls.go_on(bearer, run_id=run_id, begun=begun, ops=told, ts=ts)

        told, sure = ops, self._functions.is_taken(function)
        if not sure and not any(map(_is_saved, ops)):
            told = (marker(), *ops)
        await self.retry(make, nothing)
        for pause in () if sure else _UNTIL_TAKEN:
            if await self._is_taken(run_id, told):
                self._functions.taken(function)
                return
            await asyncio.sleep(pause)
            await self.retry(make, nothing)  # the first of two equal ones counts

    async def _is_taken(self, run_id: str, ops: Sequence[str]) -> bool:
        """Tell whether the server has saved ops of a run, or does not say that it has not."""
        try:
            actions = await self._state(run_id, "actions")
        except (RunUnknown, EngineUnavailableError, ValueError):
            return True  # the run has ended by these ops, most likely
        saved = actions if isinstance(actions, dict) else {}
        return any(json.loads(op)["id"] in saved for op in ops)

    async def send(self, events: Sequence[object], seed: str) -> list[str]:
        """Send events; return the ids that the server gives them.

        Raises:
            EngineUnavailableError: the server has not taken them.
        """
        return await self.retry(lambda bearer: self.calls.events(events, seed), ids_of)

    async def signal(self, name: str, data: object) -> str | None:
        """Send a signal; return the id of the run that waited for it, or None.

        It is at least once: where an answer was lost, a further attempt may reach the next wait.

        Raises:
            EngineUnavailableError: the server has not taken it.
        """
        return await self.retry(
            lambda bearer: self.calls.signal(bearer, name, data), receiver_of, well=(200, 404)
        )

    async def state(self, run_id: str) -> tuple[object, dict[str, object]]:
        """Return the events of a run and the outcomes of its steps, decoded from JSON.

        Raises:
            RunUnknown: the run has ended, or there never was one.
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
            EngineUnavailableError: it did not get through.
        """
        try:
            await self.once(self.calls.tee(self.bearer, run_id, body))
        except ClientError as error:
            raise EngineUnavailableError(f"the Inngest server has not taken it: {error}") from error

    async def _state(self, run_id: str, part: str) -> object:
        def make(bearer: str) -> Call:
            return self.calls.state(bearer, run_id, part)

        for attempt in range(1, MAX_ATTEMPTS + 1):
            if attempt > 1:
                await self.pause(attempt - 1)
            try:
                answer = await self.with_fallback(make)
            except ClientError as error:
                why = f"the Inngest server does not answer: {error}"
                continue
            if answer.status == 410:
                raise RunUnknown(f"the Inngest server keeps no state of run {run_id} any more")
            if answer.status == 200:
                return json.loads(answer.body)
            why = answer.describe()
        raise EngineUnavailableError(why)
