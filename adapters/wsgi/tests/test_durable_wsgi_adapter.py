"""The adapter object."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from durable_core import Durable, EndpointAdapter, Request
from durable_core.api.options import EndpointOptions
from durable_wsgi import WSGIApp, endpoint_adapter


def test_with_options_makes_a_new_adapter() -> None:
    """The adapter it is called on stays as it was; options add up."""
    first = endpoint_adapter.with_options(retries=5)
    second = first.with_options(async_response="token")

    assert EndpointOptions() == endpoint_adapter.options
    assert EndpointOptions(retries=5) == first.options
    assert EndpointOptions(retries=5, async_response="token") == second.options


def test_options_are_checked_at_once() -> None:
    """A wrong option is refused where it is written."""
    with pytest.raises(ValueError, match="retries"):
        endpoint_adapter.with_options(retries=21)


def test_adapter_cannot_be_changed() -> None:
    """It is a value."""
    with pytest.raises(FrozenInstanceError):
        endpoint_adapter.options = EndpointOptions()  # type: ignore[misc] # what is tested


def test_everything_is_wrapped_as_wsgi(tmp_path: Path) -> None:
    """Endpoints, the wait route and the events route all become WSGI applications."""
    adapter: EndpointAdapter[WSGIApp] = endpoint_adapter
    durable = Durable(id="shop", endpoint_adapter=adapter, store=tmp_path / "db")

    @durable.endpoint
    def checkout(request: Request) -> None: ...

    wrapped = (checkout, durable.endpoint_proxy(), durable.events_endpoint(public=True))

    assert [WSGIApp] * 3 == [type(each) for each in wrapped]
    assert {durable.engine} == {each.endpoint.engine for each in wrapped}
