"""Settings of the engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from durable_core.errors import DuplicateEndpointError
from durable_core.flow.options import ResolvedOptions
from durable_core.flow.scope import HandlerKind
from durable_core.runners.settings import RegisteredEndpoint, Settings, add_endpoint


def test_defaults() -> None:
    """The defaults are those that the documentation names."""
    settings = Settings()
    assert (8, 100) == (settings.worker_threads, settings.worker_tasks)
    assert (30.0, 3.0, 15.0) == (settings.max_own_wait, settings.heartbeat, settings.lease)
    assert 7 * 86_400 == settings.keep_runs == settings.orphan_after


@pytest.mark.parametrize("name", ["worker_threads", "max_own_wait", "lease", "keep_runs"])
@pytest.mark.parametrize("value", [0, -1, True, "1", None, float("nan")])
def test_out_of_range(name: str, value: object) -> None:
    """Each setting is a number or a duration greater than 0; the error names it."""
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=name):
        Settings(**options)


def test_durations() -> None:
    """They are given as texts, seconds or timedelta, and read as seconds."""
    settings = Settings(lease="1m30s", heartbeat=0.5, keep_runs=timedelta(days=1))
    assert (90.0, 0.5, 86_400.0) == (settings.lease, settings.heartbeat, settings.keep_runs)
    assert settings == replace(Settings(), lease=90, heartbeat=0.5, keep_runs=86_400.0)


def test_registered() -> None:
    """An endpoint is its handler, its face and its options."""
    options = ResolvedOptions(key="k")
    assert RegisteredEndpoint(str, HandlerKind.DEF, options) == RegisteredEndpoint(
        str, HandlerKind.DEF, options
    )


def test_two_endpoints_of_one_factory() -> None:
    """Functions that a factory made look alike; with names of their own they are two endpoints."""
    endpoints: dict[str, RegisteredEndpoint] = {}
    add_endpoint(
        endpoints, RegisteredEndpoint(str, HandlerKind.DEF, ResolvedOptions(key="k", name="a"))
    )
    with pytest.raises(DuplicateEndpointError, match=r"name='a'.*name='b'"):
        add_endpoint(
            endpoints, RegisteredEndpoint(str, HandlerKind.DEF, ResolvedOptions(key="k", name="b"))
        )


def test_on_demand_is_a_bool() -> None:
    """It is off by default."""
    value: Any = "yes"
    assert not Settings().on_demand
    with pytest.raises(ValueError, match="on_demand"):
        Settings(on_demand=value)


@pytest.mark.parametrize("lease", ["3s", 2])
def test_a_lease_outlives_its_renewal(lease: Any) -> None:
    """Else a process would lose its runs to others while it works."""
    with pytest.raises(ValueError, match=f"lease must be longer than heartbeat.*{lease!r} is not"):
        Settings(lease=lease, heartbeat="3s")
