"""A shop whose runs show what a dashboard has to show, and one whose runs mean harm."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

from durable_asgi import app, endpoint_adapter
from durable_core import (
    Durable,
    NonRetriableError,
    Request,
    RetryPolicy,
    Settings,
    run,
    step,
    stream,
)
from durable_core.codec.records import dump_head, dump_request
from durable_core.engines import EmbeddedEngine
from durable_core.http.response import Response
from durable_core.model.run import Phase, Run
from durable_core.model.step import FailedAttempt, Memo, Op, OpKind
from durable_core.platform import make_ulid
from durable_core.ports import Checkpoint, StoredRequest, StoredResult

__all__ = ["HARM", "ROOT", "Shop", "harmful_run", "long_run"]

ROOT = "/tools/dashboard/"


class Shop:
    """The application.

    Args:
        store: the file of its store.
        debug: keep stack traces.

    Attributes:
        pace: seconds that a step takes, or a part of it.
        words: released for each word that a letter streams; None streams without a pause.
    """

    def __init__(self, store: Path, *, debug: bool = True) -> None:
        self.pace = 0.01
        self.words: asyncio.Semaphore | None = None
        self._tries: dict[str, int] = {}
        self.durable: Durable[Any] = Durable(
            id="shop",
            endpoint_adapter=endpoint_adapter,
            engine=EmbeddedEngine(store, settings=Settings(keep_runs="1 day")),
            retry=RetryPolicy(base="60ms", max="60ms", jitter=0),
            debug=debug,
        )
        endpoint = self.durable.endpoint
        self._price = endpoint(function_id="price", concurrency=8)(self.price)
        self.application = app(
            self.durable,
            {
                "POST /orders": endpoint(
                    function_id="order",
                    key=lambda request: request.query.get("order"),
                    labels=lambda request: {"region": request.query.get("region") or "eu"},
                    record_arguments=True,
                    concurrency=50,
                )(self.order),
                "GET /prices": self._price,
                "GET /offers": endpoint(function_id="offer")(self.offer),
                "POST /refunds": endpoint(function_id="refund")(self.refund),
                "POST /letters": endpoint(function_id="letter")(self.letter),
                "POST /starts": endpoint(function_id="start")(self.start),
                f"GET,HEAD,POST {ROOT}{{path:path}}": self.durable.dashboard(),
            },
        )

    async def order(self, request: Request) -> dict[str, object]:
        """Do what an order takes, and wait for its approval."""
        seat = await step.run("reserve-stock", self._work, {"item": "lamp", "shelf": 12}, 3)
        await step.run("charge-payment", self._charge, run.id)
        await step.parallel(
            "notify",
            lambda: step.run("send-mail", self._work, "mail", 4),
            lambda: step.run("send-text", self._work, "text", 2),
            lambda: step.run("update-ledger", self._work, "ledger", 6),
        )
        await step.sleep("cooling-off", self.pace * 12)
        approval = await step.wait_for_event(
            "approval", event="order/approved", match="data.order", timeout="2h"
        )
        await step.run("ship", self._work, {"carrier": "rail"}, 4)
        return {"shipped": True, "stock": seat, "approved": approval is not None}

    async def price(self, request: Request) -> dict[str, object]:
        """Answer with one step."""
        return {"price": await step.run("look-up", self._work, 42, 1)}

    async def offer(self, request: Request) -> object:
        """Ask another endpoint."""
        response = await step.invoke("ask-price", self._price, {})
        return {"offer": response.status}

    async def refund(self, request: Request) -> None:
        """Fail, as the bank refuses, unless the request says that it does not."""
        await step.run("find-payment", self._work, {"payment": 17}, 2)
        await step.run("refund-card", self._refund, request.body)

    async def letter(self, request: Request) -> str:
        """Stream a letter, whose first try is lost."""
        await step.run("write", self._write, run.id)
        return "sent"

    async def start(self, request: Request) -> object:
        """Wait for a signal."""
        signal = await step.wait_for_signal("ready", signal="start/now", timeout="1h")
        return None if signal is None else signal.data

    async def _work(self, value: object, parts: int) -> object:
        await asyncio.sleep(self.pace * parts)
        return value

    def _try(self, name: str) -> int:
        self._tries[name] = self._tries.get(name, 0) + 1
        return self._tries[name]

    async def _charge(self, order: str) -> int:
        await asyncio.sleep(self.pace * 3)
        if self._try(f"charge {order}") < 3:
            raise ConnectionError("the bank does not answer")
        return 4200

    async def _refund(self, body: bytes) -> str:
        if b"again" not in body:
            raise NonRetriableError("the card was declined")
        return "refunded"

    async def _write(self, letter: str) -> None:
        is_first = self._try(f"write {letter}") == 1
        text = "Dear Anna, your lamp " + ("is sold" if is_first else "is on its way")
        for word in text.split():
            if self.words is not None:
                await self.words.acquire()
            stream.push(f"{word} ")
        if is_first:
            raise ConnectionError("the printer is out of paper")


#: What must not become HTML, code or a command wherever it is put.
HARM = (
    "<img src=x onerror=window.harmed=1><script>window.harmed=1</script>"
    "</textarea></pre>'\"`${window.harmed=1}javascript:window.harmed=1;$(touch harmed)\u202e"
)


def _op(name: str, kind: OpKind = OpKind.RUN) -> Op:
    return Op(id=hashlib.sha1(name.encode()).hexdigest(), name=name, kind=kind)


def _memo(number: int, name: str, value: object, now: int, *, ok: bool = True) -> Memo:
    return Memo(
        op=_op(name),
        completion_no=number,
        ok=ok,
        value=json.dumps(value),
        event_seq=0,
        attempts=2 if not ok else 1,
        ended_at=now + number,
        started_at=now + number - 1,
        arguments=json.dumps({"args": [value if number < 3 else None], "kwargs": {HARM: HARM}}),
    )


def _store(durable: Durable[Any], checkpoint: Checkpoint) -> None:
    store = durable.engine.store
    assert store is not None
    [answer] = store.commit([checkpoint], wait=5)
    assert not isinstance(answer, BaseException), answer


def harmful_run(durable: Durable[Any], now: int) -> str:
    """Store a run with such a text in each of its fields, and values of 4 MiB; return its id."""
    run_id = make_ulid(now, b"harmfulrun")
    headers = {"x-harm": HARM.replace("\u202e", ""), "cookie": "secret"}
    url = f"http://{'host'}/it?a=%3Cscript%3E'\"`$(touch%20harmed)"
    request = Request(method="POST", url=url, headers=headers, body=HARM.encode())
    error = {"name": HARM, "message": HARM, "trace": HARM * 50}
    large = {HARM: HARM, "large": "x" * (4 * 1024 * 1024 - 2000)}
    problem = {"title": HARM, "detail": HARM * 4000, "error": {"name": HARM, "message": HARM}}
    body = json.dumps(problem).encode()
    _store(
        durable,
        Checkpoint(
            run_id=run_id,
            owner="o1",
            epoch=1,
            now=now,
            create=Run(
                id=run_id,
                app=durable.id,
                endpoint_key=HARM,
                function_id=HARM,
                phase=Phase.SYNC,
                retries=3,
                created_at=now,
                key=HARM[:255],
                labels=((HARM[:60], HARM),),
                version=HARM[:255],
                traceparent=HARM,
                parent=HARM,
            ),
            request=StoredRequest(
                head=dump_request(request, stored_headers=frozenset()), body=request.body
            ),
            memos=(
                _memo(1, HARM, large, now),
                _memo(2, f"{HARM} 2", large, now),
                _memo(3, f"{HARM} 3", error, now, ok=False),
            ),
            failed_attempts=tuple(
                FailedAttempt(
                    op_id=op_id,
                    number=number,
                    started_at=now + number,
                    ended_at=now + number + 1,
                    error_name=HARM,
                    error_message=HARM * 5,
                    retry_at=None if number == 2 else now + 3,
                )
                for op_id in (_op(f"{HARM} 3").id, "")
                for number in (1, 2)
            ),
            result=StoredResult(
                phase=Phase.FAILED,
                head=dump_head(Response(status=500, headers={"x-harm": headers["x-harm"]})),
                body=body,
                ended_at=now + 10,
            ),
        ),
    )
    return run_id


def long_run(durable: Durable[Any], now: int, steps: int) -> str:
    """Store a run with so many steps; return its id."""
    run_id = make_ulid(now, b"longrunabc")
    request = Request(method="GET", url="http://host/long")
    _store(
        durable,
        Checkpoint(
            run_id=run_id,
            owner="o1",
            epoch=1,
            now=now,
            create=Run(
                id=run_id,
                app=durable.id,
                endpoint_key="long",
                function_id="long",
                phase=Phase.SYNC,
                retries=3,
                created_at=now,
            ),
            request=StoredRequest(head=dump_request(request, stored_headers=frozenset()), body=b""),
            memos=tuple(
                Memo(
                    op=_op(f"step {number}"),
                    completion_no=number,
                    ok=True,
                    value="1",
                    event_seq=0,
                    attempts=1,
                    ended_at=now + 3 * number,
                    started_at=now + 3 * number - 2,
                )
                for number in range(1, steps + 1)
            ),
            result=StoredResult(
                phase=Phase.COMPLETED,
                head=dump_head(Response()),
                body=b"null",
                ended_at=now + 3 * steps + 1,
            ),
        ),
    )
    return run_id
