"""The adapter object."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_asgi import ASGIApp, endpoint_adapter
from durable_core import Durable, Request
from durable_core.api.endpoint import Endpoint


def test_with_options_leaves_the_adapter_alone() -> None:
    """A changed adapter is a new one; the first keeps its options."""
    changed = endpoint_adapter.with_options(retries=7)

    assert (7, None) == (changed.options.retries, endpoint_adapter.options.retries)
    assert endpoint_adapter.make is changed.make


def test_bad_option() -> None:
    """An option out of range is refused at once."""
    with pytest.raises(ValueError, match="retries"):
        endpoint_adapter.with_options(retries=21)


def test_what_durable_makes_of_handlers(tmp_path: Path) -> None:
    """Endpoints, the wait route and the events route are ASGI applications."""
    durable = Durable(id="x", endpoint_adapter=endpoint_adapter, store=tmp_path / "db")

    @durable.endpoint(name="it")
    async def handler(request: Request) -> str:
        return "done"

    assert isinstance(handler.endpoint, Endpoint)
    assert "it" == handler.endpoint.key
    for each in (handler, durable.endpoint_proxy(), durable.events_endpoint(public=True)):
        assert isinstance(each, ASGIApp)
        assert (durable.engine,) == each.durables
        assert durable.engine.limits is each.limits
