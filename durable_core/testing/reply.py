"""What a client of a test gets."""

from __future__ import annotations

import json
from collections.abc import Callable

from durable_core.model.headers import Headers
from durable_core.model.request import Request
from durable_core.model.response import Response

__all__ = ["Reply"]


class Reply:
    """A response as a client sees it, its body read to the end.

    Attributes:
        request: what it answers.
        status: the status code.
        headers: the header fields.
        body: the content, as bytes.
        run_id: the run that was begun for the request, or that it asked for; None if there is
            none.
        is_handoff: the client is sent to wait elsewhere, by a redirect or a token.
    """

    def __init__(
        self,
        request: Request,
        response: Response,
        body: bytes,
        run_id: str | None,
        final: Callable[[Reply], Reply],
    ) -> None:
        self.request = request
        self.status = response.status
        self.headers: Headers = response.headers
        self.body = body
        known = run_id or _run_of(request)
        self.is_handoff = known is not None and _refers_to(known, self)
        self.run_id = known
        self._final = final

    @property
    def text(self) -> str:
        """The body as text in UTF-8."""
        return self.body.decode("utf-8")

    def json(self) -> object:
        """Return the body as JSON.

        Raises:
            ValueError: it is none.
        """
        return json.loads(self.body)

    def result(self) -> Reply:
        """Return the final response: this one, or that of the run it is a handoff of.

        The clock does not move for that.

        Raises:
            NotFinishedError: the run has no result yet; the message says what it waits for.
        """
        return self._final(self) if self.is_handoff else self

    def __repr__(self) -> str:
        """Show the status, and where a handoff leads to."""
        what = f"handoff of run {self.run_id}" if self.is_handoff else f"{len(self.body)} bytes"
        return f"<Reply {self.status}, {what}>"


def _run_of(request: Request) -> str | None:
    """Return the run that a request to a wait URL asks for."""
    return request.query.get("durable-run") or request.query.get("runId")


def _refers_to(run_id: str, reply: Reply) -> bool:
    if reply.status in (302, 303):
        return run_id in (reply.headers.get("location") or "")
    return reply.status == 200 and _is_token(reply)


def _is_token(reply: Reply) -> bool:
    """Tell whether the body is that of ``async_response="token"``."""
    try:
        value = reply.json()
    except ValueError:
        return False
    return isinstance(value, dict) and value.keys() == {"run_id", "token"}
