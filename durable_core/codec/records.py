"""How requests, responses, errors and events are stored: as JSON text, bodies apart, as bytes."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from durable_core.codec.json import JSONCodec
from durable_core.errors import (
    BadRequest,
    EncryptionKeyError,
    HTTPError,
    LimitExceededError,
    SignalConflictError,
    StepCancelled,
    StepError,
    StepInterrupted,
    StepResultError,
    StepResultTooLargeError,
)
from durable_core.http.headers import SENSITIVE_HEADERS, Headers
from durable_core.http.json import chunk_encoder
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import Event, Signal

if TYPE_CHECKING:
    from durable_core.model.decision import Failure

__all__ = [
    "callback_digest",
    "check_event",
    "check_events",
    "check_signal",
    "dump_callback",
    "dump_error",
    "dump_error_response",
    "dump_event",
    "dump_head",
    "dump_request",
    "is_sealed",
    "is_without_body",
    "load_callback",
    "load_event",
    "load_request",
    "load_response",
    "load_step_error",
    "pack",
    "pack_text",
    "parse_events",
    "unpack",
    "unpack_text",
    "without_params",
]

# --- errors ---------------------------------------------------------------------------------------
#
# Errors of user code as JSON text, and as the errors that the handler sees.

_RESULT_ERRORS: Mapping[str, type[StepError]] = {
    "unstorable": StepResultError,
    "too-large": StepResultTooLargeError,
}


#: How much of a stack trace is kept, characters.
_TRACE_CHARS = 20_000


def dump_error(failure: Failure) -> str:
    """Return the failure as JSON: ``name``, ``message``, and the other fields that are set."""
    fields: dict[str, object] = {"name": failure.name, "message": failure.message}
    if failure.data:
        fields["data"] = json.loads(failure.data)
    for name in ("cancelled", "interrupted", "conflict", "result", "public", "http"):
        if value := getattr(failure, name):
            fields[name] = value
    if failure.trace:
        fields["trace"] = failure.trace[-_TRACE_CHARS:]
    if failure.response is not None:
        fields["response"] = dump_error_response(failure.response)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def load_step_error(step_id: str, text: str) -> StepError:
    """Return the error that the handler sees for a step whose memo is this failure.

    A stack trace that was kept is a note of the error, for whoever shows its own. If the step
    raised an ``HTTPError``, that is the ``__cause__`` of the returned error. If
    ``exception_to_response`` has made a response of the step's error, the returned one has it.
    """
    fields = json.loads(text)
    cls = StepCancelled if fields.get("cancelled") else StepError
    cls = StepInterrupted if fields.get("interrupted") else cls
    cls = SignalConflictError if fields.get("conflict") else cls
    cls = _RESULT_ERRORS.get(fields.get("result", ""), cls)
    error = cls(step_id, fields["name"], fields["message"], fields.get("data"))
    error.public = fields.get("public")
    if "http" in fields:
        status, detail, headers = fields["http"]
        error.__cause__ = HTTPError(status, detail, dict(headers))
    if "trace" in fields:
        error.add_note(f"What step {step_id!r} raised:\n{fields['trace']}")
    if "response" in fields:
        status, headers, body = fields["response"]
        fields_of = Headers._trusted(map(tuple, headers))
        error._response = Response(status=status, headers=fields_of, body=b64decode(body))
    return error


def dump_error_response(response: tuple[int, tuple[tuple[str, str], ...], bytes]) -> list[object]:
    """Return status, headers and body of the response to an error, ready for JSON."""
    status, headers, body = response
    return [status, headers, b64encode(body).decode("ascii")]


# --- events ---------------------------------------------------------------------------------------
#
# Events as JSON text, as the store keeps them and as clients send them.

_CODEC = JSONCodec()
_FIELDS = frozenset({"name", "data", "id", "ts"})


def dump_event(event: Event) -> str:
    """Return the event as a JSON object with ``name``, ``data``, ``id`` and ``ts``."""
    fields = {"name": event.name, "data": dict(event.data), "id": event.id, "ts": event.ts}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def load_event(text: str) -> Event:
    """Return the event of a text that :func:`dump_event` made."""
    return Event(**json.loads(text))


def check_event(event: Event, largest: int) -> Event:
    """Return the event if its data is JSON and it has at most ``largest`` bytes.

    Raises:
        TypeError: the data is not JSON; the message names the path.
        LimitExceededError: it is too large.
    """
    _check_data(f"event {event.name!r}", dict(event.data), largest)
    return event


def check_signal(signal: Signal[object], largest: int) -> Signal[object]:
    """Return the signal if its data is JSON and it has at most ``largest`` bytes.

    Raises:
        TypeError, LimitExceededError: as of :func:`check_event`.
    """
    _check_data(f"signal {signal.name!r}", signal.data, largest)
    return signal


def _check_data(what: str, data: object, largest: int) -> None:
    try:
        size = len(_CODEC.encode(data).encode("utf-8"))
    except TypeError as error:
        raise TypeError(f"the data of {what} is not JSON: {error}") from error
    if size > largest:
        raise LimitExceededError(
            f"the data of {what} has {size} bytes as JSON; "
            f"at most {largest} are allowed (Limits.event)"
        )


def check_events(events: Event | Sequence[Event], *, most: int, largest: int) -> tuple[Event, ...]:
    """Return events that are sent together, if each is sound.

    Args:
        events: one, or a list of them.
        most: the number of events that may be sent at a time.
        largest: the size of the data of each as JSON, bytes.

    Raises:
        TypeError: something is not an Event, or its data is not JSON.
        ValueError: there are none.
        LimitExceededError: one is too large, or there are too many.
    """
    several = (events,) if isinstance(events, Event) else events
    if isinstance(several, str) or not isinstance(several, Sequence):
        raise TypeError(f"events must be an Event or a list of them, not {type(events).__name__}")
    if not several:
        raise ValueError("there must be at least one event")
    if len(several) > most:
        raise LimitExceededError(
            f"{len(several)} events were sent at a time; at most {most} are allowed (Limits.events)"
        )
    for event in several:
        if not isinstance(event, Event):
            raise TypeError(f"an Event is needed, not {type(event).__name__}")
        check_event(event, largest)
    return tuple(several)


def parse_events(value: object) -> tuple[Event, ...]:
    """Return the events of a decoded JSON body: one object, or an array of them.

    Raises:
        BadRequest: the message names the error and the element.
    """
    items = value if isinstance(value, list) else [value]
    if not items:
        raise BadRequest("an array of events must not be empty")
    return tuple(_parse_event(item, index) for index, item in enumerate(items))


def _parse_event(item: object, index: int) -> Event:
    where = f"event {index}"
    if not isinstance(item, Mapping):
        raise BadRequest(f"{where} must be a JSON object")
    if "name" not in item:
        raise BadRequest(f"{where} has no name")
    unknown = sorted(set(item) - _FIELDS)
    if unknown:
        raise BadRequest(f"{where} has unknown members: {', '.join(map(repr, unknown))}")
    fields = {key: value for key, value in item.items() if value is not None}
    try:
        return Event(**fields)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"{where}: {error}") from error


# --- records --------------------------------------------------------------------------------------

# Escaped to ASCII: a URL from a client may contain bytes that are not UTF-8.
_chunks = chunk_encoder(json.JSONEncoder(check_circular=False, separators=(",", ":")))


#: Stands among the names of headers that are not stored for a body that is not.
_BODY = ":body"


def dump_request(
    request: Request, *, stored_headers: frozenset[str], omit_body: bool = False
) -> str:
    """Return everything about the request except its body.

    Args:
        request: the request of the run.
        stored_headers: lower-case names of credential headers (``SENSITIVE_HEADERS``) to store
            anyway. Of others only the name is stored, so that replay can raise an error.
        omit_body: the body is not stored, either.
    """
    secret = SENSITIVE_HEADERS - stored_headers if stored_headers else SENSITIVE_HEADERS
    headers, params = request.headers._withhold(secret), request.path_params
    withheld = headers._withheld | {_BODY} if omit_body else headers._withheld
    fields = {
        "method": request.method,
        "url": request.url,
        "root_path": request.root_path,
        "headers": headers._raw,
        "path_params": dict(params) if params else {},
        "withheld": sorted(withheld) if withheld else (),
    }
    return "".join(_chunks(fields, 0))


def load_request(text: str, body: bytes) -> Request:
    """Return the request that ``dump_request`` was given, without the withheld headers.

    Raises:
        EncryptionKeyError: the head is stored encrypted.
    """
    head = _load_head(text, "request")
    return Request(
        method=head["method"],
        url=head["url"],
        headers=Headers._trusted(map(tuple, head["headers"]), frozenset(head["withheld"])),
        body=body,
        path_params=head["path_params"],
        root_path=head["root_path"],
    )


def is_without_body(request: Request) -> bool:
    """Tell whether the body of a stored request was left out."""
    return _BODY in request.headers._withheld


def dump_head(response: Response) -> str:
    """Return status and headers of the response."""
    return "".join(_chunks({"status": response.status, "headers": response.headers.raw}, 0))


def load_response(text: str, body: bytes) -> Response:
    """Return the response with the head that ``dump_head`` was given and this body.

    Raises:
        EncryptionKeyError: the head is stored encrypted.
    """
    head = _load_head(text, "response")
    return Response(
        status=head["status"], headers=Headers._trusted(map(tuple, head["headers"])), body=body
    )


def _load_head(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        if not is_sealed(text):
            raise
        raise EncryptionKeyError(
            f"the {what} is stored encrypted, and this process has no keys (stores.EncryptedStore)"
        ) from None


# --- callbacks ------------------------------------------------------------------------------------
#
# The requests that answer callbacks, as they are delivered and stored.


def without_params(request: Request, names: frozenset[str]) -> Request:
    """Return a request without some parameters of its URL, such as a token."""
    parts = urlsplit(request.url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    kept = urlencode([pair for pair in query if pair[0] not in names])
    return Request(
        method=request.method,
        url=urlunsplit((*parts[:3], kept, "")),
        headers=request.headers,
        body=request.body,
        path_params=request.path_params,
        root_path=request.root_path,
    )


def callback_digest(request: Request) -> str:
    """Return what a repeated answer has in common with the first one: content and its type."""
    content_type = request.headers.get("content-type") or ""
    parts = content_type.encode("utf-8", "replace"), request.body
    return hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).hexdigest()


def dump_callback(request: Request, stored_headers: frozenset[str]) -> dict[str, object]:
    """Return a request as JSON values.

    The body is ``text`` if it is UTF-8, for people who look at the run; else ``base64``. Of
    credential headers (``SENSITIVE_HEADERS``) only those in ``stored_headers`` are kept.
    """
    data: dict[str, object] = json.loads(dump_request(request, stored_headers=stored_headers))
    try:
        data["text"] = request.body.decode("utf-8")
    except UnicodeDecodeError:
        data["base64"] = b64encode(request.body).decode("ascii")
    return data


def load_callback(data: Mapping[str, Any]) -> Request:
    """Return the request that :func:`dump_callback` was given."""
    text = data.get("text")
    body = b64decode(data["base64"]) if text is None else text.encode("utf-8")
    return load_request(json.dumps(data), body)


# --- sealed values --------------------------------------------------------------------------------
#
# What a store keeps encrypted. Which key has sealed a value is in front of it, in clear text:
# ``durable:sealed:<key id>:<ciphertext>``. Where a text is needed, a ciphertext that is no
# printable ASCII is in base64: ``durable:sealed64:<key id>:<base64>``.

_SEALED, _SEALED64 = "durable:sealed:", "durable:sealed64:"


def is_sealed(text: str) -> bool:
    """Tell whether a text that was stored is encrypted."""
    return text.startswith((_SEALED, _SEALED64))


def pack(key_id: str, ciphertext: bytes) -> bytes:
    """Return what is stored in place of bytes."""
    return f"{_SEALED}{key_id}:".encode("ascii") + ciphertext


def pack_text(key_id: str, ciphertext: bytes) -> str:
    """Return what is stored in place of a text; it has no line end."""
    if ciphertext.isascii() and (text := ciphertext.decode("ascii")).isprintable():
        return f"{_SEALED}{key_id}:{text}"
    return f"{_SEALED64}{key_id}:{b64encode(ciphertext).decode('ascii')}"


def unpack(value: bytes) -> tuple[str, bytes]:
    """Return the id of the key, and the ciphertext.

    Raises:
        ValueError: the value is not encrypted.
    """
    prefix = _SEALED.encode("ascii")
    key_id, colon, ciphertext = value.removeprefix(prefix).partition(b":")
    if not value.startswith(prefix) or not colon:
        raise ValueError("it is not encrypted")
    return key_id.decode("ascii", "replace"), ciphertext


def unpack_text(value: str) -> tuple[str, bytes]:
    """As :func:`unpack`, for a text."""
    if value.startswith(_SEALED64):
        key_id, _, text = value.removeprefix(_SEALED64).partition(":")
        return key_id, b64decode(text)
    return unpack(value.encode("utf-8", "replace"))
