"""What we tell a server is what the recorded SDK tells it, but for what that gets wrong.

``docs/reference/inngest-traffic.md`` lists the recordings and the differences.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from durable_core import NonRetriableError, Request, Response, RetryAfterError, StepError, step
from support.inngest_app import serving
from support.inngest_recordings import FOLDER, Exchange, load, op_of, said
from support.inngest_server import inngest_server
from support.source_tree import ROOT

pytestmark = pytest.mark.slow

CALLS: Counter[str] = Counter()
PAGE = (ROOT / "docs/reference/inngest-traffic.md").read_text("utf-8")
#: Recordings of event streams and of the JavaScript client: their checkpoints are those of the
#: recordings with plain clients.
STREAMS = sorted(
    path.stem for path in FOLDER.glob("*.txt") if path.stem.endswith(("-sse", "fetchWithStream"))
)
#: Recordings that are compared by tests of their own, in ``test_faults.py`` and ``test_basics.py``.
ELSEWHERE = ["m-async-response-token", "o-devserver-down", "p-forged-reentry"]


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Count from zero."""
    CALLS.clear()


async def value(name: str, result: object) -> Any:
    return await step.run(name, lambda: result)


def failing(text: str, times: int, result: object, kind: type[Exception] = ValueError) -> object:
    CALLS[text] += 1
    if CALLS[text] <= times:
        raise kind(text.format(CALLS[text]))
    return result


async def steps(*named: tuple[str, object]) -> list[Any]:
    return [await value(name, result) for name, result in named]


async def fail_twice(request: Request) -> object:
    await value("before", {"ok": True, "runs": 1})
    await step.run("flaky", failing, "flaky failure #{}", 2, {"attempts": 3})
    await value("after", {"runs": 1})
    return {"done": True}


async def fail_once(request: Request) -> Response:
    b = await step.run("flaky", failing, "once", 1, 2)
    return Response.json({"b": b}, 201, {"x-custom": "yes"})


async def wait(request: Request) -> object:
    required = {"data.requestId": request.query["rid"]} if "rid" in request.query else None
    event = await step.wait_for_event(
        "wait-approval", event="approval/received", timeout=request.query["t"], if_=required
    )
    return {"got": None if event is None else dict(event.data)}


async def always(request: Request) -> object:
    return await step.run("bad", failing, "always #{}", 99, None)


async def caught(request: Request) -> object:
    try:
        return await always(request)
    except StepError as error:
        return {"caught": error.message}


async def refused(request: Request) -> object:
    try:
        return await step.run("bad", failing, "nope", 99, None, NonRetriableError)
    except StepError as error:
        return Response.json({"caught": error.message}, 422)


def raising(error: Callable[[], Exception], times: int = 99, before: str = "") -> Any:
    async def handler(request: Request) -> object:
        kept = await value(before, "kept" if times == 1 else 1) if before else None
        CALLS["handler"] += 1
        if CALLS["handler"] <= times:
            raise error()
        return kept

    return handler


async def slow_down(request: Request) -> object:
    def later() -> int:
        CALLS["ra"] += 1
        if CALLS["ra"] == 1:
            raise RetryAfterError("slow down", 2)
        return 2

    return {"b": await step.run("ra", later)}


async def parallel(request: Request) -> object:
    async def result(text: str) -> str:
        return text

    named = (("pa", "A"), ("pb", "B"), ("pc", "C"))
    several = await asyncio.gather(*(step.run(name, result, text) for name, text in named))
    return await value("join", "".join(several))


async def sends(request: Request) -> object:
    from durable_core import Event

    return await step.send_event("emit", Event("ref/evt", {"z": 1}))


def plain(*named: tuple[str, object], result: object = None) -> Any:
    async def handler(request: Request) -> object:
        await steps(*named)
        return result

    return handler


async def length(request: Request) -> object:
    return await value("len", len(request.body))


async def generates(request: Request) -> object:
    await value("ok", 1)
    return await step.run("gen", failing, "gen failure {}", 1, {"n": 2})


async def sleeps(request: Request) -> object:
    await value("pre", {"at": 0})
    await step.sleep("nap", request.query["d"])
    await value("post", {"at": 0})
    return "slept"


async def sleeps_first(request: Request) -> object:
    await step.sleep("nap", "1s")
    return {"done": True}


async def post_fails(request: Request) -> object:
    await value("len", 0)
    return await step.run("flaky", failing, "once", 1, None)


FIRST = ("first", {"user": "u1", "n": 1}), ("second", {"sum": 2})
ONE, TWO, THREE = ("one", {"v": 1}), ("two", {"v": 2}), ("three", {"v": 3})
KINDS: tuple[tuple[str, object], ...] = (
    ("undef", None),
    ("nul", None),
    ("date", "1970-01-01T00:00:00.000Z"),
    ("nan", None),
    ("str", "é\u2028"),
    ("arr", [1, None, 2]),
    ("map", {}),
)


@dataclass
class Case:
    """Our handler for a recording; ``ours`` is what it tells where that is different."""

    handler: Any
    ours: list[str] | None = None
    retries: int = 3
    events: tuple[dict[str, Any], ...] = ()


