"""UI messages as code uses them: what is pushed, the option, and the route of a chat."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import threading
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.api.stream import stream, sync_stream
from durable_core.errors import ConfigurationError, HTTPError, NonRetriableError
from durable_core.flow.env import Limits
from durable_core.http.request import Request
from durable_core.http.response import Response
from support.harness import FakeClock, Lab, lab, request
from support.streams import read
from support.ui_messages import UIMessageClient

both = pytest.mark.parametrize("asynchronous", [False, True])
TEXT = [
    {"type": "text-start", "id": "1"},
    {"type": "text-delta", "id": "1", "delta": "It é"},
    {"type": "text-delta", "id": "1", "delta": " depends"},
    {"type": "text-end", "id": "1"},
]
ENCODED = "".join(f"data: {json.dumps(each)}\n\n" for each in TEXT) + "data: [DONE]\n\n"


def asks(chat: object = "c1", **headers: str) -> Request:
    body = json.dumps({"id": chat, "messages": []}).encode()
    return request("/chat", "POST", body, **headers)


def read_messages(response: Response) -> UIMessageClient:
    """Return what a client has of a streamed response, read by a thread."""
    client = UIMessageClient()
    assert not isinstance(response.body, bytes), response.body
    assert isinstance(response.body, Iterator)
    for part in response.body:
        client.feed(part)
    return client


async def read_messages_async(response: Response) -> UIMessageClient:
    client = UIMessageClient()
    assert isinstance(response.body, AsyncIterator)
    async for part in response.body:
        client.feed(part)
    return client


def answer(process: Lab, handler: Any, asked: Request | None = None, **options: Any) -> Any:
    """Ask an endpoint, and return what the client has in the end."""
    endpoint = process.durable.endpoint(ui_messages="live", **options)(handler)
    return read_messages(endpoint.handle(asked or asks()))


# --- what handlers push ---------------------------------------------------------------------------


def test_outside_a_run() -> None:
    """A good chunk goes nowhere, a bad one is refused all the same, and nothing is read."""
    stream.ui_message(TEXT[0])
    with pytest.raises(ValueError, match="needs id"):
        sync_stream.ui_message({"type": "text-start"})
    assert "" == sync_stream.pipe_ui_messages(object())
    assert "" == asyncio.run(stream.pipe_ui_messages(object()))


def test_chunks_are_those_of_a_message() -> None:
    """What a step sends is a part of the message; clients of the events have it as data."""

    def write() -> str:
        for chunk in TEXT:
            sync_stream.ui_message(chunk)
        return "written"

    def chat(request: Request) -> object:
        return sync_step.run("write", write)

    with lab() as process:
        client = answer(process, chat)
        asked = asks(accept="text/event-stream")
        told = read(process.endpoint(chat, ui_messages="live").handle(asked))
    assert (["It é depends"], True) == (client.texts, client.done)
    assert any(each.endswith(f": {TEXT[0]}") for each in told)


@pytest.mark.parametrize("cut", [1, 7, 10_000])
@both
def test_an_encoded_stream_is_piped(cut: int, asynchronous: bool) -> None:
    """It may be cut anywhere, in the middle of a character too; its text is returned."""
    encoded = ENCODED.encode()
    parts = [encoded[at : at + cut] for at in range(0, len(encoded), cut)]

    def chat(request: Request) -> object:
        return sync_step.run("write", lambda: sync_stream.pipe_ui_messages(parts))

    async def chat_async(request: Request) -> object:
        async def source() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        return await step.run("write", lambda: stream.pipe_ui_messages(source()))

    with lab() as process:
        client = answer(process, chat_async if asynchronous else chat)
        [run] = process.durable.runs.list()
        result = process.durable.runs.get(run.id).steps[0].result
    assert (["It é depends"], "It é depends") == (client.texts, result)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("data: {}\n\n", "the 'type' of a UI message chunk must be a str"),
        ("data: nothing\n\n", "Expecting value"),
        ('data: {"type": "text-start", "id": "1"}\n', "in the middle of an event"),
        ([1], "a piped chunk must be str or bytes, not int"),
    ],
)
@both
def test_what_is_no_encoded_stream(source: object, text: str, asynchronous: bool) -> None:
    """The step fails, and says why; nothing of it is shown."""
    caught: list[Exception] = []

    def write() -> None:
        try:
            sync_stream.pipe_ui_messages(source)
        except (TypeError, ValueError) as error:
            caught.append(error)
            raise NonRetriableError("no") from error

    async def write_async() -> None:
        try:
            await stream.pipe_ui_messages(source)
        except (TypeError, ValueError) as error:
            caught.append(error)
            raise NonRetriableError("no") from error

    async def chat(request: Request) -> None:
        await step.run("write", write_async if asynchronous else write)

    with lab() as process:
        client = answer(process, chat)
    assert ([], "error") == (client.parts, client.finish["type"])
    assert text in str(caught[0])


# --- the option -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"ui_messages": True}, ValueError, "ui_messages must be 'live' or 'committed', not True"),
        ({"ui_messages": "all"}, ValueError, "ui_messages must be 'live' or 'committed', not 'all"),
        (
            {"ui_messages": "live", "max_sync_runtime": 0},
            ValueError,
            "ui_messages= answers on the client's connection, and max_sync_runtime=0 leaves none",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], text: str) -> None:
    """They are refused where the endpoint is made."""
    with lab() as process, pytest.raises(error, match=re.escape(text)):
        process.durable.endpoint(**options)(lambda request: None)


@pytest.mark.parametrize(
    ("labels", "chat", "found"),
    [
        (None, "c1", {"chat": "c1"}),
        ({"shop": "tea"}, "c1", {"shop": "tea", "chat": "c1"}),
        (lambda request: {"chat": "mine"}, "c1", {"chat": "mine"}),
        (None, 7, {}),
        (None, "", {}),
        (None, "x" * 256, {}),
        (None, "\ud800", {}),
    ],
)
def test_a_run_has_its_chat_as_a_label(labels: Any, chat: object, found: dict[str, str]) -> None:
    """It is the member ``id`` of the request, where that can be a label."""
    with lab() as process:
        answer(process, lambda request: None, asks(chat), labels=labels)
        [run] = process.durable.runs.list()
    assert found == run.labels


def test_a_request_without_json_has_no_chat() -> None:
    """The handler decides what that means; as an error it is the end of the message."""

    def chat(request: Request) -> object:
        return request.json()

    with lab() as process:
        client = answer(process, chat, request("/chat", "POST", b"{"))
        [run] = process.durable.runs.list()
    assert ({}, "error") == (run.labels, client.finish["type"])
    assert "JSON" in client.finish["errorText"]


def test_the_run_is_stored_before_its_handler_begins() -> None:
    """So a page that comes back during the first step finds its run, in any process."""
    stored: list[Mapping[str, str]] = []

    def chat(request: Request) -> None:
        [run] = process.durable.runs.list()
        stored.append(run.labels)

    with lab() as process:
        answer(process, chat)
    assert [{"chat": "c1"}] == stored


@both
def test_a_repeated_request_joins_the_run(asynchronous: bool) -> None:
    """The client of a second request with its key has the same message."""

    def chat(request: Request) -> object:
        return sync_step.run("write", lambda: sync_stream.push("It depends"))

    asked = asks(**{"idempotency-key": '"k"'})
    with lab() as process:
        endpoint = process.durable.endpoint(ui_messages="live")(chat)
        if asynchronous:
            clients = asyncio.run(ask_twice(endpoint, asked))
        else:
            clients = [read_messages(endpoint.handle(asked)) for _ in range(2)]
        assert 1 == len(process.durable.runs.list())
    assert [["It depends"]] * 2 == [client.texts for client in clients]
    assert clients[0].message_id == clients[1].message_id


async def ask_async(endpoint: Any, asked: Request) -> UIMessageClient:
    return await read_messages_async(await endpoint.handle_async(asked))


async def ask_twice(endpoint: Any, asked: Request) -> list[UIMessageClient]:
    return [await ask_async(endpoint, asked) for _ in range(2)]


def test_a_run_without_a_step() -> None:
    """The message has what was pushed, and its end."""

    def chat(request: Request) -> None:
        sync_stream.push("no step")

    with lab() as process:
        client = answer(process, chat)
    assert (["no step"], True) == (client.texts, client.done)


def test_a_refusal_is_a_plain_response() -> None:
    """``useChat`` shows the text of a response that is no success."""

    def refuse(request: Request) -> bool:
        return False

    with lab() as process:
        endpoint = process.durable.endpoint(ui_messages="live", authorize=refuse)(lambda r: None)
        assert 403 == endpoint.handle(asks()).status


# --- the route ------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/chat/c1/stream", 204),
        ("DELETE", "/chat/c1/stream", 204),
        ("OPTIONS", "/chat/c1/stream", 204),
        ("POST", "/chat/c1/stream", 405),
        ("GET", "/chat/c1", 404),
        ("GET", "/chat//stream", 404),
        ("GET", "/stream", 404),
    ],
)
def test_the_route_without_a_run(method: str, path: str, status: int, asynchronous: bool) -> None:
    """There is nothing to read or to stop; another path or method is none of its own."""
    with lab() as process:
        route = process.durable.ui_messages_endpoint(public=True)
        asked = request(path, method)
        response = asyncio.run(route.handle_async(asked)) if asynchronous else route.handle(asked)
    assert status == response.status


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "needs either authorize= (it says who may read a chat) or public=True"),
        ({"public": True, "authorize": lambda request: True}, "needs either authorize="),
        ({"authorize": "me"}, "authorize= must be a function, not 'me'"),
    ],
)
def test_who_may_ask_must_be_said(options: dict[str, Any], text: str) -> None:
    """A route without it is a mistake."""
    with lab() as process, pytest.raises(ConfigurationError, match=re.escape(text)):
        process.durable.ui_messages_endpoint(**options)


def test_a_principal_finds_only_their_chats() -> None:
    """The id of a chat may be known to others."""

    def who(request: Request) -> str:
        user = request.headers.get("x-user")
        if user is None:
            raise HTTPError(401, "who are you?")
        return user

    def status(**headers: str) -> int:
        return route.handle(request("/chat/c1/stream?ended", "GET", b"", **headers)).status

    with lab() as process:
        route = process.durable.ui_messages_endpoint(authorize=who)
        answer(process, lambda request: None, asks(**{"x-user": "ann"}), authorize=who)
        assert (200, 204, 401) == (
            status(**{"x-user": "ann"}),
            status(**{"x-user": "bob"}),
            status(),
        )


def test_nobody_can_get_between_a_principal_and_their_chat() -> None:
    """Another one who knows its id asks in its name: the first still has their own answer."""

    def who(request: Request) -> str:
        return str(request.headers["x-user"])

    def chat(request: Request) -> None:
        sync_stream.push(f"for {who(request)}")

    with lab() as process:
        route = process.durable.ui_messages_endpoint(authorize=who)
        for user in ("ann", "bob"):
            answer(process, chat, asks(**{"x-user": user}), authorize=who)
        asked = request("/chat/c1/stream?ended", "GET", b"", **{"x-user": "ann"})
        found = read_messages(route.handle(asked))
    assert ["for ann"] == found.texts


def test_the_last_run_of_a_chat_is_found() -> None:
    """A chat has a run for each question; those of other endpoints are no answers."""

    def chat(request: Request) -> None:
        sync_stream.push(str(len(process.durable.runs.list())))

    clock = FakeClock()
    with lab(clock=clock) as process:
        route = process.durable.ui_messages_endpoint(public=True)
        endpoint = process.durable.endpoint(ui_messages="live")(chat)
        for _ in range(2):
            clock.advance(1)  # of one millisecond, neither would be the last
            read_messages(endpoint.handle(asks()))
        last = read_messages(route.handle(request("/chat/c1/stream?ended", "GET")))
        other = process.durable.endpoint(labels={"chat": "c2"}, record="always", function_id="o")
        other(lambda request: None).handle(asks("c2"))
        assert 204 == route.handle(request("/chat/c2/stream?ended", "GET")).status
    assert ["2"] == last.texts


def test_a_message_does_not_need_the_response() -> None:
    """An endpoint may keep no body of its response; the message is there all the same."""

    def chat(request: Request) -> str:
        sync_step.run("write", lambda: sync_stream.push("It depends"))
        return "not kept"

    with lab() as process:
        answer(process, chat, omit_response_body=True)
        route = process.durable.ui_messages_endpoint(public=True)
        client = read_messages(route.handle(request("/chat/c1/stream?ended", "GET")))
    assert (["It depends"], {"type": "finish", "finishReason": "stop"}) == (
        client.texts,
        client.finish,
    )


@both
def test_a_time_limit_of_the_client_changes_nothing_for_it(asynchronous: bool) -> None:
    """Past ``max_sync_runtime`` an endpoint hands off; the page on an event loop reads on."""
    gate = threading.Event()

    def write() -> None:
        sync_stream.push("It ")
        assert gate.wait(20)
        sync_stream.push("depends")

    async def chat(request: Request) -> None:
        await step.run("write", write)

    def chat_in_thread(request: Request) -> None:
        sync_step.run("write", write)

    async def ask(endpoint: Any) -> UIMessageClient:
        asked = asyncio.ensure_future(ask_async(endpoint, asks()))
        while process.durable.health().get("waiting_clients") != 1:
            await asyncio.sleep(0.001)
        gate.set()
        return await asked

    with lab() as process:
        handler: Any = chat if asynchronous else chat_in_thread
        endpoint = process.durable.endpoint(ui_messages="live", max_sync_runtime=0.05)(handler)
        client = asyncio.run(ask(endpoint))
    assert (["It depends"], True) == (client.texts, client.done)


def test_stopping_what_has_ended_changes_nothing() -> None:
    """The page may be late."""
    with lab() as process:
        answer(process, lambda request: None)
        route = process.durable.ui_messages_endpoint(public=True)
        assert 204 == route.handle(request("/chat/c1/stream", "DELETE")).status
        [run] = process.durable.runs.list()
    assert "completed" == run.status


def test_clients_that_read_on_are_counted() -> None:
    """Past the handoff a client waits, and only so many may; another one is to come back later."""

    async def chat(request: Request) -> None:
        stream.push("It")
        await step.sleep("long", 3600)

    async def ask_beside_another(process: Lab) -> UIMessageClient:
        endpoint = process.durable.endpoint(ui_messages="live")(chat)
        other = asyncio.ensure_future(ask_async(endpoint, asks()))
        while process.durable.health().get("waiting_clients") != 1:
            await asyncio.sleep(0.001)
        client = await ask_async(endpoint, asks())
        other.cancel()
        await asyncio.wait([other])
        return client

    with lab(limits=Limits(waiting_clients=1)) as process:
        client = asyncio.run(ask_beside_another(process))
    assert (["It"], False) == (client.texts, client.done)


def test_a_stream_that_has_ended_is_not_kept() -> None:
    """What its client was sent is free at once, and not when a timer would have looked at it."""

    async def chat(request: Request) -> None:
        stream.push("It")

    async def ask_once(process: Lab) -> weakref.ref[Any]:
        endpoint: Any = process.durable.endpoint(ui_messages="live")(chat)
        response = await endpoint.handle_async(asks())
        await read_messages_async(response)
        return weakref.ref(response.body)

    async def is_kept(process: Lab) -> bool:
        body = await ask_once(process)
        await asyncio.sleep(0)
        gc.collect()
        return body() is not None

    with lab() as process:
        assert not asyncio.run(is_kept(process))
