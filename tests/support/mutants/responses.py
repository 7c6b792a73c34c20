"""Servers that do something to responses."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from durable_core import HTTPError, Response
from support.mutants.base import (
    BASE,
    Fields,
    Mutant,
    Mutants,
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


def _ended_nicely(self: Any, response: Response) -> Iterator[bytes]:
    try:
        yield from BASE.Handler.pieces(self, response)
    except ValueError:
        yield b"0\r\n\r\n"


def _pass_framing_on(self: Any, response: Response) -> None:
    self.send_response_only(response.status)
    for field in response.headers.raw:
        self.send_header(*field)
    body = b"".join(self.pieces(response))
    self.send_header("content-length", str(len(body)))
    self.end_headers()
    self.wfile.write(body)


def _content_always(self: Any, response: Response) -> None:
    BASE.Handler.send(self, response)
    if response.status in (204, 304):
        self.wfile.write(b"nothing")


def _body_to_head(self: Any, response: Response) -> None:
    BASE.Handler.send(self, response)
    if self.command == "HEAD":
        self.wfile.write(b"body")


def _show_trace(self: Any) -> None:
    self.close_connection = True
    try:
        self.send(self.server.app.endpoint.handle(self.receive()))
    except HTTPError:
        self.send(Response(status=400))
    except Exception:
        self.send(Response.text(traceback.format_exc(), 500))


def _all_found(status: int) -> int:
    return 200 if status in (404, 405) else status


def _drop_cors(fields: Fields) -> Fields:
    return [field for field in fields if not field[0].startswith("access-control")]


def waiting(change: Callable[[Any, Response], Response]) -> dict[str, Any]:
    """Change the answers of wait URLs only."""

    def sent(self: Any, response: Response) -> Response:
        return change(self, response) if "durable-run=" in self.path else response

    return sending(sent)


_asked: set[str] = set()


def _answered_once(self: Any, response: Response) -> Response:
    if response.status not in (201,) or self.path not in _asked:
        _asked.add(self.path)
        return response
    return Response(status=410)


def _late(_: Any, response: Response) -> Response:
    time.sleep(4)
    return response


def _telling(self: Any, response: Response) -> Response:
    known = {run.id for run in self.server.app.endpoint.durable.runs.list()}
    is_known = any(id_ in self.path for id_ in known)
    return response if is_known or response.status != 403 else Response(status=404)


def _forget_if_gone(self: Any, response: Response) -> None:
    try:
        self.connection.setblocking(False)
        gone = self.connection.recv(1) == b""
    except OSError:
        gone = False
    self.connection.setblocking(True)
    if gone:
        self.server.app.endpoint.durable.engine.store._runs.clear()
    BASE.Handler.send(self, response)


_cached: dict[str, Response] = {}


def _cache(self: Any, response: Response) -> Response:
    """Answer by the path alone, whatever the query."""
    if response.status != 200:
        return response
    return _cached.setdefault(self.path.partition("?")[0], response)


#: See ``base.Mutants``.
MUTANTS: Mutants = {
    "sends_bodies_to_head": (Mutant({"send": _body_to_head}), ("Q14",)),
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
        ("A3", "H1"),
    ),
    "cuts_fields": (
        Mutant(fields_out(lambda fields: [(name, value[:1000]) for name, value in fields])),
        ("A4",),
    ),
    "cuts_bodies": (Mutant(sending(_cut_body)), ("A5", "H3")),
    "sends_content_with_204": (Mutant({"send": _content_always}), ("A6",)),
    "passes_framing_on": (Mutant({"send": _pass_framing_on}), ("A7",)),
    "drops_the_last_chunk": (Mutant(sending(_shortened)), ("A8",)),
    "ends_broken_streams": (Mutant({"pieces": _ended_nicely}), ("A9",)),
    "buffers_streams": (Mutant(sending(_buffered)), ("A10",)),
    "hides_errors": (
        Mutant(status_out(lambda status: 500 if 400 <= status < 500 else status)),
        ("A11", "W5", "B5"),
    ),
    "shows_stack_traces": (Mutant({"answer": _show_trace, "do_GET": _show_trace}), ("A12",)),
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
    "forgets_runs_of_gone_clients": (Mutant({"send": _forget_if_gone}), ("H8",)),
    "wakes_nobody": (Mutant(waiting(_late)), ("W1",)),
    "answers_once": (Mutant(waiting(_answered_once)), ("W2",)),
    "no_head_of_wait_urls": (
        Mutant(waiting(lambda self, r: Response(status=405) if self.command == "HEAD" else r)),
        ("W3",),
    ),
    "waits_by_post_only": (
        Mutant(waiting(lambda self, r: Response(status=405) if self.command == "GET" else r)),
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
