"""Models behind an HTTP endpoint, and what they have answered."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from durable_core.errors import NonRetriableError

__all__ = ["AIModel", "APIKey", "Inference", "TokenUsage", "anthropic", "openai"]

_KEY = re.compile(r"[!-~]+")
#: A key, or a function that returns it when a call is made.
APIKey: TypeAlias = "str | Callable[[], str]"


@dataclass(frozen=True, slots=True, kw_only=True)
class AIModel:
    """Where a model is asked, and how. ``openai`` and ``anthropic`` make it.

    Attributes:
        name: as the endpoint calls it; it is sent as ``model``.
        url: of the endpoint.
        api_format: the form of its requests and answers: ``"openai"`` (also of the many servers
            that are like it) or ``"anthropic"``.
        api_key: the key, or a function that returns it. It is never shown, stored or logged. None
            for an endpoint without one.
        headers: further header fields, which are no secret.
    """

    name: str
    url: str
    api_format: Literal["openai", "anthropic"]
    api_key: APIKey | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"the name of a model must be a text, not {self.name!r:.60}")
        if self.api_format not in ("openai", "anthropic"):
            raise ValueError(
                f"api_format must be 'openai' or 'anthropic', not {self.api_format!r:.60}"
            )

    def key(self) -> str | None:
        """Return the key; None for an endpoint without one.

        Raises:
            NonRetriableError: there is none where one is needed, or it is no text that a header
                can hold, such as one with a line end. The message does not show it.
        """
        key: object = self.api_key() if callable(self.api_key) else self.api_key
        if key is None:
            return None
        if not isinstance(key, str) or _KEY.fullmatch(key) is None:
            raise NonRetriableError(
                f"the key of the model {self.name!r} must be a text of printable ASCII characters; "
                "one that was read from a file may have a line end"
            )
        return key

    def secret_headers(self) -> list[tuple[str, str]]:
        """Return the header fields that hold the key.

        Raises:
            NonRetriableError: see :meth:`key`.
        """
        key = self.key()
        if key is None:
            return []
        if self.api_format == "anthropic":
            return [("x-api-key", key)]
        return [("authorization", f"Bearer {key}")]


def openai(
    name: str, *, api_key: APIKey | None = None, base_url: str = "https://api.openai.com/v1"
) -> AIModel:
    """Return a model of OpenAI, or of a server with the same chat completions.

    Args:
        name: such as ``"gpt-4o-mini"``.
        api_key: the key, or a function that returns it. Default: the environment variable
            ``OPENAI_API_KEY``, read when a call is made.
        base_url: what comes before ``/chat/completions``.
    """
    key = _from_environment(name, "OPENAI_API_KEY", "openai") if api_key is None else api_key
    url = f"{base_url.rstrip('/')}/chat/completions"
    return AIModel(name=name, url=url, api_format="openai", api_key=key)


def anthropic(
    name: str, *, api_key: APIKey | None = None, base_url: str = "https://api.anthropic.com"
) -> AIModel:
    """Return a model of Anthropic, or of a server with the same messages.

    Args:
        name: such as ``"claude-sonnet-4-5"``.
        api_key: the key, or a function that returns it. Default: the environment variable
            ``ANTHROPIC_API_KEY``, read when a call is made.
        base_url: what comes before ``/v1/messages``.
    """
    key = _from_environment(name, "ANTHROPIC_API_KEY", "anthropic") if api_key is None else api_key
    return AIModel(
        name=name,
        url=f"{base_url.rstrip('/')}/v1/messages",
        api_format="anthropic",
        api_key=key,
        headers={"anthropic-version": "2023-06-01"},
    )


def _from_environment(name: str, variable: str, function: str) -> Callable[[], str]:
    def read() -> str:
        key = os.environ.get(variable)
        if not key:
            raise NonRetriableError(
                f"there is no key for the model {name!r}: set {variable}, or {function}(api_key=)"
            )
        return key

    return read


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """How many tokens a model has read and written; None where it does not say."""

    input_tokens: int | None
    output_tokens: int | None


@dataclass(frozen=True, slots=True)
class Inference:
    """What a model has answered.

    Attributes:
        model: its name.
        data: the whole answer, as the endpoint has sent it.
        usage: the tokens that it has counted.
    """

    model: str
    data: Mapping[str, Any]
    usage: TokenUsage

    @property
    def text(self) -> str:
        """The text that the model has written; "" if it has written none."""
        return "".join(_texts(self.data))

    def dump(self) -> dict[str, object]:
        """Return it as JSON values."""
        usage = {
            "input_tokens": self.usage.input_tokens,
            "output_tokens": self.usage.output_tokens,
        }
        return {"model": self.model, "usage": usage, "data": dict(self.data)}

    @classmethod
    def load(cls, fields: Mapping[str, Any]) -> Inference:
        """Return the answer of :meth:`dump`."""
        usage = fields["usage"]
        counted = TokenUsage(usage["input_tokens"], usage["output_tokens"])
        return cls(fields["model"], fields["data"], counted)

    @classmethod
    def of_answer(cls, model: str, data: Mapping[str, Any]) -> Inference:
        """Return what an endpoint has answered, with the tokens that it has counted."""
        usage = data.get("usage")
        counted = usage if isinstance(usage, dict) else {}
        read = _number(counted, "input_tokens", "prompt_tokens")
        written = _number(counted, "output_tokens", "completion_tokens")
        return cls(model, data, TokenUsage(read, written))


def _number(fields: Mapping[str, object], *names: str) -> int | None:
    found = (fields[name] for name in names if type(fields.get(name)) is int)
    number: Any = next(found, None)
    return None if number is None else int(number)


def _texts(data: Mapping[str, Any]) -> list[str]:
    """Return the texts of an answer of either form."""
    choices = data.get("choices")
    if isinstance(choices, list):
        first = choices[0] if choices else None
        message = first.get("message") if isinstance(first, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        return [content] if isinstance(content, str) else []
    parts = data.get("content")
    blocks = parts if isinstance(parts, list) else []
    texts = (block.get("text") for block in blocks if isinstance(block, dict))
    return [text for text in texts if isinstance(text, str)]
