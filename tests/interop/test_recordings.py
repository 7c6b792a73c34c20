"""What we tell a server is what the recorded SDK tells it, but for what that gets wrong.

``docs/reference/inngest-traffic.md`` has a row for each recording, and says what differs and why.
"""

from __future__ import annotations

import json
import re
import socket
from base64 import b64encode
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from durable_core import Request, step
from durable_inngest._client import Functions
from durable_inngest._config import sign, verify
from durable_inngest._protocol import load_value
from support.inngest_app import App, Got, serving
from support.inngest_recordings import (
    Exchange,
    asked,
    events_of,
    fields_of,
    load,
    names,
    op_of,
    ops_of,
    posted,
    said,
)
from support.inngest_server import InngestServer, inngest_server
from support.recorded_handlers import CALLS, CASES, Case
from support.source_tree import ROOT

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/reference/inngest-traffic.md").read_text("utf-8")
KEY = "signkey-test-0123456789abcdef0123456789abcdef"
#: Recordings that end before their run does.
CUT_SHORT = frozenset({"b-fail-twice-noredirect", "b-fail-twice-sse", "f-throw-sse"})
#: Recordings of clients and servers that do not come to a run; each has a test of its own below.
WITHOUT_RUN = ("o-devserver-down", "p-forged-reentry")
#: What is shorter here than there, so that nobody waits.
SHORT = {"1s": "1s", "2s": "30ms", "3s": "30ms"}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Count from zero."""
    CALLS.clear()
    yield
    CALLS.clear()


def case_of(name: str) -> Case:
    """Return the case of a recording; several differ only in the client."""
    return CASES.get(name) or CASES[re.sub("-(plain|sse|fetchWithStream)$", "", name)]


class Replay:
    """A recording, and the same request to our handler, with all that followed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.case = case_of(name)
        self.recorded = load(name)
        self.first = next(each for each in self.recorded if each.leg == "app")
        self.key = KEY if name.startswith("p-signed") else None
        # Nor did the recorded server hear of the endpoint for the first time.
        known = mock.patch.object(Functions, "is_taken", return_value=True)
        with known, inngest_server(signing_key=self.key) as server:
            self.got = self._run(server)
            self.exchanges = exchanges_of(server)
            self.event = server.run.event

    def _run(self, server: InngestServer) -> Got:
        first, case = self.first, self.case
        target = first.target.replace("d=2s", "d=30ms").replace("t=3s", "t=30ms")
        options = {"retries": case.retries, "methods": (first.method,), **case.options}
        routes = {f"{first.method} {target.partition('?')[0]}": case.handler}
        engine = {"signing_key": self.key, "is_dev": False} if self.key else None
        server.functions.update(case.functions)
        server.services.update(case.services)
        with serving(server, routes, options=options, engine=engine) as app:
            got = ask(app, first, target)
            server.until(lambda: bool(server.runs))
            if case.events:
                server.until(lambda: bool(server.run.waits))
                server.send(*({"name": "approval/received", "data": d} for d in case.events))
            server.until(lambda: server.run.ended)
            server.until(lambda: len(posted(exchanges_of(server))) >= len(self.posts))
            return got

    @property
    def posts(self) -> list[str]:
        """The names of the events that are to be posted, for each post."""
        recorded = [shown(events) for events in posted(self.recorded)]
        if self.case.posted is None and self.name not in CUT_SHORT:
            return recorded
        return list(self.case.posted or ())


def ask(app: App, first: Exchange, target: str) -> Got:
    wanted = ("content-type", "accept")
    headers = {
        name: first.request_headers[name] for name in wanted if name in first.request_headers
    }
    return app.ask(first.method, target, body=first.request_body.encode(), headers=headers)


def exchanges_of(server: InngestServer) -> list[Exchange]:
    """Return what our side asked the test server, and answered to it, as recordings have it."""
    sent = [
        Exchange("dev", s.method, s.path, s.headers, s.body.decode(), 200, {}, "")
        for s in list(server.seen)
    ]
    answered = [
        Exchange("app", "GET", "/", {"x-run-id": "RUN"}, "", a.status, a.headers, a.body.decode())
        for _, a in list(server.calls)
        if a is not None
    ]
    return [*sent, *answered]


def shown(events: list[tuple[str, str]]) -> str:
    return " ".join(name for name, _ in events)


def lines_of(told: list[tuple[str, Any]]) -> tuple[str, ...]:
    """Return what was told, a line for each call: who, which ops of which steps."""
    return tuple(f"{where} {_named(document)}".rstrip() for where, document in told)


