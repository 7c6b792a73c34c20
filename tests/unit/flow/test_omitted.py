"""Bodies that are not stored: ``omit_request_body`` and ``omit_response_body``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from durable_core.api.step import step, sync_step
from durable_core.errors import ConfigurationError
from durable_core.http.request import Request
from durable_core.http.response import Response
from durable_core.stores import SQLiteStore
from support.harness import FakeClock, lab, request

MARK = b"PLAINTEXTMARK"
BODY = json.dumps({"card": MARK.decode()}).encode()


def posted() -> Request:
    return request("/it", "POST", BODY, content_type="application/json")


def in_a_step(request: Request) -> dict[str, object]:
    size = sync_step.run("size", lambda: len(request.json()["card"]))
    sync_step.sleep("nap", "1h")
    return {"size": size}


async def in_a_step_async(request: Request) -> dict[str, object]:
    size = await step.run("size", lambda: len(request.json()["card"]))
    await step.sleep("nap", "1h")
    return {"size": size}


@pytest.mark.parametrize("handler", [in_a_step, in_a_step_async])
def test_a_step_reads_the_body_and_nothing_stores_it(handler: Any, tmp_path: Path) -> None:
    """The function of a step has it; no file of the store does, and the replay needs it not."""
    clock = FakeClock()
    with lab(SQLiteStore(tmp_path / "store.db"), clock=clock) as process:
        endpoint = process.endpoint(handler, omit_request_body=True)
        first = endpoint.handle(posted())
        assert 303 == first.status
        clock.advance(3600)
        process.poke()
        last = process.follow(endpoint, first)

    assert b'{"size":13}' == last.body
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and MARK in f.read_bytes()]


def read_json(request: Request) -> None:
    request.json()


def read_body(request: Request) -> None:
    _ = request.body


def read_text(request: Request) -> None:
    request.text()


def match(request: Request) -> None:
    sync_step.wait_for_event("wait", event="e", match="data.card", timeout="1h")


@pytest.mark.parametrize("handler", [read_json, read_body, read_text, match])
def test_the_handler_is_refused_in_its_first_execution(handler: Any) -> None:
    """What a replay could not do fails at once, with an error that says where to read it."""
    with lab() as process:
        answer = process.endpoint(handler, omit_request_body=True).handle(posted())

    assert 500 == answer.status
    assert isinstance(answer.body, bytes)
    assert b"BodyNotStoredError" in answer.body
    assert b"read it in the function of a step" in answer.body


def test_a_step_that_is_tried_again_in_a_replay_fails() -> None:
    """The body is gone by then; the step is not tried further."""
    calls: list[int] = []

    def handler(request: Request) -> str:
        def charge() -> str:
            calls.append(len(calls))
            if len(calls) == 1:
                raise ConnectionError("not yet")
            return str(request.json())

        return sync_step.run("charge", charge)

    with lab() as process:
        last = process.call(process.endpoint(handler, omit_request_body=True), posted())

    assert 500 == last.status
    assert isinstance(last.body, bytes)
    assert b"BodyNotStoredError" in last.body
    assert [0, 1] == calls


def test_hooks_before_the_run_read_it() -> None:
    """Labels, keys and the check of who may ask are derived once, from the whole request."""
    with lab() as process:
        endpoint = process.endpoint(
            in_a_step,
            omit_request_body=True,
            labels=lambda asked: {"card": asked.json()["card"]},
            key=lambda asked: asked.json()["card"],
            authorize=lambda asked: asked.json()["card"],
        )
        first = endpoint.handle(posted())
        again = endpoint.handle(posted(), max_wait=0.1)
        [run] = process.durable.runs.list()

    assert ({"card": MARK.decode()}, MARK.decode()) == (run.labels, run.key)
    assert (303, 303) == (first.status, again.status)


def test_the_option_is_taken_away() -> None:
    """A run without a body does not find an empty one when newer code stores bodies again."""
    clock = FakeClock()
    with lab(clock=clock) as before:
        first = before.endpoint(in_a_step, omit_request_body=True).handle(posted())

    def newer(request: Request) -> str:
        sync_step.sleep("nap", "1h")
        return request.text()

    clock.advance(3600)
    with lab(before.store, clock=clock) as after:
        last = after.follow(after.endpoint(newer, retries=0), first)

    assert isinstance(last.body, bytes)
    assert b"BodyNotStoredError" in last.body


def test_head() -> None:
    """A HEAD request runs as GET, and its body is omitted as well."""

    def handler(request: Request) -> int:
        return sync_step.run("size", lambda: len(request.body))

    with lab() as process:
        endpoint = process.endpoint(handler, omit_request_body=True, methods=("GET", "HEAD"))
        answer = endpoint.handle(request(method="HEAD"))

    assert 200 == answer.status


def test_a_response_that_is_not_stored(tmp_path: Path) -> None:
    """The attached client gets it whole, and no file has it; whoever comes later gets 410."""

    def handler(request: Request) -> Response:
        sync_step.run("a", str)
        return Response(body=MARK)

    def streamed(request: Request) -> Response:
        sync_step.run("a", str)
        return Response(body=iter([MARK]))

    with lab(SQLiteStore(tmp_path / "store.db")) as process:
        endpoint = process.endpoint(handler, omit_response_body=True)
        whole = endpoint.handle(request(idempotency_key="k1"))
        later = process.follow(endpoint, endpoint.handle(request(idempotency_key="k1")))
        other = process.endpoint(streamed, omit_response_body=True, function_id="streamed")
        chunks = other.handle(request()).body

        assert MARK == whole.body
        assert isinstance(chunks, Iterator)
        assert [MARK] == list(chunks)
        assert 410 == later.status
        assert isinstance(later.body, bytes)
        assert b"its endpoint stores none" in later.body
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and MARK in f.read_bytes()]


@pytest.mark.parametrize("option", ["omit_request_body", "omit_response_body"])
def test_bad_values(option: str) -> None:
    """Anything but True, False and None is a TypeError."""
    with lab() as process, pytest.raises(TypeError, match=f"{option} must be True or False"):
        process.endpoint(in_a_step, **{option: "yes"})


class _ElsewhereEngine:
    """An engine whose server has the runs."""

    name = "elsewhere"
    store = None
    env: Any = None

    def attach(self, env: Any) -> None:
        self.env = env


@pytest.mark.parametrize("option", ["omit_request_body", "omit_response_body"])
def test_an_engine_without_a_store(option: str) -> None:
    """Its server gets all; the option is refused where the endpoint is made."""
    from durable_core import Durable, endpoint_adapter

    engine: Any = _ElsewhereEngine()
    durable = Durable(id="shop", engine=engine, endpoint_adapter=endpoint_adapter)
    options: Any = {option: True}
    with pytest.raises(ConfigurationError, match="needs the embedded engine"):
        durable.endpoint(**options)(in_a_step)
