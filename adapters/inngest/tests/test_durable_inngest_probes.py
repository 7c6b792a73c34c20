"""Probes of a process under this engine: the server is not asked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from durable_core import Durable, Request, endpoint_adapter
from durable_core.api.adapter import HTTPHandler
from durable_core.errors import ConfigurationError
from durable_inngest import InngestEngine


def made() -> Durable[HTTPHandler]:
    engine = InngestEngine(is_dev=True)
    return Durable(id="shop", engine=engine, endpoint_adapter=endpoint_adapter)


def ask(route: HTTPHandler, kind: str) -> tuple[int, Any]:
    request = Request(method="GET", url="http://x/")
    in_task = kind == "task"
    response = asyncio.run(route.handle_async(request)) if in_task else route.handle(request)
    assert isinstance(response.body, bytes)
    return response.status, json.loads(response.body)


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_probes(kind: str) -> None:
    """It is alive and ready, until it hands its clients on."""
    durable = made()
    try:
        status, health = ask(durable.health_endpoint(), kind)
        assert (200, True, False) == (status, health["alive"], health["started"])
        assert (200, {"ready": True, "app": "shop"}) == ask(durable.readiness_endpoint(), kind)
        durable.drain()
        status, problem = ask(durable.readiness_endpoint(), kind)
        assert (503, "draining") == (status, problem["reason"])
        status, health = ask(durable.health_endpoint(), kind)
        assert (200, True, True) == (status, health["alive"], health["started"])
    finally:
        durable.stop()


def test_there_are_no_metrics() -> None:
    """They need an observer, which this engine refuses."""
    with pytest.raises(ConfigurationError, match="'shop' has none"):
        made().metrics()
