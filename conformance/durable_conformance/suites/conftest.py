"""What cases are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from durable_conformance.contract import Capability
from durable_conformance.deployment import ALL_METHODS, Deployment, LiveServer, deployment_for
from durable_conformance.plugin import SUBJECT, needs
from durable_conformance.programs import Script
from durable_core import Request, Response
from durable_core.ports import Store


@pytest.fixture(scope="session")
def durable_subject(pytestconfig: pytest.Config) -> Any:
    """The subject."""
    return pytestconfig.stash[SUBJECT]


@pytest.fixture(
    params=[
        pytest.param("sync", marks=needs(Capability.SYNC_HANDLERS)),
        pytest.param("async", marks=needs(Capability.ASYNC_HANDLERS)),
    ],
)
def handler_kind(request: pytest.FixtureRequest) -> str:
    """The kind of handlers; every case that asks for it is run with each."""
    return str(request.param)


@pytest.fixture
def deployment(durable_subject: Any, handler_kind: str) -> Deployment:
    """The subject's server, for handlers of either kind."""
    return deployment_for(durable_subject, handler_kind)


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


@pytest.fixture
def echo(durable_subject: Any, handler_kind: str) -> Iterator[LiveServer]:
    """A server whose handler answers ``/echo/...`` with what it sees."""
    deployment = deployment_for(durable_subject, handler_kind)

    def routes(durable: Any) -> dict[str, Any]:
        target = deployment.endpoint(durable, _echo, function_id="echo")
        return {f"{ALL_METHODS} /echo/{{rest:path}}": target}

    with deployment.serving(more=routes) as server:
        yield server


@pytest.fixture
def store(durable_subject: Any) -> Iterator[Store]:
    """An empty store of the subject."""
    with durable_subject.open() as opened:
        yield opened


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Any]]]:
    """Call functions in threads: ``background(server.ask, "GET", "/it")``."""
    with ThreadPoolExecutor(max_workers=64) as pool:
        yield pool.submit
