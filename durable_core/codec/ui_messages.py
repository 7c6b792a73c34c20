"""The chunks of the UI message stream protocol of the AI SDK, version 1.

Its ``useChat`` builds a message from them. What is allowed is what ``uiMessageChunkSchema`` of the
npm package ``ai`` 7 allows: a client ends the conversation with an error at a chunk of another
form. Members that are not named here may be of any kind, as in that schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["DONE", "HEADER", "UIChunk", "check_ui_chunk", "encode_ui_chunk"]

#: A chunk: the members of its JSON object.
UIChunk: TypeAlias = dict[str, Any]

#: The header field by which clients know the protocol.
HEADER = ("x-vercel-ai-ui-message-stream", "v1")
#: The last event of a stream.
DONE = b"data: [DONE]\n\n"

_TEXT = {"id": str}
_DELTA = {"id": str, "delta": str}
_CALL = {"toolCallId": str}
_INPUT = {"toolCallId": str, "toolName": str, "input": object}
_FILE = {"url": str, "mediaType": str}

#: The types of chunks, and the members that each must have.
_REQUIRED: Mapping[str, Mapping[str, type]] = {
    "start": {},
    "text-start": _TEXT,
    "text-delta": _DELTA,
    "text-end": _TEXT,
    "reasoning-start": _TEXT,
    "reasoning-delta": _DELTA,
    "reasoning-end": _TEXT,
    "tool-input-start": {"toolCallId": str, "toolName": str},
    "tool-input-delta": {"toolCallId": str, "inputTextDelta": str},
    "tool-input-available": _INPUT,
    "tool-input-error": {**_INPUT, "errorText": str},
    "tool-approval-request": {"approvalId": str, "toolCallId": str},
    "tool-approval-response": {"approvalId": str, "approved": bool},
    "tool-output-available": {"toolCallId": str, "output": object},
    "tool-output-error": {"toolCallId": str, "errorText": str},
    "tool-output-denied": _CALL,
    "source-url": {"sourceId": str, "url": str},
    "source-document": {"sourceId": str, "mediaType": str, "title": str},
    "file": _FILE,
    "reasoning-file": _FILE,
    "custom": {"kind": str},
    "start-step": {},
    "finish-step": {},
    "message-metadata": {"messageMetadata": object},
    "error": {"errorText": str},
    "abort": {},
    "finish": {},
}
_DATA = {"data": object}
#: Members that a chunk may have: each has one type wherever it occurs.
_OPTIONAL: Mapping[str, type] = {
    **dict.fromkeys(("id", "messageId", "title", "filename", "reason", "signature"), str),
    **dict.fromkeys(("providerExecuted", "dynamic", "preliminary", "transient"), bool),
    **dict.fromkeys(("providerMetadata", "toolMetadata"), dict),
    "isAutomatic": bool,
    "citations": list,
}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "inputEncoding": ("json", "text"),
    "finishReason": ("stop", "length", "content-filter", "tool-calls", "error", "other"),
}
_NAMES = {str: "a str", bool: "True or False", dict: "a dict", list: "a list"}
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def check_ui_chunk(chunk: object) -> UIChunk:
    """Return a chunk as clients take it: without members that are None and need not be there.

    Args:
        chunk: a mapping with the members of its JSON object, such as
            ``{"type": "text-delta", "id": "1", "delta": "It"}``.

    Raises:
        TypeError: it is no mapping, or a member is of the wrong type.
        ValueError: there is no such type of chunk, or a member is missing or not allowed.
    """
    if not isinstance(chunk, Mapping):
        raise TypeError(f"a UI message chunk must be a mapping, not {type(chunk).__name__}")
    kind = chunk.get("type")
    if not isinstance(kind, str):
        raise TypeError(f"the 'type' of a UI message chunk must be a str, not {kind!r}")
    required = _DATA if kind.startswith("data-") else _REQUIRED.get(kind)
    if required is None:
        raise ValueError(
            f"there is no UI message chunk of type {kind!r}; allowed are {', '.join(_REQUIRED)} "
            "and those that begin with 'data-'"
        )
    checked: UIChunk = {}
    for name, value in chunk.items():
        if value is None and name not in required:
            continue
        _check_member(kind, name, value, required)
        checked[name] = value
    missing = [name for name in required if name not in checked]
    if missing:
        raise ValueError(f"a UI message chunk of type {kind!r} needs {', '.join(missing)}")
    return checked


def _check_member(kind: str, name: str, value: object, required: Mapping[str, type]) -> None:
    wanted = required.get(name) or _OPTIONAL.get(name, object)
    if not isinstance(value, wanted):
        raise TypeError(
            f"{name!r} of a UI message chunk of type {kind!r} must be {_NAMES[wanted]}, "
            f"not {value!r}"
        )
    if name == "providerMetadata" and isinstance(value, Mapping):
        _check_providers(kind, value)
    choices = _CHOICES.get(name)
    if choices is not None and value not in choices:
        raise ValueError(
            f"{name!r} of a UI message chunk must be one of {', '.join(choices)}, not {value!r}"
        )


def _check_providers(kind: str, metadata: Mapping[object, object]) -> None:
    for provider, value in metadata.items():
        if not isinstance(value, Mapping):
            raise TypeError(
                f"'providerMetadata' of a UI message chunk of type {kind!r} must have a dict for "
                f"each provider, not {value!r} for {provider!r}"
            )


def encode_ui_chunk(chunk: UIChunk) -> bytes:
    """Return a chunk as an event of the stream."""
    return b"data: %b\n\n" % _ENCODER.encode(chunk).encode("utf-8", "replace")
