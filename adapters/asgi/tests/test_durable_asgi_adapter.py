"""The adapter object."""

from __future__ import annotations

from pathlib import Path

from durable_asgi import ASGIApp, endpoint_adapter
from durable_core import Durable, Request
from durable_core.api.endpoint import Endpoint


def test_what_durable_makes_of_handlers(tmp_path: Path) -> None:
    """Endpoints, the wait route and the events route are ASGI applications."""
    durable = Durable(id="x", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")

    @durable.endpoint(function_id="it")
    async def handler(request: Request) -> str:
        return "done"

    assert isinstance(handler.endpoint, Endpoint)
    assert "it" == handler.endpoint.key
    for each in (handler, durable.endpoint_proxy(), durable.events_endpoint(public=True)):
        assert isinstance(each, ASGIApp)
        assert (durable.engine,) == each.durables
        assert durable.engine.limits is each.limits