def ids(*names: str) -> list[str]:
    return list(names)


CASES: dict[str, Case] = {
    "a0-no-steps": Case(plain(result={"hello": "no steps"})),
    "a1-one-step": Case(plain(ONE)),
    "a-two-steps": Case(plain(*FIRST)),
    "a3-three-steps": Case(plain(ONE, TWO, THREE)),
    "a-plain-object": Case(plain(("one", 41), result={"plain": 42})),
    "a-status-201-headers": Case(plain(("one", "made"), result=Response.json({}, 201))),
    "a-404": Case(plain(("look", None), result=Response.text("nope", 404))),
    "b-fail-twice": Case(fail_twice),
    "b-fail-twice-noredirect": Case(fail_twice),
    "b-retry-after": Case(
        slow_down,
        [
            "POST /v1/checkpoint Sleep retry 1 of ra after RetryAfterError: slow down",
            "answer 206 StepRun ra",
            "answer 206 RunComplete",
        ],
    ),
    "b-status-201-via-redirect": Case(fail_once),
    "c-sleep": Case(sleeps),
    "c-sleep-first": Case(sleeps_first),
    "d-wait-received": Case(
        wait, events=({"requestId": "other"}, {"requestId": "jczmdrf", "approved": True})
    ),
    "d-wait-timeout": Case(wait),
    "e-stream-plain": Case(plain(("gen", "alpha beta gamma"), ("gen2", 2))),
    "e-fail-plain": Case(generates),
    "f-nonretriable": Case(
        raising(lambda: NonRetriableError("fatal outside")), ["POST /v1/checkpoint RunComplete"]
    ),
    "f-step-then-nonretriable": Case(
        raising(lambda: NonRetriableError("fatal after step"), before="s1"),
        ["POST /v1/checkpoint StepRun s1", "POST /v1/checkpoint/RUN/steps RunComplete"],
    ),
    "f-throw": Case(
        raising(lambda: ValueError("boom")),
        [
            "POST /v1/checkpoint Sleep retry 1 of the handler after ValueError: boom",
            "answer 206 Sleep retry 2 of the handler after ValueError: boom",
            "answer 206 Sleep retry 3 of the handler after ValueError: boom",
            "answer 400 error",
        ],
    ),
    "f-throw-once": Case(
        raising(lambda: ValueError("boom"), times=1, before="s1"),
        [
            "POST /v1/checkpoint StepRun s1",
            "POST /v1/checkpoint/RUN/steps Sleep retry 1 of the handler after ValueError: boom",
            "answer 206 RunComplete",
        ],
    ),
    "n-retries0-throw": Case(
        raising(lambda: ValueError("boom")), ["POST /v1/checkpoint RunComplete"], retries=0
    ),
    "g-parallel": Case(
        parallel,
        [
            "POST /v1/checkpoint StepRun pa",
            "POST /v1/checkpoint/RUN/steps StepRun pb, StepRun pc",
            "POST /v1/checkpoint/RUN/steps StepRun join",
            "POST /v1/checkpoint/RUN/steps RunComplete",
        ],
    ),
    "h-exhaust": Case(always),
    "h-caught": Case(caught),
    "h-nonretriable-step": Case(refused),
    "n-retries0-step-error": Case(
        always, ["POST /v1/checkpoint StepFailed bad", "answer 400 error"], retries=0
    ),
    "i-post-json": Case(
        length, ["POST /v1/checkpoint StepRun len", "POST /v1/checkpoint/RUN/steps RunComplete"]
    ),
    "i-post-base64ish": Case(length),
    "i-post-empty": Case(length),
    "i-post-fail": Case(
        post_fails,
        [
            "POST /v1/checkpoint StepRun len",
            "POST /v1/checkpoint/RUN/steps StepError flaky",
            "answer 206 StepRun flaky",
            "answer 206 RunComplete",
        ],
    ),
    "i-put": Case(length),
    "k-duplicate-ids": Case(plain(("same", 1), ("same", 2), ("same", 3))),
    "k-values": Case(plain(*KINDS)),
    "k-send-event": Case(sends),
    "l-async-redirect-url-proxy": Case(sleeps_first),
    "l-proxy-status-201": Case(fail_once),
    "p-signed-fail-once": Case(fail_once),
}


def lines_of(told: list[tuple[str, Any]]) -> list[str]:
    """Return what was told, a line for each call: who, which ops of which steps."""
    return [f"{where} {what}".rstrip() for where, what in ((w, _named(v)) for w, v in told)]


def _named(document: Any) -> str:
    ops = _ops(document)
    if not ops:
        return "error" if isinstance(document, dict) else "events"
    return ", ".join(f"{op['op']} {op.get('displayName', '')}".rstrip() for op in ops)


def _ops(document: Any) -> list[dict[str, Any]]:
    found = document.get("steps", [document]) if isinstance(document, dict) else document
    return [op for op in found if "op" in op]


