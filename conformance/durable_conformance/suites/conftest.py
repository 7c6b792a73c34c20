"""What cases are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from durable_conformance.contract import Capability
from durable_conformance.plugin import SUBJECT, needs
from durable_conformance.programs import Script
from durable_conformance.stage import ALL_METHODS, Site, Stage, stage_for
from durable_core import Request, Response
from durable_core.ports import Store


@pytest.fixture(scope="session")
def durable_subject(pytestconfig: pytest.Config) -> Any:
    """The subject."""
    return pytestconfig.stash[SUBJECT]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("sync", marks=needs(Capability.SYNC_HANDLERS)),
        pytest.param("async", marks=needs(Capability.ASYNC_HANDLERS)),
    ],
)
def face(request: pytest.FixtureRequest) -> str:
    """The kind of handlers; every case that asks for it is run with each."""
    return str(request.param)


@pytest.fixture
def stage(durable_subject: Any, face: str) -> Stage:
    """The subject's server, for handlers of either kind."""
    return stage_for(durable_subject, face)


def _echo(request: Request, step: Any) -> Script:
    """Answer with all that the handler saw; the body as JSON has no bytes, so in hex."""
    yield step.run("look", lambda: None)
    return Response.json(
        {
            "method": request.method,
            "url": request.url,
            "path": request.path,
            "params": dict(request.path_params),
            "query": [list(pair) for pair in request.query.items()],
            "fields": [[name.lower(), value] for name, value in request.headers.items()],
            "body": request.body.hex(),
        }
    )


@pytest.fixture(scope="module")
def echo(durable_subject: Any, face: str) -> Iterator[Site]:
    """A server whose handler answers ``/echo/...`` with what it sees."""
    stage = stage_for(durable_subject, face)

    def routes(durable: Any) -> dict[str, Any]:
        target = stage.endpoint(durable, _echo, function_id="echo")
        return {f"{ALL_METHODS} /echo/{{rest:path}}": target}

    with stage.serving(more=routes) as site:
        yield site


@pytest.fixture
def store(durable_subject: Any) -> Iterator[Store]:
    """An empty store of the subject."""
    with durable_subject.open() as opened:
        yield opened


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Any]]]:
    """Call functions in threads: ``background(site.ask, "GET", "/it")``."""
    with ThreadPoolExecutor(max_workers=64) as pool:
        yield pool.submit
