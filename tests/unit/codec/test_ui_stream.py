"""The stream of a run as a UI message stream: what its reader has in the end, and in between."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_core.codec.stream_events import Final
from durable_core.codec.ui_stream import UIMessageStream, UIMode
from support.ui_messages import UIMessageClient

MODES: list[UIMode] = ["live", "committed"]


class Reader:
    """A stream and its client, of the oldest version that the mode is for."""

    def __init__(self, mode: UIMode) -> None:
        self.stream = UIMessageStream(mode, "run-1")
        self.client = UIMessageClient(7 if mode == "live" else 6)
        self.client.feed(self.stream.begin())

    def push(self, value: object, step: str | None = None) -> None:
        self.client.feed(self.stream.pushed(json.dumps(value), step))

    def commit(self, step: str) -> None:
        self.client.feed(self.stream.committed(step))

    def roll_back(self, step: str) -> None:
        self.client.feed(self.stream.rolled_back(step))

    def end(self, final: Final, *, cancelled: bool = False) -> None:
        self.client.feed(self.stream.end(final, cancelled=cancelled))

    @property
    def shown(self) -> list[Any]:
        """What the parts of the message show, without the beginnings of its steps."""
        kinds = ("text", "data", "output", "input")
        return [
            next(part[kind] for kind in kinds if part.get(kind) is not None)
            for part in self.client.parts
            if part["type"] != "step-start"
        ]


OK = Final(status=200)
FAILED = Final(status=500, body=b'"the model is gone"', failed=True)


@pytest.mark.parametrize("mode", MODES)
def test_text_is_a_part_of_the_message(mode: UIMode) -> None:
    """Each step's plain text is one part, and so is what comes outside steps between them."""
    reader = Reader(mode)
    reader.push("before ")
    reader.push("it")
    for text in ("It", " ", "depends"):
        reader.push(text, "a")
    reader.commit("a")
    reader.push("after")
    reader.end(OK)

    assert ["before it", "It depends", "after"] == reader.client.texts
    assert {"done"} == {part["state"] for part in reader.client.parts if "state" in part}
    assert "run-1" == reader.client.message_id
    assert {"type": "finish", "finishReason": "stop"} == reader.client.finish
    assert reader.client.done


def test_live_chunks_are_shown_at_once_and_dropped_by_a_rollback() -> None:
    """A failed attempt is seen until it fails; what was there before stays."""
    reader = Reader("live")
    seen = []
    reader.push("kept", "a")
    reader.commit("a")
    reader.push("void", "b")
    seen.append(reader.client.texts)
    reader.roll_back("b")
    seen.append(reader.client.texts)
    reader.push("good", "b")
    reader.commit("b")
    reader.end(OK)

    assert [["kept", "void"], ["kept"]] == seen
    assert ["kept", "good"] == reader.client.texts


def test_committed_chunks_are_shown_when_their_step_has_succeeded() -> None:
    """Nothing of a failed attempt is ever sent, so that any client can read it."""
    reader = Reader("committed")
    seen = []
    reader.push("void", "a")
    reader.roll_back("a")
    reader.push("good", "a")
    seen.append(reader.client.texts)
    reader.commit("a")
    seen.append(reader.client.texts)

    assert [[], ["good"]] == seen


def test_a_rollback_leaves_what_other_steps_send_beside_it() -> None:
    """Two steps stream at a time: reset-step drops both, and the text of the other comes again."""
    reader = Reader("live")
    for text, step in (("one ", "a"), ("two ", "b"), ("more", "a"), ("void", "b")):
        reader.push(text, step)
    reader.roll_back("b")
    reader.push(" text", "a")
    reader.commit("a")

    assert ["one more text"] == reader.client.texts


def test_an_open_part_of_the_handler_survives_the_rollback_of_a_step() -> None:
    """It was begun outside steps and goes on after the step."""
    reader = Reader("live")
    reader.push({"type": "text-start", "id": "1"})
    reader.push({"type": "text-delta", "id": "1", "delta": "one"})
    reader.push("void", "a")
    reader.roll_back("a")
    reader.push({"type": "text-delta", "id": "1", "delta": " two"})
    reader.push({"type": "text-end", "id": "1"})

    assert ["one two"] == reader.client.texts


