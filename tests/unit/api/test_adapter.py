"""What an adapter is."""

from __future__ import annotations

import pytest

from durable_core.api.adapter import EndpointAdapter, HTTPHandler, endpoint_adapter
from durable_core.api.options import EndpointOptions
from durable_core.model.request import Request
from support.harness import lab


def test_with_options_makes_a_new_adapter() -> None:
    """The adapter it was called on stays as it was."""
    made = endpoint_adapter.with_options(retries=5).with_options(name="x")
    assert EndpointOptions() == endpoint_adapter.options
    assert EndpointOptions(retries=5, name="x") == made.options


def test_options_are_checked() -> None:
    """An option out of range is refused where it is set."""
    with pytest.raises(ValueError, match="async_response"):
        endpoint_adapter.with_options(async_response="later")  # type: ignore[arg-type]


def test_identity_adapter_wraps_in_nothing() -> None:
    """For embedding, what is wrapped is the endpoint itself."""

    def handler(request: Request) -> None: ...

    with lab() as process:
        endpoint = process.endpoint(handler)
        adapter: EndpointAdapter[HTTPHandler] = endpoint_adapter
        assert endpoint is adapter.wrap(endpoint)
        assert endpoint is adapter.proxy(endpoint)
        assert process.durable.engine is endpoint.engine
