"""The stream of a run as a UI message stream, in which a failed attempt is never seen twice.

A run's stream says later that chunks are void (a rollback); the protocol of ``useChat`` only adds
to a message. Two rules make one from the other:

``"live"``
    A chunk is sent when it was pushed. After a rollback ``reset-step`` has the client drop what the
    message got since the last ``start-step``, and what others have sent since is sent again. So a
    ``start-step`` goes out only while nothing may become void, and a chunk that changes an earlier
    part, which ``reset-step`` leaves as it is, waits for its commit. Clients before AI SDK 7 end
    the conversation at ``reset-step``.
``"committed"``
    A chunk of a step is sent when the step has succeeded.

A stream always begins at the beginning of the message, with ``start`` and the id of the run: by
this a client that comes back replaces what it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal, TypeAlias

from durable_core.codec.stream_events import Final
from durable_core.codec.ui_messages import DONE, UIChunk, check_ui_chunk, encode_ui_chunk

__all__ = ["UIMessageStream", "UIMode"]

UIMode: TypeAlias = Literal["live", "committed"]
#: Of a part that later chunks may change: its kind, and the id by which its step knows it.
_Name: TypeAlias = tuple[str, str]

#: Chunks that change a part of an earlier tool call.
_OF_CALLS = frozenset(
    {
        *("tool-output-available", "tool-output-error", "tool-output-denied"),
        *("tool-approval-request", "tool-approval-response"),
    }
)
#: Chunks that a client cannot take back.
_FOR_GOOD = frozenset({"message-metadata", "error", "abort", "finish"})


class UIMessageStream:
    """Makes the events of one connection, from those of the run's stream in their order.

    Args:
        mode: see above.
        message_id: of the message.
    """

    def __init__(self, mode: UIMode, message_id: str) -> None:
        self._is_live = mode == "live"
        self._message_id = message_id
        self._out = bytearray()
        # What the message got since the last start-step, and the step of each chunk that may yet
        # become void.
        self._sent: list[tuple[str | None, UIChunk]] = []
        self._sent_names: set[_Name] = set()  # of the calls and data parts among it
        self._open_parts: set[_Name] = set()
        self._uncommitted: set[str] = set()
        self._held: dict[str, list[UIChunk]] = {}
        self._texts: dict[str | None, str] = {}  # the open part of the plain text of each step
        self._ids = _PartIds()
        # The last value of each data part that is there for good, and who has changed it since.
        self._data: dict[_Name, UIChunk] = {}
        self._changed: dict[str, dict[_Name, UIChunk]] = {}
        self._in_step = False
        self._finish: UIChunk = {"type": "finish"}

    def begin(self) -> bytes:
        """Return the beginning of the stream."""
        return encode_ui_chunk({"type": "start", "messageId": self._message_id})

    def pushed(self, text: str, step: str | None) -> bytes:
        """Return what a chunk is for the client.

        A str is text of the message. A chunk of the protocol is itself, and any other value the
        part ``data-chunk``.

        Args:
            text: the JSON text of its value.
            step: the id of the step that pushed it; None outside steps.
        """
        value = json.loads(text)
        if isinstance(value, str):
            if value:
                self._take(self._delta(value, step), step)
        else:
            self._end_text(step)
            for chunk in self._ids.of_message(_as_chunk(value), step):
                self._take(chunk, step)
        return self._flush()

    def committed(self, step: str | None) -> bytes:
        """Return what the client gets because a step has succeeded."""
        if step is not None:
            self._end_text(step)
            self._uncommitted.discard(step)
            self._data |= self._changed.pop(step, {})
            self._sent = [(None if owner == step else owner, chunk) for owner, chunk in self._sent]
            for chunk in self._held.pop(step, ()):
                self._send(chunk, None)
        return self._flush()

    def rolled_back(self, step: str | None) -> bytes:
        """Return what the client gets because an attempt of a step has failed."""
        if step is not None:
            self._roll_back(step)
        return self._flush()

    def end(self, final: Final, *, cancelled: bool = False) -> bytes:
        """Return the end of the stream.

        Args:
            final: the response of the run.
            cancelled: the run has failed because it was cancelled.
        """
        for step in {*self._uncommitted, *self._changed}:
            self._roll_back(step)
        self._end_text(None)
        if self._in_step:
            self._write({"type": "finish-step"})
        if cancelled:
            self._write({"type": "abort", "reason": _message_of(final)})
        elif final.failed or final.status >= 400:
            self._write({"type": "error", "errorText": _message_of(final)})
        else:
            self._write({"type": "finish", "finishReason": "stop", **self._finish})
        self._out += DONE
        return self._flush()

    # -- plain text -------------------------------------------------------------------------

    def _delta(self, text: str, step: str | None) -> UIChunk:
        if step not in self._texts:
            self._texts[step] = id_ = self._ids.new_text()
            self._take({"type": "text-start", "id": id_}, step)
        return {"type": "text-delta", "id": self._texts[step], "delta": text}

    def _end_text(self, step: str | None) -> None:
        id_ = self._texts.pop(step, None)
        if id_ is not None:
            self._ids.end_text(id_)
            self._take({"type": "text-end", "id": id_}, step)

    # -- what is sent, and when -------------------------------------------------------------

    def _take(self, chunk: UIChunk, step: str | None) -> None:
        """Send a chunk, or hold it until its step has succeeded."""
        if chunk["type"] == "start":
            if "messageMetadata" not in chunk:
                return
            metadata = chunk["messageMetadata"]
            chunk = {"type": "message-metadata", "messageMetadata": metadata}
        if step is not None:
            self._end_text(None)  # what comes after a step's chunk is a part of its own
            if self._must_hold(chunk):
                self._held.setdefault(step, []).append(chunk)
                return
        self._send(chunk, step)

    def _must_hold(self, chunk: UIChunk) -> bool:
        if not self._is_live or chunk["type"] in _FOR_GOOD:
            return not chunk.get("transient")
        is_output = chunk["type"] in _OF_CALLS and not chunk.get("preliminary")
        return is_output and _name_of(chunk) not in self._sent_names

    def _send(self, chunk: UIChunk, step: str | None) -> None:
        kind = chunk["type"]
        if kind == "finish":
            self._finish = chunk
        elif kind == "start-step":
            self._begin_step()
        elif kind == "finish-step":
            pass  # it goes out with the next start-step, or at the end
        elif chunk.get("transient") or kind in _FOR_GOOD:
            self._write(chunk)
        elif _name_of(chunk) in self._sent_names:
            self._add(chunk, step)
        elif kind in _OF_CALLS or ("data" in chunk and _name_of(chunk) in self._data):
            self._change(chunk, step)
        else:
            if step is not None and self._sent:
                self._begin_step()
            self._add(chunk, step)

    def _add(self, chunk: UIChunk, step: str | None) -> None:
        self._write(chunk)
        self._sent.append((step, chunk))
        self._note(chunk)
        if step is not None:
            self._uncommitted.add(step)

    def _change(self, chunk: UIChunk, step: str | None) -> None:
        """Send a chunk that changes a part which reset-step leaves as it is."""
        self._write(chunk)
        name = _name_of(chunk)
        if name is not None:
            changed = self._data if step is None else self._changed.setdefault(step, {})
            changed[name] = chunk

    def _begin_step(self) -> None:
        """Begin a step of the message, unless something of the one before may become void."""
        if self._uncommitted or self._open_parts or (self._in_step and not self._sent):
            return
        for _, chunk in self._sent:
            name = _name_of(chunk)
            if name is not None and "data" in chunk:
                self._data[name] = chunk
        self._sent.clear()
        self._sent_names.clear()
        if self._in_step:
            self._write({"type": "finish-step"})
        self._write({"type": "start-step"})
        self._in_step = True

    def _note(self, chunk: UIChunk) -> None:
        """Note that a part of the message is there, and whether more of it comes."""
        name = _name_of(chunk)
        if name is not None:
            self._sent_names.add(name)
        what, _, how = chunk["type"].rpartition("-")
        id_ = chunk.get("id") or chunk.get("toolCallId") or ""
        if how == "start":
            self._open_parts.add((what, id_))
        elif how in ("end", "available", "error"):
            self._open_parts.discard((what, id_))

    def _roll_back(self, step: str) -> None:
        text = self._texts.pop(step, None)
        if text is not None:
            self._ids.end_text(text)
        self._ids.drop(step)
        self._held.pop(step, None)
        if step in self._uncommitted:
            self._uncommitted.discard(step)
            self._write({"type": "reset-step"})
            self._sent = [(owner, chunk) for owner, chunk in self._sent if owner != step]
            self._sent_names.clear()
            self._open_parts.clear()
            for _, chunk in self._sent:
                self._write(chunk)
                self._note(chunk)
        for name in self._changed.pop(step, {}):
            if name in self._data:
                self._write(self._data[name])

    def _write(self, chunk: UIChunk) -> None:
        self._out += encode_ui_chunk(chunk)

    def _flush(self) -> bytes:
        part = bytes(self._out)
        self._out.clear()
        return part


def _name_of(chunk: UIChunk) -> _Name | None:
    """Return what names a tool call or a data part, which later chunks may change."""
    if "toolCallId" in chunk:
        return "call", chunk["toolCallId"]
    is_data = chunk["type"].startswith("data-") and "id" in chunk
    return (chunk["type"], chunk["id"]) if is_data else None


def _as_chunk(value: object) -> UIChunk:
    try:
        return check_ui_chunk(value)
    except (TypeError, ValueError):
        return {"type": "data-chunk", "data": value}


def _message_of(final: Final) -> str:
    """Return what the client is told of a response that is no success."""
    text = final.body.decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except ValueError:
        return text or f"status {final.status}"
    if isinstance(document, dict):
        document = document.get("detail") or document.get("title") or document
    return document if isinstance(document, str) else text


# --- the ids of parts -----------------------------------------------------------------------------
#
# A client knows the open parts of a message by their ids alone. Steps that stream side by side may
# use the same one, as they do if they call the same function: then the chunks of one would go on in
# the part of the other, and its end would be the end of both, after which the client ends the
# conversation at the next chunk.

_KINDS = ("text", "reasoning")


class _PartIds:
    """Gives each open part of text or reasoning of a message an id of its own."""

    def __init__(self) -> None:
        self._open: dict[str | None, dict[_Name, str]] = {}  # of each step: the ids of the message
        self._used: set[str] = set()
        self._texts_begun = 0

    def new_text(self) -> str:
        """Return the id of a new part of plain text."""
        self._texts_begun += 1
        return self._use(f"text-{self._texts_begun}")

    def end_text(self, id_: str) -> None:
        """Note that a part of plain text is complete, or void."""
        self._used.discard(id_)

    def of_message(self, chunk: UIChunk, step: str | None) -> Iterator[UIChunk]:
        """Yield a chunk of a step with the id that its part has in the message.

        A delta of a part that was not begun begins it, and the end of such a part is left out.
        """
        kind, _, how = chunk["type"].rpartition("-")
        if kind not in _KINDS or how not in ("start", "delta", "end"):
            yield chunk
            return
        name = kind, chunk["id"]
        owner = self._owner_of(name, step)
        if how == "start" or (how == "delta" and owner is None):
            self._close(name, step)
            id_ = self._open.setdefault(step, {})[name] = self._use(chunk["id"])
            if how == "delta":
                yield {"type": f"{kind}-start", "id": id_}
            yield {**chunk, "id": id_}
        elif owner is not None:
            yield {**chunk, "id": owner[name]}
            if how == "end":
                self._used.discard(owner.pop(name))

    def drop(self, step: str) -> None:
        """Forget the parts of a step whose attempt has failed."""
        self._used.difference_update(self._open.pop(step, {}).values())

    def _owner_of(self, name: _Name, step: str | None) -> dict[_Name, str] | None:
        """Return the parts among which a step means this one: its own first, then any other's."""
        own = self._open.get(step, {})
        if name in own:
            return own
        return next((parts for parts in self._open.values() if name in parts), None)

    def _close(self, name: _Name, step: str | None) -> None:
        id_ = self._open.get(step, {}).pop(name, None)
        if id_ is not None:
            self._used.discard(id_)

    def _use(self, wanted: str) -> str:
        """Return an id that no open part has, and note that one has it now."""
        id_, number = wanted, 1
        while id_ in self._used:
            number += 1
            id_ = f"{wanted}-{number}"
        self._used.add(id_)
        return id_