@pytest.mark.parametrize("mode", MODES)
def test_an_output_of_a_settled_call_waits_for_its_commit(mode: UIMode) -> None:
    """reset-step does not take back the output of a call of an earlier step of the message."""
    reader = Reader(mode)
    call = {"toolCallId": "c", "toolName": "add"}
    reader.push({"type": "start-step"}, "model")
    reader.push({"type": "tool-input-available", "input": [1, 2], **call}, "model")
    reader.commit("model")
    reader.push("thinking", "other")
    reader.push({"type": "tool-output-available", "output": 3, **call}, "tool")
    before = list(reader.shown)
    reader.roll_back("tool")
    reader.push({"type": "tool-output-available", "output": 4, **call}, "tool")
    reader.commit("tool")
    reader.commit("other")

    assert 3 not in before
    assert [4, "thinking"] == reader.shown


def test_a_data_part_has_its_value_of_before_a_failed_attempt() -> None:
    """A later step changes it in place; its rollback brings the committed value back."""
    reader = Reader("live")

    def push(value: int, step: str | None) -> None:
        reader.push({"type": "data-progress", "id": "p", "data": value}, step)

    seen = []
    push(1, "a")
    reader.commit("a")
    reader.push("text", "b")
    push(2, "b")
    seen.append(list(reader.shown))
    reader.roll_back("b")
    seen.append(list(reader.shown))
    push(3, "b")
    reader.commit("b")
    push(4, "c")
    reader.roll_back("c")

    assert [[2, "text"], [1]] == seen
    assert [3] == reader.shown


@pytest.mark.parametrize("mode", MODES)
def test_the_frame_of_an_encoder_is_taken_apart(mode: UIMode) -> None:
    """start, finish and steps of what is piped are those of one message, whoever sends them."""
    reader = Reader(mode)
    for step, text in (("a", "one"), ("b", "two")):
        reader.push({"type": "start", "messageId": "other", "messageMetadata": {"of": step}}, step)
        reader.push({"type": "start-step"}, step)
        reader.push(text, step)
        reader.push({"type": "finish-step"}, step)
        reader.push({"type": "finish", "finishReason": "length"}, step)
        reader.commit(step)
    reader.end(OK)

    client = reader.client
    kinds = ["step-start", "text", "step-start", "text"]
    assert kinds == [part["type"] for part in client.parts]
    assert ("run-1", [{"of": "a"}, {"of": "b"}]) == (client.message_id, client.metadata)
    assert {"type": "finish", "finishReason": "length"} == client.finish


def _part(kind: str, id: str, how: str, delta: str = "") -> dict[str, str]:
    chunk = {"type": f"{kind}-{how}", "id": id}
    return {**chunk, "delta": delta} if how == "delta" else chunk


@pytest.mark.parametrize("kind", ["text", "reasoning"])
@pytest.mark.parametrize("mode", MODES)
def test_steps_side_by_side_may_use_the_same_id(mode: UIMode, kind: str) -> None:
    """As two calls of one function do: each has a part of its own, also after a rollback."""
    reader = Reader(mode)
    for step in "ab":
        reader.push(_part(kind, "1", "start"), step)
        reader.push(_part(kind, "1", "delta", f"void {step}"), step)
    reader.roll_back("a")
    reader.push(_part(kind, "1", "start"), "a")
    for step in "ab":
        reader.push(_part(kind, "1", "delta", f" of {step}"), step)
    for step in "ab":
        reader.push(_part(kind, "1", "end"), step)
        reader.commit(step)
    reader.end(OK)

    texts = [part["text"] for part in reader.client.parts if part["type"] == kind]
    assert [" of a", "void b of b"] == sorted(texts)
    assert reader.client.done


def test_an_id_may_be_that_of_plain_text() -> None:
    """The ids of plain text are not those that a chunk has, whoever is first."""
    reader = Reader("live")
    reader.push("plain", "a")
    reader.push(_part("text", "text-1", "start"), "b")
    reader.push(_part("text", "text-2", "start"), "b")
    reader.push(_part("text", "text-1", "delta", "one"), "b")
    reader.push("more", "c")
    for id_ in ("text-1", "text-2"):
        reader.push(_part("text", id_, "end"), "b")
    reader.push(" text", "a")
    reader.push(" text", "c")
    for step in "abc":
        reader.commit(step)

    assert ["", "more text", "one", "plain text"] == sorted(reader.client.texts)


@pytest.mark.parametrize("mode", MODES)
def test_a_part_that_was_not_begun(mode: UIMode) -> None:
    """Its first delta begins it; the end of none is left out. A client would end at either."""
    reader = Reader(mode)
    reader.push(_part("text", "1", "end"), "a")
    reader.push(_part("text", "1", "delta", "It "), "a")
    reader.push(_part("text", "1", "delta", "depends"), "a")
    reader.push(_part("text", "1", "end"), "a")
    reader.commit("a")
    reader.end(OK)

    assert (["It depends"], True) == (reader.client.texts, reader.client.done)


