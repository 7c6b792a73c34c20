"""Servers that do something to requests."""

from __future__ import annotations

import gzip
import io
import socket
import time
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from durable_core import Request
from support.mutants.base import (
    BASE,
    Fields,
    MountingMutant,
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


def _never(self: Any) -> None:
    """Leave a client waiting that waits to be asked for its body."""


def _ignore_coding(self: Any, handler: Any) -> None:
    del handler.headers["transfer-encoding"]
    BASE.HandlerExchange.__init__(self, handler)


def _options_as_get(self: Any, handler: Any) -> None:
    BASE.HandlerExchange.__init__(self, handler)
    self.method = "GET" if self.method == "OPTIONS" else self.method


def _lenient(self: Any, handler: Any) -> None:
    length = handler.headers.get("content-length", "0")
    if not length.isdigit():
        handler.headers.replace_header("content-length", "0")
    BASE.HandlerExchange.__init__(self, handler)


def _without_limit(self: Any, handler: Any) -> None:
    """Read as much as comes, and pass it on as what was announced."""
    BASE.HandlerExchange.__init__(self, handler)
    body = handler.rfile.read(int(handler.headers.get("content-length", "0")))[:1000]
    handler.rfile = io.BytesIO(body)
    self.fields = [each for each in self.fields if each[0].lower() != "content-length"]
    self.fields.append(("content-length", str(len(body))))


def _cut_head(self: Any, handler: Any) -> None:
    """Leave out what would be too much."""
    BASE.HandlerExchange.__init__(self, handler)
    self.target = self.target[:100]
    self.fields = [each for each in self.fields if each[0].lower() != "x-own"]


def _with_key(request: Request) -> Request:
    fields = [*request.headers.raw, ("authorization", "Bearer a-key")]
    if urlsplit(request.url).path == "/keyed":
        kept = [field for field in fields if field[0].lower() != "authorization"]
        return changed_request(request, headers=[*kept, fields[-1]])
    return request


def _head_as_get(request: Request) -> Request:
    return changed_request(request, method="GET") if request.method == "HEAD" else request


def _unzipped(request: Request) -> Request:
    if request.headers.get("content-encoding") != "gzip":
        return request
    return changed_request(request, body=gzip.decompress(request.body))


def _without_absolute_targets(self: Any, handler: Any) -> None:
    BASE.HandlerExchange.__init__(self, handler)
    if self.target.startswith("http:"):
        self.target = f"/{self.target}"


def _trust(request: Request) -> Request:
    own = urlsplit(request.url)
    host = request.headers.get("x-forwarded-host") or own.netloc
    scheme = request.headers.get("x-forwarded-proto") or own.scheme
    return changed_request(request, url=own._replace(scheme=scheme, netloc=host).geturl())


def _without_cookies(fields: Fields) -> Fields:
    return [each for each in fields if each[0].lower() != "cookie"]


def _without_preferences(fields: Fields) -> Fields:
    return [(name, value) for name, value in fields if name.lower() != "prefer"]


def _continue_at_once(self: Any) -> bool:
    self.send_response_only(100)
    self.end_headers()
    return True


def _one_host(self: Any, handler: Any) -> None:
    BASE.HandlerExchange.__init__(self, handler)
    self.fields = list({name.lower(): (name, value) for name, value in self.fields}.values())


def _refuse_1_0(self: Any, handler: Any) -> None:
    BASE.HandlerExchange.__init__(self, handler)
    self.chunked = True
    if handler.request_version == "HTTP/1.0":
        self.fields = [("host", "[:]")]


def _drop_coding_beside_length(self: Any, handler: Any) -> None:
    if "content-length" in handler.headers:
        del handler.headers["transfer-encoding"]
    BASE.HandlerExchange.__init__(self, handler)


def _name_another_host(self: Any, handler: Any) -> None:
    BASE.HandlerExchange.__init__(self, handler)
    self.authority = "shop.example"


def _end_with_the_client(self: Any, data: bytes) -> None:
    """Leave out half of what is sent to a client that has ended its side."""
    connection = self._handler.connection
    connection.setblocking(False)
    try:
        is_open = bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        is_open = True
    connection.setblocking(True)
    BASE.HandlerExchange.write(self, data if is_open else data[: len(data) // 2])


#: See ``base.Mutants``.
MUTANTS: Mutants = {
    "always_gets": (
        Mutant(receiving(lambda r: changed_request(r, method="GET"))),
        ("Q1", "W9", "W11"),
    ),
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
        Mutant(exchange={"__init__": _ignore_coding}, declares="chunked-requests"),
        ("Q10", "B4"),
    ),
    "refuses_to_continue": (Mutant(exchange={"send_continue": _never}), ("Q11",)),
    "runs_head_as_get": (Mutant(receiving(_head_as_get)), ("Q14",)),
    "undoes_codings": (Mutant(receiving(_unzipped)), ("Q9",)),
    "knows_no_absolute_targets": (
        Mutant(exchange={"__init__": _without_absolute_targets}),
        ("Q5",),
    ),
    "trusts_forwarded_fields": (Mutant(receiving(_trust)), ("Q5",)),
    "drops_preferences": (Mutant(fields_in(_without_preferences)), ("W10",)),
    "drops_cookies": (Mutant(fields_in(_without_cookies)), ("Q6",)),
    "asks_for_every_body": (Mutant(handler={"handle_expect_100": _continue_at_once}), ("B2",)),
    "takes_the_last_host": (Mutant(exchange={"__init__": _one_host}), ("B1",)),
    "takes_lengths_beside_codings": (
        Mutant(exchange={"__init__": _drop_coding_beside_length}),
        ("B1",),
    ),
    "names_another_host": (Mutant(exchange={"__init__": _name_another_host}), ("Q17",)),
    "cuts_half_closed_clients": (Mutant(exchange={"write": _end_with_the_client}), ("Q18",)),
    "forgets_the_prefix": (MountingMutant(lambda _, params, route: ("", params, route)), ("M1",)),
    "forgets_parameters": (
        MountingMutant(lambda prefix, _, route: (prefix, {}, route)),
        ("M2",),
    ),
    "keeps_parameters_quoted": (
        MountingMutant(
            lambda prefix, params, route: (prefix, {n: quote(v) for n, v in params.items()}, route)
        ),
        ("M2",),
    ),
    "names_each_path": (MountingMutant(lambda prefix, params, _: (prefix, params, None)), ("M3",)),
    "knows_no_http_1_0": (Mutant(exchange={"__init__": _refuse_1_0}), ("Q16",)),
    "closes_connections": (Mutant(declares="keep-alive"), ("Q12",)),
    "mixes_bodies": (Mutant(receiving(_mix_up)), ("Q13",)),
    "runs_for_options": (Mutant(exchange={"__init__": _options_as_get}), ("Q15", "W7")),
    "notices_no_disconnect": (Mutant(declares="client-disconnect"), ("H9", "A15")),
    "adds_the_key": (Mutant(receiving(_with_key)), ("E9",)),
    "guesses_lengths": (Mutant(exchange={"__init__": _lenient}), ("B1",)),
    "reads_without_limit": (Mutant(exchange={"__init__": _without_limit}), ("B2", "B4")),
    "has_no_head_limit": (Mutant(exchange={"__init__": _cut_head}), ("B3",)),
}


def __getattr__(name: str) -> Mutant:
    return find(MUTANTS, name)
