"""A research agent: it plans, searches side by side, digs deeper, and streams its report.

``python3 dev.py example deep_research [--port 8000]`` serves it, with a page. Kill it in the
middle: what was found is not searched again. The model and the search engine are stand-ins that
need no network; put your own calls into ``ask_model`` and ``search``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, Field
from supervised import add_page, serve

from durable_core import Durable, RetryPolicy, step, stream
from durable_starlette import endpoint_adapter

STORE = Path(os.environ.get("RESEARCH_STORE", ".durable/deep_research.db"))
#: Seconds that a stand-in takes to answer.
SLOWNESS = float(os.environ.get("RESEARCH_SLOWNESS", "1"))

durable = Durable(
    id="deep-research",
    endpoint_adapter=endpoint_adapter,
    store=STORE,
    retry=RetryPolicy(base="500ms"),
)
app = FastAPI(title="Deep research", lifespan=durable.lifespan)
add_page(app)


class Question(BaseModel):
    """What is to be found out, and how thoroughly."""

    topic: Annotated[str, Field(min_length=1, max_length=200)]
    breadth: Annotated[int, Field(ge=1, le=5)] = 3
    depth: Annotated[int, Field(ge=1, le=3)] = 2


class Finding(BaseModel):
    """What one search has found, and what it makes one ask."""

    query: str
    text: str
    follow_up: str


class Report(BaseModel):
    """The answer, and what it is made of."""

    topic: str
    report: str
    findings: list[Finding]


@app.post("/research")
@durable.endpoint
async def research(question: Question) -> Report:
    """Search level by level; the findings of one level are the queries of the next."""
    findings: list[Finding] = []
    queries = await step.run("plan", plan, question.topic, question.breadth)
    for level in range(question.depth):
        found = await asyncio.gather(
            *(step.run(f"level {level}: {query}", investigate, query) for query in queries)
        )
        findings += found
        queries = [finding.follow_up for finding in found]
    report = await step.run("write", write, question.topic, [each.text for each in findings])
    return Report(topic=question.topic, report=report, findings=findings)


async def plan(topic: str, breadth: int) -> list[str]:
    """Ask the model what to look for."""
    stream.push({"status": f"planning the research of {topic!r}"})
    aspects = (await ask_model(f"aspects of {topic}"))[:breadth]
    return [f"{aspect} of {topic}" for aspect in aspects]


async def investigate(query: str) -> Finding:
    """Search once. The first search for a history meets a busy search engine."""
    stream.push({"status": f"searching: {query}"})
    if query.startswith("history") and step.attempt == 1:
        raise ConnectionError("the search engine is busy")
    text = await search(query)
    return Finding(query=query, text=text, follow_up=f"causes of the {query}")


async def write(topic: str, texts: list[str]) -> str:
    """Write the report, word by word."""
    return await stream.pipe(words(f"On {topic}. " + " ".join(texts)))


# Stand-ins


async def ask_model(prompt: str) -> list[str]:
    """Answer as a language model might."""
    await asyncio.sleep(SLOWNESS)
    return ["history", "cost", "use", "danger", "future"]


async def search(query: str) -> str:
    """Find a text."""
    await asyncio.sleep(SLOWNESS)
    return f"Much is known about the {query}."


async def words(text: str) -> AsyncIterator[str]:
    """Yield a text as a language model does."""
    for word in text.split(" "):
        await asyncio.sleep(SLOWNESS / 20)
        yield f"{word} "


if __name__ == "__main__":
    serve(app, __file__)
