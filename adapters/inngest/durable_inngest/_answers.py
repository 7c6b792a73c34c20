"""What the server gets for a re-entry."""

from __future__ import annotations

import json
from collections.abc import Sequence

from durable_core.flow.asks import Flow, answer
from durable_core.model.response import Response
from durable_inngest._calls import SDK
from durable_inngest._execution import Found, RemoteExecution

__all__ = ["answer_ops", "answer_with", "internal_error", "server_answer"]

_OWN = (
    ("content-type", "application/json"),
    ("x-inngest-sdk", SDK),
    ("x-inngest-framework", "durable"),
    ("x-inngest-req-version", "2"),
    ("x-inngest-sdk-handled", "true"),
    ("user-agent", SDK),
)


def server_answer(
    status: int, body: str | bytes, headers: Sequence[tuple[str, str]] = ()
) -> Response:
    """Return an answer with all the headers that the server needs."""
    content = body.encode("utf-8") if isinstance(body, str) else body
    return Response(status=status, headers=(*_OWN, *headers), body=content)


def answer_ops(ex: RemoteExecution, ops: Sequence[str], failed: Found | None = None) -> Flow[None]:
    """Answer with ops; a failed step says when it may be tried again."""
    headers: list[tuple[str, str]] = []
    if failed is not None:
        headers.append(("x-inngest-no-retry", "true" if failed.final else "false"))
        if not failed.final:
            headers.append(("retry-after", str(max(1, -(-failed.delay // 1000)))))
    yield from answer_with(ex, server_answer(206, f"[{','.join(ops)}]", headers))


def answer_with(ex: RemoteExecution, response: Response) -> Flow[None]:
    """Give the answer; nothing that the handler does from now on counts."""
    ex.answered = True
    yield from answer(response)


def internal_error(error: BaseException) -> Response:
    """Return the answer when a call cannot be served; the server tries again."""
    fields = {"type": "internal", "name": type(error).__name__, "message": str(error)}
    return server_answer(500, json.dumps(fields), (("x-inngest-no-retry", "false"),))
