"""Servers that do something to requests."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from durable_core import Request
from support.mutants.base import (
    BASE,
    Fields,
    Mutant,
    Mutants,
    changed_request,
    fields_in,
    find,
    receiving,
)

__all__ = ["MUTANTS"]


def _decode_path(request: Request) -> Request:
    path = urlsplit(request.url).path
    return changed_request(request, url=request.url.replace(path, quote(unquote(unquote(path)))))


def _encode_path_anew(request: Request) -> Request:
    path = urlsplit(request.url).path
    return changed_request(request, url=request.url.replace(path, quote(unquote(path), safe="/:")))


def _sort_query(request: Request) -> Request:
    url, _, query = request.url.partition("?")
    return changed_request(request, url=f"{url}?{'&'.join(sorted(query.split('&')))}")


def _joined(fields: Fields) -> Fields:
    known: dict[str, str] = {}
    for name, value in fields:
        known[name] = f"{known[name]}, {value}" if name in known else value
    return list(known.items())


def _without_host(request: Request) -> Request:
    return changed_request(request, url=f"http://localhost{urlsplit(request.url).path}")


_latest: list[bytes] = [b""]


def _mix_up(request: Request) -> Request:
    _latest[0] = request.body
    time.sleep(0.01)
    return changed_request(request, body=_latest[0])


def _refuse_to_continue(self: Any) -> bool:
    self.send_error(417)
    return False


def _ignore_coding(self: Any) -> Any:
    del self.headers["transfer-encoding"]
    return BASE.Handler.receive(self)


def _options_as_get(self: Any) -> None:
    self.command = "GET"
    self.answer()


def _no_limit(self: Any) -> Request:
    body = self.rfile.read(int(self.headers.get("content-length", "0")))
    url = f"http://{self.headers['host']}{self.path}"
    return Request(method=self.command, url=url, headers=self.headers.items(), body=body)


def _lenient(self: Any) -> Any:
    length = self.headers.get("content-length", "0")
    if not length.isdigit():
        self.headers.replace_header("content-length", "0")
    return BASE.Handler.receive(self)


def _with_key(request: Request) -> Request:
    fields = [*request.headers.raw, ("authorization", "Bearer a-key")]
    if urlsplit(request.url).path == "/keyed":
        kept = [field for field in fields if field[0].lower() != "authorization"]
        return changed_request(request, headers=[*kept, fields[-1]])
    return request


#: See ``base.Mutants``.
MUTANTS: Mutants = {
    "always_gets": (Mutant(receiving(lambda r: changed_request(r, method="GET"))), ("Q1",)),
    "decodes_paths_twice": (Mutant(receiving(_decode_path)), ("Q2",)),
    "encodes_paths_anew": (Mutant(receiving(_encode_path_anew)), ("Q3",)),
    "sorts_the_query": (Mutant(receiving(_sort_query)), ("Q4",)),
    "makes_the_host_up": (Mutant(receiving(_without_host)), ("Q5",)),
    "drops_empty_fields": (
        Mutant(fields_in(lambda fields: [each for each in fields if each[1]])),
        ("Q6",),
    ),
    "keeps_the_last_field": (Mutant(fields_in(lambda fields: list(dict(fields).items()))), ("Q7",)),
    "joins_fields": (Mutant(fields_in(_joined), declares="separate-fields"), ("Q8",)),
    "drops_bodies": (Mutant(receiving(lambda r: changed_request(r, body=b""))), ("Q9", "B2")),
    "takes_chunks_for_nothing": (
        Mutant({"receive": _ignore_coding}, declares="chunked-requests"),
        ("Q10", "B4"),
    ),
    "refuses_to_continue": (Mutant({"handle_expect_100": _refuse_to_continue}), ("Q11",)),
    "closes_connections": (Mutant(declares="keep-alive"), ("Q12",)),
    "mixes_bodies": (Mutant(receiving(_mix_up)), ("Q13",)),
    "runs_for_options": (Mutant({"do_OPTIONS": _options_as_get}), ("Q15", "W7")),
    "notices_no_disconnect": (Mutant(declares="client-disconnect"), ("H9",)),
    "adds_the_key": (Mutant(receiving(_with_key)), ("E9",)),
    "guesses_lengths": (Mutant({"receive": _lenient}), ("B1",)),
    "reads_without_limit": (Mutant({"receive": _no_limit}), ("B2", "B4")),
    "has_no_head_limit": (Mutant(declares="head-limit"), ("B3",)),
}


def __getattr__(name: str) -> Mutant:
    return find(MUTANTS, name)
