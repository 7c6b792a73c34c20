"""The events of an agent as chunks of a UI message, sent while the model answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from pydantic_ai.messages import AgentStreamEvent
from pydantic_ai.tools import RunContext
from pydantic_ai.ui.vercel_ai import VercelAIEventStream

from durable_core import stream

__all__ = ["push_model_events", "push_tool_events"]

#: What the engine itself sends, once for a message.
_FRAME = frozenset({"start", "finish", "done"})
#: What a step has sent already when the handler sees its events.
_OF_MODEL = frozenset(
    {
        *("text-start", "text-delta", "text-end"),
        *("reasoning-start", "reasoning-delta", "reasoning-end"),
        *("tool-input-start", "tool-input-delta"),
        *("file", "source-url", "source-document", "start-step", "finish-step"),
    }
)


async def push_model_events(
    context: RunContext[Any], events: AsyncIterable[AgentStreamEvent]
) -> None:
    """Send what a model answers, while its step receives it."""
    async for chunk in _chunks(events):
        stream.ui_message(chunk)


async def push_tool_events(
    events: AsyncIterable[AgentStreamEvent],
) -> AsyncIterator[AgentStreamEvent]:
    """Yield the events of an agent, as its handler sees them, and send those of tools.

    Those of models were sent by their steps; they are read for what the encoder must know.
    """
    encoder: VercelAIEventStream[Any, Any] = VercelAIEventStream(sdk_version=6)
    async for event in events:
        async for chunk in encoder.handle_event(event):
            members = json.loads(chunk.encode(encoder.sdk_version))
            if members["type"] not in _OF_MODEL:
                stream.ui_message(members)
        yield event


async def _chunks(events: AsyncIterable[AgentStreamEvent]) -> AsyncIterator[dict[str, Any]]:
    encoder: VercelAIEventStream[Any, Any] = VercelAIEventStream(sdk_version=6)

    async def iterate() -> AsyncIterator[AgentStreamEvent]:
        async for event in events:
            yield event

    async for chunk in encoder.transform_stream(iterate()):
        if chunk.type not in _FRAME:  # type: ignore[attr-defined]
            yield json.loads(chunk.encode(encoder.sdk_version))
