"""The lines in which one process tells another what a run streams.

Each is a JSON array that begins with what it is. The first line says how many bytes of lines after
it tell what was open when it was written; the events since then follow. A line counts once it is
whole. What is read may be anything, so it is checked as far as a stream depends on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from durable_core.model.stream import Committed, LiveStream, Pushed, RolledBack, Streamed

__all__ = ["Head", "dump_events", "dump_head", "load_event", "load_head"]

_VERSION = 1
_OP_ID = re.compile(r"[0-9a-f]{40}")
#: Positions are written with up to nine digits.
_BOUND = 10**9


@dataclass(frozen=True, slots=True)
class Head:
    """The first line: see ``LiveStream.done``, and how many bytes tell what is open."""

    done: int
    length: int


def dump_head(live: LiveStream) -> bytes:
    """Return the lines that tell all that is live now."""
    chunks = [
        Pushed(text=text, index=index, op_id=opened.op_id, attempt=attempt)
        for attempt, opened in live.attempts.items()
        for index, text in enumerate(opened.texts)
    ]
    body = dump_events([*live.outside, *chunks])
    return _line("live", _VERSION, live.done, len(body)) + body


def dump_events(events: Iterable[Streamed]) -> bytes:
    """Return a line for each event."""
    return b"".join(map(_dumped, events))


def _dumped(event: Streamed) -> bytes:
    if isinstance(event, Pushed):
        number = 0 if event.attempt is None else event.attempt[1]
        return _line("chunk", event.op_id, number, event.index, event.text)
    if isinstance(event, Committed):
        return _line("commit", event.op_id, event.number)
    return _line("rollback", event.op_id, event.attempt[1])


def _line(*values: object) -> bytes:
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8") + b"\n"


def load_head(line: bytes) -> Head:
    """Read the first line.

    Raises:
        ValueError: it is none, or of another release.
    """
    match _loaded(line):
        case ["live", 1, done, int() as length]:
            return Head(_number(done), length)
    raise ValueError("not the beginning of what a run streams")


def load_event(line: bytes, epoch: int) -> Streamed:
    """Read any other line, of an execution with this epoch.

    Raises:
        ValueError: it tells no event.
    """
    match _loaded(line):
        case ["chunk", None, 0, index, str() as text]:
            return Pushed(text=_checked(text), index=_number(index))
        case ["chunk", op_id, number, index, str() as text]:
            return Pushed(
                text=_checked(text),
                index=_number(index),
                op_id=_op_id(op_id),
                attempt=(epoch, _number(number)),
            )
        case ["commit", op_id, number]:
            return Committed(op_id=_op_id(op_id), number=_number(number))
        case ["rollback", op_id, number]:
            return RolledBack(op_id=_op_id(op_id), attempt=(epoch, _number(number)))
    raise ValueError("not an event of a stream")


def _loaded(line: bytes) -> Any:
    return _parsed(line.decode("utf-8"))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < _BOUND:
        raise ValueError(f"not a number below {_BOUND}: {value!r}")
    return value


def _op_id(value: object) -> str:
    if not isinstance(value, str) or _OP_ID.fullmatch(value) is None:
        raise ValueError("not the id of a step")
    return value


def _checked(text: str) -> str:
    """Return what can be sent as it is: one line of JSON in UTF-8."""
    text.encode("utf-8")
    if "\n" in text or "\r" in text:
        raise ValueError("a chunk of more than one line")
    _parsed(text)
    return text
