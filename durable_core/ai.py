"""Models for ``step.ai.infer``, and what they answer."""

from __future__ import annotations

from durable_core.api.models import AIModel, Inference, TokenUsage, anthropic, openai

__all__ = ["AIModel", "Inference", "TokenUsage", "anthropic", "openai"]
