"""What an adapter is."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from durable_core.api.adapter import AppAdapter, EndpointAdapter, HTTPHandler, endpoint_adapter
from durable_core.http.request import Request
from support.harness import lab


def test_with_options_makes_a_new_adapter() -> None:
    """The adapter it was called on stays as it was."""
    made = endpoint_adapter.with_options(retries=5).with_options(name="x")
    assert {} == endpoint_adapter.options
    assert {"retries": 5, "name": "x"} == made.options


def test_options_are_checked() -> None:
    """An option out of range is refused where it is set."""
    with pytest.raises(ValueError, match="async_response"):
        endpoint_adapter.with_options(async_response="later")  # type: ignore[arg-type]


def test_an_adapter_cannot_be_changed() -> None:
    """It is a value."""
    with pytest.raises(FrozenInstanceError):
        endpoint_adapter.options = {}  # type: ignore[misc] # what is tested


def test_what_is_wrapped_is_what_the_function_makes() -> None:
    """Of endpoints and of the wait route alike, also after options were set."""
    adapter = AppAdapter(lambda handler: ("app", handler)).with_options(retries=7)

    def handler(request: Request) -> None: ...

    with lab() as process:
        endpoint = process.endpoint(handler)
        assert ("app", endpoint) == adapter.wrap(endpoint) == adapter.proxy(endpoint)


def test_identity_adapter_wraps_in_nothing() -> None:
    """For embedding, what is wrapped is the endpoint itself."""

    def handler(request: Request) -> None: ...

    with lab() as process:
        endpoint = process.endpoint(handler)
        adapter: EndpointAdapter[HTTPHandler] = endpoint_adapter
        assert endpoint is adapter.wrap(endpoint)
        assert endpoint is adapter.proxy(endpoint)
        assert process.durable.engine is endpoint.engine
