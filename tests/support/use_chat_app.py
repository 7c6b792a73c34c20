"""A FastAPI application with a chat, for a server in a process that tests kill.

``CHAT_FOLDER`` has the store, the files by which tests and steps wait for each other, and the
bundled pages.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse
from pydantic import BaseModel

from durable_core import Durable, RetryPolicy, step, stream
from durable_starlette import endpoint_adapter

FOLDER = Path(os.environ["CHAT_FOLDER"])
WORDS = ["Boil", "fresh", "water", "and", "warm", "the", "pot", "."]

durable = Durable(
    id="chat",
    endpoint_adapter=endpoint_adapter,
    store=FOLDER / "chat.db",
    retry=RetryPolicy(base="100ms"),
)
app = FastAPI(lifespan=durable.lifespan)


class ChatRequest(BaseModel):
    id: str
    messages: list[dict[str, Any]]


async def reached(name: str) -> None:
    """Say that a place is reached, and go on once the test has seen that."""
    (FOLDER / f"{name}.reached").touch()
    while not (FOLDER / f"{name}.go").exists():
        await asyncio.sleep(0.01)


def attempt_of(name: str) -> int:
    """Count an attempt of a step, as the world outside would: across processes."""
    file = FOLDER / f"{name}.attempts"
    count = int(file.read_text() if file.exists() else "0") + 1
    file.write_text(str(count))
    return count


async def think() -> None:
    stream.ui_message({"type": "reasoning-start", "id": "r"})
    stream.ui_message({"type": "reasoning-delta", "id": "r", "delta": "hm"})
    stream.ui_message({"type": "reasoning-end", "id": "r"})


async def write(chat_id: str) -> str:
    """Stream a sentence; the first attempt stops in its middle."""
    attempt = attempt_of(chat_id)
    for number, word in enumerate(WORDS):
        stream.push(f"{word} ")
        if number == 2 and attempt == 1:
            await reached(chat_id)
            raise RuntimeError("the model is gone")
    return " ".join(WORDS)


async def answer(chat: ChatRequest) -> dict[str, str]:
    """Think, write, and sleep: the client is handed off twice."""
    await step.run("think", think)
    text = await step.run("write", write, chat.id)
    await step.sleep("pause", 0.05)
    stream.push("Enjoy.")
    return {"text": text}


@app.post("/live")
@durable.endpoint(ui_messages="live")
async def live(chat: ChatRequest) -> dict[str, str]:
    return await answer(chat)


@app.post("/committed")
@durable.endpoint(ui_messages="committed")
async def committed(chat: ChatRequest) -> dict[str, str]:
    return await answer(chat)


for path in ("/live", "/committed"):
    app.mount(path, durable.ui_messages_endpoint(public=True))


@app.get("/page-{version}.js")
def script(version: int) -> FileResponse:
    return FileResponse(FOLDER / f"page-{version}.js")


@app.get("/page-{version}")
def page(version: int) -> HTMLResponse:
    return HTMLResponse(
        f"<!doctype html><meta charset=utf-8><div id=root></div><script src=/page-{version}.js>"
        "</script>"
    )