def apart(told: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return what was told, each op of a checkpoint by itself: some go out together."""
    return [
        (name, part)
        for where, doc in told
        for name, part in (
            [("checkpoint", [op]) for op in ops_of(doc)]
            if where.startswith("POST /v1/checkpoint")
            else [(where, doc)]
        )
    ]


def without_checkpoints(kinds: list[str]) -> list[str]:
    return [kind for kind in kinds if not kind.startswith("POST /v1/checkpoint")]


def _named(document: Any) -> str:
    ops = ops_of(document)
    if not ops:
        return "error" if isinstance(document, dict) else "events"
    return ", ".join(f"{op['op']} {op.get('displayName', '')}".rstrip() for op in ops)


def key_of(op: dict[str, Any]) -> dict[str, Any]:
    """Return an op for comparison: times, and the ids that a server gives, are its own."""
    known = op_of(op)
    if "data" in known:
        known["data"] = load_value(known["data"])
    data = known.get("data")
    if known["op"] == "RunComplete":
        known["data"] = sorted(data or {})
    elif isinstance(data, dict) and set(data) in ({"at"}, {"ids"}):
        known["data"] = set(data)
    known["name"] = SHORT.get(known.get("name", ""), known.get("name"))
    if known["name"] in (None, known.get("displayName")):
        del known["name"]  # the server shows either
    if "timeout" in known.get("opts", {}):
        known["opts"]["timeout"] = SHORT.get(known["opts"]["timeout"], known["opts"]["timeout"])
    return known


@pytest.mark.parametrize("name", [name for name in names() if name not in WITHOUT_RUN])
def test_recording(name: str) -> None:
    """Paths, headers, ops, events and the client's answer are those of the recording."""
    replay = Replay(name)

    compare_told(replay)
    compare_events(replay)
    compare_headers(replay)
    compare_streams(replay)
    compare_answers(replay)
    if replay.key is not None:
        compare_signatures(replay, replay.key)


def compare_told(replay: Replay) -> None:
    """The checkpoints, and the answers to calls: their paths, and every op."""
    told, expected = apart(said(replay.exchanges)), apart(said(replay.recorded))
    if replay.case.told is not None:
        assert replay.case.told == lines_of(told)
        return
    if replay.name in CUT_SHORT:
        told = told[: len(expected)]
    else:
        theirs, ours = asked(replay.recorded), asked(replay.exchanges)
        assert without_checkpoints(theirs) == without_checkpoints(ours)
        assert len(ours) <= len(theirs)  # the end of a run goes along with its last step
    assert lines_of(expected) == lines_of(told)
    for (_, theirs), (_, ours) in zip(expected, told, strict=True):
        assert [key_of(op) for op in ops_of(theirs)] == [key_of(op) for op in ops_of(ours)]


def compare_events(replay: Replay) -> None:
    """What begins a run: the fields of the checkpoint, and of the event, but for its body."""
    sent = [doc for where, doc in said(replay.recorded) if where.startswith("POST /e/")]
    ours_sent = [doc for where, doc in said(replay.exchanges) if where.startswith("POST /e/")]
    for theirs, ours in zip(sent, ours_sent, strict=True):
        for event, other in zip(theirs, ours, strict=True):
            assert {*event, "id"} == set(other)
            assert (event["name"], event["data"]) == (other["name"], other["data"])
    begun = [doc for where, doc in said(replay.recorded) if where == "POST /v1/checkpoint"]
    mine = [doc for where, doc in said(replay.exchanges) if where == "POST /v1/checkpoint"]
    if not begun:
        return
    assert set(begun[0]) == set(mine[0])
    for name in ("request_version", "retries"):
        assert begun[0][name] == mine[0][name]
    theirs, ours = begun[0]["event"]["data"], replay.event["data"]
    assert set(theirs) == set(ours)
    for name in set(theirs) - {"domain", "body", "query_params"}:
        assert theirs[name] == ours[name]
    assert b64encode(replay.first.request_body.encode()).decode() == ours["body"]


def compare_headers(replay: Replay) -> None:
    """Each kind of request and answer has the headers of the protocol that it has there."""
    theirs = {each.kind: each for each in replay.recorded if each.kind}
    for mine in replay.exchanges:
        if mine.kind not in theirs:
            continue
        other = theirs[mine.kind]
        if mine.leg == "dev":
            assert fields_of(other.request_headers) == fields_of(mine.request_headers)
            for name in ("content-type", "authorization"):
                wanted = other.request_headers.get(name)
                assert wanted == mine.request_headers.get(name, "").strip() or wanted is None
        else:
            extra = {"x-inngest-no-retry", "retry-after"}  # of failed steps alone
            assert fields_of(other.headers) - extra == fields_of(mine.headers) - extra
            assert "2" == mine.headers["x-inngest-req-version"]
            assert re.fullmatch(r"[^:]+:v\d+\.\d+\.\d+", mine.headers["x-inngest-sdk"])
    recorded = [each for each in replay.recorded if each.kind.startswith("answer")]
    answered = [each for each in replay.exchanges if each.kind.startswith("answer")]
    if replay.case.told is None and replay.name not in CUT_SHORT:
        flags = [[e.headers.get("x-inngest-no-retry") for e in es] for es in (recorded, answered)]
        assert flags[0] == flags[1]


def compare_streams(replay: Replay) -> None:
    """What the attached client is streamed, and what the server is given for others."""
    case = replay.case
    if replay.first.headers.get("content-type") == "text/event-stream":
        theirs, ours = events_of(replay.first.body), events_of(replay.got.body.decode())
        assert replay.first.headers["content-type"] == replay.got.headers["content-type"]
        if case.streamed is None:
            assert theirs == ours
        else:
            assert sorted(case.streamed.split()) == sorted(shown(ours).split())
    theirs_posted, ours_posted = posted(replay.recorded), posted(replay.exchanges)
    if replay.name in CUT_SHORT:
        return
    assert replay.posts == [shown(events) for events in ours_posted]
    if case.posted is None:
        assert theirs_posted == ours_posted


def compare_answers(replay: Replay) -> None:
    """What the attached client is answered, where that is not a stream."""
    first, got = replay.first, replay.got
    kind = got.headers.get("content-type")
    if replay.case.is_ours or kind == "text/event-stream":
        return
    assert first.status == got.status
    if kind == "application/json":
        theirs, ours = json.loads(first.body), got.json
        if "token" in theirs:
            theirs, ours = set(theirs), set(ours)
        assert theirs == ours
    own = {name: value for name, value in first.headers.items() if name.startswith("x-")}
    assert own.items() <= got.headers.items()


def compare_signatures(replay: Replay, key: str) -> None:
    """The real server's calls are verified; our answers are signed as the SDK signs its own."""
    calls = [each for each in replay.recorded if each.kind.startswith("answer")]
    for each in calls:
        header = each.request_headers["x-inngest-signature"]
        at = int(header[2:].partition("&")[0])
        assert key == verify([key], header, each.request_body.encode(), at)
    for each in [*calls, *(e for e in replay.exchanges if e.kind.startswith("answer"))]:
        header = each.headers["x-inngest-signature"]
        at = int(header[2:].partition("&")[0])
        assert sign(key, each.body.encode(), at) == header
    assert calls


# -- without a run -----------------------------------------------------------------------------


def called(name: str) -> str:
    CALLS[name] += 1
    return name


async def two_steps(request: Request) -> object:
    return [await step.run(name, called, name) for name in ("first", "second")]


async def no_steps(request: Request) -> object:
    return {"hello": "no steps"}


def test_forged_calls() -> None:
    """The recorded calls, which the server did not make, get the recorded answer."""
    recorded = [each for each in load("p-forged-reentry") if each.leg == "app"]
    with inngest_server(signing_key=KEY) as server:
        engine = {"signing_key": KEY, "is_dev": False}
        with serving(server, {"GET /a-twosteps": two_steps}, engine=engine) as app:
            for each in recorded:
                got = app.ask(each.method, each.target, headers=each.request_headers)
                assert (each.status, each.body) == (got.status, got.body.decode())
                assert fields_of(each.headers) == fields_of(got.headers)
        assert [] == server.seen
    assert 2 == len(recorded)


def test_a_server_that_is_not_there() -> None:
    """Both requests of the recording get 503, and no step runs: none could be recorded."""
    recorded = [each for each in load("o-devserver-down") if each.leg == "app"]
    assert [500, 200] == [each.status for each in recorded]
    with inngest_server() as server, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        routes = {"GET /a-twosteps": two_steps, "GET /a0-nosteps": no_steps}
        engine = {"is_dev": True, "base_url": away}
        with serving(server, routes, engine=engine) as app:
            got = [app.get(each.target) for each in recorded]

    assert ([503, 503], {}) == ([each.status for each in got], CALLS)


def test_how_a_body_comes_back() -> None:
    """The real server takes the body as base64, and calls with what that stands for."""
    recorded = load("i-post-fail")
    begun = next(each for each in recorded if each.kind == "POST /v1/checkpoint")
    body = json.loads(begun.request_body)["event"]["data"]["body"]
    called = [each for each in recorded if each.kind.startswith("answer")]

    assert ["hello"] * len(called) == [each.request_body for each in called]
    assert called
    assert b64encode(b"hello").decode() == body


def test_what_a_failed_run_gives_out() -> None:
    """The real server gives out the body of the answer that has failed a run, as it stands."""
    for name in ("h-exhaust", "n-retries0-step-error"):
        recorded = load(name)
        [failed] = [each for each in recorded if each.kind == "answer 400"]
        [output] = [each for each in recorded if each.path.endswith("/output")]
        assert (200, failed.body) == (output.status, output.body)


# -- all of them -------------------------------------------------------------------------------


def test_every_recording_has_its_row() -> None:
    """The page says of each whether something differs; it does where a case says so."""
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \|", PAGE.partition("## Recording by")[2], re.M)
    assert names() == [name for name, _ in rows]
    different = {
        name
        for name in names()
        if name in WITHOUT_RUN[:1] or (name not in WITHOUT_RUN and _differs(case_of(name)))
    }
    assert different == {name for name, text in rows if text != "nothing"}


def _differs(case: Case) -> bool:
    return case.is_ours or case.told is not None or bool(case.streamed) or case.posted is not None
