"""Durable agents: the model calls and tool calls of pydantic-ai are steps of durable endpoints."""

from __future__ import annotations

from durable_pydantic_ai._approval import answer_event, ask_in_chat
from durable_pydantic_ai._durability import StepDurability

__all__ = ["StepDurability", "answer_event", "ask_in_chat"]
