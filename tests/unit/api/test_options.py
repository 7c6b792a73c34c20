"""Options of endpoints and adapters."""

from __future__ import annotations

from typing import Any

import pytest

from durable_core.api.options import EndpointOptions


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"retries": 21}, ValueError),
        ({"retries": True}, ValueError),
        ({"async_response": "never"}, ValueError),
        ({"function_id": ""}, ValueError),
        ({"function_id": 7}, TypeError),
        ({"name": "x" * 256}, ValueError),
        ({"async_redirect_url": ""}, ValueError),
        ({"async_redirect_url": "/a b"}, ValueError),
        ({"async_redirect_url": "/\r\nx"}, ValueError),
        ({"async_redirect_url": "/\N{SNOWMAN}"}, ValueError),
        ({"async_redirect_url": 7}, TypeError),
        ({"methods": "GET"}, ValueError),
        ({"methods": ()}, ValueError),
        ({"methods": ("get",)}, ValueError),
        ({"methods": ("GE T",)}, ValueError),
    ],
)
def test_out_of_range(options: dict[str, Any], error: type[Exception]) -> None:
    """An option that cannot be is refused when it is given, by its name."""
    [name] = options
    with pytest.raises(error, match=name):
        EndpointOptions(**options)


def test_merged() -> None:
    """What the later options set goes before; what they leave open stays."""
    below = EndpointOptions(retries=1, name="below", methods=("GET",))
    over = EndpointOptions(retries=0, async_response="token")
    expected = EndpointOptions(retries=0, name="below", methods=("GET",), async_response="token")
    assert expected == below.merged(over)
    assert below == below.merged(EndpointOptions())


def test_methods_become_a_tuple() -> None:
    """Any collection of methods will do."""
    methods: Any = ["GET", "HEAD"]
    assert ("GET", "HEAD") == EndpointOptions(methods=methods).methods


@pytest.mark.parametrize("option", ["function_id", "name"])
def test_a_name_that_no_store_can_hold_is_refused(option: str) -> None:
    """At definition, not at the first request."""
    options: dict[str, Any] = {option: "a\udc80"}
    with pytest.raises(ValueError, match=f"{option} must not contain lone surrogates"):
        EndpointOptions(**options)
