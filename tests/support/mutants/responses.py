"""Servers that do something to responses."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any

from durable_core import Request, Response
from durable_core.adapters import AdapterApp
from support.mutants.base import (
    BASE,
    Fields,
    Mutant,
    Mutants,
    Seen,
    changed_response,
    fields_out,
    find,
    sending,
    status_out,
)

__all__ = ["MUTANTS"]


def _cut_body(_: Any, response: Response) -> Response:
    body = response.body
    return changed_response(response, body=body[:4096]) if isinstance(body, bytes) else response


def _buffered(_: Any, response: Response) -> Response:
    body = response.body
    return response if isinstance(body, bytes) else changed_response(response, body=b"".join(body))  # type: ignore[arg-type]


def _shortened(_: Any, response: Response) -> Response:
    body = response.body
    if isinstance(body, bytes):
        return response
    return changed_response(response, body=list(body)[:-1])  # type: ignore[arg-type]


def _ended_nicely(self: Any, error: BaseException) -> None:
    self.end()
    self.write(b"0\r\n\r\n")


def _pass_framing_on(self: Any, request: Request, **how: Any) -> Response:
    response = AdapterApp.respond(self, request, **how)
    _framing[0] = [each for each in response.headers.raw if each[0].lower() in _OWN]
    return response


_OWN = ("content-length", "transfer-encoding", "connection")
_framing: list[Fields] = [[]]


def _begin_with_framing(self: Any, status: int, fields: Fields) -> None:
    own, _framing[0] = _framing[0], []
    BASE.HandlerExchange.begin(self, status, [*fields, *own])


def _hide_length(self: Any, request: Request, **how: Any) -> Response:
    """Take the length that a stream declares out of the kit's hands."""
    response = AdapterApp.respond(self, request, **how)
    if isinstance(response.body, bytes):
        return response
    _framing[0] = [each for each in response.headers.raw if each[0].lower() == "content-length"]
    kept = [each for each in response.headers.raw if each[0].lower() != "content-length"]
    return changed_response(response, headers=kept)


def _begin_with_length(self: Any, status: int, fields: Fields) -> None:
    own, _framing[0] = _framing[0], []
    if own:
        self._coded = False
        fields = [*(each for each in fields if each[0] != "transfer-encoding"), *own]
    BASE.HandlerExchange.begin(self, status, fields)


