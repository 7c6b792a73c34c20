"""The npm client of the protocol, ``fetchWithStream``, follows runs of every adapter.

Each test is one of the statements that the client's own project tests it by against its own
server. Two differ, because this server does better there: a run that fails tells its client so,
and a server that dies ends the client's connection in every phase.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.interop_sample import IDS, READ, SERVERS, served
from support.node import Call, NpmClient, call_of, install
from support.source_tree import ROOT

pytestmark = pytest.mark.slow

DONE = {"status": 202, "header": "my-value", "body": '"All done"'}


@pytest.fixture(scope="module")
def npm() -> NpmClient:
    return NpmClient(install())


@pytest.fixture(scope="module", params=SERVERS, ids=IDS)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The sample, served by an adapter."""
    module, face = request.param
    with served(module, face, tmp_path_factory.mktemp("interop") / "runs.db") as at:
        yield at


def end(call: Call) -> dict[str, object]:
    assert call.response is not None, call.error
    return {
        "status": call.response["status"],
        "header": call.response["headers"].get("x-my-header"),
        "body": call.response["body"],
    }


def test_no_stream(npm: NpmClient, url: str) -> None:
    """A run that ends at once and pushes nothing: the handler's own response (statement 19)."""
    call = npm.call(f"{url}/plain")

    assert (DONE, []) == (end(call), call.data)


def test_a_stream(npm: NpmClient, url: str) -> None:
    """Two steps push: both chunks, and the response (20)."""
    call = npm.call(f"{url}/streaming")

    assert (DONE, ["chunk a", "chunk b"]) == (end(call), call.data)
    assert ["metadata", "data", "commit", "data", "commit"] == call.kinds


def test_no_stream_over_a_handoff(npm: NpmClient, url: str) -> None:
    """A run that sleeps: the response comes by the second connection (21)."""
    call = npm.call(f"{url}/napping")

    assert (DONE, []) == (end(call), call.data)


def test_a_stream_over_a_handoff(npm: NpmClient, url: str) -> None:
    """Each chunk once, over both connections (22)."""
    call = npm.call(f"{url}/napping_stream")

    assert (DONE, ["chunk a", "chunk b"]) == (end(call), call.data)


def test_rollbacks(npm: NpmClient, url: str) -> None:
    """Each step fails once after a push: what the failed attempts pushed is taken back (23)."""
    told = []
    with npm.calling(f"{url}/flaky_steps") as lines:
        for line in lines:
            told.append(line)
            if "data" == json.loads(line)[0]:
                READ.release()
    call = call_of(told)

    assert DONE == end(call)
    assert ["sync-data", "sync-data", "async-data", "async-data"] == call.data
    assert ["sync-data", "async-data"] == call.committed


def test_a_run_that_fails(npm: NpmClient, url: str) -> None:
    """An error that is not retried, after a push: a response with 500 and the message (24)."""
    call = npm.call(f"{url}/final")

    assert call.response is not None
    assert (500, "application/json", '"oh no"') == (
        call.response["status"],
        call.response["headers"]["content-type"],
        call.response["body"],
    )
    assert (["partial"], []) == (call.data, call.committed)


def test_an_error_that_is_caught(npm: NpmClient, url: str) -> None:
    """After a handoff the handler catches it, sleeps, and returns its message with 500 (25)."""
    call = npm.call(f"{url}/caught")

    assert call.response is not None
    assert (500, "application/json", '"oh no"') == (
        call.response["status"],
        call.response["headers"]["content-type"],
        call.response["body"],
    )


@pytest.mark.parametrize("form", ["Headers", "pairs", "object"])
def test_headers_reach_the_handler(npm: NpmClient, url: str, form: str) -> None:
    """In each form that JavaScript has for them (28)."""
    call = npm.call(f"{url}/echo", headers={"X-Custom": "hello"}, form=form)

    assert call.response is not None, call.error
    assert (200, '"hello"') == (call.response["status"], call.response["body"])


@contextmanager
def process(module: str, face: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve the sample in a process of its own."""
    command = [sys.executable, "-m", "support.interop_sample", module, face]
    with subprocess.Popen(
        command,
        cwd=ROOT / "tests",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip(), server
        finally:
            server.kill()


def until_data(lines: Iterator[str], data: str) -> Iterator[str]:
    """Yield what is told, up to this chunk."""
    for line in lines:
        yield line
        if f'"data":"{data}"' in line:
            return


@pytest.mark.parametrize(
    ("name", "data"), [("endless", ["last"]), ("napping_endless", ["first", "last"])]
)
@pytest.mark.parametrize(("module", "face"), SERVERS, ids=IDS)
def test_a_server_that_is_killed(
    npm: NpmClient, module: str, face: str, name: str, data: list[str]
) -> None:
    """``kill -9`` in the middle of a stream, of the first one (26) or of that after the handoff
    (27), ends the call with an error, without a time-out.
    """
    with (
        process(module, face) as (url, server),
        npm.calling(f"{url}/{name}") as lines,
    ):
        told = list(until_data(lines, "last"))
        server.kill()
        call = call_of([*told, *lines])

    assert data == call.data
    assert call.error is not None
    assert not call.error.startswith("TimeoutError")
