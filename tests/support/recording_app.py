"""An application for the adapter kit that keeps what it is asked."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from durable_core import BadRequest, HTTPError, Limits, Request, Response
from durable_core.runners.event_loops import LoopThread

__all__ = ["RecordingApp", "refusal_of"]

T = TypeVar("T")


class RecordingApp:
    """Answers each request with a response.

    Args:
        answer: the response, or what makes it.
        limits: of requests.

    Attributes:
        requests: what it was asked.
        asked: the ``max_wait`` and the ``route`` of each.
    """

    logger = logging.getLogger("durable.adapter")

    def __init__(
        self,
        answer: Response | Callable[[Request], Response] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.requests: list[Request] = []
        self.asked: list[tuple[float, str | None]] = []
        self._answer = answer or Response()

    def respond(self, request: Request, *, max_wait: float, route: str | None) -> Response:
        self.requests.append(request)
        self.asked.append((max_wait, route))
        return self._answer if isinstance(self._answer, Response) else self._answer(request)

    async def respond_async(
        self, request: Request, *, max_wait: float, route: str | None
    ) -> Response:
        return self.respond(request, max_wait=max_wait, route=route)

    def run_on_background_loop(self, awaitable: Awaitable[T]) -> T:
        if not hasattr(self, "_loop"):
            self._loop = LoopThread()
        return self._loop.run(awaitable)

    def close(self) -> None:
        """End the event loop, if there is one."""
        if hasattr(self, "_loop"):
            self._loop.stop()


def refusal_of(status: int, body: bytes) -> HTTPError:
    """Return the error that a problem document was made of."""
    detail = str(json.loads(body).get("detail", ""))
    return BadRequest(detail) if status == 400 else HTTPError(status, detail)