@pytest.mark.parametrize("mode", MODES)
def test_transient_data_comes_at_once(mode: UIMode) -> None:
    """It is no part of the message, so nothing of it needs to be taken back."""
    reader = Reader(mode)
    reader.push({"type": "data-note", "data": 1, "transient": True}, "a")
    reader.roll_back("a")

    assert ([1], []) == (reader.client.transient, reader.client.parts)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_no_chunk_is_a_data_part(mode: UIMode) -> None:
    """A value that an endpoint pushed for other clients harms nothing."""
    reader = Reader(mode)
    reader.push({"status": "thinking"}, "a")
    reader.push({"type": "text-delta"}, "a")
    reader.commit("a")

    assert [{"status": "thinking"}, {"type": "text-delta"}] == reader.shown


@pytest.mark.parametrize(
    ("final", "cancelled", "ended"),
    [
        (FAILED, False, {"type": "error", "errorText": "the model is gone"}),
        (FAILED, True, {"type": "abort", "reason": "the model is gone"}),
        (
            Final(status=403, body=b'{"title": "Forbidden", "detail": "not yours"}'),
            False,
            {"type": "error", "errorText": "not yours"},
        ),
        (Final(status=404), False, {"type": "error", "errorText": "status 404"}),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_a_failure_ends_the_message(
    mode: UIMode, final: Final, cancelled: bool, ended: dict[str, Any]
) -> None:
    """What was not committed is dropped, and the client is told what it is told elsewhere."""
    reader = Reader(mode)
    reader.push("kept", "a")
    reader.commit("a")
    reader.push("void", "b")
    reader.end(final, cancelled=cancelled)

    assert (["kept"], ended, True) == (
        reader.client.texts,
        reader.client.finish,
        reader.client.done,
    )


STEPS = st.sampled_from(["a", "b", "c"])
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["text", "data", "named", "call", "output", "step", "commit", "fail"]),
        st.none() | STEPS,
    ),
    max_size=40,
)


@pytest.mark.parametrize("mode", MODES)
@given(actions=ACTIONS)
def test_the_reader_has_what_succeeded_and_nothing_else(
    mode: UIMode, actions: list[tuple[str, str | None]]
) -> None:
    """Whatever steps do at a time: nothing void is shown after a rollback, nothing kept is lost.

    Each value is a number of its own, so that it is seen where it comes from.
    """
    reader, number = Reader(mode), 0
    pending: dict[str, list[int]] = {}
    named: dict[str | None, int] = {}
    kept: list[int] = []
    last: int | None = None
    for action, step in actions:
        number += 1
        if action == "commit" and step is not None:
            reader.commit(step)
            kept += pending.pop(step, [])
            last = named.pop(step, last)
        elif action == "fail" and step is not None:
            reader.roll_back(step)
            pending.pop(step, None)
            named.pop(step, None)
        elif action in ("text", "data", "named", "call", "output", "step"):
            if action == "named" and any(other != step for other in named):
                continue  # two steps change one part at a time: its value is that of either
            for chunk in _chunks(action, number, step):
                reader.push(chunk, step)
            if action == "named":
                if step is None:
                    last = number
                else:
                    named[step] = number
            elif action != "step" and step is None:
                kept.append(number)
            elif action != "step" and step is not None:
                pending.setdefault(step, []).append(number)
    for step in (*pending, *named):
        if step is not None:
            reader.roll_back(step)
    reader.end(OK)

    wanted = sorted([*kept, *([] if last is None else [last])])
    assert wanted == sorted(_numbers(reader.shown))
    assert reader.client.done


def _chunks(action: str, number: int, step: str | None) -> list[object]:
    call = {"toolCallId": f"call-{number}", "toolName": "add"}
    inputs: dict[str, object] = {"type": "tool-input-available", "input": number, **call}
    match action:
        case "text":
            return [f"{number} "]
        case "data":
            return [{"type": "data-x", "data": number}]
        case "named":
            return [{"type": "data-y", "id": "y", "data": number}]
        case "call":
            return [{"type": "tool-input-start", **call}, inputs]
        case "output":
            return [inputs, {"type": "tool-output-available", "output": number, **call}]
        case _:
            return [{"type": "start-step"}, {"type": "finish-step"}]


def _numbers(shown: list[Any]) -> list[int]:
    return [
        number
        for each in shown
        for number in ([each] if isinstance(each, int) else map(int, str(each).split()))
    ]
