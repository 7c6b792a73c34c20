"""A tea shop's assistant: an agent that talks to a chat page, and survives ``kill -9``.

``python3 dev.py example agent_chat [--port 8000]`` serves it. The agent is one of pydantic-ai; each
of its model requests and tool calls is a step. Its model follows a script, so no key is needed. The
page speaks the protocol of ``useChat``; that hook itself can be used in its place. Nothing is
ordered before the reader has approved it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.ui.vercel_ai import VercelAIAdapter
from pydantic_ai.ui.vercel_ai.request_types import UIMessage
from supervised import add_page, serve

from durable_core import Durable, RetryPolicy
from durable_pydantic_ai import StepDurability, answer_event, ask_in_chat
from durable_starlette import endpoint_adapter

STORE = Path(os.environ.get("AGENT_STORE", ".durable/agent_chat.db"))
#: How long the model takes for a word; a tool takes eight times as long, in seconds.
SLOWNESS = float(os.environ.get("AGENT_SLOWNESS", "0.25"))

durable = Durable(
    id="agent-chat",
    endpoint_adapter=endpoint_adapter,
    store=STORE,
    retry=RetryPolicy(base="500ms"),
)
app = FastAPI(title="Tea shop", lifespan=durable.lifespan)
add_page(app)


async def script(
    messages: list[ModelMessage], info: AgentInfo
) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    """Stand in for a language model: look at the stock, order, and say what was done."""
    results = results_of_turn(messages)
    if "stock" not in results:
        async for word in say("Let me see which teas we have today."):
            yield word
        yield {1: DeltaToolCall("stock", "{}", tool_call_id=f"stock-{len(messages)}")}
    elif "order" not in results:
        async for word in say(f"There is {results['stock']}. I would order some for you."):
            yield word
        yield {1: DeltaToolCall("order", '{"grams": 100}', tool_call_id=f"order-{len(messages)}")}
    else:
        async for word in say(f"This is what became of it: {results['order']} Enjoy your day."):
            yield word


async def say(text: str) -> AsyncIterator[str]:
    """Yield the words of a text, one by one."""
    for word in text.split():
        await asyncio.sleep(SLOWNESS)
        yield f"{word} "


def results_of_turn(messages: list[ModelMessage]) -> dict[str, str]:
    """Return what the tools have returned since the reader has last said something."""
    results: dict[str, str] = {}
    for message in messages:
        for part in message.parts:
            if isinstance(part, UserPromptPart):
                results.clear()
            elif isinstance(part, ToolReturnPart):
                results[part.tool_name] = str(part.content)
    return results


assistant = Agent(
    FunctionModel(stream_function=script),
    name="assistant",
    capabilities=[StepDurability(ui_messages=True), ask_in_chat()],
)


@assistant.tool_plain
async def stock() -> str:
    """Return which tea there is."""
    await asyncio.sleep(8 * SLOWNESS)
    return "a fine Darjeeling"


@assistant.tool_plain(requires_approval=True)
async def order(grams: int) -> str:
    """Order tea."""
    await asyncio.sleep(8 * SLOWNESS)
    return f"{grams} g are on their way."


class ChatIn(BaseModel):
    """What ``useChat`` sends."""

    id: str
    messages: list[UIMessage]


class Answer(BaseModel):
    """What the reader says to calls of tools, by the id of the call."""

    token: str
    approved: dict[str, bool]


@app.post("/api/chat")
@durable.endpoint(ui_messages="live")
async def chat(chat: ChatIn) -> str:
    """Let the assistant answer the last message of a conversation."""
    history = VercelAIAdapter.load_messages(chat.messages)
    result = await assistant.run(message_history=history)
    return result.output


# Where the page comes back to an answer, and stops it. An application with users asks who it is.
app.mount("/api/chat", durable.ui_messages_endpoint(public=True))


@app.post("/api/answer", status_code=204)
async def answer(answer: Answer) -> None:
    """Take an answer of the reader."""
    await durable.send_async(answer_event(answer.token, {"approvals": answer.approved}))


if __name__ == "__main__":
    serve(app, __file__)
