"""What the flows of an application share."""

from __future__ import annotations

from typing import Any

import pytest

from durable_core.flow.env import Limits


def test_default_limits() -> None:
    """The defaults are those that the documentation names."""
    limits = Limits()
    assert (2**20, 64 * 2**10, 2**20) == (limits.body, limits.head, limits.response_stored)
    assert (4 * 2**20, 32 * 2**20) == (limits.step_result, limits.run_state)
    assert (10_000, 256 * 2**10, 1_000) == (limits.steps, limits.event, limits.waiting_clients)


@pytest.mark.parametrize("name", Limits.__slots__)
@pytest.mark.parametrize("value", [0, -1, True, 1.5, "1", None])
def test_limits_out_of_range(name: str, value: object) -> None:
    """Each limit is an int of 1 or more; the error names it."""
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"Limits.{name}"):
        Limits(**options)
