"""The handlers of the recorded application, written for this library, and what differs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from durable_core import (
    Event,
    NonRetriableError,
    Request,
    Response,
    RetryAfterError,
    StepError,
    step,
    stream,
)
from durable_core.ai import openai
from durable_inngest import InngestFunction, InngestGateway

__all__ = ["CALLS", "CASES", "Case"]

#: How often functions were called; to be cleared before each recording.
CALLS: Counter[str] = Counter()


async def value(name: str, result: object) -> Any:
    return await step.run(name, lambda: result)


def failing(text: str, times: int, result: object, kind: type[Exception] = ValueError) -> object:
    CALLS[text] += 1
    if CALLS[text] <= times:
        raise kind(text.format(CALLS[text]))
    return result


def plain(*named: tuple[str, object], result: object = None) -> Any:
    async def handler(request: Request) -> object:
        for name, each in named:
            await value(name, each)
        return result

    return handler


async def two_steps(request: Request) -> object:
    a = await value("first", {"user": "u1", "n": 1})
    b = await value("second", {"sum": 2})
    return {"a": a, "b": b, "q": request.query["q"]}


async def fail_twice(request: Request) -> object:
    a = await value("before", {"ok": True, "runs": 1})
    b = await step.run("flaky", failing, "flaky failure #{}", 2, {"attempts": 3})
    c = await value("after", {"runs": 1})
    return {"a": a, "b": b, "c": c, "bodyRuns": 1}


async def fail_once(request: Request) -> Response:
    b = await step.run("flaky", failing, "once", 1, 2)
    return Response.json({"b": b}, 201, {"x-custom": "yes"})


async def slow_down(request: Request) -> object:
    def later() -> int:
        CALLS["ra"] += 1
        if CALLS["ra"] == 1:
            raise RetryAfterError("slow down", 2)
        return 2

    return {"b": await step.run("ra", later)}


async def sleeps(request: Request) -> object:
    await value("pre", {"at": 0})
    await step.sleep("nap", request.query["d"])
    await value("post", {"at": 0})
    return {"sleptMs": 0, "bodyRuns": 1}


async def sleeps_first(request: Request) -> object:
    await step.sleep("nap", "1s")
    return {"done": True}


async def wait(request: Request) -> object:
    required = {"data.requestId": request.query["rid"]} if "rid" in request.query else None
    event = await step.wait_for_event(
        "wait-approval", event="approval/received", timeout=request.query["t"], if_=required
    )
    return {"got": None if event is None else dict(sorted(event.data.items()))}


def pushing(result: object, *chunks: object) -> Callable[[], object]:
    def function() -> object:
        for chunk in chunks:
            stream.push(chunk)
        return result

    return function


async def streams(request: Request) -> object:
    words = ("alpha", "beta", "gamma")
    text = await step.run("gen", pushing(" ".join(words), *({"w": word} for word in words)))
    two = await step.run("gen2", pushing(2, "plain string", 42, None))
    return {"text": text, "two": two}


async def generates(request: Request) -> object:
    def generate() -> object:
        CALLS["gen"] += 1
        number = CALLS["gen"]
        for part in (1, 2):
            stream.push({"n": number, "part": part})
        if number == 1:
            raise ValueError("gen failure 1")
        return {"n": number}

    a = await step.run("ok", pushing(1, {"from": "ok"}))
    return {"a": a, "r": await step.run("gen", generate)}


async def pipes(request: Request) -> object:
    async def texts() -> AsyncIterator[str]:
        for text in ("one ", "two ", "three\n"):
            yield text

    async def parts() -> AsyncIterator[bytes]:
        yield "bytes-é".encode()

    text = await step.run("pipe", stream.pipe, texts())
    return {"text": text, "t2": await step.run("pipe-rs", stream.pipe, parts())}


async def pushes_outside(request: Request) -> object:
    stream.push("outside-1")
    a = await step.run("s", pushing(1, "in-step"))
    stream.push("outside-2")
    return {"a": a}


async def streams_and_sleeps(request: Request) -> object:
    await step.run("p1", pushing(1, "before sleep"))
    await step.sleep("nap", "1s")
    await step.run("p2", pushing(2, "after sleep 1", "after sleep 2"))
    return {"done": True}


async def streams_and_ends(request: Request) -> None:
    def fails() -> None:
        stream.push("doomed")
        raise NonRetriableError("never")

    await step.run("bad", fails)


async def streams_and_throws(request: Request) -> None:
    await step.run("p1", pushing(1, "chunk"))
    raise ValueError("outside after stream")


def raising(error: Callable[[], Exception], times: int = 99, before: str = "") -> Any:
    async def handler(request: Request) -> object:
        kept = await value(before, "kept" if times == 1 else 1) if before else None
        CALLS["handler"] += 1
        if CALLS["handler"] <= times:
            raise error()
        return {"a": kept, "n": CALLS["handler"]}

    return handler


async def parallel(request: Request) -> object:
    async def result(text: str) -> str:
        return text

    named = (("pa", "A"), ("pb", "B"), ("pc", "C"))
    several = await asyncio.gather(*(step.run(name, result, text) for name, text in named))
    return {"d": await value("join", "".join(several)), "bodyRuns": 1}


async def always(request: Request) -> object:
    return await step.run("bad", failing, "always #{}", 99, None, TypeError)


async def caught(request: Request) -> object:
    try:
        return await always(request)
    except StepError as error:
        shown = {"caught": error.message, "name": error.name, "ctor": "StepError", "cause": None}
        return Response.json(shown, 500)


async def refused(request: Request) -> object:
    try:
        return await step.run("bad", failing, "nope", 99, None, NonRetriableError)
    except StepError as error:
        shown = {"caught": error.message, "name": error.name, "ctor": "StepError"}
        return Response.json(shown, 422)


async def length(request: Request) -> object:
    a = await value("len", len(request.body))
    return {"method": request.method, "a": a, "t": request.body.decode()}


async def post_fails(request: Request) -> object:
    await value("len", 0)
    return await step.run("flaky", failing, "once", 1, None)


async def sends(request: Request) -> object:
    return {"r": {"ids": await step.send_event("emit", Event("ref/evt", {"z": 1}))}}


KINDS: dict[str, object] = {
    "undef": None,
    "nul": None,
    "date": "1970-01-01T00:00:00.000Z",
    "nan": None,
    "str": "é\u2028",
    "arr": [1, None, 2],
    "map": {},
}


async def kinds(request: Request) -> object:
    return {"kinds": {name: await value(name, kind) for name, kind in KINDS.items()}}


async def same_ids(request: Request) -> object:
    return {name: await value("same", number) for number, name in enumerate("abc", 1)}


async def counts(request: Request) -> object:
    named = zip("abc", ("one", "two", "three"), range(1, 4), strict=True)
    return {letter: await value(name, {"v": number}) for letter, name, number in named}


CHARGE = InngestFunction("shop", "charge")
SERVICE = "http://127.0.0.1:9100"


async def charge(data: dict[str, Any]) -> object:
    return {"amount": data["amount"]}


ANSWER = {"choices": [{"message": {"content": "hello"}}], "usage": {"prompt_tokens": 3}}


async def invokes(request: Request) -> object:
    a = await value("before", {"n": 1})
    paid = await step.invoke("pay", CHARGE, {"amount": 20}, timeout="1h")
    return {"a": a, "paid": paid["amount"]}


async def invokes_nothing(request: Request) -> object:
    try:
        await step.invoke("pay", InngestFunction("shop", "nope"))
    except StepError as error:
        return {"name": error.name, "message": error.message}
    return None


async def infers(request: Request) -> object:
    await step.sleep("nap", "1s")
    answer = await step.ai.infer(
        "ask",
        model=openai("m", api_key="key-of-nobody", base_url=f"{SERVICE}/v1"),
        body={"messages": [{"role": "user", "content": "hi"}]},
        client=InngestGateway(),
    )
    return {"text": answer.text}


async def fetches(request: Request) -> object:
    await step.sleep("nap", "1s")
    got = await step.fetch(
        "step.fetch: 127.0.0.1",
        f"{SERVICE}/thing",
        method="POST",
        headers={"content-type": "application/json", "idempotency-key": "one"},
        body='{"a":1}',
        client=InngestGateway(),
    )
    return {"status": got.status, "body": got.json()}


@dataclass
class Case:
    """Our handler for recordings, and what is said where that is not the same.

    Attributes:
        handler: the handler.
        told: our checkpoints and answers, a line each.
        streamed: the names of the events that the attached client gets.
        posted: the names of the events in each part of the stream that is posted to the server.
        is_ours: the attached client's answer is another one.
        retries, options: of the endpoint.
        events: the data of the events that are sent.
        functions: what other applications have.
        services: answers of other services, JSON, by their URLs.
    """

    handler: Any
    told: tuple[str, ...] | None = None
    streamed: str | None = None
    posted: tuple[str, ...] | None = None
    is_ours: bool = False
    retries: int = 3
    options: dict[str, Any] = field(default_factory=dict)
    events: tuple[dict[str, Any], ...] = ()
    functions: dict[str, Any] = field(default_factory=dict)
    services: dict[str, object] = field(default_factory=dict)


CHECKPOINT = "checkpoint"
HANDLER = "retry {} of the handler after ValueError: {}"
READS = (f"{CHECKPOINT} StepRun len", f"{CHECKPOINT} RunComplete")
TO_PROXY: dict[str, Any] = {"async_redirect_url": "/proxy"}

#: By what recordings of one handler have in common in their names.
CASES: dict[str, Case] = {
    "a0-no-steps": Case(plain(result={"hello": "no steps"})),
    "a1-one-step": Case(plain(("one", {"v": 1}), result={"a": {"v": 1}})),
    "a-two-steps": Case(two_steps),
    "a3-three-steps": Case(counts),
    "a-plain-object": Case(plain(("one", 41), result={"plain": 42})),
    "a-status-201-headers": Case(
        plain(("one", "made"), result=Response.json({"a": "made"}, 201, {"x-custom": "yes"}))
    ),
    "a-404": Case(plain(("look", None), result=Response.text("nope", 404))),
    "b-fail-twice": Case(fail_twice),
    "b-fail-twice-noredirect": Case(fail_twice),
    "b-retry-after": Case(
        slow_down,
        told=(
            f"{CHECKPOINT} Sleep retry 1 of ra after RetryAfterError: slow down",
            "answer 206 StepRun ra",
            "answer 206 RunComplete",
        ),
    ),
    "b-status-201-via-redirect": Case(fail_once),
    "c-sleep": Case(sleeps),
    "c-sleep-first": Case(sleeps_first),
    "d-wait-received": Case(
        wait, events=({"requestId": "other"}, {"requestId": "jczmdrf", "approved": True})
    ),
    "d-wait-timeout": Case(wait),
    "e-stream": Case(streams),
    "e-fail": Case(generates),
    "e-pipe": Case(pipes),
    "e-outside": Case(
        pushes_outside, streamed="metadata stream stream stream commit redirect_info response"
    ),
    "e-sleep": Case(streams_and_sleeps),
    "e-final": Case(streams_and_ends, streamed="metadata stream rollback redirect_info"),
    "e-throw": Case(
        streams_and_throws,
        told=(
            f"{CHECKPOINT} StepRun p1",
            f"{CHECKPOINT} Sleep {HANDLER.format(1, 'outside after stream')}",
            f"answer 206 Sleep {HANDLER.format(2, 'outside after stream')}",
            f"answer 206 Sleep {HANDLER.format(3, 'outside after stream')}",
            "answer 400 error",
        ),
        posted=("metadata response",),
    ),
    "f-nonretriable": Case(
        raising(lambda: NonRetriableError("fatal outside")),
        told=(f"{CHECKPOINT} RunComplete",),
        is_ours=True,
    ),
    "f-step-then-nonretriable": Case(
        raising(lambda: NonRetriableError("fatal after step"), before="s1"),
        told=(f"{CHECKPOINT} StepRun s1", f"{CHECKPOINT} RunComplete"),
        is_ours=True,
    ),
    "f-throw": Case(
        raising(lambda: ValueError("boom")),
        told=(
            f"{CHECKPOINT} Sleep {HANDLER.format(1, 'boom')}",
            f"answer 206 Sleep {HANDLER.format(2, 'boom')}",
            f"answer 206 Sleep {HANDLER.format(3, 'boom')}",
            "answer 400 error",
        ),
        posted=("metadata response",),
    ),
    "f-throw-once": Case(
        raising(lambda: ValueError("boom"), times=1, before="s1"),
        told=(
            f"{CHECKPOINT} StepRun s1",
            f"{CHECKPOINT} Sleep {HANDLER.format(1, 'boom')}",
            "answer 206 RunComplete",
        ),
    ),
    "g-parallel": Case(
        parallel,
        told=(
            "checkpoint StepRun pa",
            "checkpoint StepRun pb",
            "checkpoint StepRun pc",
            "checkpoint StepRun join",
            "checkpoint RunComplete",
        ),
        streamed="metadata commit redirect_info commit commit commit response",
        posted=(),
        is_ours=True,
    ),
    "h-exhaust": Case(always),
    "h-caught": Case(caught),
    "h-nonretriable-step": Case(refused),
    "i-post-json": Case(length, told=READS, is_ours=True),
    "i-post-base64ish": Case(length, told=READS, is_ours=True),
    "i-post-empty": Case(length),
    "i-post-fail": Case(
        post_fails,
        told=(
            f"{CHECKPOINT} StepRun len",
            f"{CHECKPOINT} StepError flaky",
            "answer 206 StepRun flaky",
            "answer 206 RunComplete",
        ),
        posted=("metadata response",),
        is_ours=True,
    ),
    "i-put": Case(length),
    "k-duplicate-ids": Case(same_ids),
    "k-send-event": Case(sends, is_ours=True),
    "k-values": Case(kinds),
    "l-async-redirect-url-proxy": Case(sleeps_first, options=TO_PROXY),
    "l-proxy": Case(sleeps_first, options=TO_PROXY),
    "l-proxy-status-201": Case(fail_once, options=TO_PROXY),
    "m-async-response-token": Case(sleeps_first, options={"async_response": "token"}),
    "n-retries0-step-error": Case(
        always, told=(f"{CHECKPOINT} StepFailed bad", "answer 400 error"), retries=0
    ),
    "n-retries0-throw": Case(
        raising(lambda: ValueError("boom")),
        told=(f"{CHECKPOINT} RunComplete",),
        posted=(),
        is_ours=True,
        retries=0,
    ),
    "p-signed-e-sleep": Case(streams_and_sleeps),
    "p-signed-fail-once": Case(fail_once),
    "q-fetch": Case(fetches, services={f"{SERVICE}/thing": {"got": '{"a":1}'}}),
    "q-infer": Case(
        infers,
        told=(f"{CHECKPOINT} Sleep nap", "answer 206 AIGateway ask", "answer 206 RunComplete"),
        services={f"{SERVICE}/v1/chat/completions": ANSWER},
    ),
    "q-invoke": Case(invokes, functions={"shop-charge": charge}),
    "q-invoke-failed": Case(invokes_nothing),
}
