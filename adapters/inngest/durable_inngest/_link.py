"""The reports of one live run: the first call begins the run, with the ops that are there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from durable_core.engines.remote import (
    Clock,
    Ops,
    RunReporter,
    StreamEmitter,
    size_of,
)
from durable_inngest._api import MOST_BYTES, Begun
from durable_inngest._client import ServerClient

__all__ = ["Reporter"]


class Reporter(RunReporter):
    """Reports the ops of a run whose client is attached.

    Args:
        client: calls the server.
        loop: where the client is used.
        clock: tells the time.
        run_id: the run.
        function: what we call its function, the same for each run of it.
        event: what begins it, as JSON.
        retries: how often the server may try a step again.
        end_stream: sees that the server's stream of a run ends, by its id and token.
    """

    def __init__(
        self,
        client: ServerClient,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        run_id: str,
        function: str,
        event: str,
        retries: int,
        end_stream: Callable[[str, str], None],
    ) -> None:
        super().__init__(loop)
        self._client = client
        self._clock = clock
        self._run_id = run_id
        self._function = function
        self._event = event
        self._retries = retries
        self._end_stream = end_stream
        self._redirected = False
        #: What the server said when the run was begun.
        self.begun: Begun | None = None

    @property
    def token(self) -> str:
        """What opens the run's output; "" where the server has given nothing that does."""
        return self.begun.token if self.begun is not None else ""

    @property
    def room(self) -> int:
        """How many bytes of ops the server takes in one call now."""
        return MOST_BYTES - (size_of(self._event) if self.begun is None else 0)

    def end_stream(self) -> None:
        """See that the stream which a client follows to the server ends with the run."""
        self._end_stream(self._run_id, self.token)

    async def send(self, ops: list[str]) -> None:
        """Report ops in one call; see ``RunReporter.send``."""
        now = self._clock.now()
        if self.begun is not None:
            await self._client.go_on(
                run_id=self._run_id, function=self._function, begun=self.begun, ops=ops, ts=now
            )
            return
        self.begun = await self._client.begin(
            run_id=self._run_id,
            function=self._function,
            event=self._event,
            ops=ops,
            ts=now,
            retries=self._retries,
        )

    def recorded(self, ops: Ops, stream: StreamEmitter | None) -> None:
        """Tell the stream that a step counts, and where it goes on after a handoff."""
        if stream is None:
            return
        if ops.commits:
            stream.commit(ops.commits)
        if not self._redirected and self.begun is not None and self.begun.realtime_token:
            self._redirected = True
            stream.redirect(self._client.calls.stream_url(self.begun.realtime_token))
