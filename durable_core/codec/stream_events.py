"""The events of a run's stream, and the type and data that each has on the wire.

Every event is one line of compact JSON with its members in a fixed order. Existing clients of the
protocol, such as ``fetchWithStream`` of the npm package ``inngest``, expect this form:

======================  ===========================================================================
``inngest.metadata``       ``{"runId":...}``
``inngest.stream``         ``{"data":...}`` or ``{"data":...,"hashedStepId":...}``
``inngest.commit``         ``{"hashedStepId":...}``
``inngest.rollback``       ``{"hashedStepId":...}``
``inngest.redirect_info``  ``{"runId":...,"url":...}``
``inngest.response``       ``{"status":...,"response":{"body":...,"statusCode":...,"headers":{}}}``
======================  ===========================================================================

The body of a response is text. A body that is not UTF-8 is sent in base64, and the response then
has a last member ``"encoding":"base64"``, which only the client of this library understands.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn, TypeAlias

from durable_core.errors import ProtocolError
from durable_core.http.headers import Headers
from durable_core.http.response import Response

__all__ = [
    "CHUNK",
    "COMMIT",
    "FINAL",
    "METADATA",
    "REDIRECT_INFO",
    "ROLLBACK",
    "Chunk",
    "Commit",
    "Final",
    "Metadata",
    "RedirectInfo",
    "Rollback",
    "StreamEvent",
    "chunk_data",
    "dump_stream_event",
    "encode_chunk",
    "final_of",
    "load_stream_event",
]


# --- stream events --------------------------------------------------------------------------------

METADATA = "inngest.metadata"
CHUNK = "inngest.stream"
COMMIT = "inngest.commit"
ROLLBACK = "inngest.rollback"
REDIRECT_INFO = "inngest.redirect_info"
FINAL = "inngest.response"

_NO_HEADERS = Headers()


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Which run this is; the first event of each connection."""

    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A chunk that the run pushed.

    Attributes:
        data: any JSON value.
        step_id: the hashed id of the step that pushed it; None outside steps.
    """

    data: object
    step_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The step with this hashed id has succeeded: its chunks are final."""

    step_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """An attempt of the step with this hashed id has failed: its chunks are void."""

    step_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectInfo:
    """The URL at which the stream continues if the run does not end on this connection."""

    run_id: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The response of the run; the last event.

    Attributes:
        status: 200 to 599.
        headers: its fields; on the wire, the values of a repeated field are joined by commas.
        body: its body.
        failed: whether the run has failed.
    """

    status: int
    headers: Headers = _NO_HEADERS
    body: bytes = b""
    failed: bool = False


StreamEvent: TypeAlias = Metadata | Chunk | Commit | Rollback | RedirectInfo | Final

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def chunk_data(json_text: str, step_id: str | None) -> str:
    """Return the data of a chunk, from the JSON text of its value."""
    if step_id is None:
        return f'{{"data":{json_text}}}'
    return f'{{"data":{json_text},"hashedStepId":{_encode_id(step_id)}}}'


def encode_chunk(json_text: str, step_id: str | None, id: str) -> bytes:
    """Return a chunk as the bytes of an event.

    It is what ``encode_event`` makes, in one call: every chunk comes through here.

    Args:
        json_text: its value, as JSON of one line.
        step_id: the step that pushed it; None outside steps.
        id: the value of ``Last-Event-ID`` when a client reconnects, one line.
    """
    step = "" if step_id is None else f',"hashedStepId":{_encode_id(step_id)}'
    return f'event: {CHUNK}\nid: {id}\ndata: {{"data":{json_text}{step}}}\n\n'.encode()


@lru_cache(maxsize=1024)
def _encode_id(step_id: str) -> str:
    """Return the JSON text of a step's id. It is cached, because each chunk of a step has it."""
    return _ENCODER.encode(step_id)


def dump_stream_event(event: StreamEvent) -> tuple[str, str]:
    """Return the type and the data of an event, both one line.

    Raises:
        TypeError, ValueError: the data of a chunk is not JSON.
    """
    match event:
        case Chunk(data=data, step_id=step_id):
            return CHUNK, chunk_data(_ENCODER.encode(data), step_id)
        case Commit(step_id=step_id):
            return COMMIT, _ENCODER.encode({"hashedStepId": step_id})
        case Rollback(step_id=step_id):
            return ROLLBACK, _ENCODER.encode({"hashedStepId": step_id})
        case Metadata(run_id=run_id):
            return METADATA, _ENCODER.encode({"runId": run_id})
        case RedirectInfo(run_id=run_id, url=url):
            return REDIRECT_INFO, _ENCODER.encode({"runId": run_id, "url": url})
        case Final():
            return FINAL, _ENCODER.encode(_final_document(event))


