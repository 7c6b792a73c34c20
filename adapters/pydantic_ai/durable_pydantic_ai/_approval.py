"""Agents that wait for an answer from outside: an approval of a call, or its result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

from pydantic import JsonValue
from pydantic_ai.capabilities import RequestInput
from pydantic_ai.durable_exec import ExternalEventError, ExternalEventWaiter
from pydantic_ai.tools import DeferredToolRequests, RunContext

from durable_core import Event, run, step, stream

__all__ = ["EventWaiter", "answer_event", "ask_in_chat"]

#: The name of the event that answers a token.
_EVENT = "agent/answer/{token}"
#: For how long a run waits that sets no time-out: the longest wait there is.
_LONGEST = timedelta(days=366)


def answer_event(token: str, answer: object = None, *, error: str | None = None) -> Event:
    """Return the event that ends the wait of an agent; send it by ``durable.send``.

    It is kept, so it may come before the agent waits. The first one counts.

    Args:
        token: that of the wait.
        answer: JSON values. For deferred tool calls that is ``{"approvals": {id: True}, "calls":
            {id: result}}``, by the id of the call, the JSON form of ``DeferredToolResults``.
        error: why there is no answer; the agent is told.

    Raises:
        ValueError: no token.
    """
    if not token:
        raise ValueError("the token of an agent's wait must not be empty")
    data = {"answer": answer} if error is None else {"error": error}
    return Event(_EVENT.format(token=token), data)


def ask_in_chat(*, timeout: timedelta | None = None, name: str = "approval") -> RequestInput[Any]:
    """Return a capability that asks the reader of a chat for deferred tool calls, and waits.

    The page gets a chunk ``tool-approval-request`` for each call; the token of the wait is its
    ``approvalDescriptor``. Answer by :func:`answer_event`.

    Args:
        timeout: how long to wait; then the calls are denied. None: for up to 366 days.
        name: of the wait.
    """

    def ask(context: RunContext[Any], requests: DeferredToolRequests, token: str) -> None:
        for call in requests.approvals:
            stream.ui_message(
                {
                    "type": "tool-approval-request",
                    "toolCallId": call.tool_call_id,
                    "approvalId": call.tool_call_id,
                    "approvalDescriptor": {"token": token},
                }
            )

    return RequestInput(ask, timeout=timeout, name=name)


class EventWaiter(ExternalEventWaiter):
    """Waits for external events of pydantic-ai by ``step.wait_for_event``.

    Args:
        prefix: of the ids of its steps.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._waits: dict[str, int] = {}

    async def wait(
        self,
        name: str,
        *,
        ask: Callable[[str], Awaitable[JsonValue]],
        timeout: timedelta | None,
    ) -> JsonValue:
        """Ask in a step, and suspend the run until there is an answer; see ExternalEventWaiter."""
        number = self._waits.get(name, 0)
        self._waits[name] = number + 1
        id_ = f"{self._prefix}__external_event.{name}" + (f":{number}" if number else "")
        token = f"{run.id}.{id_}"

        async def call() -> dict[str, JsonValue]:
            return {"answer": await ask(token)}

        asked = await step.run(f"{id_}.ask", call)
        if asked["answer"] is not None:
            return asked["answer"]
        event = await step.wait_for_event(
            id_, event=_EVENT.format(token=token), timeout=timeout or _LONGEST
        )
        if event is None:
            raise ExternalEventError("the time to answer is over")
        return _payload_of(event.data)


def _payload_of(data: object) -> JsonValue:
    if isinstance(data, Mapping) and isinstance(data.get("error"), str):
        raise ExternalEventError(data["error"])
    payload: JsonValue = data.get("answer") if isinstance(data, Mapping) else None
    return payload