def ours_of(server: Any) -> list[tuple[str, Any]]:
    """Return what our side told the test server, in its order."""
    asked = [
        Exchange("dev", s.method, s.path, s.headers, s.body.decode(), 200, {}, "")
        for s in server.seen
        if s.method == "POST"
    ]
    answered = [
        Exchange("app", "GET", "/", {"x-run-id": "RUN"}, "", a.status, a.headers, a.body.decode())
        for _, a in server.calls
        if a is not None
    ]
    return said([*asked, *answered])


def key_of(op: dict[str, Any]) -> dict[str, Any]:
    """Return an op for comparison: the values of this handler's steps are its own."""
    known = op_of(op)
    data = known.get("data")
    if known["op"] == "RunComplete" or known.get("name") == "len":
        known.pop("data", None)
    elif isinstance(data, dict) and set(data) in ({"at"}, {"ids"}):
        known["data"] = set(data)
    if known.get("error"):
        known["error"] = True
    return known


@pytest.mark.parametrize("name", CASES)
def test_recording(name: str) -> None:
    """Paths, and the JSON of every op, are those of the recording where nothing differs."""
    case, recorded = CASES[name], load(name)
    first = next(each for each in recorded if each.leg == "app")
    target = first.target.replace("d=2s", "d=30ms").replace("t=3s", "t=30ms")
    options = {"retries": case.retries, "methods": (first.method,)}
    if name.startswith("l-"):
        options["async_redirect_url"] = "/proxy"
    with inngest_server() as server:
        path = target.partition("?")[0]
        routes = {f"{first.method} {path}": case.handler}
        with serving(server, routes, options=options) as app:
            body = first.request_body.encode()
            kind = first.request_headers.get("content-type")
            headers = {"content-type": kind} if kind else {}
            got = app.ask(first.method, target, body=body, headers=headers)
            server.until(lambda: bool(server.runs))
            if case.events:
                server.until(lambda: bool(server.run.waits))
                server.send(*({"name": "approval/received", "data": d} for d in case.events))
            server.until(lambda: server.run.ended)
            assert got.status in (first.status, 200, 303, 404, 500)
        told, expected = ours_of(server), said(recorded)
        _compare_events(server.run.event["data"], expected, body)
        _compare_headers(server, recorded)
    if case.ours is not None:
        assert case.ours == lines_of(told)
        return
    if name.endswith("noredirect"):
        told = told[: len(expected)]
    assert lines_of(expected) == lines_of(told)
    shortened = {"2s": "30ms", "3s": "30ms"}
    for (_, theirs), (_, our) in zip(expected, told, strict=True):
        wanted = [key_of(op) for op in _ops(theirs)]
        for op in wanted:
            op["name"] = shortened.get(op.get("name", ""), op.get("name"))
            if "timeout" in op.get("opts", {}):
                op["opts"]["timeout"] = shortened.get(op["opts"]["timeout"], op["opts"]["timeout"])
        mine = [{"name": None, **key_of(op)} for op in _ops(our)]
        assert wanted == mine


def _compare_events(ours: dict[str, Any], expected: list[tuple[str, Any]], body: bytes) -> None:
    """The event that begins a run has the recorded keys and values, but for the body's form."""
    begun = [d for _, d in expected if isinstance(d, dict) and "event" in d]
    if not begun:
        return
    theirs = begun[0]["event"]["data"]
    other = {"domain", "body", "query_params"}
    assert {k: v for k, v in theirs.items() if k not in other} == {
        k: v for k, v in ours.items() if k not in other
    }
    assert b64encode(body).decode() == ours["body"]


def _compare_headers(server: Any, recorded: list[Exchange]) -> None:
    """Every header of the protocol that the SDK sends to the server is there."""
    for path in ("/v1/checkpoint", "/e/NO_EVENT_KEY_SET"):
        mine = [s.headers for s in server.seen if s.path == path]
        theirs = [
            each.request_headers
            for each in recorded
            if each.leg == "dev" and each.target == path and "x-inngest-sdk" in each.request_headers
        ]
        if mine and theirs:
            wanted = {h for h in theirs[0] if h.startswith("x-inngest") or h == "content-type"}
            assert wanted - {"x-inngest-sdk-handled", "x-inngest-framework"} <= {
                "x-inngest-sdk",
                *mine[0],
            }
    answers = [a.headers for _, a in server.calls if a is not None]
    for headers in answers:
        assert headers["x-inngest-req-version"] == "2"
        assert re.fullmatch(r"[^:]+:v\d+\.\d+\.\d+", headers["x-inngest-sdk"])


def test_every_recording_is_accounted_for() -> None:
    """Each is compared, or named where it is not; the page lists all with what differs."""
    recorded = sorted(path.stem for path in FOLDER.glob("*.txt"))
    assert recorded == sorted([*CASES, *STREAMS, *ELSEWHERE])
    different = {name for name, case in CASES.items() if case.ours is not None}
    listed = set(re.findall(r"`([a-z0-9-]+)`", PAGE.partition("## What differs")[2]))
    assert set() == different - listed
