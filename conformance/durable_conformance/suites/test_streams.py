"""Streams: what a client sees of a run that pushes while it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from durable_conformance.contract import Capability
from durable_conformance.deployment import Deployment
from durable_conformance.plugin import needs, requirement
from durable_conformance.programs import NAP, Gate, Program, Script
from durable_conformance.streams import StreamReader, read_whole_stream
from durable_core import NonRetriableError, Response
from durable_core.sync import stream

_DONE = (
    'response {"status":"succeeded","response":{"body":"\\"done\\"","statusCode":200,'
    '"headers":{"content-type":"application/json"}}}'
)
_FAILED = (
    'response {"status":"failed","response":{"body":"\\"boom\\"","statusCode":500,'
    '"headers":{"content-type":"application/json"}}}'
)


def _chunk(step: str, data: str) -> str:
    return f'stream {{"data":{data},"hashedStepId":"{step}"}}'


def _commit(step: str) -> str:
    return f'commit {{"hashedStepId":"{step}"}}'


def _rollback(step: str) -> str:
    return f'rollback {{"hashedStepId":"{step}"}}'


def _stream(method: str, text: str) -> int:
    """Stream a text by one of the methods, from a step's function."""
    if method == "push":
        stream.push(text)
    elif method == "pipe":
        stream.pipe(iter([text]))
    elif method == "bytes":
        stream.pipe(iter([text.encode()]))
    return 1


def _two(method: str) -> Program:
    def program(request: Any, step: Any) -> Script:
        yield step.run("a", _stream, method, "from a")
        yield step.run("b", _stream, method, "from b")
        return Response.json("done")

    return program


@requirement("V1")
@pytest.mark.parametrize("method", ["push", "pipe", "bytes"])
def test_a_run_that_goes_well(deployment: Deployment, method: str) -> None:
    """Each chunk, its commit, redirect_info after the first checkpoint, the response, the end."""
    with deployment.serving(_two(method)) as server, StreamReader(server, "/it") as reader:
        head, told = reader.head, reader.rest()

    assert (200, "text/event-stream") == (head.status, head.get("content-type"))
    assert [
        *("metadata", _chunk("a", '"from a"'), _commit("a"), "redirect_info"),
        *(_chunk("b", '"from b"'), _commit("b"), _DONE),
    ] == told


@requirement("V1")
def test_a_run_without_chunks(deployment: Deployment) -> None:
    """It has its commits and its response."""
    with deployment.serving(_two("nothing")) as server:
        told = read_whole_stream(server, "/it")

    assert ["metadata", _commit("a"), "redirect_info", _commit("b"), _DONE] == told


@requirement("V2")
def test_a_step_that_fails_for_good(deployment: Deployment) -> None:
    """Its chunks are rolled back, and the response is the message of its error."""

    def fail() -> None:
        stream.push("partial")
        raise NonRetriableError("boom", public="boom")

    def program(request: Any, step: Any) -> Script:
        yield step.run("a", fail)

    with deployment.serving(program) as server:
        told = read_whole_stream(server, "/it")

    assert [
        *("metadata", _chunk("a", '"partial"'), _rollback("a"), "redirect_info"),
        _FAILED,
    ] == told


@requirement("V3")
def test_characters_may_be_cut(deployment: Deployment) -> None:
    """Bytes are joined to characters, wherever they are cut; the step has the whole text."""
    text = "\N{SNOWMAN}\N{GRINNING FACE}"

    def cut() -> Iterator[bytes]:
        data = text.encode()
        for index in range(len(data)):
            yield data[index : index + 1]

    def program(request: Any, step: Any) -> Script:
        return (yield step.run("a", stream.pipe, cut))

    with deployment.serving(program) as server:
        told = read_whole_stream(server, "/it")

    assert [_chunk("a", f'"{character}"') for character in text] == told[1:3]
    assert text in told[-1]


def _asleep(gate: Gate) -> Program:
    def mixed(text: str) -> int:
        stream.push(f"{text} 1")
        stream.pipe([f"{text} 2"])
        stream.push(f"{text} 3")
        return 1

    def program(request: Any, step: Any) -> Script:
        yield step.run("a", mixed, "sync")
        yield step.sleep("nap", NAP)
        gate.wait_open(None)
        yield step.run("b", mixed, "async")
        return Response.json("done")

    return program


