"""Calls of models: where one is asked and how, what it has answered, and what is kept of a call."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from durable_core.api.function_steps import with_undo
from durable_core.api.functions import is_async
from durable_core.api.outgoing import OutgoingCall, make_call
from durable_core.codec.json import JSONCodec
from durable_core.codec.typed import ValueType, result_type
from durable_core.errors import NonRetriableError, StepTypeError, StepUsageError
from durable_core.flow.attempt import Call
from durable_core.flow.effects import Flow
from durable_core.flow.scope import RunScope
from durable_core.flow.step_options import StepOptions
from durable_core.http.response import FetchedResponse
from durable_core.model.step import Op, OpKind

__all__ = [
    "AIModel",
    "APIKey",
    "Inference",
    "TokenUsage",
    "anthropic",
    "drive_wrapped",
    "make_inference",
    "openai",
    "read_answer",
]

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


# --- asking ---------------------------------------------------------------------------------------

_JSON = JSONCodec()
#: The answer of a model may be so large, bytes.
_MAX_ANSWER = 2 * 1024 * 1024
#: Of what an endpoint says when it refuses a request, so many characters are kept.
_REFUSAL_CHARS = 500
#: The input of a wrapped call is kept up to this size, bytes of JSON.
_MAX_INPUT = 64 * 1024
#: What lies deeper in it is left out.
_MOST_LEVELS = 20
#: Of an argument that is no JSON, so many characters of its ``repr`` are kept.
_REPR_CHARS = 1_000
#: Arguments with one of these words in their names are left out.
_SECRET_WORDS = ("key", "token", "secret", "password", "authorization", "credential", "cookie")
#: Arguments whose names have one of those words, and are no secret.
_NO_SECRETS = frozenset({"max_tokens", "max_output_tokens", "max_completion_tokens"})


def make_inference(model: AIModel, body: Mapping[str, object], timeout: float) -> OutgoingCall:
    """Return the call that asks a model. ``timeout`` is in seconds.

    Raises:
        TypeError, ValueError: no model, a body that is no JSON object, or one that asks for a
            stream or for another model.
    """
    if not isinstance(model, AIModel):
        raise TypeError(
            f"model must be one of durable_core.ai, such as openai('gpt-4o-mini'), not "
            f"{type(model).__name__}"
        )
    if not isinstance(body, Mapping):
        raise TypeError(f"body must be a dict, not {type(body).__name__}")
    if body.get("stream"):
        raise ValueError("body must not ask for a stream: the answer is stored as a whole")
    if "model" in body:
        raise ValueError("body must not name the model, model= does")
    outgoing = make_call(
        method="POST",
        url=model.url,
        headers=dict(model.headers),
        body=None,
        json={"model": model.name, **body},
        timeout=timeout,
        max_bytes=_MAX_ANSWER,
    )
    return outgoing.with_secrets(model.secret_headers)


def read_answer(model: AIModel) -> Callable[[FetchedResponse], dict[str, object]]:
    """Return the function that makes the result of a step of a model's response.

    The function raises NonRetriableError if the model refused, or has not answered in JSON. Some
    servers refuse with the status 200 and an error in the body.
    """

    def read(response: FetchedResponse) -> dict[str, object]:
        host = urlsplit(model.url).netloc
        try:
            data = response.json() if response.ok else None
        except ValueError:
            data = None
        if not response.ok or _is_error(data):
            text = _without_key(response.body.decode("utf-8", "replace"), model)[:_REFUSAL_CHARS]
            raise NonRetriableError(f"{model.name}: {host} answered {response.status}: {text}")
        if not isinstance(data, dict):
            raise NonRetriableError(f"{model.name}: {host} answered something else than JSON")
        return Inference.of_answer(model.name, data).dump()

    return read


def _is_error(data: object) -> bool:
    """Tell whether an answer is an error in the form of either API, whatever its status is."""
    return isinstance(data, dict) and isinstance(data.get("error"), dict) and "choices" not in data


def _without_key(text: str, model: AIModel) -> str:
    """Return what an endpoint says without the key, which some repeat."""
    key = model.key()
    return text.replace(key, "...") if key else text


# --- wrapping -------------------------------------------------------------------------------------


def drive_wrapped(
    scope: RunScope,
    step_id: str,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: StepOptions | None,
) -> Any:
    """Call a function in a step that keeps its input; return its result, or a coroutine of it.

    Raises:
        StepUsageError: it is no function.
    """
    if not callable(fn):
        raise StepUsageError(
            f"step {step_id!r} was given an object of type {type(fn).__name__} for its function; "
            "hand over the function and its arguments, as in step.ai.wrap(id, fn, *args)"
        )
    named = None if options is None else options.result
    kind = result_type(fn) if named is None else named
    op = scope.ex.next_op(step_id, OpKind.RUN, scope.current_task())

    def keep(output: object) -> dict[str, object]:
        model = kwargs.get("model")
        return {
            "model": model if isinstance(model, str) else None,
            "input": _shown_input(args, kwargs),
            "output": output if kind is None else kind.dump(output),
        }

    def call() -> object:
        return keep(fn(*args, **kwargs))

    async def call_async() -> object:
        return keep(await fn(*args, **kwargs))

    wrapped = Call(call_async if is_async(fn) else call, options=options)
    flow = _output(scope.flows.run_step(scope.ex, op, wrapped), op, kind)
    if options is not None and options.undo is not None:
        flow = with_undo(scope, op, options.undo, flow)
    return scope.drive(flow)


def _output(flow: Flow[object], op: Op, kind: ValueType | None) -> Flow[object]:
    kept: Any = yield from flow
    output: object = kept["output"]
    if kind is None:
        return output
    try:
        return kind.load(output)
    except TypeError as error:
        raise StepTypeError(
            f"the stored result of step {op.name!r} does not fit {kind.name}: {error}; let the "
            "type take what is stored (a new field needs a default), or give the step a new id"
        ) from error


def _shown_input(args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments of a call as people are shown them."""
    shown: dict[str, object] = {
        "args": [_shown(value) for value in args],
        "kwargs": _without_secrets(kwargs),
    }
    size = len(_JSON.encode(shown).encode("utf-8"))
    return shown if size <= _MAX_INPUT else {"left_out": True}


def _is_secret(name: str) -> bool:
    lower = name.lower()
    return lower not in _NO_SECRETS and any(word in lower for word in _SECRET_WORDS)


def _shown(value: object, levels: int = _MOST_LEVELS) -> object:
    """Return a value without what is named like a secret; of what is no JSON its ``repr``."""
    if levels == 0:
        return "..."
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return _without_secrets(value, levels - 1)
    if isinstance(value, (list, tuple)):
        return [_shown(each, levels - 1) for each in value]
    try:
        _JSON.encode(value)
    except (TypeError, ValueError):
        return repr(value)[:_REPR_CHARS]
    return value


def _without_secrets(fields: Mapping[str, object], levels: int = _MOST_LEVELS) -> dict[str, object]:
    return {
        name: "..." if _is_secret(name) else _shown(each, levels) for name, each in fields.items()
    }
