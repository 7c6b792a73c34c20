"""What the flows of an application share."""

from __future__ import annotations

from typing import Any

import pytest

from durable_core.flow.env import AppConfig, Limits, ResolvedOptions
from durable_core.model.run import Phase, Run
from durable_core.platform import SystemIds
from support.harness import FakeClock, request


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


def test_new_run() -> None:
    """A run begins now, with an id of this time, under the app and the key of its endpoint."""
    clock = FakeClock()
    env = AppConfig(app="a", clock=clock, ids=SystemIds(), secrets=tuple)
    options = ResolvedOptions(key="k", retries=7)
    run = env.new_run(options, request("/users/7"), "/users/{id}", 9)
    expected = Run(
        id=run.id,
        app="a",
        endpoint_key="k",
        function_id="GET /users/{id}",
        phase=Phase.SYNC,
        retries=7,
        created_at=clock.now(),
        event_seq=9,
    )

    assert expected == run
    assert run.id[:10] == SystemIds().ulid(clock.now())[:10]
    assert run.id != env.new_run(options, request("/users/7"), None).id


def test_function_id() -> None:
    """The label is the given one, else the method with the route or the path."""
    env = AppConfig(app="a", clock=FakeClock(), ids=SystemIds(), secrets=tuple)
    asked = request("/users/7?x=1", "POST")
    assert "POST /users/7" == env.function_id(ResolvedOptions(key="k"), asked, None)
    assert "POST /users/{id}" == env.function_id(ResolvedOptions(key="k"), asked, "/users/{id}")
    assert "mine" == env.function_id(
        ResolvedOptions(key="k", function_id="mine"), asked, "/users/{id}"
    )