class _Unclosed:
    """A body that is not closed with what is made of it."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> bytes:
        chunk: bytes = next(self._body)
        return chunk


def _left_open(_: Any, response: Response) -> Response:
    if isinstance(response.body, bytes):
        return response
    _bodies.append(response.body)  # lest it is closed when nobody holds it any more
    return changed_response(response, body=_Unclosed(response.body))


_bodies: list[Any] = []


def _force_type(fields: Fields) -> Fields:
    kept = [each for each in fields if each[0].lower() != "content-type"]
    found = next((v for n, v in fields if n.lower() == "content-type"), "text/plain")
    return [*kept, ("content-type", found.partition(";")[0])]


def _content_always(self: Any) -> None:
    if self._status in (204, 304):
        self.write(b"nothing")


def _begin_remembering(self: Any, status: int, fields: Fields) -> None:
    self._status = status
    BASE.HandlerExchange.begin(self, status, fields)


def _body_to_head(self: Any) -> None:
    if self.method == "HEAD":
        self.write(b"body")


def _show_trace(self: Any, request: Request, **how: Any) -> Response:
    try:
        response: Response = self.endpoint.handle(request, **how)
    except Exception:
        return Response.text(traceback.format_exc(), 500)
    return response


def _all_found(status: int) -> int:
    return 200 if status in (404, 405) else status


def _drop_cors(fields: Fields) -> Fields:
    return [field for field in fields if not field[0].startswith("access-control")]


def waiting(change: Callable[[Seen, Response], Response]) -> dict[str, Any]:
    """Change the answers of wait URLs only."""

    def sent(seen: Seen, response: Response) -> Response:
        return change(seen, response) if "durable-run=" in seen.path else response

    return sending(sent)


_asked: set[str] = set()


def _answered_once(seen: Seen, response: Response) -> Response:
    if response.status not in (201,) or seen.path not in _asked:
        _asked.add(seen.path)
        return response
    return Response(status=410)


def _late(_: Any, response: Response) -> Response:
    time.sleep(4)
    return response


def _telling(seen: Seen, response: Response) -> Response:
    known = {run.id for run in seen.app.endpoint.durable.runs.list()}
    is_known = any(id_ in seen.path for id_ in known)
    return response if is_known or response.status != 403 else Response(status=404)


def _forget_if_gone(self: Any, status: int, fields: Fields) -> None:
    connection = self._handler.connection
    try:
        connection.setblocking(False)
        gone = connection.recv(1) == b""
    except OSError:
        gone = False
    connection.setblocking(True)
    if gone:
        self._handler.server.app.endpoint.durable.engine.store._runs.clear()
    BASE.HandlerExchange.begin(self, status, fields)


_cached: dict[str, Response] = {}


def _cache(seen: Seen, response: Response) -> Response:
    """Answer by the path alone, whatever the query."""
    if response.status != 200:
        return response
    return _cached.setdefault(seen.path.partition("?")[0], response)


#: See ``base.Mutants``.
MUTANTS: Mutants = {
    "sends_bodies_to_head": (Mutant(exchange={"end": _body_to_head}), ("Q14",)),
    "knows_few_statuses": (
        Mutant(status_out(lambda status: status if status in (200, 201, 404, 500) else 500)),
        ("A1",),
    ),
    "says_html": (
        Mutant(fields_out(lambda fields: [("content-type", "text/html")])),
        ("A2", "H2"),
    ),
    "drops_repeated_fields": (
        Mutant(fields_out(lambda fields: list(dict(fields).items()))),
        ("A3", "H3"),
    ),
    "cuts_fields": (
        Mutant(fields_out(lambda fields: [(name, value[:1000]) for name, value in fields])),
        ("A4",),
    ),
    "sends_fields_as_utf_8": (
        Mutant(
            fields_out(
                lambda fields: [(name, value.encode().decode("latin-1")) for name, value in fields]
            )
        ),
        ("A16",),
    ),
    "cuts_bodies": (Mutant(sending(_cut_body)), ("A5", "H3")),
    "sends_content_with_204": (
        Mutant(exchange={"begin": _begin_remembering, "end": _content_always}),
        ("A6",),
    ),
    "passes_framing_on": (
        Mutant({"respond": _pass_framing_on}, exchange={"begin": _begin_with_framing}),
        ("A7",),
    ),
    "trusts_declared_lengths": (
        Mutant({"respond": _hide_length}, exchange={"begin": _begin_with_length, "chunked": False}),
        ("A13",),
    ),
    "leaves_bodies_open": (Mutant(sending(_left_open)), ("A14",)),
    "forces_content_types": (Mutant(fields_out(_force_type)), ("A4",)),
    "drops_the_last_chunk": (Mutant(sending(_shortened)), ("A8",)),
    "ends_broken_streams": (Mutant(exchange={"abort": _ended_nicely}), ("A9",)),
    "buffers_streams": (Mutant(sending(_buffered)), ("A10",)),
    "hides_errors": (
        Mutant(status_out(lambda status: 500 if 400 <= status < 500 else status)),
        ("A11", "W5", "B5"),
    ),
    "shows_stack_traces": (Mutant({"respond": _show_trace}), ("A12",)),
    "caches_answers": (Mutant(sending(_cache)), ("L11",)),
    "says_200": (Mutant(status_out(lambda status: 200)), ("L1", "H1")),
    "hides_failures": (
        Mutant(status_out(lambda status: 200 if status == 500 else status)),
        ("L6",),
    ),
    "answers_200_for_302": (
        Mutant(status_out(lambda status: 200 if status in (302, 303) else status)),
        ("H1", "S2"),
    ),
    "is_not_private": (
        Mutant(fields_out(lambda fields: [each for each in fields if each[0] != "cache-control"])),
        ("H2",),
    ),
    "forgets_runs_of_gone_clients": (Mutant(exchange={"begin": _forget_if_gone}), ("H8",)),
    "wakes_nobody": (Mutant(waiting(_late)), ("W1",)),
    "answers_once": (Mutant(waiting(_answered_once)), ("W2",)),
    "no_head_of_wait_urls": (
        Mutant(waiting(lambda s, r: Response(status=405) if s.request.method == "HEAD" else r)),
        ("W3",),
    ),
    "waits_by_post_only": (
        Mutant(waiting(lambda s, r: Response(status=405) if s.request.method == "GET" else r)),
        ("W4",),
    ),
    "tells_which_runs_exist": (Mutant(waiting(_telling)), ("W5",)),
    "sends_clients_round_for_ever": (
        Mutant(waiting(lambda _, r: changed_response(r, status=303) if r.status == 202 else r)),
        ("W8",),
    ),
    "has_no_cors": (Mutant(fields_out(_drop_cors)), ("W7",)),
    "finds_everything": (Mutant(status_out(_all_found)), ("B5",)),
}


def __getattr__(name: str) -> Mutant:
    return find(MUTANTS, name)
