"""The chunks of the UI message stream protocol."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from durable_core.codec.ui_messages import DONE, HEADER, check_ui_chunk, encode_ui_chunk

#: One chunk of each type, with all that it must have.
CHUNKS: list[dict[str, Any]] = [
    {"type": "start"},
    {"type": "text-start", "id": "1"},
    {"type": "text-delta", "id": "1", "delta": "It"},
    {"type": "text-end", "id": "1"},
    {"type": "reasoning-start", "id": "1"},
    {"type": "reasoning-delta", "id": "1", "delta": "hm"},
    {"type": "reasoning-end", "id": "1"},
    {"type": "tool-input-start", "toolCallId": "c", "toolName": "add"},
    {"type": "tool-input-delta", "toolCallId": "c", "inputTextDelta": "{"},
    {"type": "tool-input-available", "toolCallId": "c", "toolName": "add", "input": None},
    {"type": "tool-input-error", "toolCallId": "c", "toolName": "a", "input": 1, "errorText": "no"},
    {"type": "tool-approval-request", "toolCallId": "c", "approvalId": "a"},
    {"type": "tool-approval-response", "approvalId": "a", "approved": True},
    {"type": "tool-output-available", "toolCallId": "c", "output": [3]},
    {"type": "tool-output-error", "toolCallId": "c", "errorText": "no"},
    {"type": "tool-output-denied", "toolCallId": "c"},
    {"type": "source-url", "sourceId": "s", "url": "https://example.com"},
    {"type": "source-document", "sourceId": "s", "mediaType": "text/plain", "title": "t"},
    {"type": "file", "url": "data:,", "mediaType": "text/plain"},
    {"type": "reasoning-file", "url": "data:,", "mediaType": "text/plain"},
    {"type": "custom", "kind": "a.b"},
    {"type": "data-weather", "data": None},
    {"type": "start-step"},
    {"type": "finish-step"},
    {"type": "message-metadata", "messageMetadata": {"n": 1}},
    {"type": "error", "errorText": "no"},
    {"type": "abort"},
    {"type": "finish"},
]


@pytest.mark.parametrize("chunk", CHUNKS, ids=[chunk["type"] for chunk in CHUNKS])
def test_each_type_is_taken_with_what_it_must_have(chunk: dict[str, Any]) -> None:
    """A chunk with its members is taken as it is; without one of them it is refused by name."""
    assert chunk == check_ui_chunk(chunk)
    for name in chunk.keys() - {"type"}:
        less = {key: value for key, value in chunk.items() if key != name}
        with pytest.raises(ValueError, match=f"of type '{chunk['type']}' needs {name}"):
            check_ui_chunk(less)


@pytest.mark.parametrize(
    ("chunk", "error", "text"),
    [
        ("It", TypeError, "must be a mapping, not str"),
        ({"id": "1"}, TypeError, "the 'type' of a UI message chunk must be a str, not None"),
        ({"type": "text"}, ValueError, "no UI message chunk of type 'text'; allowed are start, "),
        ({"type": "reset-step"}, ValueError, "no UI message chunk of type 'reset-step'"),
        (
            {"type": "text-delta", "id": 1, "delta": "x"},
            TypeError,
            "'id' of a UI message chunk of type 'text-delta' must be a str, not 1",
        ),
        (
            {"type": "text-delta", "id": "1", "delta": None},
            TypeError,
            "'delta' of a UI message chunk of type 'text-delta' must be a str, not None",
        ),
        (
            {"type": "text-end", "id": "1", "providerMetadata": []},
            TypeError,
            "'providerMetadata' of a UI message chunk of type 'text-end' must be a dict, not []",
        ),
        (
            {"type": "text-end", "id": "1", "providerMetadata": {"openai": 1}},
            TypeError,
            "must have a dict for each provider, not 1 for 'openai'",
        ),
        (
            {"type": "data-x", "data": 1, "transient": "yes"},
            TypeError,
            "'transient' of a UI message chunk of type 'data-x' must be True or False, not 'yes'",
        ),
        (
            {"type": "finish", "finishReason": "done"},
            ValueError,
            "'finishReason' of a UI message chunk must be one of stop, length, content-filter, "
            "tool-calls, error, other, not 'done'",
        ),
    ],
)
def test_what_clients_would_not_take_is_refused(
    chunk: object, error: type[Exception], text: str
) -> None:
    """The message names the member and what is allowed; clients would end the conversation."""
    with pytest.raises(error, match=re.escape(text)):
        check_ui_chunk(chunk)


def test_members_that_are_none_are_left_out() -> None:
    """Python's None is no ``undefined``: clients refuse ``null`` where a member may be missing."""
    chunk = {"type": "text-start", "id": "1", "providerMetadata": None, "mine": 2}

    assert {"type": "text-start", "id": "1", "mine": 2} == check_ui_chunk(chunk)


def test_a_chunk_is_one_line_of_data() -> None:
    """Line ends are escaped, other letters are themselves, and lone surrogates harm nothing."""
    text = encode_ui_chunk({"type": "text-delta", "id": "1", "delta": "é\r\n\u2028\ud800"})

    assert 1 == text.count(b"\ndata: ") + text.startswith(b"data: ")
    assert text.endswith(b"}\n\n")
    assert "é\r\n\u2028?" == json.loads(text.removeprefix(b"data: "))["delta"]
    assert (b"data: [DONE]\n\n", ("x-vercel-ai-ui-message-stream", "v1")) == (DONE, HEADER)
