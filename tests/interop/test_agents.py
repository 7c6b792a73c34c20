"""Agents of pydantic-ai on the Inngest engine."""

from __future__ import annotations

import pytest

from durable_core import Request, step
from support.inngest_app import serving
from support.inngest_server import InngestServer

pytest.importorskip("pydantic_ai")
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from durable_pydantic_ai import StepDurability

pytestmark = pytest.mark.slow


def test_an_agent_before_and_after_a_handoff(server: InngestServer) -> None:
    """Its tools are called once for each of its runs, whatever the server calls again."""
    calls: list[str] = []
    agent = Agent(TestModel(), name="helper", capabilities=[StepDurability()])

    @agent.tool_plain
    def weather(city: str) -> str:
        calls.append(city)
        return "sun"

    async def handler(request: Request) -> list[str]:
        before = await agent.run("hello")
        await step.sleep("nap", "10ms")
        after = await agent.run("again")
        return [before.output, after.output]

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, ['{"weather":"sun"}'] * 2) == (got.status, got.json)
    assert 2 == len(calls)
