"""The HTTP route that takes events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from durable_core.errors import ConfigurationError, StoreError
from durable_core.flow.env import Limits
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.model.event import Event
from durable_core.ports import SendEvents, Write
from support.harness import Lab, lab, request

both = pytest.mark.parametrize("asynchronous", [False, True])


def post(process: Lab, asked: Request, asynchronous: bool = False, **options: Any) -> Response:
    route = process.durable.events_endpoint(**(options or {"public": True}))
    return asyncio.run(route.handle_async(asked)) if asynchronous else route.handle(asked)


def posted(text: object, **headers: str) -> Request:
    body = text if isinstance(text, bytes) else json.dumps(text).encode()
    return request("/events", "POST", body, **headers)


def ids_of(response: Response) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)["ids"]


@both
def test_events_are_taken(asynchronous: bool) -> None:
    """One object or an array of them; the answer has an id for each, durable by then."""
    with lab() as process:
        one = post(process, posted({"name": "a", "data": {"x": 1}, "id": "i"}), asynchronous)
        two = post(process, posted([{"name": "b"}, {"name": "c"}]), asynchronous)
        sent = [
            event.name
            for batch in process.watched.batches
            for write in batch
            if isinstance(write, SendEvents)
            for event in write.events
        ]
    assert (200, ["i"]) == (one.status, ids_of(one))
    assert 2 == len(set(ids_of(two)))
    assert ["a", "b", "c"] == sent


@both
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"7", b"[]", b"[7]", b"{}", b'{"name": ""}', b'{"name": "x", "data": 7}', b"\xff"],
)
def test_bad_bodies(body: bytes, asynchronous: bool) -> None:
    """What is no event is 400, and nothing is sent."""
    with lab() as process:
        assert 400 == post(process, posted(body), asynchronous).status
        writes = [write for batch in process.watched.batches for write in batch]
    assert [] == [write for write in writes if isinstance(write, SendEvents)]


def test_one_bad_event_spoils_all() -> None:
    """Of several events either all are taken, or none."""
    with lab() as process:
        assert 400 == post(process, posted([{"name": "a"}, {"name": ""}])).status
        writes = [write for batch in process.watched.batches for write in batch]
    assert [] == [write for write in writes if isinstance(write, SendEvents)]


@pytest.mark.parametrize("limits", [Limits(body=10), Limits(event=10)])
def test_too_large(limits: Limits) -> None:
    """A body or an event beyond its limit is 413."""
    with lab(limits=limits) as process:
        assert 413 == post(process, posted({"name": "a", "data": {"x": "y" * 50}})).status


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Basic key", 401),
        ("key", 401),
        ("Bearer \xe9", 401),
        ("Bearer key", 200),
        ("bearer  key ", 200),
    ],
)
def test_key(header: str | None, status: int) -> None:
    """With a key, clients must send it as a bearer token."""
    headers = {} if header is None else {"authorization": header}
    with lab() as process:
        response = post(process, posted({"name": "a"}, **headers), event_key="key")
    assert status == response.status
    assert ("Bearer" if status == 401 else None) == response.headers.get("www-authenticate")


@pytest.mark.parametrize(
    "options", [{}, {"event_key": "x", "public": True}, {"event_key": ""}, {"event_key": 5}]
)
def test_key_or_public(options: dict[str, Any]) -> None:
    """It must be said whether anybody may send events."""
    with lab() as process, pytest.raises(ConfigurationError):
        process.durable.events_endpoint(**options)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_no_sender_takes_the_id_of_another(asynchronous: bool) -> None:
    """Keys, the public and the application each have ids of their own; within one they are once."""
    asked = posted({"name": "a", "id": "mine"}, authorization="Bearer k")
    with lab() as process:
        process.durable.start()
        for options in ({"event_key": "k"}, {"event_key": "k"}, {"public": True}):
            assert ["mine"] == ids_of(post(process, asked, asynchronous, **options))
        process.durable.send(Event(name="a", id="mine"))

        assert 3 == process.store.event_seq("lab")


def test_methods() -> None:
    """Events are posted; OPTIONS says so, others get 405."""
    with lab() as process:
        assert 405 == post(process, request("/events")).status
        options = post(process, request("/events", "OPTIONS"))
        assert (204, "OPTIONS, POST") == (options.status, options.headers["allow"])


@both
def test_store_in_trouble(asynchronous: bool) -> None:
    """What cannot be stored is 503."""

    def refuse(writes: Sequence[Write[Any]]) -> None:
        if any(isinstance(write, SendEvents) for write in writes):
            raise StoreError("full")

    with lab() as process:
        process.watched.fault = refuse
        assert 503 == post(process, posted({"name": "a"}), asynchronous).status
        process.watched.fault = None
