"""Servers that do something to event streams."""

from __future__ import annotations

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


MUTANTS: Mutants = {
    "keeps_everything_back": (Mutant(sending(_whole), declares="streaming"), ("V6",)),
    "forgets_commits": (Mutant(without(b"inngest.commit")), ("V1", "V4", "V5")),
    "forgets_rollbacks": (Mutant(without(b"inngest.rollback")), ("V2", "V8")),
    "breaks_characters": (
        Mutant(parts_out(lambda part: part.decode().encode("ascii", "replace"))),
        ("V3",),
    ),
    "forgets_where_a_client_was": (Mutant(fields_in(_without_place)), ("V5",)),
    "begins_at_the_beginning": (
        Mutant(
            receiving(
                lambda request: changed_request(
                    request, url=request.url.replace("durable-from=", "durable-to=")
                )
            )
        ),
        ("V4",),
    ),
    "streams_to_everybody": (
        Mutant(fields_in(lambda fields: [*fields, ("accept", "text/event-stream")])),
        ("V7",),
    ),
}


def __getattr__(name: str) -> Mutant:
    return find(MUTANTS, name)
