"""The requests that a client of a stream makes, as its machine asks for them."""

from __future__ import annotations

from dataclasses import dataclass

from durable_core.model.outgoing import OutgoingBody, OutgoingRequest, Timeouts
from durable_core.wire.following_commands import Open

__all__ = ["Requests"]

#: Until there is a connection, seconds.
_CONNECT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """What all requests of a client have in common, or take from the first.

    Attributes:
        body: of the first request.
        idle_timeout: seconds without a byte after which a connection counts as broken.
    """

    body: OutgoingBody
    idle_timeout: float | None

    def of(self, command: Open) -> OutgoingRequest:
        """Return the request that the machine asks for."""
        return OutgoingRequest(
            method=command.method,
            url=command.url,
            headers=command.headers,
            body=self.body if command.sends_body else None,
            timeouts=Timeouts(connect=_CONNECT, idle=self.idle_timeout),
        )