_FIRST = [*(_chunk("a", f'"sync {n}"') for n in (1, 2, 3)), _commit("a")]
_SECOND = [*(_chunk("b", f'"async {n}"') for n in (1, 2, 3)), _commit("b")]


@requirement("V4")
@needs(Capability.STREAMING)
def test_the_handoff(deployment: Deployment) -> None:
    """The first stream ends; the second one has what comes after, once and in order."""
    gate = deployment.gate()
    with deployment.serving(_asleep(gate)) as server, StreamReader(server, "/it") as first:
        told = first.take(6)
        with StreamReader(server, first.redirect) as second:
            told += first.rest()
            rest = second.take(1)
            gate.open()
            rest += second.rest()

    assert ["metadata", *_FIRST, "redirect_info"] == told
    assert ["metadata", *_SECOND, _DONE] == rest


@requirement("V5")
def test_who_comes_late_has_all(deployment: Deployment) -> None:
    """The wait URL begins at the beginning, or where the client says it was."""
    gate = deployment.gate()
    gate.open()
    with deployment.serving(_asleep(gate)) as server:
        with StreamReader(server, "/it") as first:
            first.rest()
        server.settle()
        late = first.redirect.replace("&durable-from=handoff", "")
        with StreamReader(server, late) as again:
            told = again.rest()
        resumed = {id_: read_whole_stream(server, late, id_) for id_ in again.ids[1:-1]}

    assert ["metadata", *_FIRST, *_SECOND, _DONE] == told
    assert {
        id_: ["metadata", *told[index + 1 :]] for index, id_ in enumerate(again.ids[1:-1], 1)
    } == resumed


@requirement("V6")
@needs(Capability.STREAMING)
def test_chunks_are_not_kept_back(deployment: Deployment) -> None:
    """A chunk is with the client while its step goes on, before the handoff and after it."""
    gates = [deployment.gate() for _ in range(3)]

    def gated(text: str, gate: Gate) -> int:
        stream.push(text)
        gate.wait_open(None)
        return 1

    def program(request: Any, step: Any) -> Script:
        yield step.run("a", gated, "first", gates[0])
        yield step.sleep("nap", NAP)
        gates[1].wait_open(None)
        yield step.run("b", gated, "second", gates[2])
        return "done"

    with deployment.serving(program) as server, StreamReader(server, "/it") as first:
        told = first.take(2)
        gates[0].open()
        first.rest()
        with StreamReader(server, first.redirect) as second:
            told += second.take(1)
            gates[1].open()
            told += second.take(1)
            gates[2].open()
            told += second.rest()

    assert [
        *("metadata", _chunk("a", '"first"'), "metadata", _chunk("b", '"second"')),
        *(_commit("b"), _DONE),
    ] == told


@requirement("V7")
def test_who_does_not_ask_gets_no_stream(deployment: Deployment) -> None:
    """Chunks are dropped for a client that asks for none, which is redirected as ever."""
    gate = deployment.gate()
    gate.open()
    with deployment.serving(_two("push")) as server:
        plain = server.ask("GET", "/it")
    with deployment.serving(_asleep(gate)) as server:
        handed_off = server.ask("GET", "/it")

    assert (200, b'"done"') == (plain.status, plain.body)
    assert 302 == handed_off.status


@requirement("V8")
@needs(Capability.STREAMING)
def test_every_attempt_is_rolled_back(deployment: Deployment) -> None:
    """Before the handoff, and after it each further one, to a client that follows."""
    gates = [deployment.gate() for _ in range(2)]
    attempts: list[int] = []

    def fail() -> None:
        attempts.append(1)
        if len(attempts) == 2:
            gates[0].wait_open(None)
        stream.push("partial")
        if len(attempts) > 1:
            gates[1].wait_open(None)
            raise NonRetriableError("boom", public="boom")
        raise RuntimeError("boom")

    def program(request: Any, step: Any) -> Script:
        yield step.run("a", fail)

    with deployment.serving(program, retries=1) as server:
        with StreamReader(server, "/it") as first:
            told = first.rest()
        with StreamReader(server, first.redirect) as second:
            rest = second.take(1)
            gates[0].open()
            rest += second.take(1)
            gates[1].open()
            rest += second.rest()

    partial = [_chunk("a", '"partial"'), _rollback("a")]
    assert ["metadata", *partial, "redirect_info"] == told
    assert ["metadata", *partial, _FAILED] == rest
