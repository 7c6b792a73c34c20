"""Callbacks: somebody answers a wait by POST, at a URL that nobody can guess."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from durable_core import run
from durable_core.api.step import step, sync_step
from durable_core.errors import StepUsageError, StoreError
from durable_core.flow.env import Limits
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.run import Phase
from support.harness import FakeClock, Lab, WatchedStore, lab, request, until

both = pytest.mark.parametrize("kind", ["def", "async def"])
PUBLIC = "https://api.example.com"


@dataclass
class Answer:
    approved: bool


def shown(answer: Any) -> object:
    if isinstance(answer, Request):
        return [answer.method, answer.url, answer.text(), answer.headers.get("x-signature")]
    return answer.approved if isinstance(answer, Answer) else "none"


def waiting(kind: str, urls: list[str], timeout: object = "1h", **options: Any) -> Any:
    """Return a handler that notes the URL in a step, and answers with what was POSTed there."""

    def plain(asked: Request) -> object:
        sync_step.run("mail", urls.append, run.callback_url("wait"))
        return shown(sync_step.wait_for_callback("wait", timeout=timeout, **options))  # type: ignore[call-overload]

    async def asynchronous(asked: Request) -> object:
        await step.run("mail", urls.append, run.callback_url("wait"))
        return shown(await step.wait_for_callback("wait", timeout=timeout, **options))  # type: ignore[call-overload]

    return plain if kind == "def" else asynchronous


def post(
    handler: Any,
    url: str,
    body: bytes = b'{"approved": true}',
    asynchronous: bool = False,
    method: str = "POST",
    **headers: str,
) -> Response:
    headers.setdefault("content_type", "application/json")
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = Request(method=method, url=url, headers=sent, body=body)
    if asynchronous:
        response: Response = asyncio.run(handler.handle_async(asked))
    else:
        response = handler.handle(asked)
    return response


def code(response: Response) -> tuple[int, str]:
    assert isinstance(response.body, bytes)
    document = json.loads(response.body)
    kind = document["type"].rpartition(":")[2] if "type" in document else document["status"]
    return response.status, kind


def until_suspended(process: Lab) -> str:
    def look() -> str:
        found = process.records.list(Phase.SUSPENDED)
        return found[0].run.id if found else ""

    return until(look)


@both
def test_an_answer_ends_the_wait(kind: str) -> None:
    """The handler gets the request, without the token; what is shown of the run has it, too."""
    urls: list[str] = []
    with lab(public_url=PUBLIC) as process:
        handler = process.endpoint(waiting(kind, urls))
        first = handler.handle(request())
        run_id = until_suspended(process)
        [url] = set(urls)
        assert url.startswith(f"{PUBLIC}/it?durable-run={run_id}&durable-token=c1.")
        info = process.durable.runs.get(run_id).steps[-1]
        assert ("callback", "waiting", None) == (info.kind, info.status, info.event)

        accepted = post(handler, url + "&by=ada", x_signature="s", authorization="secret")
        answer = process.follow(handler, first)

        assert (200, "accepted") == code(accepted)
        assert "no-store" == accepted.headers["cache-control"]
        assert isinstance(answer.body, bytes)
        expected = ["POST", f"{PUBLIC}/it?by=ada", '{"approved": true}', "s"]
        assert expected == json.loads(answer.body)
        stored = str(process.durable.runs.get(run_id).steps[-1].result)
        assert "c1." not in stored
        assert "secret" not in stored
        assert '{"approved": true}' in stored


@both
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_answer_may_come_before_the_wait(kind: str, asynchronous: bool) -> None:
    """It is kept for the step, also while the step that asks for it is still running."""
    statuses: list[tuple[int, str]] = []

    def ask(handler: Any, url: str) -> None:
        statuses.append(code(post(handler, url, asynchronous=asynchronous)))

    handlers: list[Any] = []

    def plain(asked: Request) -> object:
        sync_step.run("first", len, "")
        sync_step.sleep("nap", "1ms")
        sync_step.run("ask", ask, handlers[0], run.callback_url("wait"))
        return shown(sync_step.wait_for_callback("wait", timeout="1h", data=Answer))

    async def asynchronously(asked: Request) -> object:
        await step.run("first", len, "")
        await step.sleep("nap", "1ms")
        await step.run("ask", ask, handlers[0], run.callback_url("wait"))
        return shown(await step.wait_for_callback("wait", timeout="1h", data=Answer))

    with lab(public_url=PUBLIC) as process:
        handlers.append(process.endpoint(plain if kind == "def" else asynchronously))
        assert b"true" == process.call(handlers[0]).body
    assert [(200, "accepted")] == statuses


def test_an_answer_before_the_run_is_stored_may_be_repeated() -> None:
    """Nothing of it is stored: the sender is told to come again, and the run leaves a record."""
    answers: list[Response] = []
    handlers: list[Any] = []

    def handler(asked: Request) -> object:
        answers.append(post(handlers[0], run.callback_url("wait")))
        return run.id

    with lab(public_url=PUBLIC) as process:
        handlers.append(process.endpoint(handler))
        response = process.call(handlers[0])
        assert isinstance(response.body, bytes)
        run_id = json.loads(response.body)
        assert "completed" == process.durable.runs.get(run_id).status
    assert [(503, "callback-too-early")] == [code(answer) for answer in answers]
    assert "1" == answers[0].headers["retry-after"]


@both
def test_it_is_used_once(kind: str) -> None:
    """The same answer again is accepted again, as its sender may not know; another one is not."""
    urls: list[str] = []
    with lab(public_url=PUBLIC) as process:
        handler = process.endpoint(waiting(kind, urls, data=Answer))
        first = handler.handle(request())
        until_suspended(process)

        assert (200, "accepted") == code(post(handler, urls[0]))
        assert (200, "accepted") == code(post(handler, urls[0]))
        assert (409, "callback-used") == code(post(handler, urls[0], b'{"approved": false}'))
        assert b"true" == process.follow(handler, first).body
        assert (200, "accepted") == code(post(handler, urls[0]))
        assert (409, "callback-used") == code(post(handler, urls[0], b"{}"))


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_only_post_answers(method: str) -> None:
    """A browser that looks at the URL is told nothing, and consumes nothing."""
    urls: list[str] = []
    with lab(public_url=PUBLIC) as process:
        handler = process.endpoint(waiting("def", urls))
        first = handler.handle(request())
        until_suspended(process)

        response = post(handler, urls[0], b"", method=method)
        assert response.status in (403, 405)
        assert isinstance(response.body, bytes)
        assert b"approved" not in response.body
        assert (200, "accepted") == code(post(handler, urls[0]))
        process.follow(handler, first)


@pytest.mark.parametrize("part", ["run", "op", "signature", "token"])
def test_a_wrong_token_answers_nothing(part: str) -> None:
    """Whatever of it is wrong, the answer is the same."""
    urls: list[str] = []
    with lab(public_url=PUBLIC) as process:
        handler = process.endpoint(waiting("def", urls))
        handler.handle(request())
        run_id = until_suspended(process)
        head, _, token = urls[0].rpartition("durable-token=")
        _, op_id, signature = token.split(".")
        wrong = {
            "run": urls[0].replace(run_id, "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
            "op": f"{head}durable-token=c1.{'0' * 40}.{signature}",
            "signature": f"{head}durable-token=c1.{op_id}.{signature[::-1]}",
            "token": f"{head}durable-token=c1.",
        }[part]

        assert (403, "invalid-token") == code(post(handler, wrong))
        assert [None] == [op.matched for op in process.records.get(run_id).pending]


@both
def test_nobody_waits_any_more(kind: str) -> None:
    """An answer after the end of the run is refused."""
    clock, urls = FakeClock(), list[str]()
    with lab(public_url=PUBLIC, clock=clock) as process:
        handler = process.endpoint(waiting(kind, urls, timeout="59m"))
        first = handler.handle(request())
        run_id = until_suspended(process)
        clock.advance(3600)
        process.poke()
        assert b'"none"' == process.follow(handler, first).body
        assert (410, "callback-gone") == code(post(handler, urls[0]))

        process.durable.runs.delete(run_id)
        clock.advance(3601)
        assert (410, "callback-gone") == code(post(handler, urls[0]))


def test_the_url_survives_a_restart_and_a_new_secret() -> None:
    """Another process of the store takes the answer; the old secret verifies."""
    urls: list[str] = []
    store = WatchedStore()
    with lab(store, public_url=PUBLIC) as process:
        handler = process.endpoint(waiting("def", urls))
        handler.handle(request())
        until_suspended(process)
        process.engine.rotate_secrets()
    with lab(store, public_url=PUBLIC) as process:
        handler = process.endpoint(waiting("def", urls))
        process.durable.start()
        assert (200, "accepted") == code(post(handler, urls[0]))
        [info] = process.durable.runs.list()
        assert "completed" == process.durable.runs.wait(info.id, timeout=20).status


def test_the_host_of_a_request_is_not_trusted() -> None:
    """Without public_url= the URL is that of the request only on a loopback address."""

    def handler(asked: Request) -> object:
        return run.callback_url("wait")

    with lab() as process:
        endpoint = process.endpoint(handler, retries=0)
        forged = Request(method="GET", url="http://evil.example/it")
        response = endpoint.handle(forged)
        assert 500 == response.status
        assert isinstance(response.body, bytes)
        assert b"Durable(public_url=)" in response.body
        own = endpoint.handle(Request(method="GET", url="http://127.0.0.1:8000/it?x=1"))
        assert isinstance(own.body, bytes)
        assert json.loads(own.body).startswith("http://127.0.0.1:8000/it?durable-run=")


def test_a_wait_route_takes_answers() -> None:
    """Where async_redirect_url leads to a route of the application, so does the callback.

    A page of another origin can send JSON there, and read what became of it.
    """
    urls: list[str] = []
    with lab(public_url=PUBLIC) as process:
        handler = process.endpoint(waiting("def", urls), async_redirect_url="/wait?tenant=7")
        handler.handle(request())
        until_suspended(process)
        proxy = process.durable.endpoint_proxy()

        assert "/wait" == urlsplit(urls[0]).path
        assert "tenant=7" in urls[0]
        assert 405 == proxy.handle(request(url="/wait", method="POST")).status
        accepted = post(proxy, urls[0])
        assert (200, "accepted") == code(accepted)
        for answer in (accepted, post(proxy, urls[0], b"{}"), post(proxy, f"{urls[0]}x")):
            assert "*" == answer.headers["access-control-allow-origin"]


def test_bodies_have_a_limit() -> None:
    """As events do; and bytes that are no text come as they were sent."""
    urls: list[str] = []
    with lab(public_url=PUBLIC, limits=Limits(event=10)) as process:

        def handler(asked: Request) -> object:
            urls.append(run.callback_url("wait"))
            answer = sync_step.wait_for_callback("wait", timeout="1h")
            return None if answer is None else list(answer.body)

        endpoint = process.endpoint(handler)
        first = endpoint.handle(request())
        until_suspended(process)
        assert (413, "content-too-large") == code(post(endpoint, urls[0], b"x" * 11))
        assert (200, "accepted") == code(post(endpoint, urls[0], b"\xff\x00"))
        assert b"[255,0]" == process.follow(endpoint, first).body


@pytest.mark.parametrize("body", [b"", b"{", b'{"approved": 1}'])
def test_an_answer_of_another_type_names_the_step(body: bytes) -> None:
    """The handler gets an error, as the sender has gone."""
    urls: list[str] = []
    with lab(public_url=PUBLIC) as process:
        handler = process.endpoint(waiting("def", urls, data=Answer), retries=0)
        first = handler.handle(request())
        until_suspended(process)
        post(handler, urls[0], body)
        answer = process.follow(handler, first)
        assert isinstance(answer.body, bytes)
        assert b"the answer to step 'wait' does not fit Answer" in answer.body


def test_a_store_that_cannot_answer_is_told() -> None:
    """The sender gets 503 and may send it again."""
    urls: list[str] = []
    store = WatchedStore()
    with lab(store, public_url=PUBLIC) as process:
        handler = process.endpoint(waiting("def", urls))
        first = handler.handle(request())
        until_suspended(process)

        def fault(writes: object) -> None:
            raise StoreError("no")

        store.fault = fault
        assert 503 == post(handler, urls[0]).status
        store.recover()
        assert (200, "accepted") == code(post(handler, urls[0]))
        process.follow(handler, first)


def test_outside_a_run_there_is_no_url() -> None:
    """As for all of ``run``."""
    with pytest.raises(StepUsageError, match=r"run\.callback_url"):
        run.callback_url("wait")
