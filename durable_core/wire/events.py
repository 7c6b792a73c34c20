"""Events as JSON text, as the store keeps them and as clients send them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from durable_core.errors import BadRequest, LimitExceededError
from durable_core.model.events import Event
from durable_core.wire.codec import JSONCodec

__all__ = ["check_event", "dump_event", "load_event", "parse_events"]

_CODEC = JSONCodec()
_FIELDS = frozenset({"name", "data", "id", "ts"})


def dump_event(event: Event) -> str:
    """Return the event as a JSON object with ``name``, ``data``, ``id`` and ``ts``."""
    fields = {"name": event.name, "data": dict(event.data), "id": event.id, "ts": event.ts}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def load_event(text: str) -> Event:
    """Return the event that :func:`dump_event` made the text of."""
    return Event(**json.loads(text))


def check_event(event: Event, largest: int) -> Event:
    """Return the event if its data is JSON and it has at most ``largest`` bytes.

    Raises:
        TypeError: the data holds what JSON cannot; names the path.
        LimitExceededError: it is too large.
    """
    try:
        size = len(_CODEC.encode(dict(event.data)).encode("utf-8"))
    except TypeError as error:
        raise TypeError(f"the data of event {event.name!r} is not JSON: {error}") from error
    if size > largest:
        raise LimitExceededError(
            f"the data of event {event.name!r} has {size} bytes as JSON; "
            f"at most {largest} are allowed (Limits.event)"
        )
    return event


def parse_events(value: object) -> tuple[Event, ...]:
    """Return the events of a decoded JSON body: one object, or an array of them.

    Raises:
        BadRequest: says what is wrong, and with which element.
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
