"""What a step may ask of the server that keeps its run: a function there, or a call through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["FunctionCall", "GatewayCall", "ServerFunction", "ServerGateway"]


@dataclass(frozen=True)
class ServerFunction:
    """A function that the engine's server knows, and that is no endpoint of the application.

    ``step.invoke`` takes it in place of an endpoint.

    Attributes:
        function_id: what the server calls it.
    """

    function_id: str


class ServerGateway:
    """A ``client=`` of ``step.fetch`` and ``step.ai.infer``: the engine's server makes the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCall:
    """A call of a function at the server.

    Attributes:
        function_id: what the server calls it.
        data: what it is given; JSON.
        timeout: how long it may take, milliseconds; None for as long as the server allows.
    """

    function_id: str
    data: Mapping[str, object]
    timeout: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayCall:
    """A request that the server sends.

    Attributes:
        method, url, headers: of the request; a header that occurs more than once is one field.
        body: JSON as text; "" for none.
        model_format: the form of requests to a model, ``"openai"`` or ``"anthropic"``; None if it
            is not for a model.
        key: returns the key of the model, None without one; read when the server is told.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: str = field(repr=False)
    model_format: str | None = None
    key: Callable[[], str | None] = field(default=lambda: None, repr=False)
