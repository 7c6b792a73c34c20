"""A client of the UI message stream protocol, as ``processUIMessageStream`` of npm's ``ai`` is."""

from __future__ import annotations

import json
from typing import Any

from durable_core.codec.sse import SSEDecoder

__all__ = ["UIMessageClient"]


class UIMessageClient:
    """Builds the parts of a message, and raises where the real client ends the conversation.

    Args:
        version: of the AI SDK: 7, or 6, which refuses ``reset-step``.

    Attributes:
        message_id: of the message.
        parts: of the message: a type, and text, data, or the state of a tool call.
        finish: the chunk that ended the message, an error, or an abort.
        done: the stream has ended in good order.
    """

    def __init__(self, version: int = 7) -> None:
        self.version = version
        self.message_id: str | None = None
        self.parts: list[dict[str, Any]] = []
        self.metadata: list[Any] = []
        self.transient: list[Any] = []
        self.finish: dict[str, Any] | None = None
        self.done = False
        self._texts: dict[str, dict[str, Any]] = {}
        self._decoder = SSEDecoder()

    def feed(self, data: bytes) -> None:
        """Take bytes of the stream."""
        for event in self._decoder.feed(data):
            assert not self.done, event
            if event.data == "[DONE]":
                self.done = True
            else:
                self._take(json.loads(event.data))

    @property
    def texts(self) -> list[str]:
        """The texts of the message."""
        return [part["text"] for part in self.parts if part["type"] == "text"]

    def _take(self, chunk: dict[str, Any]) -> None:
        assert self.finish is None, chunk
        kind = chunk["type"]
        match kind:
            case "start":
                assert self.message_id is None
                self.message_id = chunk["messageId"]
            case "start-step":
                self.parts.append({"type": "step-start"})
            case "finish-step":
                if self.version < 7:
                    self._texts.clear()
            case "reset-step":
                assert self.version >= 7, "AI_TypeValidationError"
                while self.parts and self.parts[-1]["type"] != "step-start":
                    self.parts.pop()
                self._texts.clear()
            case "text-start" | "reasoning-start":
                part = {"type": kind.removesuffix("-start"), "text": "", "state": "streaming"}
                self.parts.append(part)
                self._texts[chunk["id"]] = part
            case "text-delta" | "reasoning-delta":
                self._texts[chunk["id"]]["text"] += chunk["delta"]
            case "text-end" | "reasoning-end":
                self._texts.pop(chunk["id"])["state"] = "done"
            case "tool-input-start" | "tool-input-available":
                self._set_call(chunk, "input")
            case "tool-input-delta":
                assert self._call(chunk["toolCallId"])
            case "tool-output-available":
                self._call(chunk["toolCallId"])["output"] = chunk["output"]
            case "tool-approval-request":
                self._call(chunk["toolCallId"])["approval"] = chunk["approvalId"]
            case "message-metadata":
                self.metadata.append(chunk["messageMetadata"])
            case "finish" | "error" | "abort":
                self.finish = chunk
            case _:
                assert kind.startswith("data-"), kind
                self._take_data(chunk)

    def _set_call(self, chunk: dict[str, Any], member: str) -> None:
        id_ = chunk["toolCallId"]
        at = max([0, *(n for n, each in enumerate(self.parts) if each["type"] == "step-start")])
        part = next((each for each in self.parts[at:] if each.get("toolCallId") == id_), None)
        if part is None:
            part = {"type": "tool", "toolCallId": id_}
            self.parts.append(part)
        part[member] = chunk.get(member)
        part.pop("output", None)

    def _call(self, id_: str) -> dict[str, Any]:
        return next(each for each in reversed(self.parts) if each.get("toolCallId") == id_)

    def _take_data(self, chunk: dict[str, Any]) -> None:
        if chunk.get("transient"):
            self.transient.append(chunk["data"])
            return
        id_ = chunk.get("id")
        for part in self.parts:
            if id_ is not None and (part["type"], part.get("id")) == (chunk["type"], id_):
                part["data"] = chunk["data"]
                return
        self.parts.append(dict(chunk))
