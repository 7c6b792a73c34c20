"""Chats through every adapter: the answer of an endpoint with ``ui_messages=``, and its routes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

import durable_asgi.conformance
import durable_asyncio.conformance
import durable_django.conformance
import durable_flask.conformance
import durable_starlette.conformance
import durable_wsgi.conformance
from durable_conformance.deployment import Deployment, LiveServer, deployment_for
from durable_conformance.programs import Script
from durable_core import Durable, Request, sync
from durable_core.codec.ui_stream import UIMode
from support.harness import until
from support.ui_messages import UIMessageClient

SUBJECTS: list[Any] = [
    durable_wsgi.conformance.subject,
    durable_asgi.conformance.subject,
    durable_asyncio.conformance.subject,
    durable_starlette.conformance.subject,
    durable_flask.conformance.subject,
    durable_django.conformance.subject,
]
#: Those whose clients hold no thread.
ON_LOOPS = {"durable-asgi", "durable-asyncio", "durable-starlette"}
CASES = [
    pytest.param(subject, kind, id=f"{subject.name}-{kind}")
    for subject in SUBJECTS
    for kind in ("sync", "async")
    if f"{kind}-handlers" in subject.capabilities
]
BODY = {"id": "c 1", "messages": [], "trigger": "submit-message"}
ROUTE = "/it/c%201/stream"


class Chat:
    """A handler that fails once in mid-sentence, is handed off, and goes on when it is told to."""

    def __init__(self) -> None:
        self.attempts = 0
        self.may_end = threading.Event()

    def __call__(self, request: Request, step: Any) -> Script:
        yield step.run("write", self.write)
        yield step.sleep("pause", 0.01)
        yield step.run("end", self.end)
        return {}

    def write(self) -> None:
        self.attempts += 1
        sync.stream.push("It ")
        if self.attempts == 1:
            raise RuntimeError("the model is gone")
        sync.stream.push("depends.")

    def end(self) -> None:
        assert self.may_end.wait(30)
        sync.stream.ui_message({"type": "data-end", "data": 1})


@contextmanager
def serving(subject: Any, kind: str, mode: UIMode, chat: Any) -> Iterator[LiveServer]:
    """Serve a chat, and its route beside it."""
    deployment: Deployment = deployment_for(subject, kind)

    def more(durable: Durable[Any]) -> dict[str, Any]:
        return {"GET,DELETE,POST /it/{chat}/stream": durable.ui_messages_endpoint(public=True)}

    with deployment.serving(chat, more=more, own={"ui_messages": mode}) as server:
        yield server


def read(server: LiveServer, method: str, path: str, version: int, **sent: Any) -> UIMessageClient:
    """Read a UI message stream to its end."""
    client = UIMessageClient(version)
    url = f"http://{server.host}" + path
    with httpx2.stream(method, url, timeout=30, **sent) as response:
        assert 200 == response.status_code, response.read()
        assert "v1" == response.headers["x-vercel-ai-ui-message-stream"]
        assert "text/event-stream" == response.headers["content-type"].partition(";")[0]
        for part in response.iter_bytes():
            client.feed(part)
    return client


@pytest.mark.parametrize(
    ("subject", "kind", "mode"),
    [
        *(pytest.param(*case.values, "live", id=case.id) for case in CASES),
        pytest.param(durable_asgi.conformance.subject, "async", "committed", id="committed"),
    ],
)
def test_a_chat(subject: Any, kind: str, mode: UIMode) -> None:
    """The page has the whole answer, by its own request or by the route, each part once.

    On an event loop the answer goes on after the handoff; else the page reads on by the route.
    """
    chat, version = Chat(), 7 if mode == "live" else 6
    with serving(subject, kind, mode, chat) as server:
        route = f"http://{server.host}" + ROUTE
        before = httpx2.get(route)
        threading.Timer(0.1, chat.may_end.set).start()
        client = read(server, "POST", "/it", version, json=BODY)
        assert (subject.name in ON_LOOPS) == client.done
        if not client.done:
            client = read(server, "GET", f"{ROUTE}?ended", version)  # it may have ended by now
        until(lambda: server.phases() == ["completed"])
        after = httpx2.get(route)
        again = read(server, "GET", f"{ROUTE}?ended", version)

    assert (204, b"", 204) == (before.status_code, before.content, after.status_code)
    for each in (client, again):
        assert (["It depends."], True) == (each.texts, each.done)
        assert 1 == sum(part["type"] == "data-end" for part in each.parts)
    assert client.message_id == again.message_id


@pytest.mark.parametrize(("subject", "kind"), CASES)
def test_the_page_stops_its_answer(subject: Any, kind: str) -> None:
    """DELETE of the route cancels the run; then there is nothing to come back to."""

    def endless(request: Request, step: Any) -> Script:
        yield step.run("write", lambda: sync.stream.push("It"))
        yield step.sleep("pause", 3600)

    with serving(subject, kind, "live", endless) as server:
        route = f"http://{server.host}" + ROUTE
        reader = threading.Thread(
            target=read, args=(server, "POST", "/it", 7), kwargs={"json": BODY}
        )
        reader.start()
        until(lambda: server.phases() == ["suspended"])
        stopped = httpx2.delete(route)
        reader.join(10)
        assert not reader.is_alive()
        assert (204, ["cancelled"], 204) == (
            stopped.status_code,
            server.phases(),
            httpx2.get(route).status_code,
        )
        refused = httpx2.post(route)
        assert (405, "DELETE, GET, OPTIONS") == (refused.status_code, refused.headers["allow"])