def _final_document(final: Final) -> dict[str, object]:
    response: dict[str, object] = {
        "body": "",
        "statusCode": final.status,
        "headers": {name: ", ".join(final.headers.get_all(name)) for name in final.headers},
    }
    try:
        response["body"] = final.body.decode("utf-8")
    except UnicodeDecodeError:
        response["body"] = base64.b64encode(final.body).decode("ascii")
        response["encoding"] = "base64"
    return {"status": "failed" if final.failed else "succeeded", "response": response}


def load_stream_event(event: str, data: str) -> StreamEvent | None:
    """Return the event that has this type and data on the wire, None for an unknown type.

    Unknown members are ignored. A chunk without data (JavaScript's ``undefined``) has None.

    Raises:
        ProtocolError: the data of a known type is malformed.
    """
    load = _LOADERS.get(event)
    if load is None:
        return None
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        _refuse(event, "is not JSON")
    if not isinstance(document, dict):
        _refuse(event, "is not a JSON object")
    return load(_Members(event, document))


class _Members:
    """The members of an event's JSON object, read with a check of their types."""

    __slots__ = ("_event", "_members")

    def __init__(self, event: str, members: Mapping[str, object]) -> None:
        self._event = event
        self._members = members

    def value(self, name: str) -> object:
        return self._members.get(name)

    def text(self, name: str) -> str:
        value = self._members.get(name)
        return value if isinstance(value, str) else self._refuse(f"{name!r} must be a string")

    def text_or_none(self, name: str) -> str | None:
        return None if self._members.get(name) is None else self.text(name)

    def status(self, name: str) -> int:
        value = self._members.get(name)
        if type(value) is not int or not 200 <= value <= 599:
            self._refuse(f"{name!r} must be an integer from 200 to 599")
        return value

    def members(self, name: str) -> _Members:
        value = self._members.get(name)
        if not isinstance(value, dict):
            self._refuse(f"{name!r} must be an object")
        return _Members(self._event, value)

    def one_of(self, name: str, allowed: tuple[str | None, ...]) -> object:
        value = self._members.get(name)
        if not any(value == one for one in allowed):
            self._refuse(f"{name!r} must be one of {allowed}")
        return value

    def headers(self, name: str) -> Headers:
        fields = self.members(name)
        try:
            return Headers([(field, fields.text(field)) for field in fields._members])
        except ValueError as error:
            self._refuse(f"{name!r} are no header fields: {error}")

    def _refuse(self, reason: str) -> NoReturn:
        _refuse(self._event, f"is malformed: {reason}")


def _refuse(event: str, reason: str) -> NoReturn:
    raise ProtocolError(f"the data of an event {event!r} {reason}")


def _load_final(members: _Members) -> Final:
    failed = members.one_of("status", ("succeeded", "failed")) == "failed"
    response = members.members("response")
    text = response.text("body")
    if response.one_of("encoding", (None, "base64")) is None:
        body = text.encode("utf-8", "replace")
    else:
        body = _from_base64(text)
    return Final(
        status=response.status("statusCode"),
        headers=response.headers("headers"),
        body=body,
        failed=failed,
    )


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        _refuse(FINAL, "is malformed: 'body' is not base64")


_LOADERS: Mapping[str, Callable[[_Members], StreamEvent]] = {
    METADATA: lambda members: Metadata(run_id=members.text("runId")),
    CHUNK: lambda members: Chunk(
        data=members.value("data"), step_id=members.text_or_none("hashedStepId")
    ),
    COMMIT: lambda members: Commit(step_id=members.text_or_none("hashedStepId")),
    ROLLBACK: lambda members: Rollback(step_id=members.text_or_none("hashedStepId")),
    REDIRECT_INFO: lambda members: RedirectInfo(
        run_id=members.text("runId"), url=members.text("url")
    ),
    FINAL: _load_final,
}


# --- finals ---------------------------------------------------------------------------------------
#
# The last event of a run's stream, from the run's response.

_JSON = Headers([("content-type", "application/json")])
_FINAL_ENCODER = json.JSONEncoder(ensure_ascii=False)


def final_of(response: Response, *, failed: bool) -> Final:
    """Return the event for a response with a complete body.

    For a failed run, existing clients expect the status, and the message of the error as a JSON
    string in place of the body.

    Args:
        response: the response of the run; if it has failed, its problem document.
        failed: the run has failed, or was cancelled.
    """
    assert isinstance(response.body, bytes)
    if not failed:
        return Final(status=response.status, headers=response.headers, body=response.body)
    message = _FINAL_ENCODER.encode(_message(response.body)).encode("utf-8", "replace")
    return Final(status=response.status, headers=_JSON, body=message, failed=True)


def _message(body: bytes) -> str:
    """Return the message of the error in a problem document, else its detail or title."""
    document = json.loads(body)
    error = document.get("error", {})
    message = error.get("reason", error.get("message", document.get("detail", document["title"])))
    return str(message)
