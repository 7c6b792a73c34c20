"""What handlers and the server's pages see of a run, at first and on a replay."""

from __future__ import annotations

import json
from typing import Any

import pytest

from durable_core import Durable, Request, run, step, sync
from durable_core.errors import StepArgumentError
from support.inngest_app import serving
from support.inngest_server import InngestServer

pytestmark = pytest.mark.slow


def _ops(server: InngestServer) -> list[dict[str, Any]]:
    """Return the ops that the server was told of, in calls of either kind."""
    sent = [seen.json["steps"] for seen in server.seen if seen.path.startswith("/v1/checkpoint")]
    answers = [answer.body for _, answer in server.calls if answer is not None]
    sent.extend(json.loads(body) for body in answers if body.startswith(b"["))
    return [op for ops in sent for op in ops]


def test_a_replay_sees_the_same_run(server: InngestServer) -> None:
    """Labels, version and principal: the server keeps them with the event of the run."""

    async def handler(request: Request) -> list[Any]:
        before = [dict(run.labels), run.version, request.principal, str(run.started_at)[:10]]
        await step.sleep("nap", "10ms")
        after = [dict(run.labels), run.version, request.principal, str(run.started_at)[:10]]
        return [before == after, *after[:3]]

    def labels(request: Request) -> dict[str, str]:
        return {"of": request.headers["x-user"]}

    options = {"labels": labels, "version": "v7", "authorize": lambda request: "mé"}
    with serving(server, {"GET /a": handler}, options=options) as app:
        got = app.follow("GET", "/a", headers={"x-user": "me"})

    assert (200, [True, {"of": "me"}, "v7", "mé"]) == (got.status, got.json)


def test_the_principal_with_an_origin_of_its_own(server: InngestServer) -> None:
    """It is there at first, too, where the server calls another URL than the client."""

    async def handler(request: Request) -> list[Any]:
        first = request.principal
        await step.sleep("nap", "10ms")
        return [first, request.principal, request.url]

    engine = {"is_dev": True, "serve_origin": "http://shop.example"}
    options = {"authorize": lambda request: "me"}
    with serving(server, {"GET /a": handler}, options=options, engine=engine) as app:
        server.hosts["http://shop.example"] = app.url
        got = app.follow("GET", "/a")

    assert ["me", "me", "http://shop.example/a"] == got.json


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_replay_is_one(server: InngestServer, kind: str) -> None:
    """``Durable.is_replaying`` is True from the second call on, and never inside a step."""
    seen: list[bool] = []

    async def handler(request: Request) -> bool:
        seen.append(Durable.is_replaying())
        await step.sleep("nap", "10ms")
        return await step.run("inside", Durable.is_replaying)

    def handler_sync(request: Request) -> bool:
        seen.append(Durable.is_replaying())
        sync.step.sleep("nap", "10ms")
        return sync.step.run("inside", Durable.is_replaying)

    with serving(server, {"GET /a": handler if kind == "async" else handler_sync}) as app:
        got = app.follow("GET", "/a")

    assert (200, False) == (got.status, got.json)
    assert (False, {True}) == (seen[0], set(seen[1:]))


def test_a_replay_counts_the_attempts_of_the_handler(server: InngestServer) -> None:
    """``run.attempt`` is 1, 2, 3: what the handler was called for, steps not counted."""
    seen: list[int] = []

    async def handler(request: Request) -> int:
        await step.run("a", lambda: 1)
        seen.append(run.attempt)
        if run.attempt < 3:
            raise ValueError("not yet")
        return run.attempt

    with serving(server, {"GET /a": handler}) as app:
        got = app.follow("GET", "/a")

    assert (200, 3) == (got.status, got.json)
    assert [1, 2, 3] == seen


_IDS = ("add", "add-more")


def test_the_servers_pages_show_names_and_arguments(server: InngestServer) -> None:
    """``name=`` of endpoints and steps, and arguments where ``record_arguments=True``."""

    def add(a: int, b: int = 0) -> int:
        return a + b

    async def handler(request: Request) -> int:
        named = await step.options(name="Add the two").run("add", add, 1, b=2)
        await step.sleep("nap", "10ms")
        return named + await step.run("add-more", add, 1)

    options = {"name": "Sums", "record_arguments": True}
    with serving(server, {"GET /a": handler}, options=options) as app:
        got = app.follow("GET", "/a")

    assert 4 == got.json
    told = [op for op in _ops(server) if op["op"] == "StepRun"]
    add_op, more = (next(op for op in told if op["userland"]["id"] == id) for id in _IDS)
    assert ("Add the two", [1, {"b": 2}]) == (add_op["displayName"], add_op["opts"]["input"])
    assert ("add-more", [1]) == (more["displayName"], more["opts"]["input"])
    assert "Sums" == server.run.event["data"]["fn"]


def test_arguments_are_left_out_unless_asked_for(server: InngestServer) -> None:
    """They may be private: without ``record_arguments=True`` none leaves the process."""

    async def handler(request: Request) -> str:
        return await step.run("keep", str, "a secret")

    with serving(server, {"GET /a": handler}) as app:
        app.get("/a")

    [op] = [op for op in _ops(server) if op["op"] == "StepRun"]
    assert {} == op["opts"]


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("option", [{"undo": print}, {"at_most_once": True}, {"retries": 20}])
def test_options_of_steps_are_refused(
    server: InngestServer, kind: str, option: dict[str, Any]
) -> None:
    """The error names the engine and the option, in handlers of both kinds."""

    async def handler(request: Request) -> str:
        try:
            await step.options(**option).run("a", lambda: 1)
        except StepArgumentError as error:
            return str(error)
        return ""

    def handler_sync(request: Request) -> str:
        try:
            sync.step.options(**option).run("a", lambda: 1)
        except StepArgumentError as error:
            return str(error)
        return ""

    with serving(server, {"GET /a": handler if kind == "async" else handler_sync}) as app:
        got = app.get("/a")

    assert 200 == got.status
    assert "InngestEngine" in got.json
    assert f"{next(iter(option))}=" in got.json


@pytest.mark.parametrize("value", ['"a key"', "malformed key"])
def test_an_idempotency_key_is_no_key(server: InngestServer, value: str) -> None:
    """The header is that of a request like any other: each has a run of its own."""

    async def handler(request: Request) -> str:
        return await step.run("a", lambda: "a")

    with serving(server, {"GET /a": handler}) as app:
        got = [app.get("/a", headers={"idempotency-key": value}) for _ in range(2)]

    assert 2 * [(200, "a")] == [(each.status, each.json) for each in got]
    assert 2 == len(server.runs)
