"""The adapter object, and what can be served."""

from __future__ import annotations

from pathlib import Path

import pytest

from durable_asyncio import AsyncioApp, Timeouts, create_endpoint_server, endpoint_adapter
from durable_core import Durable, EndpointAdapter, Request
from durable_core.errors import ConfigurationError


def test_everything_is_wrapped(tmp_path: Path) -> None:
    """Endpoints, the wait route and the events route all become applications."""
    adapter: EndpointAdapter[AsyncioApp] = endpoint_adapter
    durable = Durable(id="shop", endpoint_adapter=adapter, store=tmp_path / "db")

    @durable.endpoint
    async def checkout(request: Request) -> None: ...

    wrapped = (checkout, durable.endpoint_proxy(), durable.events_endpoint(public=True))

    assert [AsyncioApp] * 3 == [type(each) for each in wrapped]
    assert {durable.engine} == {each.endpoint.engine for each in wrapped}
    assert [(durable.engine,)] * 3 == [each.durables for each in wrapped]


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), True, "5", None])
def test_timeouts_are_checked(value: float) -> None:
    """A time-out is a finite number above 0."""
    with pytest.raises(ValueError, match=r"Timeouts\.body must be a number of seconds above 0"):
        Timeouts(body=value)


def test_routes_need_a_durable() -> None:
    """Nobody could start and stop what they lead to."""
    with pytest.raises(ConfigurationError, match="routes need durable="):
        create_endpoint_server({"GET /": lambda request: None})


def test_a_plain_function_is_no_endpoint() -> None:
    """The error says how it can be served."""
    with pytest.raises(ConfigurationError, match=r'app\(durable, \{"GET /": function\}\)'):
        create_endpoint_server(lambda request: None)  # type: ignore[arg-type] # what is tested
