"""Servers that do something to event streams."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from durable_core import Response
from support.mutants.base import (
    Mutant,
    Mutants,
    changed_request,
    changed_response,
    fields_in,
    find,
    receiving,
    sending,
)

__all__ = ["MUTANTS"]

_STATUS = re.compile(rb'"statusCode":\d+')


def parts_out(change: Callable[[bytes], bytes]) -> dict[str, Any]:
    """Change each part of an event stream."""

    def changed(_: Any, response: Response) -> Response:
        if response.headers.get("content-type") != "text/event-stream":
            return response
        parts = cast("Iterable[bytes]", response.body)
        return changed_response(response, body=_Changed(parts, change))

    return sending(changed)


class _Changed:
    """A body whose parts are changed, and which can be closed."""

    def __init__(self, parts: Iterable[bytes], change: Callable[[bytes], bytes]) -> None:
        self._parts: Any = parts
        self._change = change

    def __iter__(self) -> Iterator[bytes]:
        return map(self._change, self._parts)

    def close(self) -> None:
        self._parts.close()


def without(event: bytes) -> dict[str, Any]:
    """Leave events of a type out."""

    def change(part: bytes) -> bytes:
        blocks = part.split(b"\n\n")
        return b"\n\n".join(block for block in blocks if b"event: " + event not in block)

    return parts_out(change)


def _whole(_: Any, response: Response) -> Response:
    if not response.is_streaming:
        return response
    return changed_response(response, body=b"".join(cast("Iterable[bytes]", response.body)))


def _without_place(fields: Any) -> Any:
    return [field for field in fields if field[0].lower() != "last-event-id"]


def _without_unknown(fields: Any) -> Any:
    return [field for field in fields if not field[0].lower().startswith("x-")]


MUTANTS: Mutants = {
    "keeps_everything_back": (
        Mutant(sending(_whole), declares="streaming"),
        ("V6", "C7", "C8"),
    ),
    "forgets_commits": (Mutant(without(b"inngest.commit")), ("V1", "V4", "V5", "C1", "C2")),
    "forgets_rollbacks": (Mutant(without(b"inngest.rollback")), ("V2", "V8", "C3", "C4")),
    "breaks_characters": (
        Mutant(parts_out(lambda part: part.decode().encode("ascii", "replace"))),
        ("V3",),
    ),
    "takes_every_status_for_200": (
        Mutant(parts_out(lambda part: _STATUS.sub(b'"statusCode":200', part))),
        ("C1", "C2", "C3", "C4", "C5"),
    ),
    "forgets_where_a_client_was": (
        Mutant(fields_in(_without_place), declares="streaming"),
        ("V5", "C7"),
    ),
    "drops_unknown_fields": (Mutant(fields_in(_without_unknown)), ("C6",)),
    "begins_at_the_beginning": (
        Mutant(
            receiving(
                lambda request: changed_request(
                    request, url=request.url.replace("durable-from=", "durable-to=")
                )
            )
        ),
        ("V4", "C2"),
    ),
    "streams_to_everybody": (
        Mutant(fields_in(lambda fields: [*fields, ("accept", "text/event-stream")])),
        ("V7",),
    ),
}


def __getattr__(name: str) -> Mutant:
    return find(MUTANTS, name)
